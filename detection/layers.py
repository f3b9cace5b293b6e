"""Layers with the names, the padding and the arithmetic of detectron2's, in NHWC.

A layer makes its weights when it is built, so that a model's weights can be named and assigned
before it has seen an image. Weights are named by the attributes that lead to them, as in
`backbone.bottom_up.res2.0.conv1.weight`: the names of detectron2's state dicts.

Source: `detectron2/layers/wrappers.py`, `batch_norm.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from khuvcm_tf.layers.initializers import VarianceScaling

# detectron2 calls them c2_msra_fill and c2_xavier_fill (fvcore/nn/weight_init.py).
MSRA = functools.partial(VarianceScaling, 2.0, "fan_out", "untruncated_normal")
XAVIER = functools.partial(VarianceScaling, mode="fan_in", distribution="uniform")


def normal(std: float) -> VarianceScaling:
  """Returns an initializer of kernels with one standard deviation, whatever their size."""
  return _Normal(std)


class _Normal(VarianceScaling):
  def __init__(self, std: float):
    super().__init__(distribution="untruncated_normal")
    self._std = std

  def __call__(self, shape, dtype=None, **kwargs):
    fan_in = float(np.prod(shape[:-1]))
    self.scale = self._std**2 * fan_in
    return super().__call__(shape, dtype, **kwargs)


class FrozenBatchNorm(tf.keras.layers.Layer):
  """The affine map that batch statistics of an earlier training leave; it does not learn.

  `weight (x - running_mean) / sqrt(running_var + epsilon) + bias`, each of shape [C].
  """

  def __init__(self, channels: int, epsilon: float = 1e-5):
    super().__init__(trainable=False)
    self._epsilon = epsilon
    self.weight = self.add_weight("weight", [channels], initializer="ones")
    self.bias = self.add_weight("bias", [channels], initializer="zeros")
    self.running_mean = self._add_statistic("running_mean", channels, "zeros")
    self.running_var = self._add_statistic("running_var", channels, "ones")

  def _add_statistic(self, name: str, channels: int, initializer: str) -> tf.Variable:
    """Adds a weight [channels] that is never trained; replicas each have their own until read."""
    return self.add_weight(
      name,
      [channels],
      initializer=initializer,
      trainable=False,
      synchronization=tf.VariableSynchronization.ON_READ,
      aggregation=tf.VariableAggregation.MEAN,
    )

  def scale_and_shift(self) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns [C] and [C], such that the map is `x * scale + shift`."""
    scale = self.weight * tf.math.rsqrt(self.running_var + self._epsilon)
    return scale, self.bias - self.running_mean * scale

  def call(self, x: tf.Tensor) -> tf.Tensor:
    scale, shift = self.scale_and_shift()
    return x * scale + shift


class BatchNorm(FrozenBatchNorm):
  """The same map where it learns: of a batch's own mean and variance while it is trained.

  Its weights have the same names, so that a detector that was trained with it is used, or trained
  on, as one whose norms are frozen. One that is not `trainable` is such a norm.
  """

  _MOMENTUM = 0.9  # of the running mean and variance

  def __init__(self, channels: int, epsilon: float = 1e-5):
    super().__init__(channels, epsilon)
    self.trainable = True

  def normalize_batch(self, x: tf.Tensor) -> tf.Tensor:
    """Returns [B, H, W, C] normalized by its own statistics, which the running ones follow."""
    y, mean, variance = tf.compat.v1.nn.fused_batch_norm(
      x, self.weight, self.bias, epsilon=self._epsilon, is_training=True
    )
    for running, value in ((self.running_mean, mean), (self.running_var, variance)):
      running.assign(self._MOMENTUM * running + (1 - self._MOMENTUM) * value)
    return y


NORMS = {"frozen": FrozenBatchNorm, "batch": BatchNorm}


