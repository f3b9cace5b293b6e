"""A number of its own for each channel of each level, by which feature maps are normalized."""

from __future__ import annotations

import tensorflow as tf


class Normalization(tf.keras.layers.Layer):
  """x = (maps - offset) scale, and back; nothing of it is trained.

  Args:
    shape: of both weights: levels and channels, [L, C]. They begin with 0 and 1.
  """

  def __init__(self, shape: tuple[int, int]):
    super().__init__(name="normalization", autocast=False)
    self.offset, self.scale = (
      self.add_weight(name, shape, tf.float32, first, trainable=False, experimental_autocast=False)
      for name, first in (("offset", "zeros"), ("scale", "ones"))
    )

  def set(self, offset, scale):
    """Sets both weights, [L, C] each."""
    self.offset.assign(offset)
    self.scale.assign(scale)

  def apply_to(self, maps: tf.Tensor, level: int) -> tf.Tensor:
    """Normalizes [B, H, W, C] of a level, 0 .. L - 1."""
    return (maps - self.offset[level]) * self.scale[level]

  def undo(self, x: tf.Tensor, level: int) -> tf.Tensor:
    """Undoes `apply_to`."""
    return x / self.scale[level] + self.offset[level]
