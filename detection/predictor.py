"""A detector for images as they are: resized on the way in, objects in the image's own pixels.

Source: `DefaultPredictor` in `detectron2/engine/defaults.py`; `ResizeShortestEdge` and
`ResizeTransform` in `detectron2/data/transforms`.
"""

from __future__ import annotations

import functools

import numpy as np
import tensorflow as tf
from PIL import Image

from detection import detector_files, postprocessing
from detection.detector import Detector
from detection.postprocessing import Objects
from khuvcm_tf import forks, model_folders
from khuvcm_tf.data.stored_features import ImageFeatures
from khuvcm_tf.ops.pyramid import LEVELS


def resized_shape(height: int, width: int, short_side: int, max_side: int) -> tuple[int, int]:
  """Returns height and width with a short side of `short_side`, a long one of `max_side` at most.

  Example:
    >>> resized_shape(427, 640, 800, 1333)
    (800, 1199)
  """
  scale = short_side / min(height, width)
  if height < width:
    new_height, new_width = short_side, scale * width
  else:
    new_height, new_width = scale * height, short_side
  if max(new_height, new_width) > max_side:
    scale = max_side / max(new_height, new_width)
    new_height, new_width = new_height * scale, new_width * scale
  return max(1, int(new_height + 0.5)), max(1, int(new_width + 0.5))


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Resizes uint8 [H, W, 3] to height and width `size`, by Pillow's bilinear filter.

  The filter widens where the image shrinks, so that nothing aliases; values are rounded to uint8.
  """
  return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))


class Predictor(model_folders.Reloaded):
  """A detector that was loaded, for one image at a time.

  Args:
    detector: the network.
    categories: the name of each class.
    fingerprint: of the detector's folder; "" where there is none.
  """

  def __init__(self, detector: Detector, categories: tuple[str, ...], fingerprint: str = ""):
    self.detector, self.categories, self.fingerprint = detector, categories, fingerprint
    self._config = detector.config
    channels = detector.config.fpn_channels
    images = tf.TensorSpec([None, None, None, 3], tf.uint8)
    sizes = tf.TensorSpec([None, 2], tf.int32)
    size = tf.TensorSpec([2], tf.int32)
    levels = {level: tf.TensorSpec([None, None, None, channels], tf.float32) for level in LEVELS}
    self._extract = tf.function(detector.extract_features, input_signature=[images, sizes])

    def objects(features, image_size, original_size):
      detections = detector.from_features(features, image_size[tf.newaxis])
      return postprocessing.to_original(detections, 0, image_size, original_size)

    self._objects = tf.function(objects, input_signature=[levels, size, size])

    def boxes(features, image_size):
      image_sizes = tf.tile(image_size[tf.newaxis], [tf.shape(features["p2"])[0], 1])
      # Masks that nobody takes are not computed.
      return detector.from_features(features, image_sizes)._replace(masks=None)

    self._boxes = tf.function(boxes, input_signature=[levels, size])
    self._scaled = tf.function(postprocessing.scale_boxes)

  @property
  def made_by(self) -> tuple[str, int]:
    """Fingerprint and channels, which stored features must have to be this detector's."""
    return self.fingerprint, self._config.fpn_channels

  def __call__(self, image: np.ndarray) -> Objects:
    """Returns what is in an image, as arrays of NumPy.

    Args:
      image: RGB or grey, uint8 [H, W, 3] or [H, W, 1].
    """
    return self.from_features(self.extract_features(image))

  def extract_features(self, image: np.ndarray) -> ImageFeatures:
    """Returns the features of an image, RGB or grey, uint8 [H, W, 3] or [H, W, 1]."""
    forks.check()
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3) or not image.size:
      raise ValueError(f"`image` is {image.dtype} {image.shape}, expected uint8 [H, W, 1 or 3]")
    size = resized_shape(*image.shape[:2], self._config.short_side, self._config.max_side)
    resized = resize(np.broadcast_to(image, (*image.shape[:2], 3)), size)
    levels = self._extract(resized[np.newaxis], [size])
    levels = {level: feature[0].numpy() for level, feature in levels.items()}
    return ImageFeatures(levels, size, image.shape[:2])

  def from_features(self, features: ImageFeatures) -> Objects:
    """Returns what features lead to, as arrays of NumPy."""
    forks.check()
    levels = {level: feature[np.newaxis] for level, feature in features.levels.items()}
    objects = self._objects(levels, features.image_size, features.original_size)
    return Objects(*(None if value is None else value.numpy() for value in objects))

  def from_variants(
    self, levels: dict[str, tf.Tensor], image_size: tuple[int, int], original_size: tuple[int, int]
  ) -> list[Objects]:
    """Returns what several variants of one image's features lead to, without masks.

    Args:
      levels: `p2` to `p6`, each float32 [V, H, W, C] of V variants.
      image_size, original_size: as `ImageFeatures` has them.
    """
    detections = self._boxes(levels, image_size)
    sizes = tf.constant(image_size), tf.constant(original_size)
    found = (
      self._scaled(detections, tf.constant(number), *sizes)
      for number in range(len(detections.count))
    )
    return [Objects(*(v.numpy() for v in each[:3])) for each in found]


def load(path_or_name: str, **changes) -> Predictor:
  """Loads a detector by path or name.

  Args:
    path_or_name: as `detector_files.load` takes it.
    **changes: fields of the config that are to differ, such as `short_side` or `min_score`.

  Raises:
    detector_files.DetectorError: there is no such detector, or it is damaged.
  """
  forks.check()
  detector, description, fingerprint = detector_files.load(path_or_name, **changes)
  predictor = Predictor(detector, tuple(description["categories"]), fingerprint)
  predictor.reload = functools.partial(load, path_or_name, **changes)
  return predictor
