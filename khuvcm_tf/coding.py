"""Codec and file together: pictures to .kvc bytes and back. The public face of the package.

model = khuvcm_tf.load("mbt2018_mean_q3")     # a shipped name, a folder, a training workdir
data = model.compress(picture)                # uint8 [H, W, 3] or [H, W, 1] -> bytes
picture = model.decompress(data)              # the same symbols on every machine
model.estimate(picture)                       # {"z": bits, "y": bits}

Codecs of 4:2:0 also take a raw frame (`data.frames.Frame`) as a picture, and give it back as such.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from khuvcm_tf import bitstream, codecs, errors
from khuvcm_tf.data import frames
from khuvcm_tf.entropy import integer_coder
from khuvcm_tf.ops import color
from khuvcm_tf.ops.padding import padded_size

# Of a fingerprint's 8 bytes, those that stand for the entropy coder; the others for the synthesis.
ENTROPY_BYTES = 5

# Memory of a picture's pixel beside the bands, in float32: the picture as bytes and floats, padded
# and cropped, and what a second branch keeps of the first (measured: 25 for RGB, 46 and 40 more for
# 4:2:0 in two branches).
_BYTES_PER_PIXEL = 64
_BYTES_PER_PIXEL_OF_BRANCHES = 96
# Memory of a latent: symbols, means, rows, edges and their like.
_BYTES_PER_LATENT = 80
# What the largest band, TensorFlow and a model need.
_BYTES_AT_LEAST = 3 * 2**30


class ModelError(errors.Error):
  """A model that cannot be used, or not for this file or picture."""


class Model(tf.Module):
  """A trained codec: float transforms, exact integer coders, and the fingerprint of both.

  Args:
    codec: with its weights.
    coders: the latent coders of its branches in integers.
    fingerprint: 8 bytes (`khuvcm_tf.model_files`).
    description: what `model.json` says.
  """

  def __init__(
    self,
    codec: codecs.Codec,
    coders: Sequence[integer_coder.IntegerCoder],
    fingerprint: bytes,
    description: dict[str, object],
  ):
    super().__init__()
    self.codec, self.coders = codec, list(coders)
    self.fingerprint, self.description = fingerprint, description
    # Nothing here branches in Python on tensors; AutoGraph's rewriting would double the first call.
    graph = functools.partial(tf.function, autograph=False)
    picture = tf.TensorSpec((None, None, None), tf.uint8, name="picture")
    planes = tf.TensorSpec((None, None, 1), tf.uint16), tf.TensorSpec((None, None, 2), tf.uint16)
    substreams, number = tf.TensorSpec((None,), tf.string), tf.TensorSpec((), tf.int32)
    is_grey = tf.TensorSpec((), tf.bool)
    self._compress = graph(self.compress_graph, (picture,))
    self._estimate = graph(self._estimate_graph, (picture,))
    self._compress_frame = graph(self.compress_frame_graph, (*planes, number))
    self._decode = graph(self._decode_graph, (substreams, number, number, is_grey))
    self._decode_frame = graph(self._decode_frame_graph, (substreams, number, number, number))
    self._decode_luma = graph(self._decode_luma_graph, (substreams, number, number))

  def compress(self, picture: np.ndarray | frames.Frame) -> bytes:
    """Compresses a picture.

    Args:
      picture: uint8 [H, W, 3] (RGB) or [H, W, 1] (grey), or a frame of raw 4:2:0 video for codecs
        of 4:2:0; sides of 1 to 65,535.

    Returns:
      The content of a .kvc file.

    Raises:
      ModelError: the picture is of another shape or type, or cannot be coded.
    """
    try:
      if isinstance(picture, frames.Frame):
        self.check_frames()
        frames.check_frame(picture, "the frame")
        self._check_memory(*picture.y.shape)
        planes = levels_of(picture)
        return self._compress_frame(*planes, picture.bits).numpy()
      picture = checked(picture)
      self._check_memory(*picture.shape[:2])
      return self._compress(picture).numpy()
    except tf.errors.InvalidArgumentError as error:
      raise ModelError(f"the picture cannot be coded: {assertion(error)}") from error

  def decompress(
    self,
    data: bytes,
    max_pixels: int = bitstream.DEFAULT_MAX_PIXELS,
    allow_other_synthesis: bool = False,
    luma_only: bool = False,
  ) -> np.ndarray | frames.Frame:
    """Decompresses the content of a .kvc file.

    Args:
      data: the file's bytes.
      max_pixels: larger pictures are refused before anything is allocated for them.
      allow_other_synthesis: whether a file of a model with the same entropy coder and another
        synthesis is decoded too: with the same symbols to other pixels.
      luma_only: whether a grey preview is decoded, from luma's substreams alone; for codecs that
        code luma by itself.

    Returns:
      uint8 [H, W, 3], or [H, W, 1] of a grey picture or preview; a frame where one was compressed.

    Raises:
      bitstream.BitstreamError: the file is damaged, foreign or too large.
      ModelError: the file was made with another model, or this one has no luma by itself.
    """
    header, substreams = bitstream.parse(data, max_pixels)
    self._check_fingerprint(header.fingerprint, allow_other_synthesis)
    self._check_kind(header.input_format, len(substreams))
    if luma_only and len(self.coders) == 1:
      raise ModelError(
        f"a model of codec {self.description['codec']} codes luma and chroma together, expected "
        "one of cross_component for luma alone; decode the whole picture"
      )
    self._check_memory(header.height, header.width)
    size = header.height, header.width
    if luma_only:
      picture, exact = self._decode_luma(substreams, *size)
    elif header.input_format == bitstream.YCBCR420:
      (y, uv), exact = self._decode_frame(substreams, *size, header.bit_depth)
      picture = frame_of(y.numpy(), uv.numpy(), header.bit_depth)
    else:
      picture, exact = self._decode(substreams, *size, header.input_format == bitstream.GREY)
    if not exact:
      raise bitstream.BitstreamError(_INEXACT)
    return picture if isinstance(picture, frames.Frame) else picture.numpy()

  def estimate(self, picture: np.ndarray) -> dict[str, float]:
    """Returns the bits that the integer tables give to each substream of a picture.

    Raises:
      ModelError: as `compress`.
    """
    try:
      bits = self._estimate(checked(picture))
    except tf.errors.InvalidArgumentError as error:
      raise ModelError(f"the picture cannot be coded: {assertion(error)}") from error
    return dict(zip(self.codec.substreams, bits.numpy().tolist()))

  def compress_graph(self, picture: tf.Tensor) -> tf.Tensor:
    """`compress` of a picture as TensorFlow ops: uint8 [H, W, 1 or 3] -> scalar string."""
    input_format = tf.where(tf.shape(picture)[2] == 1, bitstream.GREY, bitstream.RGB)
    return self._packed(self._planes(picture), input_format, 8)

  def decompress_graph(self, data: tf.Tensor) -> tf.Tensor:
    """`decompress` to a picture as TensorFlow ops: scalar string -> uint8 [H, W, 1 or 3].

    What `decompress` raises ends in `tf.errors.InvalidArgumentError` with the same text.
    """
    header, substreams = self._unpacked(data, bitstream.RGB, bitstream.GREY)
    grey = header.input_format == bitstream.GREY
    picture, exact = self._decode_graph(substreams, header.height, header.width, grey)
    with tf.control_dependencies([tf.debugging.Assert(exact, [_INEXACT])]):
      return tf.identity(picture)

  def compress_frame_graph(self, y: tf.Tensor, uv: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
    """`compress` of a frame as TensorFlow ops.

    Args:
      y, uv: levels, uint16 [H, W, 1] and [ceil(H/2), ceil(W/2), 2].
      bits: int32 scalar, 8 or 10.

    Returns:
      Scalar string.
    """
    wrong = ["planes or levels are not those of 4:2:0 frames of `bits`; give chroma half the sides"]
    checks = [
      tf.debugging.Assert(tf.reduce_all(tf.shape(uv)[:2] == (tf.shape(y)[:2] + 1) // 2), wrong),
      *(
        tf.debugging.Assert(
          tf.reduce_max(tf.cast(each, tf.int32)) < tf.bitwise.left_shift(1, bits), wrong
        )
        for each in (y, uv)
      ),
    ]
    with tf.control_dependencies(checks):
      scale = tf.cast(tf.bitwise.left_shift(1, bits - 8), self.codec.sample_dtype)
    planes = tuple(tf.cast(each[tf.newaxis], scale.dtype) / scale for each in (y, uv))
    return self._packed(planes, bitstream.YCBCR420, bits)

  def decompress_frame_graph(self, data: tf.Tensor):
    """`decompress` to a frame as TensorFlow ops: scalar string -> (y, uv, bits) as above."""
    header, substreams = self._unpacked(data, bitstream.YCBCR420)
    planes, exact = self._decode_frame_graph(
      substreams, header.height, header.width, header.bit_depth
    )
    with tf.control_dependencies([tf.debugging.Assert(exact, [_INEXACT])]):
      return *(tf.identity(plane) for plane in planes), tf.identity(header.bit_depth)

  def _unpacked(self, data, *formats: int):
    """Returns the header and substreams of a file of this model that holds one of the formats."""
    header, substreams, status = bitstream.unpack(
      data, tf.constant(bitstream.DEFAULT_MAX_PIXELS, tf.int64)
    )
    with tf.control_dependencies([bitstream.assert_valid(status)]):
      checks = [
        tf.debugging.Assert(
          header.fingerprint == self.fingerprint,
          ["the file was made with another model; use the one that wrote it"],
        ),
        tf.debugging.Assert(
          tf.reduce_any(header.input_format == tf.constant(formats))
          & (tf.size(substreams) == len(self.codec.substreams)),
          ["the file holds another kind of picture; use the model and signature that wrote it"],
        ),
      ]
    with tf.control_dependencies(checks):
      return tf.nest.map_structure(tf.identity, header), tf.identity(substreams)

  def _planes(self, picture):
    """Returns the planes of a picture [H, W, 1 or 3]."""
    rgb = tf.tile(picture, [1, 1, 3 // tf.shape(picture)[2]])
    return self.codec.planes(tf.ensure_shape(rgb, (None, None, 3))[tf.newaxis])

  def _packed(self, planes, input_format, bits):
    """Returns the file of planes."""
    height, width = tf.shape(planes[0])[1], tf.shape(planes[0])[2]
    substreams = self._coded(planes, lambda coder, y, z: coder.encode(y, z))
    fingerprint = tf.constant(self.fingerprint)
    header = bitstream.Header(fingerprint, input_format, bits, height, width)
    return bitstream.pack(header, substreams)

  def _coded(self, planes, code):
    """Codes the latents of planes, one branch after the other.

    Args:
      planes: of a picture.
      code: (integer coder, y, z) -> what is coded, a value for each substream.

    Returns:
      What was coded, for all substreams.
    """
    coders, results = iter(self.coders), []

    def pass_on(branch, y):
      coder, z = next(coders), branch.latent_coder.side_information(y)
      results.append(code(coder, y, z))
      return coder.y_hat(y, z)

    self.codec.encode(planes, pass_on)
    return tf.concat(results, axis=0)

  def _estimate_graph(self, picture):
    return self._coded(
      self._planes(picture), lambda coder, y, z: list(coder.estimate(y, z).values())
    )

  def _decode_graph(self, substreams, height, width, grey):
    """Returns uint8 [H, W, 3], or [H, W, 1] where `grey`, and whether the substreams are exact."""
    planes, exact = self._decoded(self.coders, substreams, height, width)
    form = self.codec.picture_format
    picture = tf.cond(
      grey,
      lambda: color.levels(form.grey(planes)),
      lambda: color.levels(form.rgb(planes)),
    )
    return picture[0], exact

  def _decode_frame_graph(self, substreams, height, width, bits):
    """Returns levels, uint16 [H, W, 1] and [h, w, 2], and whether the substreams are exact."""
    planes, exact = self._decoded(self.coders, substreams, height, width)
    scale = tf.cast(tf.bitwise.left_shift(1, bits - 8), self.codec.sample_dtype)
    most = 256.0 * scale - 1.0
    levels = (tf.clip_by_value(tf.round(plane[0] * scale), 0.0, most) for plane in planes)
    return tuple(tf.cast(each, tf.uint16) for each in levels), exact

  def _decode_luma_graph(self, substreams, height, width):
    """Returns uint8 [H, W, 1] of the first branch, and whether its substreams are exact."""
    planes, exact = self._decoded(self.coders[:1], substreams, height, width)
    return color.levels(self.codec.picture_format.grey(planes))[0], exact

  def _decoded(self, coders, substreams, height, width):
    """Returns the planes that the first branches tell, and whether their substreams are exact."""
    rows, columns = (
      padded_size(side, self.codec.stride) // self.codec.latent_stride for side in (height, width)
    )
    y_hats, exact, first = [], True, 0
    for coder in coders:
      last = first + len(coder.substreams)
      decoded = coder.decode(substreams[first:last], rows, columns)
      y_hats.append(decoded.y_hat)
      exact, first = exact & decoded.exact, last
    return self.codec.decode(y_hats, height, width), exact

  def check_frames(self):
    """Raises ModelError where raw frames cannot be compressed: the codec is not one of 4:2:0."""
    if not self.codec.picture_format.has_frames:
      raise ModelError(
        f"codec {self.description['codec']} is not one of 4:2:0, expected one for raw "
        "frames (luma_chroma420 or cross_component); convert the frame to RGB, or use such a model"
      )

  def _check_kind(self, input_format: int, number: int):
    """Raises BitstreamError where a file does not hold what the model codes."""
    known = {bitstream.RGB: "RGB", bitstream.GREY: "grey"}
    if self.codec.picture_format.has_frames:
      known[bitstream.YCBCR420] = "YCbCr 4:2:0"
    if input_format not in known:
      expected = ", ".join(f"{value} ({name})" for value, name in known.items())
      raise bitstream.BitstreamError(
        f"the file's input format is {input_format}, expected one of {expected} for this model; "
        "use the model that wrote it"
      )
    if number != len(self.codec.substreams):
      raise bitstream.BitstreamError(
        f"the file has {number} substreams, expected {len(self.codec.substreams)} for this model; "
        "copy it again from its source"
      )

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
    depth = sum(coder.depth for coder in self.coders)
    latents = height * width / self.codec.latent_stride**2 * depth
    per_pixel = _BYTES_PER_PIXEL if len(self.coders) == 1 else _BYTES_PER_PIXEL_OF_BRANCHES
    per_pixel *= self.codec.sample_dtype.size // 4
    needed = _BYTES_AT_LEAST + height * width * per_pixel + latents * _BYTES_PER_LATENT
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
  if isinstance(picture, frames.Frame):
    raise ModelError(
      "found a raw frame, expected a picture, uint8 [H, W, 3] or [H, W, 1]; convert it "
      "(frames.to_rgb)"
    )
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


def levels_of(frame: frames.Frame) -> tuple[np.ndarray, np.ndarray]:
  """Returns a frame's y [H, W, 1] and uv [h, w, 2], uint16, or raises FrameError."""
  frames.check_frame(frame, "the frame")
  y, cb, cr = (plane.astype(np.uint16) for plane in frame[:3])
  return y[..., np.newaxis], np.stack([cb, cr], axis=-1)


def frame_of(y: np.ndarray, uv: np.ndarray, bits: int) -> frames.Frame:
  """Returns the frame of `levels_of`."""
  dtype = np.uint8 if bits == 8 else np.uint16
  planes = (y[..., 0], uv[..., 0], uv[..., 1])
  return frames.Frame(*(plane.astype(dtype) for plane in planes), bits)


def assertion(error: tf.errors.InvalidArgumentError) -> str:
  """Returns the words of a `tf.debugging.Assert` that failed, on one line."""
  words = error.message.split("assertion failed: ")[-1]
  return words.splitlines()[0].replace("[", "").replace("]", "")
