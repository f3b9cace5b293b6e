"""The losses of Faster and Mask R-CNN, each a mean as detectron2 takes it.

Source: `RPN.losses` in `detectron2/modeling/proposal_generator/rpn.py`,
`FastRCNNOutputLayers.losses` in `detectron2/modeling/roi_heads/fast_rcnn.py`, `mask_rcnn_loss` in
`detectron2/modeling/roi_heads/mask_head.py`.

Letters: B images, N anchors or boxes, K classes; background is class K.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from detection import boxes as boxes_lib


def smooth_l1(prediction: tf.Tensor, target: tf.Tensor, beta: float = 0.0) -> tf.Tensor:
  """Returns |error|, but 0.5 error^2 / beta (and beta / 2 less) where |error| is below beta."""
  error = tf.abs(prediction - target)
  if beta == 0.0:
    return error
  return tf.where(error < beta, 0.5 * error**2 / beta, error - 0.5 * beta)


def rpn_losses(
  logits: tf.Tensor,
  deltas: tf.Tensor,
  anchors: tf.Tensor,
  labels: tf.Tensor,
  matched: tf.Tensor,
  weights: Sequence[float],
  normalizer: float,
) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns the losses of objectness and of the proposals' boxes, scalars.

  Both are sums over what was drawn, divided by what was to be drawn: an image with few anchors to
  train on counts less.

  Args:
    logits: [B, N].
    deltas: [B, N, 4].
    anchors: [N, 4], or [B, N, 4].
    labels: int32 [B, N], 1 of objects, 0 of background, -1 of what was not drawn.
    matched: the ground truth of each anchor, [B, N, 4].
    weights: of the deltas.
    normalizer: number of anchors to be drawn, times B.
  """
  is_object, is_drawn = labels == 1, labels >= 0
  cross_entropy = tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(is_object, tf.float32), logits)
  objectness = tf.reduce_sum(tf.where(is_drawn, cross_entropy, 0.0)) / normalizer
  # Of anchors that are no objects nothing is taken; their targets might not be finite.
  matched = tf.where(is_object[..., tf.newaxis], matched, tf.broadcast_to(anchors, matched.shape))
  targets = boxes_lib.get_deltas(tf.broadcast_to(anchors, matched.shape), matched, weights)
  error = tf.reduce_sum(smooth_l1(deltas, targets), -1)
  return objectness, tf.reduce_sum(tf.where(is_object, error, 0.0)) / normalizer


def box_losses(
  logits: tf.Tensor,
  deltas: tf.Tensor,
  proposals: tf.Tensor,
  classes: tf.Tensor,
  matched: tf.Tensor,
  is_drawn: tf.Tensor,
  weights: Sequence[float],
) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns the losses of classes and of boxes, scalars: sums over the number of boxes drawn.

  Args:
    logits: [N, K + 1], background last.
    deltas: [N, K, 4].
    proposals: [N, 4].
    classes: int32 [N], K of background.
    matched: the ground truth of each box, [N, 4].
    is_drawn: bool [N]; other boxes are padding.
    weights: of the deltas.
  """
  num_classes = deltas.shape[1]
  count = tf.maximum(tf.reduce_sum(tf.cast(is_drawn, tf.float32)), 1.0)
  cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(classes, logits)
  classification = tf.reduce_sum(tf.where(is_drawn, cross_entropy, 0.0)) / count
  is_object = tf.logical_and(is_drawn, classes < num_classes)
  # Padding is empty: its targets would not be finite, nor, times 0, the gradient.
  targets = tf.where(
    is_object[:, tf.newaxis], boxes_lib.get_deltas(proposals, matched, weights), 0.0
  )
  # A product in place of a gather, whose gradient would not be dense.
  of_class = tf.one_hot(classes, num_classes)[..., tf.newaxis]
  error = tf.reduce_sum(smooth_l1(tf.reduce_sum(deltas * of_class, 1), targets), -1)
  return classification, tf.reduce_sum(tf.where(is_object, error, 0.0)) / count


def mask_loss(logits: tf.Tensor, targets: tf.Tensor, is_given: tf.Tensor) -> tf.Tensor:
  """Returns the mean cross-entropy of masks, a scalar; 0 where there are none.

  Args:
    logits: of the ground truth's class, [N, M, M].
    targets: 0 or 1, [N, M, M].
    is_given: bool [N], whether there is a mask to train on.
  """
  cross_entropy = tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)
  of_mask = tf.where(is_given, tf.reduce_mean(cross_entropy, [1, 2]), 0.0)
  return tf.reduce_sum(of_mask) / tf.maximum(tf.reduce_sum(tf.cast(is_given, tf.float32)), 1.0)
