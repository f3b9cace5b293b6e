"""Codec and file together: images to .kvc bytes and back. The public face of the package.

model = khuvcm_tf.load("mbt2018_variable")     # a shipped name, a folder, a training workdir
data = model.compress(image)                # uint8 [H, W, 3] or [H, W, 1] -> bytes
image = model.decompress(data)              # the same symbols on every machine
model.estimate(image)                       # {"z": bits, "y": bits}
model.compress(image, quality=30)           # of a model of several rates

Codecs of 4:2:0 also take a raw frame (`data.frames.Frame`) as an image, and give it back as such;
codecs of feature maps take features (`data.stored_features.ImageFeatures`) and nothing else.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
from collections.abc import Sequence
from typing import Callable, NamedTuple

import numpy as np
import tensorflow as tf

from khuvcm_tf import bitstream, forks, model_folders, model_inputs
from khuvcm_tf.bitstream import ops as bitstream_ops
from khuvcm_tf.codecs import codec as codec_lib
from khuvcm_tf.codecs.input_format import Planes
from khuvcm_tf.data import frames
from khuvcm_tf.data.stored_features import ImageFeatures
from khuvcm_tf.entropy.integer.entropy_model import IntegerEntropyModel
from khuvcm_tf.model_folders import ModelError
from khuvcm_tf.model_inputs import Input
from khuvcm_tf.ops import pyramid
from khuvcm_tf.ops.padding import padded_size

# Of a fingerprint's 8 bytes, those of the entropy model; the others are of the synthesis.
ENTROPY_BYTES = 5

# The least quality of each step but the first: float32, so that graphs find the same steps.
_LEAST_QUALITIES = (
  (np.arange(bitstream.QUALITY_STEPS) + 0.5) * bitstream.MAX_QUALITY / bitstream.QUALITY_STEPS
).astype(np.float32)

# Memory of an image's pixel beside the bands, in float32: the image as bytes and floats, padded
# and cropped, and a second branch's inputs from the first (measured: 25 for RGB, 46 and 40 more for
# 4:2:0 in two branches).
_BYTES_PER_PIXEL = 64
_BYTES_PER_PIXEL_OF_BRANCHES = 96
# Memory of a latent: symbols, means, rows, edges and their like.
_BYTES_PER_LATENT = 80
# What the largest band, TensorFlow and a model need.
_BYTES_AT_LEAST = 3 * 2**30


class Prepared(NamedTuple):
  """An input as far as a model codes it alike for all qualities.

  Attributes:
    planes: of the codec's input format.
    first: latents of the first branch, not scaled; [1, h, w, M].
    header: of the file, at quality 0.
    run: how transforms are applied.
  """

  planes: Planes
  first: tf.Tensor
  header: bitstream.Header
  run: codec_lib.Run


class Model(model_folders.Reloaded, tf.Module):
  """A trained codec: float transforms, integer entropy models, and the fingerprint of both.

  A model of several rates codes at 256 steps of quality, from the lowest rate to the highest; a
  model of one rate has step 0 alone. Several rates come from a codec's gains, or from shifts of the
  entropy model's scales around the one rate that it was trained for, at quality 50.

  Args:
    codec: with its weights.
    entropy_models: the entropy models of its branches in integers.
    fingerprint: 8 bytes (`khuvcm_tf.model_files`).
    description: content of `model.json`.
  """

  def __init__(
    self,
    codec: codec_lib.Codec,
    entropy_models: Sequence[IntegerEntropyModel],
    fingerprint: bytes,
    description: dict[str, object],
  ):
    super().__init__()
    self.codec, self.entropy_models = codec, list(entropy_models)
    self.fingerprint, self.description = fingerprint, description
    self.default_quality = model_folders.default_quality(description)
    self._max_shift = min(model.max_shift for model in self.entropy_models)
    if (self.default_quality is None) != (codec.num_qualities is None and not self._max_shift):
      raise ModelError(
        "model.json has a default_quality, expected one of models of several rates alone; copy "
        "the model again from its source"
      )
    planes = tuple(
      tf.TensorSpec((1, None, None, channels), codec.plane_dtype)
      for channels in codec.input_format.plane_channels
    )
    depth, dtype = self.entropy_models[0].depth, codec.branches[0].compute_dtype
    first = tf.TensorSpec((1, None, None, depth), dtype)
    substreams, number = tf.TensorSpec((None,), tf.string), tf.TensorSpec((), tf.int32)
    # A graph is built when it is first called. Nothing in it branches in Python on tensors;
    # AutoGraph's rewriting would double the first call.
    runs, counts = (codec_lib.plain, codec_lib.in_bands), range(1, len(self.entropy_models) + 1)
    self._analyze = {run: _graph(self._first_latents, run, planes) for run in runs}
    self._encode, self._estimate, self._reconstruct = (
      {run: _graph(function, run, planes, first, number) for run in runs}
      for function in (self._substreams, self._bits, self._reconstructed)
    )
    self._decode = {
      (run, count): _graph(
        functools.partial(self.decode, branches=count), run, substreams, number, number, number
      )
      for run, count in itertools.product(runs, counts)
    }

  def compress(self, image: Input, quality: float | None = None) -> bytes:
    """Compresses an image.

    Args:
      image: uint8 [H, W, 3] (RGB) or [H, W, 1] (grey), or a frame of raw 4:2:0 video for codecs of
        4:2:0; sides of 1 to 65,535. Codecs of feature maps take P2 to P5 of features, as many of
        them as there are, and leave out P6.
      quality: 0 (least bytes) to 100, of a model of several rates; None: its default.

    Returns:
      The content of a .kvc file.

    Raises:
      ModelError: the image is of another shape or type, or cannot be coded; the model has no such
        quality.
    """
    step = self.step(quality)
    return self.file(self.prepare(image), step)

  def step(self, quality: float | None) -> int:
    """Returns the step of a quality, 0 .. 255, as files have it; `compress` has the rest."""
    if quality is not None:
      self.check_qualities(f"quality {quality:g}")
    if self.default_quality is None:
      return 0
    if quality is None:
      quality = self.default_quality
    if not 0 <= quality <= bitstream.MAX_QUALITY:
      raise ModelError(f"quality is {quality:g}, expected 0 to {bitstream.MAX_QUALITY}")
    return step_of(quality)

  def prepare(self, image: Input) -> Prepared:
    """Does what is the same for all qualities; arguments and errors are those of `compress`."""
    forks.check()
    with _inputs_named():
      planes, header = self._planes(image)
      run = self.codec.run_for(*planes[0].shape[1:3])
      return Prepared(planes, self._analyze[run](planes), header, run)

  def file(self, prepared: Prepared, step: int) -> bytes:
    """Returns the content of the .kvc file of an image at a step of quality."""
    with _inputs_named():
      substreams = self._encode[prepared.run](prepared.planes, prepared.first, step)
    header = prepared.header._replace(quality=step)
    return bitstream.pack(header, substreams.numpy().tolist(), self._format_version)

  def bits(self, prepared: Prepared, step: int) -> dict[str, float]:
    """Returns the bits that the integer tables give to each substream at a step of quality."""
    with _inputs_named():
      bits = self._estimate[prepared.run](prepared.planes, prepared.first, step)
    return dict(zip(self.codec.substreams, bits.numpy().tolist()))

  def decoded(self, prepared: Prepared, step: int) -> Input:
    """Returns what the file at a step of quality decodes to, without coding it."""
    with _inputs_named():
      planes = self._reconstruct[prepared.run](prepared.planes, prepared.first, step)
    return self._image(planes, prepared.header)

  def decompress(
    self,
    data: bytes,
    max_pixels: int = bitstream.DEFAULT_MAX_PIXELS,
    allow_other_synthesis: bool = False,
    luma_only: bool = False,
  ) -> Input:
    """Decompresses the content of a .kvc file.

    Args:
      data: the file's bytes.
      max_pixels: larger images are refused before anything is allocated for them.
      allow_other_synthesis: whether a file of a model with the same entropy model and another
        synthesis is decoded too: with the same symbols to other pixels.
      luma_only: whether a grey preview is decoded, from luma's substreams alone; for codecs that
        code luma by itself.

    Returns:
      uint8 [H, W, 3], or [H, W, 1] of a grey image or preview; a frame or features where they were
      compressed. Features have the levels that are in the file, and P6 where P5 is, as a pick of
      it.

    Raises:
      bitstream.BitstreamError: the file is damaged, foreign or too large.
      ModelError: the file was made with another model, or this one has no luma by itself.
    """
    forks.check()
    header, substreams = bitstream.parse(data, max_pixels)
    self._check_fingerprint(header.fingerprint, allow_other_synthesis)
    self._check_kind(header, len(substreams))
    if self.default_quality is not None and bitstream.version_of(data) == 1:
      raise bitstream.BitstreamError(
        "the file has format version 1, which has no quality, expected 2 for a model of several "
        "rates; use the model that wrote it"
      )
    if luma_only and len(self.entropy_models) == 1:
      raise ModelError(
        f"a model of codec {self.description['codec']} codes luma and chroma together, expected "
        "one of cross_component for luma alone; decode the whole image"
      )
    size = self._plane_size(header)
    self._check_memory(*size)
    branches = 1 if luma_only else len(self.entropy_models)
    planes, exact = self._decode[self.codec.run_for(*size), branches](
      substreams, *size, header.quality
    )
    if not exact:
      raise bitstream.BitstreamError(_INEXACT)
    if luma_only:
      header = header._replace(input_format=bitstream.GREY)
    return self._image(planes, header)

  def estimate(self, image: Input, quality: float | None = None) -> dict[str, float]:
    """Returns the bits that the integer tables give to each substream of an image.

    Raises:
      ModelError: as `compress`.
    """
    step = self.step(quality)
    return self.bits(self.prepare(image), step)

  def decode(
    self,
    run: codec_lib.Run,
    substreams: tf.Tensor,
    height,
    width,
    step,
    branches: int | None = None,
  ):
    """Decodes planes as TensorFlow ops.

    Args:
      run: how transforms are applied.
      substreams: string [n].
      height, width: of the image in pixels.
      step: of quality, an int32 scalar.
      branches: how many of the first ones are decoded; None: all.

    Returns:
      The planes, neither rounded nor clipped, and whether the substreams are exact, a scalar bool.
    """
    rows, columns = (
      padded_size(side, self.codec.stride) // self.codec.latent_stride for side in (height, width)
    )
    y_hats, exact, first = [], True, 0
    for model in self._models_at(step)[:branches]:
      last = first + len(model.substreams)
      decoded = model.decode(substreams[first:last], rows, columns)
      y_hats.append(decoded.y_hat)
      exact, first = exact & decoded.exact, last
    return self.codec.decode(y_hats, height, width, self._quality(step), run), exact

  def compress_graph(self, planes: Planes, input_format, bits, quality=None) -> tf.Tensor:
    """`compress` of planes as TensorFlow ops.

    Args:
      planes: of the codec's input format.
      input_format, bits: int32 scalars, for the header.
      quality: 0 .. 100, a float scalar, of a model of several rates; None of one rate.

    Returns:
      Scalar string.
    """
    height, width = tf.unstack(tf.shape(planes[0])[1:3])
    fingerprint = tf.constant(self.fingerprint)
    if (quality is None) != (self.default_quality is None):
      raise ValueError(f"`quality` is {quality}, expected one of a model of several rates alone")
    step, checks = 0, []
    if quality is not None:
      step = tf.searchsorted(_LEAST_QUALITIES, quality[tf.newaxis], side="right")[0]
      in_range = (quality >= 0) & (quality <= bitstream.MAX_QUALITY)
      checks = [
        tf.debugging.Assert(
          in_range, [f"quality is out of range, expected 0 to {bitstream.MAX_QUALITY}"]
        )
      ]
    with tf.control_dependencies(checks):
      step = tf.identity(step)
    header = bitstream.Header(fingerprint, input_format, bits, height, width, step)
    run = codec_lib.in_bands
    substreams = self._substreams(run, planes, self._first_latents(run, planes), step)
    return bitstream_ops.pack(header, substreams, self._format_version)

  def decompress_graph(self, data: tf.Tensor, *input_formats: int):
    """`decompress` to planes as TensorFlow ops, of files that hold one of the input formats.

    Errors of `decompress` end in `tf.errors.InvalidArgumentError` with the same text.

    Args:
      data: scalar string.
      *input_formats: as in the header.

    Returns:
      The planes, and the header.
    """
    header, substreams, status = bitstream_ops.unpack(
      data, tf.constant(bitstream.DEFAULT_MAX_PIXELS, tf.int64)
    )
    with tf.control_dependencies([bitstream_ops.assert_valid(status)]):
      checks = [
        tf.debugging.Assert(
          header.fingerprint == self.fingerprint,
          ["the file was made with another model; use the one that wrote it"],
        ),
        tf.debugging.Assert(
          tf.reduce_any(header.input_format == tf.constant(input_formats))
          & ((header.quality == 0) | (self.default_quality is not None))
          & (tf.size(substreams) == len(self.codec.substreams)),
          ["the file holds another kind of image; use the model and signature that wrote it"],
        ),
      ]
    with tf.control_dependencies(checks):
      header, substreams = tf.nest.map_structure(tf.identity, (header, substreams))
    size = header.height, header.width
    planes, exact = self.decode(codec_lib.in_bands, substreams, *size, header.quality)
    with tf.control_dependencies([tf.debugging.Assert(exact, [_INEXACT])]):
      return tf.nest.map_structure(tf.identity, (planes, header))

  def _planes(self, image: Input) -> tuple[Planes, bitstream.Header]:
    """Returns planes of an input and the header of its file, or raises ModelError."""
    form, dtype = self.codec.input_format, self.codec.plane_dtype
    header = functools.partial(bitstream.Header, self.fingerprint)
    self.check_features(isinstance(image, ImageFeatures))
    if isinstance(image, ImageFeatures):
      given = model_inputs.check_maps(image, form.channels)
      side = max(pyramid.level_sizes(image.image_size)["p2"])
      if form.square is not None and side > form.square:
        raise ModelError(
          f"P2 has a side of {side}, expected at most {form.square}, to which this model pads it; "
          "use a smaller image or another model"
        )
      self._check_memory(*form.canvas_size(image.image_size, given))
      planes = form.from_examples(form.to_canvas(image.levels), dtype)
      sizes = *image.image_size, 0, model_inputs.level_bits(given), *image.original_size
      return planes, header(bitstream.FEATURES, 32, *sizes)
    if isinstance(image, frames.Frame):
      self.check_frames()
      y, uv = model_inputs.frame_to_planes(image)
      self._check_memory(*y.shape[:2])
      planes = form.frame_to_planes(tf.constant(y), tf.constant(uv), image.bits, dtype)
      return planes, header(bitstream.YCBCR420, image.bits, *y.shape[:2])
    image = model_inputs.checked(image)
    self._check_memory(*image.shape[:2])
    input_format = bitstream.GREY if image.shape[2] == 1 else bitstream.RGB
    planes = form.image_to_planes(tf.constant(image), dtype)
    return planes, header(input_format, 8, *image.shape[:2])

  def _image(self, planes: Planes, header: bitstream.Header) -> Input:
    """Returns the image, frame or features of planes."""
    form, bit_depth = self.codec.input_format, header.bit_depth
    if header.input_format == bitstream.FEATURES:
      size, canvas = (header.height, header.width), tf.cast(form.to_examples(planes), tf.float32)
      maps = form.from_canvas(canvas, size, model_inputs.levels_of(header))
      levels = {level: each.numpy() for level, each in maps.items()}
      if "p5" in levels:
        levels["p6"] = levels["p5"][::2, ::2]
      return ImageFeatures(levels, size, (header.original_height, header.original_width))
    if header.input_format == bitstream.YCBCR420:
      y, uv = form.planes_to_frame(planes, bit_depth)
      return model_inputs.planes_to_frame(y.numpy(), uv.numpy(), bit_depth)
    is_grey = tf.constant(header.input_format == bitstream.GREY)
    return form.planes_to_image(planes, is_grey).numpy()

  def _plane_size(self, header: bitstream.Header) -> tuple[int, int]:
    """Returns height and width of the first plane."""
    size = header.height, header.width
    if header.input_format != bitstream.FEATURES:
      return size
    return self.codec.input_format.canvas_size(size, model_inputs.levels_of(header))

  @property
  def _format_version(self) -> int:
    """Of the files: models of one rate write the first, which older programs read, too."""
    if not self.codec.input_format.has_images:
      return 3
    return 1 if self.default_quality is None else 2

  def _quality(self, step: tf.Tensor) -> tf.Tensor | None:
    """Returns q of a step of quality, float64; None of a model of one rate."""
    count = self.codec.num_qualities
    if count is None:
      return None
    return tf.cast(step, tf.float64) * ((count - 1) / bitstream.QUALITY_STEPS)

  def _models_at(self, step: tf.Tensor) -> list[IntegerEntropyModel]:
    """Returns the entropy models of a step of quality."""
    if not self._max_shift:
      return self.entropy_models
    # Rounded to nearest, of -max .. max.
    shift = (2 * self._max_shift * step + bitstream.QUALITY_STEPS // 2) // bitstream.QUALITY_STEPS
    return [model.shifted(shift - self._max_shift) for model in self.entropy_models]

  def _first_latents(self, run: codec_lib.Run, planes: Planes) -> tf.Tensor:
    """Returns latents of the first branch before they are scaled: of all qualities."""
    return self.codec.branches[0].analyze(self.codec.samples(planes), codec_lib.Context(run))

  def _substreams(self, *inputs) -> tf.Tensor:
    """Returns the substreams, string [n]; inputs are those of `_coded`."""
    return tf.concat(self._coded(*inputs, lambda model, y, z: model.encode(y, z)), 0)

  def _bits(self, *inputs) -> tf.Tensor:
    coded = self._coded(*inputs, lambda model, y, z: list(model.estimate(y, z).values()))
    return tf.concat(coded, 0)

  def _reconstructed(self, run: codec_lib.Run, planes: Planes, first: tf.Tensor, step) -> Planes:
    y_hats = self._coded(run, planes, first, step, lambda model, y, z: model.y_hat(y, z))
    height, width = tf.unstack(tf.shape(planes[0])[1:3])
    return self.codec.decode(y_hats, height, width, self._quality(step), run)

  def _coded(
    self, run: codec_lib.Run, planes: Planes, first: tf.Tensor, step, code: Callable
  ) -> list:
    """Codes the latents of planes, one branch after the other.

    Args:
      run: how transforms are applied.
      planes: of the codec's input format.
      first: of `_first_latents`.
      step: of quality, an int32 scalar.
      code: (integer entropy model, y, z) -> its substreams, their bits or their like.

    Returns:
      The results of `code`.
    """
    context = codec_lib.Context(run, quality=self._quality(step))
    x, coded = self.codec.samples(planes), []
    for branch, model in zip(self.codec.branches, self._models_at(step)):
      y = branch.encode(x, context) if coded else branch.scaled(first, context)
      z = branch.entropy_model.side_information(y)
      coded.append(code(model, y, z))
      if branch is not self.codec.branches[-1]:
        context = context.after(branch, model.y_hat(y, z))
    return coded

  def check_qualities(self, given: str):
    """Raises ModelError where a quality or a target is given to a model of one rate."""
    if self.default_quality is None:
      raise ModelError(one_rate_text(given))

  def check_features(self, are_given: bool):
    """Raises ModelError where features are given to a codec of images, or images to the other."""
    if are_given != self.codec.input_format.has_images:
      return
    found, expected = ("features", "an image") if are_given else ("an image", "features")
    raise ModelError(
      f"a model of codec {self.description['codec']} was given {found}, expected {expected}; use a "
      "model that was trained for what is given"
    )

  def check_frames(self):
    """Raises ModelError where raw frames cannot be compressed: the codec is not one of 4:2:0."""
    if not self.codec.input_format.has_frames:
      raise ModelError(
        f"codec {self.description['codec']} is not one of 4:2:0, expected one for raw "
        "frames (luma_chroma420 or cross_component); convert the frame to RGB, or use such a model"
      )

  def _check_kind(self, header: bitstream.Header, number: int):
    """Raises BitstreamError where a file does not hold what the model codes."""
    input_format = header.input_format
    if header.quality and self.default_quality is None:
      raise bitstream.BitstreamError(
        f"the file has quality {header.quality}, expected 0 for a model of one rate; use the model "
        "that wrote it"
      )
    known = {bitstream.RGB: "RGB", bitstream.GREY: "grey"}
    if not self.codec.input_format.has_images:
      known = {bitstream.FEATURES: "feature maps"}
    if self.codec.input_format.has_frames:
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
    """Raises ModelError where an image needs more memory than the machine has left."""
    depth = sum(model.depth for model in self.entropy_models)
    latents = height * width / self.codec.latent_stride**2 * depth
    per_pixel = _BYTES_PER_PIXEL if len(self.entropy_models) == 1 else _BYTES_PER_PIXEL_OF_BRANCHES
    per_pixel *= self.codec.plane_dtype.size // 4
    needed = _BYTES_AT_LEAST + height * width * per_pixel + latents * _BYTES_PER_LATENT
    free = free_memory() if height * width > 2**22 else None
    if free is not None and needed > free:
      raise ModelError(
        f"an image of {width}x{height} pixels needs about {needed / 2**30:.1f} GiB of memory, "
        f"but {free / 2**30:.1f} GiB are free; code it in parts or on a larger machine"
      )


def _graph(function: Callable, run: codec_lib.Run, *signature):
  """Returns the graph of a function whose first argument is how transforms are applied."""
  return tf.function(functools.partial(function, run), signature, autograph=False)


def free_memory() -> int | None:
  """Returns the bytes of memory that are free, None where the system does not say."""
  with contextlib.suppress(OSError, ValueError, StopIteration):
    # Of Linux: unlike SC_AVPHYS_PAGES it counts the cache of files, which gives way.
    with open("/proc/meminfo", encoding="ascii") as lines:
      line = next(line for line in lines if line.startswith("MemAvailable:"))
    return int(line.split()[1]) * 1024
  with contextlib.suppress(OSError, ValueError):
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  return None


@contextlib.contextmanager
def _inputs_named():
  """Within, an assertion that fails in a graph is a ModelError about the image."""
  try:
    yield
  except tf.errors.InvalidArgumentError as error:
    raise ModelError(f"the image cannot be coded: {assertion(error)}") from error


_INEXACT = (
  "the substreams hold other bytes than their symbols encode to: the file is damaged; "
  "copy it again from its source"
)


def step_of(quality: float) -> int:
  """Returns the step nearest to a quality of 0 .. 100, 0 .. 255."""
  return int(np.searchsorted(_LEAST_QUALITIES, np.float32(quality), side="right"))


def one_rate_text(given: str) -> str:
  """Returns the text of the error that a model of one rate was given a quality or a target."""
  return (
    f"a model of one rate was given {given}, expected none; leave it out, or use a model of "
    "several rates such as mbt2018_variable"
  )


def assertion(error: tf.errors.InvalidArgumentError) -> str:
  """Returns the text of a `tf.debugging.Assert` that failed, eagerly or in a graph, on one line."""
  _, is_eager, data = error.message.partition("Summarized data: ")
  if is_eager:  # The repr of each part on a line of its own.
    return " ".join(re.sub(r"""^b(['"])(.*)\1$""", r"\2", line) for line in data.splitlines())
  text = error.message.split("assertion failed: ")[-1]
  return text.splitlines()[0].replace("[", "").replace("]", "")
