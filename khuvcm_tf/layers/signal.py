"""tfc's convolutions and normalization with the arguments that the papers' networks need.

With these, a convolution samples symmetric positions: it equals padding by k // 2 on all sides (and
output_padding 1 where it enlarges), for any size. TensorFlow's own "SAME" is shifted by a pixel for
even sizes. Kernels are plain variables: the default of tfc keeps their Fourier transform, which
costs 25-40 % more time on a CPU.
"""

from __future__ import annotations

import tensorflow as tf
import tensorflow_compression as tfc

from khuvcm_tf.layers.initializers import VarianceScaling


def conv_down(filters: int, kernel: int, stride: int, name: str) -> tf.keras.layers.Layer:
  """Convolution of an analysis: [B, H, W, C] -> [B, ceil(H/stride), ceil(W/stride), filters]."""
  return tfc.SignalConv2D(
    filters,
    (kernel, kernel),
    corr=True,
    strides_down=stride,
    padding="same_zeros",
    use_bias=True,
    kernel_parameter="variable",
    kernel_initializer=VarianceScaling(),
    name=name,
  )


def conv_up(filters: int, kernel: int, stride: int, name: str) -> tf.keras.layers.Layer:
  """Transposed convolution of a synthesis: [B, H, W, C] -> [B, H stride, W stride, filters]."""
  return tfc.SignalConv2D(
    filters,
    (kernel, kernel),
    corr=False,
    strides_up=stride,
    padding="same_zeros",
    use_bias=True,
    kernel_parameter="variable",
    kernel_initializer=VarianceScaling(),
    name=name,
  )


def conv(filters: int, kernel: int, name: str) -> tf.keras.layers.Layer:
  """Convolution that keeps the size: [B, H, W, C] -> [B, H, W, filters]."""
  return conv_down(filters, kernel, 1, name)


def convolutions(layer: tf.keras.layers.Layer) -> list[tuple[int, int, int]]:
  """Returns (kernel, stride down, stride up) of each convolution on a layer's longest path."""
  if isinstance(layer, tfc.SignalConv2D):
    return [(layer.kernel_support[0], layer.strides_down[0], layer.strides_up[0])]
  return list(getattr(layer, "longest_path", []))


class _Gdn(tfc.GDN):
  """tfc's GDN with square and root alone.

  tfc's own `call` branches on its exponents, which are tensors: in a graph it needs AutoGraph,
  which turns each branch into a `tf.cond`.
  """

  def call(self, inputs):
    gamma = tf.reshape(self.gamma, (1, 1, *self.gamma.shape))
    norm = tf.nn.convolution(tf.square(inputs), gamma, padding="VALID")
    norm = tf.sqrt(tf.nn.bias_add(norm, self.beta))
    return inputs * norm if self.inverse else inputs / norm


def activation(kind: str, name: str, inverse: bool = False) -> tf.keras.layers.Layer:
  """Returns the activation `kind` as a layer.

  Args:
    kind: "gdn", generalized divisive normalization x / sqrt(beta + gamma x^2) (Ballé et al., 2016;
      tfc's own defaults are GDN1, without the square and the root), or "prelu", a leaky slope per
      channel, much cheaper than GDN.
    name: of the layer.
    inverse: whether it is for a synthesis (GDN then multiplies; PReLU is the same).

  Raises:
    ValueError: `kind` is neither.
  """
  if kind == "gdn":
    return _Gdn(inverse=inverse, alpha_parameter=2, epsilon_parameter=0.5, name=name)
  if kind == "prelu":
    return tf.keras.layers.PReLU(
      alpha_initializer=tf.keras.initializers.Constant(0.25), shared_axes=[1, 2], name=name
    )
  raise ValueError(f"`activation` is {kind!r}, expected 'gdn' or 'prelu'")


def leaky_relu(x: tf.Tensor, slope: float) -> tf.Tensor:
  """max(x, slope x).

  Not tf.nn.leaky_relu: TensorFlow 2.14 tries to fuse it with the convolution in front, breaks off
  where a gradient needs both, and says so (grappler: "remapper failed ... LeakyReluGrad").
  """
  return tf.maximum(x, slope * x) if slope else tf.nn.relu(x)


class Rectifier(tf.keras.layers.Layer):
  """`leaky_relu` as a layer, which integer networks have too; a slope of 0.0 is ReLU."""

  def __init__(self, slope: float, name: str):
    super().__init__(name=name)
    self.slope = slope

  def call(self, inputs):
    return leaky_relu(inputs, self.slope)