class Conv2D(tf.keras.layers.Layer):
  """A convolution padded by `kernel_size // 2` on all sides, with a norm or a bias behind it.

  Args:
    in_channels, out_channels: of the input and the output.
    kernel_size: odd.
    stride: of rows and columns.
    groups: into which channels are divided; outputs of a group see its inputs alone.
    norm: which of `NORMS` follows; by default there is a bias.
    activation: None or a function, applied last.
    initializer: of the kernel [kernel_size, kernel_size, in_channels / groups, out_channels].
  """

  def __init__(
    self,
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    groups: int = 1,
    norm: str | None = None,
    activation=None,
    initializer=None,
  ):
    super().__init__()
    self._stride, self._groups, self._activation = stride, groups, activation
    shape = [kernel_size, kernel_size, in_channels // groups, out_channels]
    self.weight = self.add_weight("weight", shape, initializer=initializer or MSRA())
    self.norm = NORMS[norm](out_channels) if norm else None
    self.bias = None if norm else self.add_weight("bias", [out_channels], initializer="zeros")

  def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
    if training and isinstance(self.norm, BatchNorm) and self.norm.trainable:
      y = self._convolution(x, self.weight) if self._groups == 1 else self._grouped(x, training)
      y = self.norm.normalize_batch(y)
      return y if self._activation is None else self._activation(y)
    scale, shift = (1.0, self.bias) if self.norm is None else self.norm.scale_and_shift()
    if self._groups == 1:
      # The norm's factor goes into the kernel: one pass over the output less.
      y = tf.nn.bias_add(self._convolution(x, self.weight * scale), shift)
    else:
      # By multiply and add: TensorFlow's optimizer fuses a convolution with a `bias_add` behind it,
      # and the fused kernel refuses groups.
      y = self._grouped(x, training) * scale + shift
    return y if self._activation is None else self._activation(y)

  def _convolution(self, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    radius = kernel.shape[0] // 2
    if radius == 0 and self._stride > 1:
      # The same samples; the gradient of a strided 1x1 convolution corrupts memory (TensorFlow
      # 2.14 with oneDNN).
      return tf.nn.conv2d(x[:, :: self._stride, :: self._stride], kernel, 1, "VALID")
    if self._stride == 1:
      return tf.nn.conv2d(x, kernel, 1, "SAME")
    # "SAME" would pad even sizes by less at the top and the left.
    padding = [[0, 0], [radius, radius], [radius, radius], [0, 0]]
    return tf.nn.conv2d(x, kernel, self._stride, padding)

  def _grouped(self, x: tf.Tensor, training: bool | None) -> tf.Tensor:
    """Applies each group's kernels to its channels.

    TensorFlow's own grouped convolution has no gradient on a CPU, and takes longer there where
    groups are narrow or the stride is 2 (252 against 289 ms at res3.0 of 800x1216 pixels; the other
    way round at res4: 51 ms).
    """
    if not training and self._stride == 1 and x.shape[-1] // self._groups >= 16:
      return self._convolution(x, self.weight)
    parts = zip(tf.split(x, self._groups, -1), tf.split(self.weight, self._groups, -1))
    return tf.concat([self._convolution(*part) for part in parts], -1)


class ConvTranspose2x2(tf.keras.layers.Layer):
  """A transposed convolution of kernel 2 and stride 2, then ReLU: [B, H, W, C] to twice the size.

  Its outputs do not overlap: each input makes 2x2 of them, in one matrix product.
  """

  def __init__(self, in_channels: int, out_channels: int):
    super().__init__()
    shape = [2, 2, out_channels, in_channels]
    self.weight = self.add_weight("weight", shape, initializer=MSRA())
    self.bias = self.add_weight("bias", [out_channels], initializer="zeros")

  def call(self, x: tf.Tensor) -> tf.Tensor:
    rows, columns, out_channels, in_channels = self.weight.shape
    kernel = tf.reshape(self.weight, [rows * columns * out_channels, in_channels])
    y = tf.linalg.matmul(x, kernel, transpose_b=True)
    y = tf.nn.depth_to_space(y, 2) + self.bias
    return tf.nn.relu(y)


class Linear(tf.keras.layers.Layer):
  """`x @ weight + bias`: [N, in_channels] to [N, out_channels]."""

  def __init__(self, in_channels: int, out_channels: int, activation=None, initializer=None):
    super().__init__()
    self._activation = activation
    shape = [in_channels, out_channels]
    self.weight = self.add_weight("weight", shape, initializer=initializer or XAVIER())
    self.bias = self.add_weight("bias", [out_channels], initializer="zeros")

  def call(self, x: tf.Tensor) -> tf.Tensor:
    y = tf.nn.bias_add(tf.linalg.matmul(x, self.weight), self.bias)
    return y if self._activation is None else self._activation(y)


def max_pool_3x3(x: tf.Tensor) -> tf.Tensor:
  """Maxima of 3x3 at stride 2, padded by one on all sides with what no maximum takes."""
  padding = [[0, 0], [1, 1], [1, 1], [0, 0]]
  padded = tf.pad(x, padding, constant_values=x.dtype.min)
  return tf.nn.max_pool2d(padded, 3, 2, "VALID")


def named_weights(layer: tf.keras.layers.Layer) -> dict[str, tf.Variable]:
  """Returns a layer's weights by the public attributes that lead to them, joined by dots.

  Example:
    >>> sorted(named_weights(Conv2D(3, 8, 1, norm="frozen")))[:3]
    ['norm.bias', 'norm.running_mean', 'norm.running_var']
  """
  return dict(_walk("", layer))


def _walk(name: str, value: object) -> Iterator[tuple[str, tf.Variable]]:
  if isinstance(value, tf.Variable):
    yield name, value
    return
  inner = {}
  if isinstance(value, tf.keras.layers.Layer):
    inner = {key: each for key, each in vars(value).items() if not key.startswith("_")}
  elif isinstance(value, (list, tuple)):
    inner = dict(enumerate(value))
  for key, each in inner.items():
    if isinstance(each, (tf.Variable, tf.keras.layers.Layer, list, tuple)):
      yield from _walk(f"{name}.{key}" if name else str(key), each)
