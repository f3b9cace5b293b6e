"""The float context model: what each position depends on, and its bits against SciPy."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from khuvcm_tf import codecs, layers
from khuvcm_tf.entropy import context, gaussian, quantization

_DEPTH = 6


def _model(num_mixtures, mode="mixed"):
  """A model of 6 latents and 6 channels of z whose positions and components all differ."""
  tf.keras.utils.set_random_seed(7)
  if num_mixtures == 1:
    model = (
      codecs.create("mbt2018", num_filters=_DEPTH, latent_depth=_DEPTH).branches[0].entropy_model
    )
  else:
    model = (
      codecs.create("cheng2020", num_filters=_DEPTH, num_mixtures=num_mixtures, attention=False)
      .branches[0]
      .entropy_model
    )
  rng = np.random.default_rng(7)
  for network in (model.h_s, model.context, model.entropy_parameters):
    for weight in network.trainable_weights:
      weight.assign_add(rng.normal(scale=0.1, size=weight.shape))
  model.quantization_mode = mode
  return model


def _inputs(seed=0):
  """Returns y [2, 4, 8, 6] and z_hat [2, 1, 2, 6]."""
  rng = np.random.default_rng(seed)
  y = rng.normal(scale=3, size=(2, 4, 8, _DEPTH))
  z_hat = np.rint(rng.normal(scale=3, size=(2, 1, 2, _DEPTH)))
  return tf.constant(y, tf.float32), tf.constant(z_hat, tf.float32)


@pytest.fixture(scope="module", params=[1, 3])
def model(request):
  return _model(request.param)


def _scipy_bits(values, log_weights, means, indices):
  """-log2 of the probability that mixtures give to [v - 1/2, v + 1/2], in float64."""
  scales = gaussian.MIN_SCALE * np.exp(gaussian.LOG_STEP * np.asarray(indices, np.float64))
  distance = np.abs(np.asarray(values, np.float64)[:, :, :, np.newaxis] - means)
  inner, outer = (scipy.special.log_ndtr((edge - distance) / scales) for edge in (0.5, -0.5))
  log_probability = inner + np.log1p(-np.exp(outer - inner))
  weights = 0.0 if log_weights is None else np.asarray(log_weights, np.float64)
  return -scipy.special.logsumexp(weights + log_probability, axis=3) / np.log(2)


def _predicted(model, y_hat, z_hat):
  """Returns all parameters of each position, [B, h, w, -1]."""
  parts = [part.numpy() for part in model.predicted(y_hat, z_hat) if part is not None]
  return np.concatenate([part.reshape(*part.shape[:3], -1) for part in parts], axis=-1)


def _element_bits(model, y, z_hat, training=False):
  """Returns y_hat and the bits of y where z_hat is the side information."""
  with mock.patch.object(type(model), "side_information", lambda self, y: z_hat):
    y_hat, bits = model.element_bits(y, training, medians=tf.zeros(_DEPTH))
  return y_hat, bits["y"]


class TestPredicted:
  @pytest.mark.parametrize("position", [(0, 0), (0, 7), (1, 0), (2, 3), (3, 7)])
  def test_depend_on_the_12_positions_before_and_on_no_others(self, model, position):
    """A change at a position changes those whose neighbourhood it is in, and no others."""
    y, z_hat = _inputs()
    changed = y.numpy()
    changed[:, position[0], position[1], :] += 5
    moved = np.abs(_predicted(model, changed, z_hat) - _predicted(model, y, z_hat)).max(axis=(0, 3))
    expected = np.zeros(moved.shape, bool)
    for row, column in np.ndindex(moved.shape):
      down, right = row - position[0], column - position[1]
      expected[row, column] = (down == 0 and 0 < right <= 2) or (0 < down <= 2 and abs(right) <= 2)
    assert moved[expected].min(initial=np.inf) > 1e-2
    assert moved[~expected].max() < 1e-5

  def test_depend_on_each_latent_of_a_position_and_each_channel_of_z(self, model):
    y, z_hat = _inputs()
    before = _predicted(model, y, z_hat)
    for channel in range(_DEPTH):
      one = tf.one_hot(channel, _DEPTH)
      for params in (_predicted(model, y + one, z_hat), _predicted(model, y, z_hat + one)):
        assert np.abs(params - before)[:, 2, 4].min(axis=0).max() > 1e-3

  def test_are_logits_then_means_then_log_scales_with_the_first_component_in_front(self):
    model = _model(3)
    kernel, bias = model.entropy_parameters.layers[-1].weights
    kernel.assign(tf.zeros_like(kernel))
    params = np.random.default_rng(1).normal(size=(3, 3, _DEPTH)).astype(np.float32)
    bias.assign(params.reshape(-1))
    weights, means, indices = model.predicted(*_inputs())
    assert weights.shape == means.shape == indices.shape == (2, 4, 8, 3, _DEPTH)
    expected = scipy.special.log_softmax(params[0], axis=0)
    np.testing.assert_allclose(weights, np.broadcast_to(expected, weights.shape), atol=1e-5)
    np.testing.assert_allclose(means, np.broadcast_to(params[1], means.shape), atol=1e-6)
    expected = (params[2] - np.log(gaussian.MIN_SCALE)) / gaussian.LOG_STEP
    np.testing.assert_allclose(indices, np.broadcast_to(expected, means.shape), atol=1e-4)

  def test_of_one_gaussian_have_no_weights(self):
    weights, means, _ = _model(1).predicted(*_inputs())
    assert weights is None
    assert means.shape == (2, 4, 8, 1, _DEPTH)


class TestBits:
  def test_equal_scipys_mixture(self, model):
    y, z_hat = _inputs()
    y_hat, bits = _element_bits(model, y, z_hat)
    expected = _scipy_bits(y_hat, *model.predicted(y_hat, z_hat))
    assert np.ptp(expected) > 5
    np.testing.assert_allclose(bits, expected, rtol=1e-3, atol=1e-3)

  def test_of_one_gaussian_are_the_gaussians(self):
    model, (y, z_hat) = _model(1), _inputs()
    _, means, indices = model.predicted(np.round(y), z_hat)
    _, bits = _element_bits(model, y, z_hat)
    expected = gaussian.bits(tf.round(y) - means[:, :, :, 0], indices[:, :, :, 0])
    np.testing.assert_array_equal(bits, expected)

  def test_of_equal_components_are_those_of_one_gaussian(self):
    """Whatever the weights: 3 components with the weights of a network that predicts one."""
    three, one = _model(3), _model(1)
    y, z_hat = _inputs()
    one.h_s, one.context = three.h_s, three.context
    # Of means and log-scales, [I, 2, M], each component gets the same.
    kernel, bias = (weight.numpy() for weight in three.entropy_parameters.layers[-1].weights)
    kernel, bias = kernel.reshape(-1, 3, 3, _DEPTH), bias.reshape(3, 3, _DEPTH)
    kernel[:, 1:], bias[1:] = kernel[:, 1:, :1], bias[1:, :1]
    for weight, value in zip(three.entropy_parameters.layers[-1].weights, (kernel, bias)):
      weight.assign(value.reshape(weight.shape))
    last = one.entropy_parameters.layers[-1]
    one.entropy_parameters.layers = [*three.entropy_parameters.layers[:-1], last]
    for weight, value in zip(last.weights, (kernel[:, 1:, 0], bias[1:, 0])):
      weight.assign(value.reshape(weight.shape))
    _, bits_of_three = _element_bits(three, y, z_hat)
    _, bits_of_one = _element_bits(one, y, z_hat)
    np.testing.assert_allclose(bits_of_three, bits_of_one, rtol=1e-4, atol=1e-4)
    weights, *_ = three.predicted(np.round(y), z_hat)
    assert np.ptp(weights, axis=3).max() > 1

  def test_of_images_are_the_sums_of_their_elements(self, model):
    y, _ = _inputs()
    _, elements = model.element_bits(y)
    _, bits = model(y)
    assert elements["z"].shape == (2, 1, 2, _DEPTH)
    assert elements["y"].shape == y.shape
    for name, each in elements.items():
      np.testing.assert_allclose(bits[name], np.sum(each, axis=(1, 2, 3)), rtol=1e-4)


class TestQuantization:
  def test_without_training_rounds_latents_and_not_their_distances_from_means(self, model):
    y, _ = _inputs()
    y_hat, _ = model.element_bits(y)
    np.testing.assert_array_equal(y_hat, np.round(y))

  @pytest.mark.parametrize("mode", quantization.MODES)
  def test_in_training_has_the_rate_of_noisy_latents_given_what_the_synthesis_receives(self, mode):
    model, (y, z_hat) = _model(3, mode), _inputs()
    model.noise.reset_from_seed(3)
    y_hat, bits = _element_bits(model, y, z_hat, training=True)
    generator = tf.random.Generator.from_seed(3)
    noisy_z = quantization.with_noise(z_hat, generator)
    noisy = quantization.with_noise(y, generator)
    received, z_hat = (noisy, noisy_z) if mode == "noise" else (tf.round(y), z_hat)
    np.testing.assert_allclose(y_hat, received, atol=1e-6)
    assert np.abs(noisy - np.round(noisy)).mean() > 0.1
    expected = _scipy_bits(noisy, *model.predicted(received, z_hat))
    np.testing.assert_allclose(bits, expected, rtol=1e-3, atol=1e-3)

  @pytest.mark.parametrize("mode", quantization.MODES)
  def test_gradients_of_bits_reach_all_weights_and_the_latents(self, model, mode):
    model.quantization_mode = mode
    y, _ = _inputs()
    with tf.GradientTape() as tape:
      tape.watch(y)
      y_hat, bits = model(y, training=True)
      total = tf.add_n([tf.reduce_sum(each) for each in bits.values()]) + tf.reduce_sum(y_hat)
    gradients = tape.gradient(total, [y, *model.trainable_weights])
    assert all(np.isfinite(gradient).all() and np.any(gradient) for gradient in gradients)

  def test_of_unknown_mode_is_refused(self):
    def one(name):
      return [layers.conv(2, 1, name)]

    with pytest.raises(ValueError, match=r"`quantization_mode` is 'hard', expected one of \('noi"):
      context.ContextModel(one("a"), one("b"), one("c"), 2, 2, 1, "hard")
