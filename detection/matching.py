"""Which ground-truth box an anchor or a proposal is trained towards, and which of them are trained.

All shapes are static: the ground truth is padded to G boxes of an image, of which those of class -1
are none.

Source: `detectron2/modeling/matcher.py`, `detectron2/modeling/sampling.py`.
"""

from __future__ import annotations

import tensorflow as tf

from detection import boxes as boxes_lib

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1


def pairwise_iou(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
  """Returns intersection over union of boxes [..., G, 4] and [..., N, 4]: [..., G, N]."""
  first, second = first[..., :, tf.newaxis, :], second[..., tf.newaxis, :, :]
  low = tf.maximum(first[..., :2], second[..., :2])
  high = tf.minimum(first[..., 2:], second[..., 2:])
  shared = tf.reduce_prod(tf.maximum(high - low, 0.0), -1)
  union = boxes_lib.area(first) + boxes_lib.area(second) - shared
  return tf.where(shared > 0, shared / union, 0.0)


def match(iou: tf.Tensor, low: float, high: float, keep_best: bool) -> tuple[tf.Tensor, tf.Tensor]:
  """Matches each box with the ground truth that it overlaps most.

  Args:
    iou: [B, G, N]; -1 for a ground truth that is none.
    low: below this IoU a box is background.
    high: from this IoU on a box is an object; it is ignored in between.
    keep_best: whether the boxes that overlap a ground truth most (all that are equal) are objects
      too, however little they overlap it. They keep the match that is their own best.

  Returns:
    The index of the ground truth, int32 [B, N], and POSITIVE, NEGATIVE or IGNORED, int32 [B, N].
  """
  best = tf.reduce_max(iou, 1)
  index = tf.argmax(iou, 1, tf.int32)
  labels = tf.where(best >= high, POSITIVE, tf.where(best >= low, IGNORED, NEGATIVE))
  if keep_best:
    best_of_truth = tf.reduce_max(iou, 2, keepdims=True)
    is_best = tf.logical_and(iou == best_of_truth, iou >= 0)
    labels = tf.where(tf.reduce_any(is_best, 1), POSITIVE, labels)
  return index, labels


def sample(
  labels: tf.Tensor, count: int, positive_fraction: float, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
  """Draws boxes to train on: objects up to a share, filled up with background.

  Args:
    labels: int32 [B, N].
    count: how many are drawn of an image, where there are so many.
    positive_fraction: of `count`, that may be objects at most; one may always be.
    seed: int32 [2].

  Returns:
    Indices of those drawn, objects first, int32 [B, count], and whether each is one, bool
    [B, count]: where too few are left that are not ignored, some are not.
  """
  count = min(count, labels.shape[1])
  limit = max(1, int(count * positive_fraction))
  # Whole numbers, so that all devices draw the same: XLA's uniform numbers are others.
  bits = tf.random.stateless_uniform(labels.shape, seed, None, None, tf.int32, "philox")
  chance = tf.cast(tf.bitwise.bitwise_and(bits, 2**23 - 1), tf.float32) * 2.0**-23
  # The best of random numbers are a random choice; of objects, the first `limit`.
  is_positive = labels == POSITIVE
  least = tf.math.top_k(tf.where(is_positive, chance, -1.0), limit)[0][:, -1:]
  is_taken = tf.logical_and(is_positive, chance >= least)
  rank = tf.where(is_taken, chance + 1.0, tf.where(labels == NEGATIVE, chance, -1.0))
  values, index = tf.math.top_k(rank, count)
  return index, values >= 0.0
