"""Layers beside plain loops, in graphs and with gradients; their weights by name."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from detection.layers import Conv2D, ConvTranspose2x2, Linear, named_weights, normal


def plain_convolution(x, kernel, stride, groups):
  """Sums term by term: [B, H, W, C] with kernel [k, k, C / groups, D], padded by k // 2."""
  size, radius, outputs = len(kernel), len(kernel) // 2, kernel.shape[-1]
  padded = np.pad(x.astype(np.float64), [(0, 0), (radius, radius), (radius, radius), (0, 0)])
  inputs, per_group = kernel.shape[2], outputs // groups
  height, width = -(-x.shape[1] // stride), -(-x.shape[2] // stride)
  y = np.zeros([len(x), height, width, outputs])
  for d in range(outputs):
    first = d // per_group * inputs
    for i in range(height):
      for j in range(width):
        window = padded[
          :, i * stride : i * stride + size, j * stride : j * stride + size, first : first + inputs
        ]
        y[:, i, j, d] = (window * kernel[..., d]).sum((1, 2, 3))
  return y


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("shape", [(2, 5, 6, 64), (1, 1, 1, 64)])
def test_a_convolution_is_the_plain_sum(groups, stride, size, shape, rng):
  layer = Conv2D(64, 8, size, stride, groups)
  layer.bias.assign(np.arange(8.0))
  x = rng.normal(size=shape).astype(np.float32)
  want = plain_convolution(x, layer.weight.numpy(), stride, groups) + np.arange(8.0)
  # Within a graph: there TensorFlow fuses what follows a convolution.
  got = tf.function(lambda x, training: tf.nn.relu(layer(x, training=training)))
  for training in (False, True):
    np.testing.assert_allclose(got(x, training), np.maximum(want, 0), atol=1e-4)


@pytest.fixture
def rng():
  return np.random.default_rng(0)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_norm_follows_the_convolution(groups, rng):
  layer = Conv2D(64, 8, 3, groups=groups, norm="frozen")
  for name, weight in named_weights(layer.norm).items():
    weight.assign(rng.uniform(0.5, 2.0, 8) if name != "bias" else rng.normal(size=8))
  weight, bias, mean, var = (
    named_weights(layer.norm)[name].numpy()
    for name in ("weight", "bias", "running_mean", "running_var")
  )
  x = rng.normal(size=(1, 6, 5, 64)).astype(np.float32)
  plain = plain_convolution(x, layer.weight.numpy(), 1, groups)
  want = (plain - mean) / np.sqrt(var + 1e-5) * weight + bias
  np.testing.assert_allclose(tf.function(layer)(x), want, atol=2e-5)


@pytest.mark.parametrize("stride, groups", [(1, 2), (2, 2), (2, 1)])
def test_gradients_of_training_are_those_of_finite_differences(stride, groups, rng):
  layer = Conv2D(32, 4, 3, stride, groups, norm="frozen")
  x = tf.constant(rng.normal(size=(1, 5, 4, 32)), tf.float32)
  direction = tf.constant(rng.normal(size=layer.weight.shape), tf.float32)

  @tf.function
  def loss(x):
    return tf.reduce_sum(layer(x, training=True) ** 2)

  with tf.GradientTape() as tape:
    value = loss(x)
  slope = tf.reduce_sum(tape.gradient(value, layer.weight) * direction)
  step = 1e-2
  layer.weight.assign_add(step * direction)
  above = loss(x)
  layer.weight.assign_sub(2 * step * direction)
  below = loss(x)
  np.testing.assert_allclose(slope, (above - below) / (2 * step), rtol=2e-3)


def test_a_transposed_convolution_is_the_plain_sum(rng):
  layer = ConvTranspose2x2(3, 2)
  layer.bias.assign([0.5, -0.5])
  x = rng.normal(size=(2, 3, 4, 3)).astype(np.float32)
  want = np.zeros([2, 6, 8, 2])
  for i in range(2):
    for j in range(2):
      want[:, i::2, j::2] = x @ layer.weight.numpy()[i, j].T + [0.5, -0.5]
  np.testing.assert_allclose(layer(x), np.maximum(want, 0), atol=1e-5)


def test_norms_are_not_trained():
  layer = Conv2D(3, 4, 3, norm="frozen")
  assert [weight.shape for weight in layer.trainable_weights] == [(3, 3, 3, 4)]
  assert len(layer.weights) == 5


def test_a_norm_that_is_not_trainable_stays_as_it_is(rng):
  layer = Conv2D(3, 4, 3, norm="batch")
  layer.trainable = False
  x = tf.constant(rng.normal(2.0, 3.0, (2, 6, 8, 3)), tf.float32)
  np.testing.assert_array_equal(layer(x, training=True), layer(x, training=False))
  np.testing.assert_array_equal(layer.norm.running_mean, np.zeros(4))


def test_weights_are_named_by_the_attributes_that_lead_to_them():
  layer = tf.keras.layers.Layer()
  layer.parts = [Linear(2, 3), Conv2D(2, 3, 1, norm="frozen")]
  layer._hidden = Linear(2, 3)
  assert sorted(named_weights(layer)) == [
    "parts.0.bias",
    "parts.0.weight",
    "parts.1.norm.bias",
    "parts.1.norm.running_mean",
    "parts.1.norm.running_var",
    "parts.1.norm.weight",
    "parts.1.weight",
  ]


def test_normal_weights_have_the_deviation_asked_for():
  assert np.std(normal(0.01)([3, 3, 64, 64])) == pytest.approx(0.01, rel=0.05)
