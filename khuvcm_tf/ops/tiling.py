"""Feature maps side by side in planes, as codecs of images take them, and back.

The C channels of a map become P planes: plane p shows the channels p C/P .. (p + 1) C/P - 1 as
tiles, row by row, on a grid as square as C/P allows. The planes of several levels make one canvas:
the finest level at the left, the others below one another to its right.

    +---------------+-------+
    |               |  p3   |
    |      p2       +---+---+       256 channels of 256x256 in 4 planes: tiles on a grid of 8x8
    |               |p4 |   |
    +---------------+---+---+

Source of the tiles: H. Choi, I. V. Bajic: Deep feature compression for collaborative object
detection. ICIP 2018. https://arxiv.org/abs/1802.03931 (section 2).

Letters: B images, H and W height and width of a map, C channels, P planes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf

Size = tuple[int, int]


def grid(channels: int, planes: int) -> Size:
  """Returns rows and columns of tiles in a plane.

  Raises:
    ValueError: the planes do not share the channels equally.

  Example:
    >>> grid(256, 4), grid(256, 2), grid(64, 64)
    ((8, 8), (8, 16), (1, 1))
  """
  if planes < 1 or channels % planes:
    raise ValueError(f"found {planes} planes, expected a divisor of the {channels} channels")
  count = channels // planes
  rows = next(rows for rows in range(math.isqrt(count), 0, -1) if count % rows == 0)
  return rows, count // rows


def tile(maps: tf.Tensor, planes: int) -> tf.Tensor:
  """Lays channels side by side: [B, H, W, C] -> [B, rows H, columns W, P]."""
  channels = maps.shape[3]
  rows, columns = grid(channels, planes)
  batch, height, width = tf.unstack(tf.shape(maps)[:3])
  tiles = tf.reshape(maps, [batch, height, width, planes, rows, columns])
  tiles = tf.transpose(tiles, [0, 4, 1, 5, 2, 3])
  return tf.reshape(tiles, [batch, rows * height, columns * width, planes])


def untile(tiles: tf.Tensor, channels: int) -> tf.Tensor:
  """Undoes `tile`: [B, rows H, columns W, P] -> [B, H, W, C]."""
  planes = tiles.shape[3]
  rows, columns = grid(channels, planes)
  shape = tf.shape(tiles)
  batch, height, width = shape[0], shape[1] // rows, shape[2] // columns
  maps = tf.reshape(tiles, [batch, rows, height, columns, width, planes])
  return tf.reshape(tf.transpose(maps, [0, 2, 4, 5, 1, 3]), [batch, height, width, channels])


def pad(maps: tf.Tensor, size: Size) -> tf.Tensor:
  """Adds zeros at the bottom and right of [B, H, W, C] up to height and width `size`."""
  height, width = tf.unstack(tf.shape(maps)[1:3])
  return tf.pad(maps, [[0, 0], [0, size[0] - height], [0, size[1] - width], [0, 0]])


def canvas_size(sizes: Sequence[Size]) -> Size:
  """Returns height and width of the canvas of planes of these sizes, the finest first.

  Example:
    >>> canvas_size([(320, 480), (160, 240), (80, 120)])
    (320, 720)
  """
  (height, width), others = sizes[0], sizes[1:]
  right = max((each[1] for each in others), default=0)
  return max(height, sum(each[0] for each in others)), width + right


def to_canvas(planes: Sequence[tf.Tensor]) -> tf.Tensor:
  """Puts planes [B, H, W, P] of several levels onto one canvas; what is between them is 0."""
  first, others = planes[0], planes[1:]
  sizes = [tf.unstack(tf.shape(each)[1:3]) for each in planes]
  below = sum(size[0] for size in sizes[1:])
  height = tf.maximum(sizes[0][0], below)
  parts = [pad(first, (height, sizes[0][1]))]
  if others:
    width = tf.reduce_max(tf.stack([size[1] for size in sizes[1:]]))
    column = tf.concat(
      [pad(each, (size[0], width)) for each, size in zip(others, sizes[1:])], axis=1
    )
    parts.append(pad(column, (height, width)))
  return tf.concat(parts, axis=2)


def from_canvas(canvas: tf.Tensor, sizes: Sequence[Size]) -> list[tf.Tensor]:
  """Undoes `to_canvas`, for planes of these sizes."""
  (height, width), top = sizes[0], 0
  found = [canvas[:, :height, :width]]
  for each in sizes[1:]:
    found.append(canvas[:, top : top + each[0], width : width + each[1]])
    top += each[0]
  return found
