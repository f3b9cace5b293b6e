"""Faster R-CNN and Mask R-CNN with a feature pyramid, equal to detectron2 on the same weights.

Source: `GeneralizedRCNN` in `detectron2/modeling/meta_arch/rcnn.py`, `StandardROIHeads` in
`detectron2/modeling/roi_heads/roi_heads.py`.

Letters: B images, H and W height and width of the batch, C channels of the pyramid.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from detection import backbones, box_head, layers, mask_head, roi_align
from detection.box_head import Detections
from detection.config import Config
from detection.fpn import FPN
from detection.proposals import RPN
from khuvcm_tf.layers import assign_by_name
from khuvcm_tf.ops.pyramid import BOX_LEVELS, STRIDE

Features = dict[str, tf.Tensor]


class ROIHeads(tf.keras.layers.Layer):
  """From features and proposals to detections."""

  def __init__(self, config: Config):
    super().__init__()
    self._config = config
    self.box_head = box_head.BoxHead(config)
    self.box_predictor = box_head.BoxPredictor(config)
    self.mask_head = mask_head.MaskHead(config) if config.masks else None

  def call(self, features: Features, proposals, image_sizes: tf.Tensor) -> Detections:
    config = self._config
    boxes, image = _flatten(proposals.boxes, proposals.count)
    logits, deltas = self.predict_boxes(features, boxes, image)
    probabilities = tf.nn.softmax(logits)
    for _ in range(config.box_passes - 1):
      sizes = tf.gather(image_sizes, image)
      boxes = box_head.refine(boxes, logits, deltas, sizes, config)
      logits, deltas = self.predict_boxes(features, boxes, image)
      probabilities += tf.nn.softmax(logits)
    limit = config.num_proposals
    detections = box_head.select(
      _unflatten(probabilities / config.box_passes, proposals.count, limit),
      _unflatten(deltas, proposals.count, limit),
      _unflatten(boxes, proposals.count, limit),
      proposals.count,
      image_sizes,
      config,
    )
    if self.mask_head is None:
      return detections
    flat, image = _flatten(detections.boxes, detections.count)
    classes, _ = _flatten(detections.classes, detections.count)
    masks = self.predict_masks(features, flat, image, classes)
    return detections._replace(masks=_unflatten(masks, detections.count, config.max_detections))

  def predict_boxes(
    self, features: Features, boxes: tf.Tensor, image: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns logits [N, K + 1] and deltas [N, K, 4] of boxes [N, 4] in the images [N]."""
    pooled = roi_align.pool_levels(
      features, boxes, image, self._config.box_pool_size, self._config.canonical_box_size
    )
    return self.box_predictor(self.box_head(pooled))

  def predict_masks(
    self, features: Features, boxes: tf.Tensor, image: tf.Tensor, classes: tf.Tensor
  ) -> tf.Tensor:
    """Returns probabilities [N, 2 S, 2 S] of the classes [N] in boxes [N, 4] in the images [N]."""
    pooled = roi_align.pool_levels(
      features, boxes, image, self._config.mask_pool_size, self._config.canonical_box_size
    )
    return tf.sigmoid(mask_head.of_classes(self.mask_head(pooled), classes))


