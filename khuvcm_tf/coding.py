"""Codec and file together: pictures to .kvc bytes and back. The public face of the package.

model = khuvcm_tf.load("mbt2018_mean_q3")     # a shipped name, a folder, a training workdir
data = model.compress(picture)                # uint8 [H, W, 3] or [H, W, 1] -> bytes
picture = model.decompress(data)              # the same symbols on every machine
model.estimate(picture)                       # {"z": bits, "y": bits}
"""

from __future__ import annotations

import contextlib
import functools
import os

import numpy as np
import tensorflow as tf

from khuvcm_tf import bitstream, codecs, errors
from khuvcm_tf.entropy import integer_coder
from khuvcm_tf.ops.padding import padded_size

# Of a fingerprint's 8 bytes, those that stand for the entropy coder; the others for the synthesis.
ENTROPY_BYTES = 5

# Memory of a picture's pixel beside the bands: the picture as bytes and floats, padded and cropped.
_BYTES_PER_PIXEL = 64
# Memory of a latent: symbols, means, rows, edges and their like.
_BYTES_PER_LATENT = 80
# What the largest band, TensorFlow and a model need.
_BYTES_AT_LEAST = 3 * 2**30


class ModelError(errors.Error):
  """A model that cannot be used, or not for this file or picture."""


