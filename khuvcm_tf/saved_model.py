"""Models as SavedModels, which compress and decompress without this package or any Python of tfc.

A process needs TensorFlow and the compiled ops of tensorflow-compression, nothing else:

  import tensorflow as tf
  import tensorflow_compression         # TensorFlow 2.14; or `tensorflow_compression_ops`, 2.17
  model = tf.saved_model.load(folder)
  data = model.signatures["compress"](image=image)["data"]      # uint8 [H, W, 3] -> string
  image = model.signatures["decompress"](data=data)["image"]

Codecs of 4:2:0 also have `compress_frame` (y uint16 [H, W, 1], uv uint16 [h, w, 2], bits int32 ->
data) and `decompress_frame` (data -> y, uv, bits). Of a model of several rates `compress` and
`compress_frame` have another input, `quality`: float32, 0 .. 100.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from khuvcm_tf import atomic_files, bitstream, coding, forks, model_folders, model_inputs, paths
from khuvcm_tf.data import frames

# Registers the compiled ops, which a SavedModel needs when it is loaded.
from tensorflow_compression.python.ops import gen_ops  # noqa: F401  isort: skip


def export(model: coding.Model, folder: str) -> None:
  """Writes a SavedModel with the signatures `compress` and `decompress`.

  Args:
    model: with transforms of any precision; the SavedModel keeps it.
    folder: to write; must not exist, or be empty.

  Raises:
    coding.ModelError: the folder is in use, or the model is one of features.
    atomic_files.FileError: it cannot be written.
  """
  if not model.codec.input_format.has_images:
    raise coding.ModelError(
      f"a model of codec {model.description['codec']} cannot be exported, expected one of images; "
      "use its folder"
    )
  module = tf.Module()
  module.weights = list(model.codec.named_weights().values())
  # Not as attributes of the module too, for which all would be traced and stored a second time.
  signatures = _of_images(model)
  if model.codec.input_format.has_frames:
    signatures.update(_of_frames(model))
  with new_folder(folder) as new:
    tf.saved_model.save(module, paths.for_tensorflow(new), signatures=signatures)
    model_folders.write_fingerprint(new, model.fingerprint)
    if model.default_quality is not None:
      with open(os.path.join(new, _DEFAULT_QUALITY), "w", encoding="ascii") as file:
        file.write(f"{model.default_quality}\n")


@contextlib.contextmanager
def new_folder(folder: str) -> Iterator[str]:
  """Gives the place of a SavedModel to write, as `atomic_files.new_folder` does.

  Raises:
    coding.ModelError: the folder is in use.
    atomic_files.FileError: it cannot be written; TensorFlow's errors within the block become such.
  """
  if os.path.exists(folder) and (not os.path.isdir(folder) or os.listdir(folder)):
    raise coding.ModelError(f"{folder} exists and is not empty; give a new --output")
  with atomic_files.new_folder(folder) as new:
    try:
      yield new
    except tf.errors.OpError as error:
      raise atomic_files.FileError(
        f"{folder} was not written: {error.message.splitlines()[0]}; expected a writable place "
        "with space left"
      ) from error


def _of_images(model: coding.Model):
  """Returns the signatures of RGB and grey images."""
  form, dtype = model.codec.input_format, model.codec.plane_dtype

  def compress(image, *quality):
    input_format = tf.where(tf.shape(image)[2] == 1, bitstream.GREY, bitstream.RGB)
    planes = form.image_to_planes(image, dtype)
    return {"data": model.compress_graph(planes, input_format, 8, *quality)}

  def decompress(data):
    planes, header = model.decompress_graph(data, bitstream.RGB, bitstream.GREY)
    return {"image": form.planes_to_image(planes, header.input_format == bitstream.GREY)}

  image = tf.TensorSpec((None, None, None), tf.uint8, name="image")
  return {
    "compress": _signature(compress, image, *_quality(model)),
    "decompress": _signature(decompress, _DATA),
  }


def _of_frames(model: coding.Model):
  """Returns the signatures of raw 4:2:0 frames."""
  form, dtype = model.codec.input_format, model.codec.plane_dtype

  def compress(y, uv, bits, *quality):
    planes = form.frame_to_planes(y, uv, bits, dtype)
    return {"data": model.compress_graph(planes, bitstream.YCBCR420, bits, *quality)}

  def decompress(data):
    planes, header = model.decompress_graph(data, bitstream.YCBCR420)
    y, uv = form.planes_to_frame(planes, header.bit_depth)
    return {"y": y, "uv": uv, "bits": header.bit_depth}

  frame = (
    tf.TensorSpec((None, None, 1), tf.uint16, name="y"),
    tf.TensorSpec((None, None, 2), tf.uint16, name="uv"),
    tf.TensorSpec((), tf.int32, name="bits"),
  )
  return {
    "compress_frame": _signature(compress, *frame, *_quality(model)),
    "decompress_frame": _signature(decompress, _DATA),
  }


_DATA = tf.TensorSpec((), tf.string, name="data")
_DEFAULT_QUALITY = "default_quality"  # a file of an export of several rates
_QUALITY = tf.TensorSpec((), tf.float32, name="quality")


def _quality(model: coding.Model) -> list[tf.TensorSpec]:
  """Returns the inputs that a signature has for quality: none of a model of one rate."""
  return [] if model.default_quality is None else [_QUALITY]


def _signature(function, *specs: tf.TensorSpec):
  return tf.function(function, specs, autograph=False).get_concrete_function()


def is_saved_model(folder: str) -> bool:
  """Tells whether a folder holds a SavedModel."""
  return os.path.isfile(os.path.join(folder, "saved_model.pb"))


class ExportedModel(model_folders.Reloaded):
  """A SavedModel with the public methods of `coding.Model`."""

  def __init__(self, folder: str):
    forks.check()
    self.reload = functools.partial(ExportedModel, folder)
    try:
      self._signatures = tf.saved_model.load(paths.for_tensorflow(folder)).signatures
      self.fingerprint = model_folders.read_fingerprint(folder)
      self.default_quality = self._read_default_quality(folder)
    except Exception as error:  # TensorFlow raises whatever damage leads it to.
      reason = " ".join(str(error).split())[:300]
      raise coding.ModelError(
        f"{folder} is not a whole exported model: {reason}; export it again"
      ) from error
    if not {"compress", "decompress"} <= set(self._signatures):
      raise coding.ModelError(
        f"{folder} has the signatures {sorted(self._signatures)}, expected compress and "
        "decompress; export a model with bin/export.py"
      )

  def _read_default_quality(self, folder: str) -> float | None:
    """Returns what stands beside the graphs of a model for all rates, None of other models."""
    compress = self._signatures.get("compress")
    if compress is None or "quality" not in compress.structured_input_signature[1]:
      return None
    with open(os.path.join(folder, _DEFAULT_QUALITY), encoding="ascii") as file:
      return float(file.read())

  def compress(self, image: np.ndarray | frames.Frame, quality: float | None = None) -> bytes:
    """As `coding.Model.compress`."""
    forks.check()
    if isinstance(image, frames.Frame):
      y, uv = model_inputs.frame_to_planes(image)
      inputs = {
        "y": tf.constant(y),
        "uv": tf.constant(uv),
        "bits": tf.constant(image.bits, tf.int32),
      }
      compress = self._signature("compress_frame", "raw frames")
    else:
      compress = self._signatures["compress"]
      # Models that were exported earlier have another name for it.
      name = next(each for each in compress.structured_input_signature[1] if each != "quality")
      inputs = {name: tf.constant(model_inputs.checked(image))}
    if self.default_quality is not None:
      quality = self.default_quality if quality is None else quality
      inputs["quality"] = tf.constant(quality, tf.float32)
    elif quality is not None:
      self.check_qualities(f"quality {quality:g}")
    try:
      return compress(**inputs)["data"].numpy()
    except tf.errors.InvalidArgumentError as error:
      raise coding.ModelError(f"the image cannot be coded: {coding.assertion(error)}") from error

  def decompress(
    self,
    data: bytes,
    max_pixels: int = bitstream.DEFAULT_MAX_PIXELS,
    allow_other_synthesis: bool = False,
    luma_only: bool = False,
  ) -> np.ndarray | frames.Frame:
    """As `coding.Model.decompress`, but for whole images in files of this very model alone."""
    forks.check()
    if allow_other_synthesis or luma_only:
      raise coding.ModelError(
        "an exported model decodes its own files alone, to whole images; drop "
        "--allow_other_synthesis and --luma_only, or give the model's folder"
      )
    header, _ = bitstream.parse(data, max_pixels)
    if header.fingerprint != self.fingerprint:
      raise coding.ModelError(
        f"the file was made with model {header.fingerprint.hex()}, expected this one, "
        f"{self.fingerprint.hex()}; use the model that wrote it"
      )
    try:
      if header.input_format != bitstream.YCBCR420:
        (image,) = self._signatures["decompress"](data=tf.constant(data)).values()
        return image.numpy()
      found = self._signature("decompress_frame", "raw frames")(data=tf.constant(data))
      return model_inputs.planes_to_frame(found["y"].numpy(), found["uv"].numpy(), header.bit_depth)
    except tf.errors.InvalidArgumentError as error:
      raise bitstream.BitstreamError(coding.assertion(error)) from error

  def check_qualities(self, given: str):
    """As `coding.Model.check_qualities`."""
    if self.default_quality is None:
      raise coding.ModelError(coding.one_rate_text(given))

  def check_frames(self):
    """As `coding.Model.check_frames`."""
    self._signature("compress_frame", "raw frames")

  def _signature(self, name: str, of_what: str):
    if name not in self._signatures:
      raise coding.ModelError(
        f"the exported model has no signature {name}, expected one of a 4:2:0 codec for {of_what}; "
        "use a model of luma_chroma420 or cross_component"
      )
    return self._signatures[name]
