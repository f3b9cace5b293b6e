"""The first and last stage of networks for 4:2:0: luma at twice the resolution of the rest.

Samples of 4:2:0 hold four values of luma, which are 2x2 pixels, row by row (`space_to_depth`).
"""

from __future__ import annotations

import tensorflow as tf

from khuvcm_tf.layers import signal


class LumaDown(tf.keras.layers.Layer):
  """5x5 convolution of stride 2 over luma's pixels: [B, h, w, 4] -> [B, h, w, filters]."""

  def __init__(self, filters: int, name: str):
    super().__init__(name=name)
    self.filters = filters
    self.conv = signal.conv_down(filters, 5, 2, name="conv")
    # Two pixels on each side are less than one sample.
    self.longest_path = [(3, 1, 1)]

  def call(self, inputs):
    return self.conv(tf.nn.depth_to_space(inputs, 2))


class LumaUp(tf.keras.layers.Layer):
  """5x5 transposed convolution to luma's pixels: [B, h, w, C] -> [B, h, w, 4]."""

  filters = 4

  def __init__(self, name: str):
    super().__init__(name=name)
    self.conv = signal.conv_up(1, 5, 2, name="conv")
    self.longest_path = [(3, 1, 1)]

  def call(self, inputs):
    return tf.nn.space_to_depth(self.conv(inputs), 2)
