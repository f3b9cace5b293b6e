"""What codes the features of an image, at one rate point.

  models    a trained model of codec `feature`, of all levels, or of those that a rule keeps
  anchors   a classic codec on maps that are quantized to 8 or 10 bits (`quantized_maps`)
  images    the image itself, by a model or a classic codec; features are those of what it decodes
            to ("remote inference")

P6 is coded by none: it is a pick of P5, as detectron2 makes it.
"""

from __future__ import annotations

import abc
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from detection.experiments.rules import Rule
from detection.feature_coding import FeatureCodingError
from detection.predictor import Predictor
from khuvcm_tf.data.stored_features import ImageFeatures, level_shapes
from khuvcm_tf.evaluation import coders
from khuvcm_tf.ops.pyramid import BOX_LEVELS


class Coded(NamedTuple):
  """What a coder made of an image.

  Attributes:
    bytes: of its file.
    features: P2 to P6 as a decoder has them.
  """

  bytes: int
  features: ImageFeatures


class FeatureCoder(abc.ABC):
  """Codes features at one rate point.

  Attributes:
    curve: name of the curve that the point belongs to.
    label: of the point.
    group: "Models", "Rebuilt", "Anchors" or "Images".
    key: identifies what the decoded features depend on.
  """

  curve: str
  label: str
  group: str
  key: str

  @abc.abstractmethod
  def code(self, image: np.ndarray, features: ImageFeatures) -> Coded:
    """Codes an image, uint8 RGB [H, W, 3], or its features, and decodes the file."""


class ModelCoder(FeatureCoder):
  """A model of feature maps at one quality.

  Args:
    coder: of the model, by `evaluation.coders`.
    detector: whose features are coded.
    curve, label: as above.
    rule: that rebuilds the levels that are not coded; None where all are coded.

  Raises:
    FeatureCodingError: the model is one of images, or of another detector; the rule needs P6.
  """

  def __init__(
    self,
    coder: coders.ModelCoder,
    detector: Predictor,
    curve: str,
    label: str,
    rule: Rule | None = None,
  ):
    description = coder.description
    found = description.get("detector")
    if found is None:
      raise FeatureCodingError(
        f"{coder.path} is a model of images, expected one of codec feature; give it as --images"
      )
    if found != detector.fingerprint:
      raise FeatureCodingError(
        f"{coder.path} was trained on features of detector {found}, expected "
        f"{detector.fingerprint}; use another model, or that detector"
      )
    self._coder, self._rule, self.curve, self.label = coder, rule, curve, label
    self.group = "Rebuilt" if rule else "Models"
    self._levels = list(BOX_LEVELS)
    if rule is not None:
      self._levels = list(rule.kept())
      if not set(self._levels) <= set(BOX_LEVELS):
        raise FeatureCodingError(f"the rule {rule} keeps P6, which is not coded; give p6=p5:pick")
    self.key = f"feature model {coder.key} {rule or 'all levels'}"

  def code(self, image, features):
    del image
    kept = features._replace(levels={level: features.levels[level] for level in self._levels})
    data = self._coder.compress(kept)
    return Coded(len(data), self._rebuilt(self._coder.decompress(data, ())))

  def _rebuilt(self, features: ImageFeatures) -> ImageFeatures:
    if self._rule is None:
      return features
    channels = next(iter(features.levels.values())).shape[-1]
    shapes = level_shapes(features.image_size, channels)
    # What is not coded gives the rule its size alone.
    levels = {
      level: tf.constant(features.levels.get(level, np.zeros(shape, np.float32))[np.newaxis])
      for level, shape in shapes.items()
    }
    made = self._rule.apply(levels)
    return features._replace(levels={level: maps[0].numpy() for level, maps in made.items()})


class ImageCoder(FeatureCoder):
  """An image codec before the detector.

  Args:
    coder: of images, by `evaluation.coders`.
    detector: what sees the decoded image.
    curve, label: as above.
  """

  group = "Images"

  def __init__(self, coder: coders.Coder, detector: Predictor, curve: str, label: str):
    if coder.description.get("codec") == "feature":
      raise FeatureCodingError(f"{curve} is a model of feature maps; give it as --models")
    self._coder, self._detector = coder, detector
    self.curve, self.label, self.key = curve, label, f"images {coder.key}"

  def code(self, image, features):
    del features
    data = self._coder.compress(image)
    decoded = self._coder.decompress(data, image.shape)
    return Coded(len(data), self._detector.extract_features(decoded))