class Model(tf.Module):
  """A trained codec: float transforms, exact integer coder, and the fingerprint of both.

  Args:
    codec: with its weights.
    coder: its latent coder in integers.
    fingerprint: 8 bytes (`khuvcm_tf.model_files`).
    description: what `model.json` says.
  """

  def __init__(
    self,
    codec: codecs.Codec,
    coder: integer_coder.IntegerCoder,
    fingerprint: bytes,
    description: dict[str, object],
  ):
    super().__init__()
    self.codec, self.coder = codec, coder
    self.fingerprint, self.description = fingerprint, description
    picture = tf.TensorSpec((None, None, None), tf.uint8, name="picture")
    # Nothing here branches in Python on tensors; AutoGraph's rewriting would double the first call.
    graph = functools.partial(tf.function, autograph=False)
    self._compress = graph(self.compress_graph, input_signature=[picture])
    self._estimate = graph(self._estimate_graph, input_signature=[picture])
    size = tf.TensorSpec((), tf.int32)
    self._decode = graph(
      self._decode_graph, input_signature=[tf.TensorSpec((None,), tf.string), size, size]
    )

  def compress(self, picture: np.ndarray) -> bytes:
    """Compresses a picture.

    Args:
      picture: uint8 [H, W, 3] (RGB) or [H, W, 1] (grey), sides of 1 to 65,535.

    Returns:
      The content of a .kvc file.

    Raises:
      ModelError: the picture is of another shape or type, or cannot be coded.
    """
    picture = checked(picture)
    self._check_memory(*picture.shape[:2])
    try:
      return self._compress(picture).numpy()
    except tf.errors.InvalidArgumentError as error:
      raise ModelError(f"the picture cannot be coded: {assertion(error)}") from error

  def decompress(
    self,
    data: bytes,
    max_pixels: int = bitstream.DEFAULT_MAX_PIXELS,
    allow_other_synthesis: bool = False,
  ) -> np.ndarray:
    """Decompresses the content of a .kvc file.

    Args:
      data: the file's bytes.
      max_pixels: larger pictures are refused before anything is allocated for them.
      allow_other_synthesis: whether a file of a model with the same entropy coder and another
        synthesis is decoded too: with the same symbols to other pixels.

    Returns:
      uint8 [H, W, 3], or [H, W, 1] of a grey picture.

    Raises:
      bitstream.BitstreamError: the file is damaged, foreign or too large.
      ModelError: the file was made with another model.
    """
    header, substreams = bitstream.parse(data, max_pixels)
    self._check_fingerprint(header.fingerprint, allow_other_synthesis)
    if header.input_format not in (bitstream.RGB, bitstream.GREY):
      raise bitstream.BitstreamError(
        f"the file's input format is {header.input_format}, expected {bitstream.RGB} (RGB) or "
        f"{bitstream.GREY} (grey) for this model; use the model that wrote it"
      )
    if len(substreams) != len(self.coder.substreams):
      raise bitstream.BitstreamError(
        f"the file has {len(substreams)} substreams, expected {len(self.coder.substreams)} for "
        "this model; copy it again from its source"
      )
    self._check_memory(header.height, header.width)
    picture, exact = self._decode(substreams, header.height, header.width)
    if not exact:
      raise bitstream.BitstreamError(_INEXACT)
    picture = picture.numpy()
    return picture[..., :1] if header.input_format == bitstream.GREY else picture

  def estimate(self, picture: np.ndarray) -> dict[str, float]:
    """Returns the bits that the integer tables give to each substream of a picture.

    Raises:
      ModelError: as `compress`.
    """
    try:
      bits = self._estimate(checked(picture))
    except tf.errors.InvalidArgumentError as error:
      raise ModelError(f"the picture cannot be coded: {assertion(error)}") from error
    return {name: float(value) for name, value in bits.items()}

  def compress_graph(self, picture: tf.Tensor) -> tf.Tensor:
    """`compress` as TensorFlow ops: uint8 [H, W, 1 or 3] -> scalar string."""
    shape = tf.shape(picture)
    substreams = self.coder.encode(*self._latents(picture))
    return bitstream.pack(
      bitstream.Header(
        tf.constant(self.fingerprint),
        tf.where(shape[2] == 1, bitstream.GREY, bitstream.RGB),
        8,
        shape[0],
        shape[1],
      ),
      substreams,
    )

  def decompress_graph(self, data: tf.Tensor) -> tf.Tensor:
    """`decompress` as TensorFlow ops: scalar string -> uint8 [H, W, 1 or 3].

    What `decompress` raises ends in `tf.errors.InvalidArgumentError` with the same text.
    """
    header, substreams, status = bitstream.unpack(
      data, tf.constant(bitstream.DEFAULT_MAX_PIXELS, tf.int64)
    )
    grey = header.input_format == bitstream.GREY
    with tf.control_dependencies([bitstream.assert_valid(status)]):
      checks = [
        tf.debugging.Assert(
          header.fingerprint == self.fingerprint,
          ["the file was made with another model; use the one that wrote it"],
        ),
        tf.debugging.Assert(
          (grey | (header.input_format == bitstream.RGB))
          & (tf.size(substreams) == len(self.coder.substreams)),
          ["the file is not a picture of this model; use the model that wrote it"],
        ),
      ]
    with tf.control_dependencies(checks):
      picture, exact = self._decode_graph(
        substreams, tf.identity(header.height), tf.identity(header.width)
      )
    with tf.control_dependencies([tf.debugging.Assert(exact, [_INEXACT])]):
      return picture[..., : tf.where(grey, 1, 3)]

  def _latents(self, picture):
    """Returns y and z of a picture [H, W, 1 or 3]."""
    rgb = tf.tile(picture, [1, 1, 3 // tf.shape(picture)[2]])
    y = self.codec.latents(tf.ensure_shape(rgb, (None, None, 3))[tf.newaxis])
    return y, self.codec.latent_coder.side_information(y)

  def _estimate_graph(self, picture):
    return self.coder.estimate(*self._latents(picture))

  def _decode_graph(self, substreams, height, width):
    """Returns uint8 [H, W, 3], and whether the substreams are what their symbols encode to."""
    rows = padded_size(height, self.codec.stride) // self.codec.analysis.stride
    columns = padded_size(width, self.codec.stride) // self.codec.analysis.stride
    decoded = self.coder.decode(substreams, rows, columns)
    return self.codec.reconstruction(decoded.y_hat, height, width)[0], decoded.exact

  def _check_fingerprint(self, found: bytes, allow_other_synthesis: bool):
    if found == self.fingerprint:
      return
    if found[:ENTROPY_BYTES] != self.fingerprint[:ENTROPY_BYTES]:
      raise ModelError(
        f"the file was made with model {found.hex()}, expected this one, "
        f"{self.fingerprint.hex()}; use the model that wrote it"
      )
    if not allow_other_synthesis:
      raise ModelError(
        f"the file was made with model {found.hex()}, which decodes the same symbols to other "
        f"pixels than this one, {self.fingerprint.hex()}; use the model that wrote it, or give "
        "--allow_other_synthesis"
      )

  def _check_memory(self, height: int, width: int):
    """Raises ModelError where a picture needs more memory than the machine has left."""
    latents = height * width / self.codec.analysis.stride**2 * self.coder.depth
    needed = _BYTES_AT_LEAST + height * width * _BYTES_PER_PIXEL + latents * _BYTES_PER_LATENT
    free = free_memory() if height * width > 2**22 else None
    if free is not None and needed > free:
      raise ModelError(
        f"a picture of {width}x{height} pixels needs about {needed / 2**30:.1f} GiB of memory, "
        f"but {free / 2**30:.1f} GiB are free; code it in parts or on a larger machine"
      )


def free_memory() -> int | None:
  """Returns the bytes that programs may still take, None where the system does not tell."""
  with contextlib.suppress(OSError, ValueError, StopIteration):
    # Of Linux: unlike SC_AVPHYS_PAGES it counts the cache of files, which gives way.
    with open("/proc/meminfo", encoding="ascii") as lines:
      line = next(line for line in lines if line.startswith("MemAvailable:"))
    return int(line.split()[1]) * 1024
  with contextlib.suppress(OSError, ValueError):
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  return None


_INEXACT = (
  "the substreams hold other bytes than their symbols encode to: the file is damaged; "
  "copy it again from its source"
)


def checked(picture: np.ndarray) -> np.ndarray:
  """Returns a picture as [H, W, 1 or 3], or raises ModelError."""
  picture = np.asarray(picture)
  if picture.ndim == 2:
    picture = picture[..., np.newaxis]
  shape = picture.shape
  sides = len(shape) == 3 and 1 <= min(shape[:2]) and max(shape[:2]) <= bitstream.MAX_SIDE
  if not sides or shape[2] not in (1, 3) or picture.dtype != np.uint8:
    raise ModelError(
      f"`picture` is {picture.dtype} {list(shape)}, expected uint8 [H, W, 3] or [H, W, 1] with "
      f"sides of 1 to {bitstream.MAX_SIDE}"
    )
  return picture


def assertion(error: tf.errors.InvalidArgumentError) -> str:
  """Returns the words of a `tf.debugging.Assert` that failed, on one line."""
  words = error.message.split("assertion failed: ")[-1]
  return words.splitlines()[0].replace("[", "").replace("]", "")