class Detector(tf.keras.Model):
  """A detector that gives out its features and takes them in.

  `detector(images)` is `detector.from_features(detector.extract_features(images), image_sizes)`.
  Whatever an experiment does to features, it takes the same way as an image.

  Args:
    config: what it is built from.

  Example:
    >>> from detection.config import Config
    >>> detector = Detector(Config("resnet18", width=8, fpn_channels=16, num_proposals=10))
    >>> features = detector.extract_features(tf.zeros([1, 60, 90, 3]))
    >>> {level: tuple(feature.shape) for level, feature in features.items()}["p3"]
    (1, 8, 12, 16)
    >>> detector.from_features(features, [[60, 90]]).boxes.shape
    TensorShape([1, 100, 4])
  """

  def __init__(self, config: Config):
    super().__init__()
    self.config = config
    bottom_up = backbones.create(config.backbone, config.width, config.norm)
    self.backbone = FPN(bottom_up, config.fpn_channels)
    self.proposal_generator = RPN(config)
    self.roi_heads = ROIHeads(config)

  def call(
    self, images: tf.Tensor, image_sizes: tf.Tensor | None = None, training: bool | None = None
  ) -> Detections:
    """Returns the detections of images, in pixels of these images.

    Args:
      images: RGB of 0..255, uint8 or float32 [B, H, W, 3], resized as the detector expects it.
      image_sizes: int32 [B, 2], height and width of each image, which begins at the upper left
        corner; what is beyond is padding, of any value. By default all are H x W.
      training: whether gradients will be asked for.
    """
    image_sizes = _sizes(images, image_sizes)
    features = self.extract_features(images, image_sizes, training)
    return self.from_features(features, image_sizes)

  def extract_features(
    self, images: tf.Tensor, image_sizes: tf.Tensor | None = None, training: bool | None = None
  ) -> Features:
    """Returns `{"p2": [B, H/4, W/4, C], ..., "p6": [B, H/64, W/64, C]}`, H and W rounded up to 32.

    Arguments are those of `call`.
    """
    return self.backbone(self.preprocess(images, _sizes(images, image_sizes)), training=training)

  def from_features(self, features: Features, image_sizes: tf.Tensor) -> Detections:
    """Returns the detections that features lead to, in pixels of the resized images.

    Args:
      features: as `extract_features` gives them, or made otherwise.
      image_sizes: int32 [B, 2], height and width of each image without its padding.
    """
    image_sizes = tf.convert_to_tensor(image_sizes, tf.int32)
    proposals = self.proposal_generator(features, image_sizes)
    return self.roi_heads({level: features[level] for level in BOX_LEVELS}, proposals, image_sizes)

  def preprocess(self, images: tf.Tensor, image_sizes: tf.Tensor) -> tf.Tensor:
    """Returns blue, green, red, normalized, with zeros for all padding: float32 [B, H', W', 3]."""
    bgr = tf.cast(images, tf.float32)[..., ::-1]
    x = (bgr - self.config.pixel_mean) / self.config.pixel_std
    height, width = tf.shape(images)[1], tf.shape(images)[2]
    # After the mean is gone: the padding is of the mean's colour, not black.
    rows = tf.sequence_mask(image_sizes[:, 0], height)[:, :, tf.newaxis, tf.newaxis]
    columns = tf.sequence_mask(image_sizes[:, 1], width)[:, tf.newaxis, :, tf.newaxis]
    x = tf.where(tf.logical_and(rows, columns), x, 0.0)
    return tf.pad(x, [[0, 0], [0, -height % STRIDE], [0, -width % STRIDE], [0, 0]])

  def named_weights(self) -> dict[str, tf.Variable]:
    """Returns all weights by the names that detectron2's state dict has, in our layouts."""
    return layers.named_weights(self)

  def assign_weights(self, values: dict[str, np.ndarray]) -> None:
    """Sets all weights from arrays by name.

    Raises:
      ValueError: a name or a shape is not the detector's.
    """
    assign_by_name(self.named_weights(), values)


def _sizes(images: tf.Tensor, image_sizes: tf.Tensor | None) -> tf.Tensor:
  """Returns int32 [B, 2], by default the size of the batch for each image."""
  if image_sizes is not None:
    return tf.convert_to_tensor(image_sizes, tf.int32)
  shape = tf.shape(images)
  return tf.broadcast_to(shape[1:3], [shape[0], 2])


def _flatten(values: tf.Tensor, count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns the first `count` [B] rows of [B, n, ...] as [N, ...], and each one's image, [N]."""
  is_given = tf.sequence_mask(count, tf.shape(values)[1])
  image = tf.cast(tf.where(is_given)[:, 0], tf.int32)
  return tf.boolean_mask(values, is_given), image


def _unflatten(values: tf.Tensor, count: tf.Tensor, limit: int) -> tf.Tensor:
  """Returns rows [N, ...] as [B, limit, ...], `count` [B] to an image, then zeros."""
  is_given = tf.where(tf.sequence_mask(count, limit))
  shape = tf.concat([[tf.shape(count)[0], limit], tf.shape(values)[1:]], 0)
  result = tf.scatter_nd(is_given, values, tf.cast(shape, tf.int64))
  return tf.ensure_shape(result, [None, limit, *values.shape[1:]])
