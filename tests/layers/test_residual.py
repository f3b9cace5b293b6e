"""The blocks of residual transforms against numpy and SciPy, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
import scipy.special
import tensorflow as tf

from khuvcm_tf.layers import residual

_SIZES = [(1, 1), (2, 2), (3, 4), (5, 3), (4, 6)]


@pytest.fixture(autouse=True)
def float64():
  policy = tf.keras.mixed_precision.global_policy()
  tf.keras.mixed_precision.set_global_policy("float64")
  yield
  tf.keras.mixed_precision.set_global_policy(policy)


def _with_random_weights(layer, channels, seed=2):
  """Builds a layer whose weights, those of its normalizations among them, all differ."""
  layer(tf.zeros((1, 4, 4, channels), layer.compute_dtype))
  rng = np.random.default_rng(seed)
  for weight in layer.trainable_weights:
    if "act" in weight.name:
      weight.assign(rng.uniform(0.2, 1, weight.shape))
    else:
      # Biases above zero: no rectifier closes a branch at all positions.
      bias = "bias" in weight.name
      scale = 0.5 if bias else np.prod(weight.shape[:-1]) ** -0.5
      weight.assign(rng.normal(loc=float(bias), scale=scale, size=weight.shape))
  return layer


def _x(height, width, channels, seed=1):
  return np.random.default_rng(seed).normal(size=(height, width, channels)) * 2


def _conv(layer, x):
  """A convolution of `layers.conv` without stride: [H, W, C] -> [H, W, filters]."""
  kernel, radius = layer.kernel.numpy(), layer.kernel.shape[0] // 2
  padded = np.pad(x, ((radius, radius), (radius, radius), (0, 0)))
  y = np.zeros((*x.shape[:2], kernel.shape[3])) + layer.bias.numpy()
  for channel, output in np.ndindex(kernel.shape[2:]):
    y[:, :, output] += scipy.signal.correlate(
      padded[:, :, channel], kernel[:, :, channel, output], mode="valid", method="direct"
    )
  return y


def _subpixel(layer, x):
  y, cell = _conv(layer.conv, x), layer.stride
  pixels = np.empty((x.shape[0] * cell, x.shape[1] * cell, layer.filters))
  for row, column, c in np.ndindex(pixels.shape):
    (r, i), (s, j) = divmod(row, cell), divmod(column, cell)
    pixels[row, column, c] = y[r, s, (cell * i + j) * layer.filters + c]
  return pixels


def _lrelu(x):
  return np.where(x > 0, x, 0.01 * x)


def _activated(layer, x, inverse=False):
  if isinstance(layer, tf.keras.layers.PReLU):
    return np.where(x > 0, x, layer.alpha.numpy() * x)
  norm = np.sqrt(np.array(layer.beta) + np.square(x) @ np.array(layer.gamma))
  return x * norm if inverse else x / norm


def _unit(layer, x):
  y = np.maximum(_conv(layer.conv0, x), 0)
  y = np.maximum(_conv(layer.conv1, y), 0)
  return np.maximum(x + _conv(layer.conv2, y), 0)


def _check(layer, x, expected):
  np.testing.assert_allclose(layer(x[np.newaxis])[0], expected, rtol=1e-9, atol=1e-10)


class TestSubpixel:
  @pytest.mark.parametrize("kernel,stride", [(1, 2), (3, 2), (3, 3), (5, 2)])
  def test_makes_each_cell_of_a_positions_channels(self, kernel, stride):
    layer = _with_random_weights(residual.Subpixel(3, kernel, stride, name="s"), 2)
    for size in _SIZES:
      x = _x(*size, 2)
      _check(layer, x, _subpixel(layer, x))


class TestResidualBlock:
  def test_adds_two_convolutions_with_slopes_behind_each(self):
    layer = _with_random_weights(residual.ResidualBlock(4, name="b"), 4)
    for size in _SIZES:
      x = _x(*size, 4)
      _check(layer, x, x + _lrelu(_conv(layer.conv1, _lrelu(_conv(layer.conv0, x)))))


@pytest.mark.parametrize("activation", ["gdn", "prelu"])
class TestResidualDown:
  def test_takes_the_positions_0_2_4_in_both_branches(self, activation):
    layer = _with_random_weights(residual.ResidualDown(4, activation, name="d"), 3)
    for size in _SIZES:
      x = _x(*size, 3)
      halved = _conv(layer.conv0, x)[::2, ::2]
      expected = _activated(layer.activation, _conv(layer.conv1, _lrelu(halved)))
      _check(layer, x, expected + _conv(layer.skip, x)[::2, ::2])

  def test_of_float32_has_the_gradients_of_float64(self, activation):
    """On three channels, as an image has."""
    wide = _with_random_weights(residual.ResidualDown(4, activation, name="d"), 3)
    tf.keras.mixed_precision.set_global_policy("float32")
    narrow = _with_random_weights(residual.ResidualDown(4, activation, name="d"), 3)
    found = []
    for layer in (narrow, wide):
      x = tf.constant(np.random.default_rng(4).normal(size=(2, 16, 18, 3)), layer.compute_dtype)
      with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(layer(x) ** 2)
      found.append(tape.gradient(total, [x, *layer.trainable_weights]))
    assert len(found[0]) == len(wide.trainable_weights) + 1 >= 8
    for gradient, expected in zip(*found):
      assert gradient.dtype == tf.float32 and expected.dtype == tf.float64
      np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("activation", ["gdn", "prelu"])
class TestResidualUp:
  def test_adds_two_branches_of_subpixel_convolutions(self, activation):
    layer = _with_random_weights(residual.ResidualUp(4, activation, name="u"), 3)
    for size in _SIZES:
      x = _x(*size, 3)
      expected = _conv(layer.conv, _lrelu(_subpixel(layer.up, x)))
      expected = _activated(layer.activation, expected, inverse=True)
      _check(layer, x, expected + _subpixel(layer.skip, x))


class TestAttention:
  def test_adds_the_trunk_weighted_by_the_mask(self):
    layer = _with_random_weights(residual.Attention(4, name="a"), 4)
    for size in _SIZES:
      x = _x(*size, 4)
      trunk = mask = x
      for i in range(3):
        trunk, mask = _unit(layer.trunk[i], trunk), _unit(layer.mask[i], mask)
      _check(layer, x, x + trunk * scipy.special.expit(_conv(layer.conv, mask)))

  def test_has_bottlenecks_of_half_the_filters(self):
    layer = _with_random_weights(residual.Attention(6, name="a"), 6)
    for unit in layer.trunk + layer.mask:
      shapes = [tuple(each.kernel.shape) for each in (unit.conv0, unit.conv1, unit.conv2)]
      assert shapes == [(1, 1, 6, 3), (3, 3, 3, 3), (1, 1, 3, 6)]


@pytest.mark.parametrize(
  "block,path",
  [
    (lambda: residual.ResidualBlock(4, "b"), [(3, 1, 1)] * 2),
    (lambda: residual.ResidualDown(4, "gdn", "b"), [(3, 2, 1), (3, 1, 1)]),
    (lambda: residual.ResidualUp(4, "gdn", "b"), [(3, 1, 1), (1, 1, 2), (3, 1, 1)]),
    (lambda: residual.Attention(4, "b"), [(3, 1, 1)] * 3),
    (lambda: residual.Subpixel(4, 5, 2, "b"), [(5, 1, 1), (1, 1, 2)]),
  ],
)
class TestLongestPath:
  def test_lists_the_convolutions_of_the_largest_receptive_field(self, block, path):
    assert block().longest_path == path

  def test_gives_the_receptive_field_of_gradients(self, block, path):
    """Rows of the input that one row of the output depends on."""
    layer = _with_random_weights(block(), 4)
    x = tf.constant(_x(24, 3, 4)[np.newaxis])
    with tf.GradientTape() as tape:
      tape.watch(x)
      y = layer(x)
      row = y.shape[1] // 2
      total = tf.reduce_sum(y[:, row])
    found = np.flatnonzero(np.abs(tape.gradient(total, x)[0]).sum(axis=(1, 2)))
    # Row by row backwards, as the paths say.
    first = last = row
    for kernel, down, up in reversed(path):
      first, last = (first // up) * down - kernel // 2, (last // up) * down + kernel // 2
    assert (found.min(), found.max()) == (first, last)


class TestGradients:
  @pytest.mark.parametrize(
    "block",
    [
      lambda: residual.ResidualBlock(4, "b"),
      lambda: residual.ResidualUp(4, "gdn", "b"),
      lambda: residual.Attention(4, "b"),
    ],
  )
  def test_are_those_of_small_differences(self, block):
    layer = _with_random_weights(block(), 4)
    x = tf.constant(_x(5, 4, 4)[np.newaxis])
    direction = tf.constant(_x(5, 4, 4, seed=9)[np.newaxis])
    variables = [x, *layer.trainable_weights]
    with tf.GradientTape() as tape:
      tape.watch(x)
      total = tf.reduce_sum(layer(x) ** 2)
    gradients = tape.gradient(total, variables)
    assert all(np.isfinite(gradient).all() and np.any(gradient) for gradient in gradients)
    step = 1e-6
    ahead, behind = (tf.reduce_sum(layer(x + s * direction) ** 2) for s in (step, -step))
    slope = float(ahead - behind) / (2 * step)
    assert slope == pytest.approx(float(tf.reduce_sum(gradients[0] * direction)), rel=1e-4)
