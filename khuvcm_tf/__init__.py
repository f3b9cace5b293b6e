"""Learned image and feature compression in TensorFlow, with files that decode alike everywhere."""

from __future__ import annotations

__version__ = "0.1.0"


def load(path_or_name: str, precision: str = "float32"):
  """Loads a model to compress and decompress with: see `khuvcm_tf.model_files.load`.

  Example:
    import khuvcm_tf
    model = khuvcm_tf.load("mbt2018_variable")
    data = model.compress(image, quality=30)  # uint8 [H, W, 3]
  """
  from khuvcm_tf import model_files  # TensorFlow takes seconds to import

  return model_files.load(path_or_name, precision)
