"""The float hyperprior's quantization and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from khuvcm_tf import codecs, layers
from khuvcm_tf.entropy import hyperprior, quantization


def _hyperprior(name="mbt2018_mean"):
  tf.keras.utils.set_random_seed(5)
  return codecs.create(name, num_filters=8, latent_depth=6).branches[0].entropy_model


def _y():
  return tf.constant(np.random.default_rng(0).normal(scale=4, size=(2, 4, 8, 6)), tf.float32)


class TestQuantization:
  def test_noise_is_uniform_within_a_half(self):
    noise = quantization.with_noise(tf.zeros(100_000), tf.random.Generator.from_seed(1)).numpy()
    assert -0.5 <= noise.min() < -0.499 and 0.499 < noise.max() < 0.5
    assert np.var(noise) == pytest.approx(1 / 12, rel=0.02)

  def test_rounds_distances_from_the_offset_and_passes_gradients(self):
    values = tf.constant([0.2, 0.8, -1.4, 2.5])
    with tf.GradientTape() as tape:
      tape.watch(values)
      found = quantization.rounded(values, 0.25)
    np.testing.assert_allclose(found, [0.25, 1.25, -1.75, 2.25])
    np.testing.assert_array_equal(tape.gradient(found, values), np.ones(4))


class TestHyperprior:
  @pytest.mark.parametrize("name", ["bmshj2018", "mbt2018_mean"])
  def test_without_training_rounds_to_whole_distances_from_the_means(self, name):
    prior, y = _hyperprior(name), _y()
    y_hat, bits = prior.element_bits(y)
    z = prior.side_information(y)
    medians = prior.prior.medians()
    z_hat = np.round(z - medians) + medians
    mean, _ = prior.predicted(z_hat)
    np.testing.assert_allclose(y_hat, np.round(y - mean) + mean, atol=1e-4)
    assert bits["z"].shape == (2, 1, 2, 8)
    assert bits["y"].shape == y.shape

  def test_bits_of_images_are_the_sums_of_their_elements(self):
    prior, y = _hyperprior(), _y()
    _, elements = prior.element_bits(y)
    _, bits = prior(y)
    for name, each in elements.items():
      np.testing.assert_allclose(bits[name], np.sum(each, axis=(1, 2, 3)), rtol=1e-4)

  def test_mixed_gives_the_synthesis_rounded_latents_and_noise_gives_noisy_ones(self):
    y = _y()
    noisy, _ = _hyperprior("bmshj2018").element_bits(y, training=True)
    assert np.abs(noisy - np.round(noisy)).mean() > 0.1
    np.testing.assert_array_less(np.abs(noisy - y), 0.5 + 1e-5)
    mixed, _ = _hyperprior("mbt2018_mean").element_bits(y, training=True)
    rounded, _ = _hyperprior("mbt2018_mean").element_bits(y)
    np.testing.assert_allclose(mixed, rounded, atol=1e-4)

  @pytest.mark.parametrize("name", ["bmshj2018", "mbt2018_mean"])
  def test_gradients_of_bits_reach_all_weights_and_the_latents(self, name):
    prior, y = _hyperprior(name), _y()
    with tf.GradientTape() as tape:
      tape.watch(y)
      _, bits = prior(y, training=True)
      total = tf.add_n([tf.reduce_sum(each) for each in bits.values()])
    gradients = tape.gradient(total, [y, *prior.trainable_weights])
    assert all(np.isfinite(gradient).all() and np.any(gradient) for gradient in gradients)

  def test_of_unknown_quantization_is_refused(self):
    with pytest.raises(ValueError, match=r"`quantization_mode` is 'hard', expected one of \('noi"):
      hyperprior.Hyperprior([layers.conv(2, 3, "a")], [layers.conv(2, 3, "b")], 2, 2, "hard")
