"""The factorized prior: a density, and its medians."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf

from khuvcm_tf.entropy import factorized


@pytest.fixture(scope="module")
def prior():
  """A prior whose channels have moved apart, as training would move them."""
  tf.keras.utils.set_random_seed(11)
  prior = factorized.FactorizedPrior(5)
  rng = np.random.default_rng(4)
  for weight in prior.trainable_weights:
    weight.assign_add(rng.normal(scale=0.4, size=weight.shape))
  return prior


class TestFactorizedPrior:
  def test_gives_all_integers_a_probability_of_one_in_each_channel(self, prior):
    z = np.repeat(np.arange(-4000, 4001, dtype=np.float32)[:, np.newaxis], 5, axis=1)
    for offset in (0.0, 0.3):
      total = np.sum(2.0 ** -prior.bits(z + np.float32(offset)).numpy(), axis=0, dtype=np.float64)
      np.testing.assert_allclose(total, 1.0, atol=1e-4)

  def test_bits_are_those_of_the_differences_of_its_distribution(self, prior):
    z = np.linspace(-12, 12, 40, dtype=np.float32).reshape(8, 5)
    above, below = prior.noisy.base.cdf(z + 0.5), prior.noisy.base.cdf(z - 0.5)
    np.testing.assert_allclose(2.0 ** -prior.bits(z).numpy(), above - below, rtol=1e-3, atol=1e-6)

  def test_medians_equal_scipys_root_of_the_distribution_minus_a_half(self, prior):
    medians = prior.medians().numpy()
    assert np.ptp(medians) > 0.5
    for channel, median in enumerate(medians):

      def excess(x, channel=channel):
        return float(prior.noisy.base.cdf(tf.fill([1, 5], np.float32(x)))[0, channel]) - 0.5

      assert median == pytest.approx(scipy.optimize.brentq(excess, -100, 100), abs=2**-8)

  def test_medians_are_found_far_from_zero(self):
    prior = factorized.FactorizedPrior(2)
    # The first layer's bias moves the density.
    weights = {weight.name.split("/")[-1].split(":")[0]: weight for weight in prior.weights}
    before = prior.medians().numpy()
    matrix = np.log1p(np.exp(weights["matrix_0"].numpy()))[:, :, 0]
    shift = np.array([-3000.0, 500.0], np.float32)
    weights["bias_0"].assign_sub((matrix * shift[:, np.newaxis])[..., np.newaxis])
    np.testing.assert_allclose(prior.medians(), before + shift, rtol=1e-3)
