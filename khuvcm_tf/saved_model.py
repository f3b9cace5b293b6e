"""Models as SavedModels, which compress and decompress without this package or any Python of tfc.

A process needs TensorFlow and the compiled ops of tensorflow-compression, nothing else:

  import tensorflow as tf
  import tensorflow_compression         # TensorFlow 2.14; or `tensorflow_compression_ops`, 2.17
  model = tf.saved_model.load(folder)
  data = model.signatures["compress"](picture=picture)["data"]      # uint8 [H, W, 3] -> string
  picture = model.signatures["decompress"](data=data)["picture"]
"""

from __future__ import annotations

import os
import shutil

import numpy as np
import tensorflow as tf

from khuvcm_tf import bitstream, coding, model_files

# Registers the compiled ops, which a SavedModel needs when it is loaded.
from tensorflow_compression.python.ops import gen_ops  # noqa: F401  isort: skip


def export(model: coding.Model, folder: str) -> None:
  """Writes a SavedModel with the signatures `compress` and `decompress`.

  Args:
    model: with transforms of any precision; the SavedModel keeps it.
    folder: to write; must not exist, or be empty.

  Raises:
    coding.ModelError: the folder is in use or cannot be written.
  """
  if os.path.exists(folder) and (not os.path.isdir(folder) or os.listdir(folder)):
    raise coding.ModelError(f"{folder} exists and is not empty; give a new --output")
  module = tf.Module()
  module.weights = list(model.codec.named_weights().values())
  compress = tf.function(
    lambda picture: {"data": model.compress_graph(picture)},
    input_signature=[tf.TensorSpec((None, None, None), tf.uint8, name="picture")],
    autograph=False,
  )
  decompress = tf.function(
    lambda data: {"picture": model.decompress_graph(data)},
    input_signature=[tf.TensorSpec((), tf.string, name="data")],
    autograph=False,
  )
  # Not as attributes of the module too, for which both would be traced and stored a second time.
  signatures = {
    "compress": compress.get_concrete_function(),
    "decompress": decompress.get_concrete_function(),
  }
  temporary = f"{os.path.abspath(folder)}.tmp-{os.getpid()}"
  try:
    tf.saved_model.save(module, temporary, signatures=signatures)
    model_files.write_fingerprint(temporary, model.fingerprint)
    if os.path.isdir(folder):
      os.rmdir(folder)
    os.rename(temporary, os.path.abspath(folder))
  except (OSError, tf.errors.OpError) as error:
    reason = str(error).splitlines()[0]
    raise coding.ModelError(
      f"{folder} was not written: {reason}; expected a writable place with space left"
    ) from error
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def is_saved_model(folder: str) -> bool:
  """Tells whether a folder holds a SavedModel."""
  return os.path.isfile(os.path.join(folder, "saved_model.pb"))


class ExportedModel:
  """A SavedModel with the face of `coding.Model`."""

  def __init__(self, folder: str):
    try:
      self._signatures = tf.saved_model.load(folder).signatures
      self.fingerprint = model_files.read_fingerprint(folder)
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

  def compress(self, picture: np.ndarray) -> bytes:
    """As `coding.Model.compress`."""
    picture = tf.constant(coding.checked(picture))
    try:
      return self._signatures["compress"](picture=picture)["data"].numpy()
    except tf.errors.InvalidArgumentError as error:
      raise coding.ModelError(f"the picture cannot be coded: {coding.assertion(error)}") from error

  def decompress(
    self,
    data: bytes,
    max_pixels: int = bitstream.DEFAULT_MAX_PIXELS,
    allow_other_synthesis: bool = False,
  ) -> np.ndarray:
    """As `coding.Model.decompress`, but for files of this very model alone."""
    if allow_other_synthesis:
      raise coding.ModelError(
        "an exported model decodes its own files alone; drop --allow_other_synthesis"
      )
    header, _ = bitstream.parse(data, max_pixels)
    if header.fingerprint != self.fingerprint:
      raise coding.ModelError(
        f"the file was made with model {header.fingerprint.hex()}, expected this one, "
        f"{self.fingerprint.hex()}; use the model that wrote it"
      )
    try:
      return self._signatures["decompress"](data=tf.constant(data))["picture"].numpy()
    except tf.errors.InvalidArgumentError as error:
      raise bitstream.BitstreamError(coding.assertion(error)) from error
