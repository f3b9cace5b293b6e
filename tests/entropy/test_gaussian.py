"""Bits of the Gaussian against SciPy, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf

from khuvcm_tf.entropy import gaussian


def _bits(values, scale):
  """-log2 of the probability of [v - 1/2, v + 1/2], computed in the tail where nothing cancels."""
  inner, outer = (np.abs(values) - 0.5) / scale, (np.abs(values) + 0.5) / scale
  log_inner = scipy.stats.norm.logsf(inner)
  return -(log_inner + np.log1p(-np.exp(scipy.stats.norm.logsf(outer) - log_inner))) / np.log(2)


def _index(scale):
  return np.float32(np.log(scale / gaussian.MIN_SCALE) / gaussian.LOG_STEP)


class TestScaleTable:
  def test_is_geometric_from_least_to_largest(self):
    table = gaussian.scale_table()
    assert table[0] == gaussian.MIN_SCALE
    assert table[-1] == pytest.approx(gaussian.MAX_SCALE)
    assert len(table) == gaussian.NUM_SCALES
    np.testing.assert_allclose(table[1:] / table[:-1], table[1] / table[0])


class TestIndexOf:
  def test_inverts_the_table(self):
    index = gaussian.index_of(tf.constant(np.log(gaussian.scale_table()), tf.float32))
    np.testing.assert_allclose(index, np.arange(gaussian.NUM_SCALES), atol=1e-4)

  def test_stays_in_the_table_and_lets_gradients_back_in_alone(self):
    log_scale = tf.constant([-100.0, 100.0])
    with tf.GradientTape(persistent=True) as tape:
      tape.watch(log_scale)
      index = gaussian.index_of(log_scale)
      outwards, inwards = index * [1.0, -1.0], index * [-1.0, 1.0]
    np.testing.assert_array_equal(index, [0.0, gaussian.NUM_SCALES - 1.0])
    # A descent that would raise the lower and reduce the upper one goes through.
    np.testing.assert_array_equal(tape.gradient(outwards, log_scale), [0.0, 0.0])
    np.testing.assert_array_less(0.0, np.abs(tape.gradient(inwards, log_scale)))


class TestBits:
  @pytest.mark.parametrize("scale", [0.11, 0.5, 1.0, 7.3, 256.0])
  def test_equal_scipy_in_both_tails(self, scale):
    sigmas = np.array([0, 0.1, 0.5, 1, 2, 3, 5, 8, 13, 30, 100, 300, 1000], np.float32)
    values = np.concatenate([-sigmas, sigmas]) * np.float32(scale)
    found = gaussian.bits(values, np.full_like(values, _index(scale))).numpy()
    np.testing.assert_allclose(found, _bits(values.astype(np.float64), scale), rtol=1e-3, atol=1e-4)

  @pytest.mark.parametrize("scale", [0.11, 1.0, 256.0])
  def test_of_all_integers_are_those_of_a_distribution(self, scale):
    half = int(8 * scale) + 3
    values = np.arange(-half, half + 1, dtype=np.float32)
    p = 2.0 ** -gaussian.bits(values, np.full_like(values, _index(scale))).numpy()
    assert p.sum(dtype=np.float64) == pytest.approx(1.0, abs=1e-4)

  def test_have_finite_gradients_at_1000_sigma(self):
    values, index = tf.constant([-1000.0, 1000.0, -110.0, 110.0]), tf.constant([22.0, 22, 0, 0])
    with tf.GradientTape() as tape:
      tape.watch((values, index))
      bits = gaussian.bits(values, index)
    for gradient in tape.gradient(bits, (values, index)):
      assert np.isfinite(gradient).all()
      assert np.abs(gradient).min() > 0


class TestMixtureBits:
  def test_equal_scipys_sum_of_weighted_probabilities_in_both_tails(self):
    rng = np.random.default_rng(3)
    scales = np.exp(rng.uniform(-2, 5, (200, 3, 4)))
    means = rng.normal(scale=10, size=scales.shape)
    log_weights = np.log(rng.dirichlet([0.3] * 3, (200, 4))).transpose(0, 2, 1)
    values = np.concatenate([rng.normal(scale=20, size=(180, 1, 4)), rng.normal(size=(20, 1, 4))])
    values[-20:] *= 3000
    components = gaussian.bits(
      tf.constant(values - means, tf.float32), tf.constant(_index(scales), tf.float32)
    )
    found = gaussian.mixture_bits(components, tf.constant(log_weights, tf.float32)).numpy()
    log_probabilities = log_weights - _bits(values - means, scales) * np.log(2)
    expected = -scipy.special.logsumexp(log_probabilities, axis=1) / np.log(2)
    assert expected.max() > 100
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)

  def test_without_weights_are_those_of_the_one_component(self):
    components = tf.constant(np.arange(12.0).reshape(3, 1, 4))
    np.testing.assert_array_equal(gaussian.mixture_bits(components, None), components[:, 0])

  def test_of_equal_components_are_those_of_one(self):
    components = np.random.default_rng(1).uniform(0, 90, (7, 1, 4)).astype(np.float32)
    weights = np.log(np.random.default_rng(2).dirichlet([1] * 3, (7, 4))).transpose(0, 2, 1)
    found = gaussian.mixture_bits(
      tf.constant(np.repeat(components, 3, axis=1)), tf.constant(weights, tf.float32)
    )
    np.testing.assert_allclose(found, components[:, 0], rtol=1e-5, atol=1e-5)
