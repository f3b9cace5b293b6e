"""The layers against plain loops and closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_compression as tfc

from khuvcm_tf.layers import signal


def _downward(x, kernel, bias, stride):
  """Output n is the sum over j of kernel[j] x[stride n + j - k // 2], zeros outside."""
  height, width, _ = x.shape
  radius = kernel.shape[0] // 2
  y = np.empty((-(-height // stride), -(-width // stride), kernel.shape[3]))
  for row, column in np.ndindex(y.shape[:2]):
    y[row, column] = bias
    for j, i in np.ndindex(kernel.shape[:2]):
      at = stride * row + j - radius, stride * column + i - radius
      if 0 <= at[0] < height and 0 <= at[1] < width:
        y[row, column] += x[at] @ kernel[j, i]
  return y


def _upward(x, kernel, bias, stride):
  """Input m adds kernel[j] x[m] to output stride m + j - k // 2, where that exists."""
  height, width, _ = x.shape
  radius = kernel.shape[0] // 2
  y = np.zeros((height * stride, width * stride, kernel.shape[3])) + bias
  for row, column in np.ndindex(x.shape[:2]):
    for j, i in np.ndindex(kernel.shape[:2]):
      at = stride * row + j - radius, stride * column + i - radius
      if 0 <= at[0] < y.shape[0] and 0 <= at[1] < y.shape[1]:
        y[at] += x[row, column] @ kernel[j, i]
  return y


def _with_random_weights(layer, channels):
  layer.build((None, None, None, channels))
  rng = np.random.default_rng(7)
  for weight in layer.trainable_weights:
    weight.assign(rng.normal(size=weight.shape))
  return layer


class TestConvolutions:
  @pytest.mark.parametrize("kernel,stride", [(3, 1), (5, 1), (3, 2), (5, 2)])
  def test_down_samples_symmetric_positions_for_all_sizes_from_1_to_9(self, kernel, stride):
    layer = _with_random_weights(signal.conv_down(3, kernel, stride, name="c"), 2)
    for size in range(1, 10):
      x = np.random.default_rng(size).normal(size=(size, 10 - size, 2))
      expected = _downward(x, layer.kernel.numpy(), layer.bias.numpy(), stride)
      np.testing.assert_allclose(layer(x[np.newaxis])[0], expected, rtol=1e-4, atol=1e-4)

  @pytest.mark.parametrize("kernel", [3, 5])
  def test_up_samples_symmetric_positions_for_all_sizes_from_1_to_9(self, kernel):
    layer = _with_random_weights(signal.conv_up(3, kernel, 2, name="c"), 2)
    for size in range(1, 10):
      x = np.random.default_rng(size).normal(size=(size, 10 - size, 2))
      expected = _upward(x, layer.kernel.numpy(), layer.bias.numpy(), 2)
      np.testing.assert_allclose(layer(x[np.newaxis])[0], expected, rtol=1e-4, atol=1e-4)

  def test_conv_is_conv_down_without_stride(self):
    layer = _with_random_weights(signal.conv(3, 3, name="c"), 2)
    x = np.random.default_rng(0).normal(size=(4, 6, 2))
    expected = _downward(x, layer.kernel.numpy(), layer.bias.numpy(), 1)
    np.testing.assert_allclose(layer(x[np.newaxis])[0], expected, rtol=1e-4, atol=1e-4)

  @pytest.mark.parametrize("stride", [1, 2])
  def test_down_of_a_mirrored_image_with_a_mirrored_kernel_is_mirrored(self, stride):
    # True of odd sizes alone: the samples 0, 2, 4 of 5 lie symmetric to its centre.
    layer = _with_random_weights(signal.conv_down(3, 5, stride, name="c"), 2)
    x = np.random.default_rng(0).normal(size=(1, 9, 7, 2)).astype(np.float32)
    plain = layer(x).numpy()
    layer.trainable_weights[0].assign(layer.kernel.numpy()[::-1, ::-1])
    np.testing.assert_allclose(layer(x[:, ::-1, ::-1]), plain[:, ::-1, ::-1], rtol=1e-4, atol=1e-4)

  def test_up_is_the_transpose_of_down(self):
    # <down(x), y> = <x, up(y)> with one kernel, its channels exchanged.
    down = _with_random_weights(signal.conv_down(3, 5, 2, name="d"), 2)
    up = _with_random_weights(signal.conv_up(2, 5, 2, name="u"), 3)
    up.trainable_weights[0].assign(down.kernel.numpy().transpose(0, 1, 3, 2))
    for layer in (down, up):
      layer.trainable_weights[1].assign(np.zeros(layer.bias.shape))
    rng = np.random.default_rng(5)
    for height, width in itertools.product((2, 4, 6), repeat=2):
      x = rng.normal(size=(1, height, width, 2)).astype(np.float32)
      y = rng.normal(size=(1, height // 2, width // 2, 3)).astype(np.float32)
      assert np.vdot(down(x), y) == pytest.approx(np.vdot(x, up(y)), abs=1e-3)


class TestActivation:
  @pytest.mark.parametrize("inverse", [False, True])
  def test_gdn_divides_by_the_root_of_beta_plus_gamma_times_squares(self, inverse):
    layer = signal.activation("gdn", name="a", inverse=inverse)
    layer.build((None, None, None, 4))
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, 3, 5, 4)).astype(np.float32) * 3
    layer.beta_parameter.variable.assign(rng.uniform(0.5, 2, 4))
    layer.gamma_parameter.variable.assign(rng.uniform(0.1, 1, (4, 4)))
    beta, gamma = np.array(layer.beta), np.array(layer.gamma)
    # gamma[j, i] weighs channel j in the norm of channel i.
    norm = np.sqrt(beta + np.square(x) @ gamma)
    np.testing.assert_allclose(layer(x), x * norm if inverse else x / norm, rtol=1e-5)

  def test_new_gdn_is_x_over_root_of_1_plus_a_tenth_of_its_square(self):
    layer = signal.activation("gdn", name="a")
    x = np.linspace(-9, 9, 12, dtype=np.float32).reshape(1, 2, 2, 3)
    np.testing.assert_allclose(layer(x), x / np.sqrt(1 + 0.1 * x**2), rtol=1e-5)

  @pytest.mark.parametrize("inverse", [False, True])
  def test_gdn_equals_tfcs_and_needs_no_autograph(self, inverse):
    layer = signal.activation("gdn", name="a", inverse=inverse)
    theirs = tfc.GDN(inverse=inverse, alpha_parameter=2, epsilon_parameter=0.5)
    x = np.random.default_rng(3).normal(size=(2, 3, 5, 4)).astype(np.float32) * 3
    expected = theirs(x)
    np.testing.assert_array_equal(layer(x), expected)
    in_graph = tf.function(layer, autograph=False)
    np.testing.assert_allclose(in_graph(x), expected, rtol=1e-6)
    found = [weight.name.split("/")[-1] for weight in layer.weights]
    assert found == [weight.name.split("/")[-1] for weight in theirs.weights]

  def test_prelu_has_a_slope_for_each_channel_that_begins_at_a_quarter(self):
    layer = signal.activation("prelu", name="a")
    x = np.random.default_rng(2).normal(size=(2, 3, 5, 4)).astype(np.float32)
    np.testing.assert_allclose(layer(x), np.where(x > 0, x, 0.25 * x), rtol=1e-6)
    slopes = np.array([0.0, 0.1, 0.5, 1.5], np.float32)
    layer.alpha.assign(slopes.reshape(1, 1, 4))
    np.testing.assert_allclose(layer(x), np.where(x > 0, x, slopes * x), rtol=1e-6)

  def test_of_unknown_kind_is_refused(self):
    with pytest.raises(ValueError, match="`activation` is 'relu', expected 'gdn' or 'prelu'"):
      signal.activation("relu", name="a")


class TestRectifier:
  @pytest.mark.parametrize("slope", [0.0, 0.01, 0.2, 0.25])
  def test_has_the_slope_that_it_was_given(self, slope):
    layer = signal.Rectifier(slope, name="r")
    x = np.array([-4096.0, -1.0, -0.5, 0.0, 0.5, 4096.0], np.float32)
    np.testing.assert_array_equal(layer(x), np.where(x > 0, x, x * np.float32(slope)))
