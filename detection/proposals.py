"""The region proposal network: boxes that may hold an object of any class.

Ren et al., Faster R-CNN, NeurIPS 2015, section 3. Source: `detectron2/modeling/proposal_generator`,
`rpn.py` and `proposal_utils.py`.

Letters: B images, A anchors at a position, N anchors of a level, K proposals.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from detection import anchors as anchors_lib
from detection import boxes as boxes_lib
from detection.config import Config
from detection.layers import Conv2D, normal
from khuvcm_tf.ops.pyramid import LEVELS, STRIDES

_DELTA_WEIGHTS = (1.0, 1.0, 1.0, 1.0)  # RPN.BBOX_REG_WEIGHTS


class Proposals(NamedTuple):
  """The proposals of B images, best first; rows behind `count` are zeros.

  Attributes:
    boxes: float32 [B, K, 4], in pixels of the resized image.
    logits: float32 [B, K], of objectness.
    count: int32 [B], at most K.
  """

  boxes: tf.Tensor
  logits: tf.Tensor
  count: tf.Tensor


class RPNHead(tf.keras.layers.Layer):
  """Objectness and deltas of the anchors at each position; one head for all levels."""

  def __init__(self, channels: int, num_anchors: int):
    super().__init__()
    self.conv = Conv2D(channels, channels, 3, activation=tf.nn.relu, initializer=normal(0.01))
    self.objectness_logits = Conv2D(channels, num_anchors, 1, initializer=normal(0.01))
    self.anchor_deltas = Conv2D(channels, num_anchors * 4, 1, initializer=normal(0.01))

  def call(self, feature: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns logits [B, N] and deltas [B, N, 4] of a level [B, H, W, C], where N = H * W * A."""
    x, batch = self.conv(feature), tf.shape(feature)[0]
    logits = tf.reshape(self.objectness_logits(x), [batch, -1])
    return logits, tf.reshape(self.anchor_deltas(x), [batch, -1, 4])


