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
  )
  decompress = tf.function(
    lambda data: {"picture": model.decompress_graph(data)},
    input_signature=[tf.TensorSpec((), tf.string, name="data")],
  )
  module.compress, module.decompress = compress, decompress
  temporary = f"{os.path.abspath(folder)}.tmp-{os.getpid()}"
  try:
    tf.saved_model.save(
      module,
      temporary,
      signatures={
        "compress": compress.get_concrete_function(),
        "decompress": decompress.get_concrete_function(),
      },
    )
    model_files.write_fingerprint(temporary, model.fingerprint)
    if os.path.isdir(folder):
      os.rmdir(folder)
    os.rename(temporary, folder)
  except OSError as error:
    raise coding.ModelError(f"{folder} was not written: {error}") from error


def is_saved_model(folder: str) -> bool:
  """Tells whether a folder holds a SavedModel."""
  return os.path.isfile(os.path.join(folder, "saved_model.pb"))


class ExportedModel:
  """A SavedModel with the face of `coding.Model`."""

  def __init__(self, folder: str):
    try:
      self._signatures = tf.saved_model.load(folder).signatures
      self.fingerprint = model_files.read_fingerprint(folder)
    except (OSError, ValueError) as error:
      raise coding.ModelError(f"{folder} is not a whole exported model: {error}") from error
    if not {"compress", "decompress"} <= set(self._signatures):
      raise coding.ModelError(
        f"{folder} has the signatures {sorted(self._signatures)}, expected compress and "
        "decompress; export a model with bin/export.py"
      )

  def compress(self, picture: np.ndarray) -> bytes:
    """As `coding.Model.compress`."""
    return self._run("compress", "data", picture=tf.constant(coding.checked(picture)))

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
    bitstream.parse(data, max_pixels)
    return self._run("decompress", "picture", data=tf.constant(data))

  def _run(self, signature: str, output: str, **inputs):
    try:
      return self._signatures[signature](**inputs)[output].numpy()
    except tf.errors.InvalidArgumentError as error:
      raise coding.ModelError(coding.assertion(error)) from error
