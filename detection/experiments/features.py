"""The features of a data set's images: made once, or once and for all where a folder keeps them."""

from __future__ import annotations

import hashlib
import os

import numpy as np

from detection import predictor
from detection.coco.dataset import Record
from detection.predictor import Predictor
from khuvcm_tf import atomic_files
from khuvcm_tf.data import feature_npz, stored_features
from khuvcm_tf.data.stored_features import FeatureError, ImageFeatures, Metadata, StoredFeatures


class FeatureSource:
  """Gives an image's features.

  With a folder they are read from it where they are there, else extracted and written to it: a
  file for each image, named by the image's pixels (`khuvcm_tf.data.feature_npz` is its format). The
  trunk then runs once for each image, however often its features are asked for. Without a folder it
  runs each time.

  Args:
    model: the detector.
    folder: of stored features, made where it does not exist; None to keep none.
    dtype: of stored numbers, "float32" or "float16".

  Attributes:
    dtype: of the numbers that it gives, "float32" where none are stored.

  Raises:
    atomic_files.FileError: the folder cannot be made.
  """

  def __init__(self, model: Predictor, folder: str | None = None, dtype: str = "float32"):
    self._model, self.dtype = model, dtype if folder else "float32"
    self._folder = folder
    if self._folder:
      atomic_files.make_folder(self._folder)

  @property
  def description(self) -> list[object]:
    """What the features depend on, but for the image; JSON can hold it."""
    return [self._model.fingerprint, self._model.detector.config.changes(), self.dtype]

  def get(self, record: Record, image: np.ndarray) -> ImageFeatures:
    """Returns the features of an image, uint8 [H, W, 3].

    Raises:
      FeatureError: stored ones are damaged, or of another detector, size or type.
      atomic_files.FileError: they cannot be stored.
    """
    if not self._folder:
      return self._model.extract_features(image)
    config = self._model.detector.config
    expected = Metadata(
      name=record.file_name,
      digest=digest(image),
      fingerprint=self._model.fingerprint,
      dtype=self.dtype,
      channels=config.fpn_channels,
      image_size=predictor.resized_shape(*image.shape[:2], config.short_side, config.max_side),
      original_size=image.shape[:2],
    )
    path = os.path.join(self._folder, expected.digest + feature_npz.SUFFIX)
    if not os.path.exists(path):
      feature_npz.write(path, StoredFeatures(expected, self._model.extract_features(image)))
    # Read back where they were just written: stored numbers may be rounded.
    metadata, features = feature_npz.read(path)
    if metadata._replace(name=expected.name) != expected:
      raise FeatureError(
        f"{path}: found features of {metadata.name} by detector {metadata.fingerprint}, "
        f"{metadata.dtype}, {metadata.image_size}; expected detector {expected.fingerprint}, "
        f"{expected.dtype}, {expected.image_size}; give another folder"
      )
    return features


def digest(image: np.ndarray) -> str:
  """Returns what tells an image, uint8 [H, W, 3], from others: 64 hexadecimal digits."""
  return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()


def level_sizes(model: Predictor, record: Record) -> dict[str, tuple[int, int]]:
  """Returns height and width of each level of an image's features."""
  config = model.detector.config
  size = predictor.resized_shape(record.height, record.width, config.short_side, config.max_side)
  return {level: shape[:2] for level, shape in stored_features.level_shapes(size, 1).items()}
