"""Boxes, float32 [..., 4]: x1, y1, x2, y2 in pixels, where x2 - x1 is the width.

Source: `detectron2/structures/boxes.py`, `detectron2/modeling/box_regression.py`,
`detectron2/layers/nms.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf

# Deltas of log width and log height end here, before exp (_DEFAULT_SCALE_CLAMP).
_MAX_LOG_SCALE = math.log(1000.0 / 16)


def area(boxes: tf.Tensor) -> tf.Tensor:
  """Returns [...] of boxes [..., 4], in square pixels."""
  return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def clip(boxes: tf.Tensor, image_size: tf.Tensor) -> tf.Tensor:
  """Returns the part of each box [..., N, 4] that lies in its image [height, width] of [..., 2]."""
  height, width = tf.unstack(tf.cast(image_size, boxes.dtype), axis=-1)
  limits = tf.stack([width, height, width, height], -1)[..., tf.newaxis, :]
  return tf.minimum(tf.maximum(boxes, 0.0), limits)


def are_nonempty(boxes: tf.Tensor) -> tf.Tensor:
  """Returns whether each box [..., 4] has a width and a height above 0: bool [...]."""
  return tf.logical_and(boxes[..., 2] > boxes[..., 0], boxes[..., 3] > boxes[..., 1])


def _centre_and_size(boxes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  size = boxes[..., 2:] - boxes[..., :2]
  return boxes[..., :2] + 0.5 * size, size


def apply_deltas(boxes: tf.Tensor, deltas: tf.Tensor, weights: Sequence[float]) -> tf.Tensor:
  """Moves and scales boxes.

  `centre += size * (dx, dy) / weights[:2]`, `size *= exp((dw, dh) / weights[2:])`.

  Args:
    boxes: [..., 4].
    deltas: dx, dy, dw, dh, of a shape to which that of the boxes can be broadcast.
    weights: of dx, dy, dw, dh.

  Returns:
    Boxes, of the shape of the deltas.
  """
  deltas = deltas / tf.constant(weights, deltas.dtype)
  centre, size = _centre_and_size(boxes)
  centre = centre + deltas[..., :2] * size
  half = 0.5 * (tf.exp(tf.minimum(deltas[..., 2:], _MAX_LOG_SCALE)) * size)
  return tf.concat([centre - half, centre + half], -1)


def get_deltas(boxes: tf.Tensor, targets: tf.Tensor, weights: Sequence[float]) -> tf.Tensor:
  """Returns the deltas [..., 4] that `apply_deltas` takes from `boxes` to `targets` [..., 4]."""
  centre, size = _centre_and_size(boxes)
  target_centre, target_size = _centre_and_size(targets)
  deltas = tf.concat([(target_centre - centre) / size, tf.math.log(target_size / size)], -1)
  return deltas * tf.constant(weights, boxes.dtype)


def nms(
  boxes: tf.Tensor,
  scores: tf.Tensor,
  max_iou: float,
  max_count: tf.Tensor | int,
  min_score: float = -math.inf,
) -> tf.Tensor:
  """Non-maximum suppression: a box goes where a better one overlaps it by more than `max_iou`.

  Args:
    boxes: [N, 4].
    scores: [N]; of equal ones the first is the better.
    max_iou: intersection over union.
    max_count: no more boxes are kept.
    min_score: only boxes with scores above it are kept.

  Returns:
    Indices of the boxes kept, best first: int32 [at most `max_count`].
  """
  return tf.image.non_max_suppression(boxes, scores, max_count, max_iou, min_score)


def nms_static(
  boxes: tf.Tensor, scores: tf.Tensor, max_iou: float, max_count: int
) -> tuple[tf.Tensor, tf.Tensor]:
  """As `nms`, in shapes that are known before anything runs.

  Args:
    boxes: [B, N, 4].
    scores: [B, N], falling.
    max_iou: intersection over union.
    max_count: M; no more boxes are kept.

  Returns:
    Indices of the boxes kept, best first, int32 [B, M], and how many these are, int32 [B].
  """
  return tf.image.non_max_suppression_padded(
    boxes, scores, max_count, max_iou, pad_to_max_output_size=True, sorted_input=True
  )
