"""The box head: classes and finer boxes of proposals, and the selection of detections.

Girshick, Fast R-CNN, ICCV 2015, section 2. Source: `detectron2/modeling/roi_heads/box_head.py` and
`fast_rcnn.py`.

Letters: B images, N boxes of all images, K classes, D detections of an image at most.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from detection import boxes as boxes_lib
from detection.config import Config
from detection.layers import Linear, normal


class Detections(NamedTuple):
  """The detections of B images, best first; rows behind `count` are zeros.

  Attributes:
    boxes: float32 [B, D, 4], in pixels of the resized image.
    scores: float32 [B, D], above the config's `min_score`.
    classes: int32 [B, D], 0 .. K - 1.
    count: int32 [B], at most D.
    masks: float32 [B, D, 28, 28], probabilities of the object over its box; None without a mask
      head. The side is twice the config's `mask_pool_size`.
  """

  boxes: tf.Tensor
  scores: tf.Tensor
  classes: tf.Tensor
  count: tf.Tensor
  masks: tf.Tensor | None = None


class BoxHead(tf.keras.layers.Layer):
  """Two fully connected layers: [N, S, S, C] to [N, box_fc_channels]."""

  def __init__(self, config: Config):
    super().__init__()
    inputs = config.box_pool_size**2 * config.fpn_channels
    outputs = config.box_fc_channels
    self.fc1 = Linear(inputs, outputs, activation=tf.nn.relu)
    self.fc2 = Linear(outputs, outputs, activation=tf.nn.relu)

  def call(self, pooled: tf.Tensor) -> tf.Tensor:
    return self.fc2(self.fc1(tf.reshape(pooled, [-1, self.fc1.weight.shape[0]])))


class BoxPredictor(tf.keras.layers.Layer):
  """Logits [N, K + 1], background last, and deltas [N, K, 4] of features [N, box_fc_channels]."""

  def __init__(self, config: Config):
    super().__init__()
    inputs, self._num_classes = config.box_fc_channels, config.num_classes
    self.cls_score = Linear(inputs, config.num_classes + 1, initializer=normal(0.01))
    self.bbox_pred = Linear(inputs, config.num_classes * 4, initializer=normal(0.001))

  def call(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return self.cls_score(x), tf.reshape(self.bbox_pred(x), [-1, self._num_classes, 4])


def refine(
  boxes: tf.Tensor, logits: tf.Tensor, deltas: tf.Tensor, image_sizes: tf.Tensor, config: Config
) -> tf.Tensor:
  """Moves boxes to where the box head sees their most probable object, for its next pass.

  Cai and Vasconcelos, Cascade R-CNN, CVPR 2018, section 3.2 (there each pass has its own head).

  Args:
    boxes: [N, 4].
    logits: [N, K + 1], background last.
    deltas: [N, K, 4].
    image_sizes: int32 [N, 2], height and width of each box's image, to which it is clipped.
    config: `box_weights`.

  Returns:
    [N, 4]; no gradient passes.
  """
  best = tf.argmax(logits[:, :-1], axis=1)
  moved = boxes_lib.apply_deltas(boxes, tf.gather(deltas, best, batch_dims=1), config.box_weights)
  clipped = boxes_lib.clip(moved[:, tf.newaxis], image_sizes)[:, 0]
  return tf.stop_gradient(clipped)


def select(
  probabilities: tf.Tensor,
  deltas: tf.Tensor,
  proposals: tf.Tensor,
  count: tf.Tensor,
  image_sizes: tf.Tensor,
  config: Config,
) -> Detections:
  """Selects detections: NMS within each class, then the best of all classes.

  A proposal may become detections of several classes.

  Args:
    probabilities: [B, P, K + 1] of P proposals, background last.
    deltas: [B, P, K, 4].
    proposals: [B, P, 4], or what the box head's passes made of them.
    count: int32 [B], how many of the P are proposals.
    image_sizes: int32 [B, 2], height and width, to which boxes are clipped.
    config: `box_weights`, `min_score`, `nms_iou` and `max_detections`.
  """
  limit = config.max_detections

  def select_of_class(inputs):
    boxes, scores = inputs
    kept = boxes_lib.nms(boxes, scores, config.nms_iou, limit, config.min_score)
    return tf.pad(kept, [[0, limit - tf.size(kept)]], constant_values=-1)

  def select_of_image(inputs):
    probabilities, deltas, proposals, count, image_size = inputs
    boxes = boxes_lib.apply_deltas(
      proposals[:count, tf.newaxis], deltas[:count], config.box_weights
    )  # [count, K, 4]
    boxes = tf.transpose(boxes_lib.clip(boxes, image_size), [1, 0, 2])
    scores = tf.transpose(probabilities[:count, :-1])
    kept = tf.map_fn(
      select_of_class, (boxes, scores), fn_output_signature=tf.TensorSpec([limit], tf.int32)
    )
    which = tf.where(kept >= 0)  # [M, 2], of classes and of what is kept of each
    classes = tf.cast(which[:, 0], tf.int32)
    index = tf.stack([classes, tf.gather_nd(kept, which)], -1)
    boxes, scores = tf.gather_nd(boxes, index), tf.gather_nd(scores, index)
    found = tf.minimum(limit, tf.size(scores))
    scores, best = tf.math.top_k(scores, found)
    room = [[0, limit - found]]
    return (
      tf.pad(tf.gather(boxes, best), [*room, [0, 0]]),
      tf.pad(scores, room),
      tf.pad(tf.gather(classes, best), room),
      found,
    )

  spec = (
    tf.TensorSpec([limit, 4], tf.float32),
    tf.TensorSpec([limit], tf.float32),
    tf.TensorSpec([limit], tf.int32),
    tf.TensorSpec([], tf.int32),
  )
  inputs = (probabilities, deltas, proposals, count, image_sizes)
  return Detections(*tf.map_fn(select_of_image, inputs, fn_output_signature=spec))
