"""Padding of images to the sizes that strided transforms need, and back.

An image is padded once, before the analysis, at its bottom and right by repeating the last row
and column, and is cropped once, after the synthesis. The image's own size travels in the file.
"""

from __future__ import annotations

import tensorflow as tf


def padded_size(size, multiple: int):
  """Returns `size` (int or integer tensor) rounded up to a multiple of `multiple`."""
  return -(-size // multiple) * multiple


def pad_to_multiple(images: tf.Tensor, multiple: int) -> tf.Tensor:
  """Repeats the last row and column until both sides are multiples of `multiple`.

  Args:
    images: [B, H, W, C], any dtype, H and W at least 1.
    multiple: the number of which both sides become multiples.

  Returns:
    [B, H', W', C] with H <= H' < H + multiple, W likewise.
  """
  height, width = tf.shape(images)[1], tf.shape(images)[2]
  rows = tf.minimum(tf.range(padded_size(height, multiple)), height - 1)
  columns = tf.minimum(tf.range(padded_size(width, multiple)), width - 1)
  return tf.gather(tf.gather(images, rows, axis=1), columns, axis=2)


def crop(images: tf.Tensor, height, width) -> tf.Tensor:
  """Keeps the top left `height` x `width` of [B, H, W, C]: undoes `pad_to_multiple`."""
  return images[:, :height, :width, :]
