"""The masked convolution against SciPy's correlation with a kernel whose later half is zero."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
import tensorflow as tf

from khuvcm_tf.layers import masked


def _layer(size, filters=3, channels=2):
  layer = masked.MaskedConv2D(filters, size, name="m")
  layer(tf.zeros((1, 4, 4, channels)))
  rng = np.random.default_rng(size)
  for weight in layer.trainable_weights:
    weight.assign(rng.normal(size=weight.shape))
  return layer


def _whole_kernel(layer, size):
  """Returns the kernel [k, k, C, filters], zeros at the centre and behind."""
  kernel = np.zeros((size, size, *layer.kernel.shape[1:]))
  positions = [(j, i) for j in range(size) for i in range(size)]
  for position, weights in zip(positions, layer.kernel.numpy()):
    kernel[position] = weights
  return kernel


class TestCausalPositions:
  @pytest.mark.parametrize("kernel", [1, 3, 5, 7])
  def test_are_all_of_a_neighbourhood_before_its_centre_in_raster_order(self, kernel):
    radius = kernel // 2
    grid = np.arange(kernel**2).reshape(kernel, kernel)
    before = [tuple(position - radius) for position in np.argwhere(grid < grid[radius, radius])]
    assert masked.causal_positions(kernel) == before


class TestMaskedConv2D:
  @pytest.mark.parametrize("size", [3, 5])
  @pytest.mark.parametrize("height,width", [(1, 1), (1, 6), (6, 1), (4, 7), (7, 4)])
  def test_is_scipys_correlation_with_a_masked_kernel(self, size, height, width):
    layer = _layer(size)
    x = np.random.default_rng(0).normal(size=(2, height, width, 2))
    expected = np.zeros((2, height, width, 3)) + layer.bias.numpy()
    kernel, radius = _whole_kernel(layer, size), size // 2
    padded = np.pad(x, ((0, 0), (radius, radius), (radius, radius), (0, 0)))
    for image, channel, output in np.ndindex(2, 2, 3):
      expected[image, :, :, output] += scipy.signal.correlate(
        padded[image, :, :, channel], kernel[:, :, channel, output], mode="valid", method="direct"
      )
    np.testing.assert_allclose(layer(tf.constant(x, tf.float32)), expected, rtol=1e-4, atol=1e-4)

  def test_holds_weights_of_the_positions_before_alone(self):
    layer = _layer(5)
    assert layer.kernel.shape == (len(masked.causal_positions(5)), 2, 3)
    assert layer.bias.shape == (3,)

  def test_of_a_point_is_its_kernel_turned_around_behind_it(self):
    layer = _layer(5)
    layer.bias.assign(np.zeros(3))
    x = np.zeros((1, 7, 7, 2), np.float32)
    x[0, 3, 3, 1] = 1
    found = layer(x).numpy()[0]
    expected = np.zeros((7, 7, 3))
    for (dy, dx), weights in zip(masked.causal_positions(5), layer.kernel.numpy()):
      expected[3 - dy, 3 - dx] = weights[1]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert not np.any(found[:3]) and not np.any(found[3, :4])
