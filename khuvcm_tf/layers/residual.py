"""Residual blocks with 3x3 kernels, subpixel upsampling, and simplified attention.

Z. Cheng, H. Sun, M. Takeuchi, J. Katto: Learned image compression with discretized Gaussian mixture
likelihoods and attention modules. CVPR 2020. https://arxiv.org/abs/2001.01568 (figures 5 and 6).
Where the paper leaves it open (order of activation and sum, slope 0.01), these blocks are as in the
implementation whose weights are published (CompressAI).

A block's `longest_path` lists the convolutions of the branch with the largest receptive field, from
which the receptive field of a whole transform follows.
"""

from __future__ import annotations

import tensorflow as tf

from khuvcm_tf.layers import signal

_SLOPE = 0.01


class Subpixel(tf.keras.layers.Layer):
  """Convolution to stride^2 times the filters, which become pixels (Shi et al., CVPR 2016).

  [B, H, W, C] -> [B, H stride, W stride, filters]; pixel (i, j) of a cell is channel
  (stride i + j) filters + c of the convolution.
  """

  def __init__(self, filters: int, kernel: int, stride: int, name: str):
    super().__init__(name=name)
    self.filters, self.stride = filters, stride
    self.conv = signal.conv(filters * stride**2, kernel, name="conv")

  @property
  def longest_path(self):
    return [*signal.convolutions(self.conv), (1, 1, self.stride)]

  def call(self, inputs):
    return tf.nn.depth_to_space(self.conv(inputs), self.stride)


class ResidualBlock(tf.keras.layers.Layer):
  """x + lrelu(conv(lrelu(conv(x)))), with 3x3 kernels."""

  def __init__(self, filters: int, name: str):
    super().__init__(name=name)
    self.filters = filters
    self.conv0 = signal.conv(filters, 3, name="conv0")
    self.conv1 = signal.conv(filters, 3, name="conv1")

  @property
  def longest_path(self):
    return signal.convolutions(self.conv0) + signal.convolutions(self.conv1)

  def call(self, inputs):
    x = signal.leaky_relu(self.conv0(inputs), _SLOPE)
    return inputs + signal.leaky_relu(self.conv1(x), _SLOPE)


class ResidualDown(tf.keras.layers.Layer):
  """Halves the size: a 1x1 convolution of stride 2 + gdn(conv(lrelu(conv of stride 2)))."""

  def __init__(self, filters: int, activation: str, name: str):
    super().__init__(name=name)
    self.filters = filters
    self.skip = signal.conv(filters, 1, name="skip")
    self.conv0 = signal.conv_down(filters, 3, 2, name="conv0")
    self.conv1 = signal.conv(filters, 3, name="conv1")
    self.activation = signal.activation(activation, name="act")

  @property
  def longest_path(self):
    return signal.convolutions(self.conv0) + signal.convolutions(self.conv1)

  def call(self, inputs):
    x = signal.leaky_relu(self.conv0(inputs), _SLOPE)
    # Every second position is taken here: the gradient of a 1x1 convolution of stride 2 on three
    # channels writes beyond its memory in TensorFlow 2.14's oneDNN.
    return self.skip(inputs[:, ::2, ::2]) + self.activation(self.conv1(x))


class ResidualUp(tf.keras.layers.Layer):
  """Doubles the size: a subpixel convolution + igdn(conv(lrelu(subpixel convolution)))."""

  def __init__(self, filters: int, activation: str, name: str):
    super().__init__(name=name)
    self.filters = filters
    self.skip = Subpixel(filters, 3, 2, name="skip")
    self.up = Subpixel(filters, 3, 2, name="up")
    self.conv = signal.conv(filters, 3, name="conv")
    self.activation = signal.activation(activation, inverse=True, name="act")

  @property
  def longest_path(self):
    return self.up.longest_path + signal.convolutions(self.conv)

  def call(self, inputs):
    x = signal.leaky_relu(self.up(inputs), _SLOPE)
    return self.skip(inputs) + self.activation(self.conv(x))


class _ResidualUnit(tf.keras.layers.Layer):
  """relu(x + bottleneck of half the filters): 1x1, 3x3, 1x1."""

  def __init__(self, filters: int, name: str):
    super().__init__(name=name)
    self.filters = filters
    self.conv0 = signal.conv(filters // 2, 1, name="conv0")
    self.conv1 = signal.conv(filters // 2, 3, name="conv1")
    self.conv2 = signal.conv(filters, 1, name="conv2")

  @property
  def longest_path(self):
    return signal.convolutions(self.conv1)

  def call(self, inputs):
    x = tf.nn.relu(self.conv0(inputs))
    x = tf.nn.relu(self.conv1(x))
    return tf.nn.relu(inputs + self.conv2(x))


class Attention(tf.keras.layers.Layer):
  """Simplified attention: x + trunk(x) * sigmoid(mask(x)), each of three residual units."""

  def __init__(self, filters: int, name: str):
    super().__init__(name=name)
    self.filters = filters
    self.trunk = [_ResidualUnit(filters, name=f"trunk{i}") for i in range(3)]
    self.mask = [_ResidualUnit(filters, name=f"mask{i}") for i in range(3)]
    self.conv = signal.conv(filters, 1, name="conv")

  @property
  def longest_path(self):
    return [step for unit in self.trunk for step in unit.longest_path]

  def call(self, inputs):
    trunk = mask = inputs
    for unit in self.trunk:
      trunk = unit(trunk)
    for unit in self.mask:
      mask = unit(mask)
    return inputs + trunk * tf.sigmoid(self.conv(mask))