class RPN(tf.keras.layers.Layer):
  """The head, its anchors, and the selection of proposals."""

  def __init__(self, config: Config):
    super().__init__()
    self._config = config
    self.rpn_head = RPNHead(config.fpn_channels, len(config.aspect_ratios))

  def call(self, features: dict[str, tf.Tensor], image_sizes: tf.Tensor) -> Proposals:
    """Returns the proposals of images.

    Args:
      features: `p2` to `p6`, each [B, H / stride, W / stride, C].
      image_sizes: int32 [B, 2], height and width without padding.
    """
    logits, deltas = self.predict(features)
    return select(logits, deltas, self.anchors(features), image_sizes, self._config)

  def predict(
    self, features: dict[str, tf.Tensor]
  ) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
    """Returns logits [B, N] and deltas [B, N, 4] by level."""
    both = {level: self.rpn_head(features[level]) for level in LEVELS}
    return {k: v[0] for k, v in both.items()}, {k: v[1] for k, v in both.items()}

  def anchors(self, features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Returns the anchors [N, 4] of each level, in pixels."""
    return {
      level: anchors_lib.grid_anchors(
        tf.shape(features[level])[1],
        tf.shape(features[level])[2],
        STRIDES[level],
        anchors_lib.cell_anchors(size, self._config.aspect_ratios),
      )
      for level, size in zip(LEVELS, self._config.anchor_sizes)
    }


def select(
  logits: dict[str, tf.Tensor],
  deltas: dict[str, tf.Tensor],
  anchors: dict[str, tf.Tensor],
  image_sizes: tf.Tensor,
  config: Config,
) -> Proposals:
  """Selects proposals: the best of each level, NMS within each level, the best of all that remain.

  Args:
    logits: [B, N] by level.
    deltas: [B, N, 4] by level.
    anchors: [N, 4] by level.
    image_sizes: int32 [B, 2], to which boxes are clipped; what is empty then goes.
    config: `rpn_top_k`, `num_proposals` and `rpn_nms_iou`.
  """
  best_boxes, best_logits = [], []
  for level in logits:
    top_k = tf.minimum(config.rpn_top_k, tf.shape(logits[level])[1])
    best, index = tf.math.top_k(logits[level], top_k)
    moved = tf.gather(deltas[level], index, batch_dims=1)
    boxes = boxes_lib.apply_deltas(tf.gather(anchors[level], index), moved, _DELTA_WEIGHTS)
    best_boxes.append(boxes)
    best_logits.append(best)

  def select_of_image(inputs):
    boxes, logits, image_size = inputs
    kept_boxes, kept_logits = [], []
    for level_boxes, level_logits in zip(boxes, logits):
      level_boxes = boxes_lib.clip(level_boxes, image_size)
      nonempty = tf.where(boxes_lib.are_nonempty(level_boxes))[:, 0]
      level_boxes, level_logits = (
        tf.gather(level_boxes, nonempty),
        tf.gather(level_logits, nonempty),
      )
      kept = boxes_lib.nms(level_boxes, level_logits, config.rpn_nms_iou, config.num_proposals)
      kept_boxes.append(tf.gather(level_boxes, kept))
      kept_logits.append(tf.gather(level_logits, kept))
    boxes, logits = tf.concat(kept_boxes, 0), tf.concat(kept_logits, 0)
    count = tf.minimum(config.num_proposals, tf.shape(logits)[0])
    logits, order = tf.math.top_k(logits, count)
    room = config.num_proposals - count
    boxes = tf.pad(tf.gather(boxes, order), [[0, room], [0, 0]])
    return Proposals(boxes, tf.pad(logits, [[0, room]]), count)

  k = config.num_proposals
  spec = Proposals(
    tf.TensorSpec([k, 4], tf.float32), tf.TensorSpec([k], tf.float32), tf.TensorSpec([], tf.int32)
  )
  return tf.map_fn(
    select_of_image, (best_boxes, best_logits, image_sizes), fn_output_signature=spec
  )


def select_static(
  logits: dict[str, tf.Tensor],
  deltas: dict[str, tf.Tensor],
  anchors: dict[str, tf.Tensor],
  image_sizes: tf.Tensor,
  top_k: int,
  count: int,
  max_iou: float,
) -> tuple[tf.Tensor, tf.Tensor]:
  """As `select`, in shapes that are known before anything runs; no gradient passes.

  Args:
    logits, deltas, anchors, image_sizes: as `select` takes them.
    top_k: proposals of a level before NMS.
    count: K, of an image after NMS.
    max_iou: of two proposals of a level.

  Returns:
    Boxes, float32 [B, K, 4], and whether each is a proposal, bool [B, K].
  """
  best_boxes, best_logits = [], []
  for level in logits:
    best, index = tf.math.top_k(logits[level], min(top_k, logits[level].shape[1]))
    moved = tf.gather(deltas[level], index, batch_dims=1)
    boxes = boxes_lib.apply_deltas(tf.gather(anchors[level], index), moved, _DELTA_WEIGHTS)
    boxes = boxes_lib.clip(boxes, image_sizes)
    # An empty box overlaps nothing: it may stay until the end, where it loses.
    best = tf.where(boxes_lib.are_nonempty(boxes), best, best.dtype.min)
    kept, number = boxes_lib.nms_static(boxes, best, max_iou, min(count, best.shape[1]))
    is_kept = tf.sequence_mask(number, kept.shape[1])
    best = tf.where(is_kept, tf.gather(best, kept, batch_dims=1), best.dtype.min)
    best_boxes.append(tf.gather(boxes, kept, batch_dims=1))
    best_logits.append(best)
  boxes, best = tf.concat(best_boxes, 1), tf.concat(best_logits, 1)
  best, order = tf.math.top_k(best, min(count, best.shape[1]))
  boxes = tf.gather(boxes, order, batch_dims=1)
  return tf.stop_gradient(boxes), best > best.dtype.min
