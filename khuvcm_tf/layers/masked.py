"""The convolution of a context model: each output depends on earlier latents alone."""

from __future__ import annotations

import tensorflow as tf

from khuvcm_tf.layers.initializers import VarianceScaling


def causal_positions(kernel: int) -> list[tuple[int, int]]:
  """Lists the offsets (rows, columns) of the neighbours that precede a position in raster order.

  Example:
    >>> causal_positions(3)
    [(-1, -1), (-1, 0), (-1, 1), (0, -1)]
  """
  offsets = range(-(kernel // 2), kernel // 2 + 1)
  return [(dy, dx) for dy in offsets for dx in offsets if (dy, dx) < (0, 0)]


class MaskedConv2D(tf.keras.layers.Layer):
  """Convolution with a mask of type A (van den Oord et al., 2016): no position depends on itself or
  on later ones in raster order.

  [B, H, W, C] -> [B, H, W, filters], zeros beyond the edges. The kernel holds only the unmasked
  positions, [(k^2 - 1) / 2, C, filters], in raster order.
  """

  def __init__(self, filters: int, kernel_size: int, name: str):
    super().__init__(name=name)
    self.filters, self.kernel_size = filters, kernel_size

  def build(self, input_shape):
    positions = self.kernel_size**2 // 2
    self.kernel = self.add_weight(
      "kernel",
      (positions, input_shape[-1], self.filters),
      initializer=VarianceScaling(mode="fan_avg", distribution="uniform"),
    )
    self.bias = self.add_weight("bias", (self.filters,), initializer="zeros")
    super().build(input_shape)

  def call(self, inputs):
    size = self.kernel_size
    masked = tf.pad(self.kernel, ((0, size**2 - self.kernel.shape[0]), (0, 0), (0, 0)))
    masked = tf.reshape(masked, (size, size, inputs.shape[-1], self.filters))
    return tf.nn.bias_add(tf.nn.conv2d(inputs, masked, 1, "SAME"), self.bias)
