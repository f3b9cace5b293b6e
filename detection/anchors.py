"""Anchors: the boxes from which proposals are predicted, the same at each position of a level.

Source: `DefaultAnchorGenerator` in `detectron2/modeling/anchor_generator.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf


def cell_anchors(size: float, aspect_ratios: Sequence[float]) -> list[list[float]]:
  """Returns the anchors around (0, 0), x1, y1, x2, y2: area `size**2`, height / width a ratio.

  Example:
    >>> cell_anchors(32, [1.0])
    [[-16.0, -16.0, 16.0, 16.0]]
  """
  anchors = []
  for ratio in aspect_ratios:
    width = math.sqrt(size**2 / ratio)
    height = ratio * width
    anchors.append([-width / 2, -height / 2, width / 2, height / 2])
  return anchors


def grid_anchors(
  height: tf.Tensor | int, width: tf.Tensor | int, stride: int, cell: list[list[float]]
) -> tf.Tensor:
  """Returns the anchors of a level, position by position, row by row.

  The first position is at pixel (0, 0), not half a stride from it.

  Args:
    height, width: of the level's map.
    stride: pixels from a position to the next.
    cell: A anchors around (0, 0).

  Returns:
    float32 [height * width * A, 4], x1, y1, x2, y2 in pixels.
  """
  x = tf.cast(tf.range(width) * stride, tf.float32)
  y = tf.cast(tf.range(height) * stride, tf.float32)
  x, y = tf.meshgrid(x, y)
  shifts = tf.reshape(tf.stack([x, y, x, y], -1), [-1, 1, 4])
  return tf.reshape(shifts + tf.constant(cell, tf.float32), [-1, 4])
