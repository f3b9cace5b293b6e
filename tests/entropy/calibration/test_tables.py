"""Integer tables: each row a distribution, close to the one that it was made from."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from khuvcm_tf.entropy import factorized, gaussian
from khuvcm_tf.entropy.calibration import tables as calibration_tables
from khuvcm_tf.entropy.integer import tables as tables_lib


def _rows(made: tables_lib.Tables):
  """Yields (alphabet, counts in 1/65536) of each row."""
  for start, low, high in zip(made.start, made.low, made.high):
    cdf = made.lookup[start : start + high - low + 2]
    yield np.arange(low, high + 1), np.diff(cdf)


def _check_is_whole(made: tables_lib.Tables):
  """Each row is preceded by its precision, goes from 0 to 65536, and grows with each symbol."""
  for start, low, high in zip(made.start, made.low, made.high):
    cdf = made.lookup[start : start + high - low + 2]
    assert made.lookup[start - 1] == tables_lib.PRECISION
    assert (cdf[0], cdf[-1]) == (0, 2**tables_lib.PRECISION)
    assert np.diff(cdf).min() >= 1
  assert made.lookup.size == start + high - low + 2


@pytest.fixture(scope="module")
def gaussians():
  return calibration_tables.assemble(calibration_tables.gaussian_alphabets())


@pytest.fixture(scope="module")
def prior():
  tf.keras.utils.set_random_seed(2)
  prior = factorized.FactorizedPrior(4)
  rng = np.random.default_rng(4)
  for weight in prior.trainable_weights:
    weight.assign_add(rng.normal(scale=0.3, size=weight.shape))
  return prior


class TestBytes:
  def test_have_8_bits_each(self):
    made = calibration_tables.assemble([calibration_tables.byte_alphabet()])
    _check_is_whole(made)
    (alphabet, counts), *others = _rows(made)
    assert not others
    np.testing.assert_array_equal(alphabet, np.arange(256))
    np.testing.assert_array_equal(counts, np.full(256, 256))


class TestGaussians:
  def test_rows_are_whole(self, gaussians):
    assert len(gaussians.start) == gaussian.NUM_SCALES
    _check_is_whole(gaussians)

  def test_alphabets_extend_to_six_sigma_on_both_sides(self, gaussians):
    np.testing.assert_array_equal(gaussians.low, -gaussians.high)
    np.testing.assert_array_less(6 * gaussian.scale_table(), gaussians.high + 0.5)

  def test_cost_few_more_bits_than_the_true_distributions(self, gaussians):
    """Cross-entropy less entropy, escapes included.

    Rounding costs 2e-4 bits a symbol, and the least count of
    each symbol in wide alphabets 1.3e-4 bits for each unit of sigma: 0.3 % of sigma 256's 10 bits.
    """
    for scale, (alphabet, counts) in zip(gaussian.scale_table(), _rows(gaussians)):
      edges = np.concatenate([[-np.inf], alphabet[:-1] + 0.5, [np.inf]])
      cdf, survival = (f(edges, scale=scale) for f in (scipy.stats.norm.cdf, scipy.stats.norm.sf))
      pmf = np.where(alphabet > 0, -np.diff(survival), np.diff(cdf))
      bits = 16 - np.log2(counts)
      bits[[0, -1]] += 16
      entropy = -np.sum(pmf * np.log2(np.maximum(pmf, 1e-300)))
      # Nothing codes in fewer bits than entropy.
      assert -1e-9 <= np.sum(pmf * bits) - entropy <= 2.5e-4 + 1.4e-4 * scale


class TestFactorized:
  def test_rows_are_whole_and_close_to_the_density(self, prior):
    medians = np.rint(prior.medians().numpy() * 64) / 64
    alphabets = calibration_tables.factorized_alphabets(prior, medians)
    made = calibration_tables.assemble(alphabets)
    _check_is_whole(made)
    for channel, (alphabet, counts) in enumerate(_rows(made)):
      inner = alphabet[1:-1]
      at = np.repeat(inner[:, np.newaxis], 4, axis=1) + medians
      pmf = 2.0 ** -prior.bits(at.astype(np.float32)).numpy()[:, channel]
      # One in 65536 for each symbol is lost to rounding, and some to the least count of each.
      np.testing.assert_allclose(counts[1:-1] / 65536, pmf, rtol=0.02, atol=4 / 65536)

  def test_alphabets_contain_the_median_and_end_where_a_thousand_millionth_is_left(self, prior):
    medians = np.rint(prior.medians().numpy() * 64) / 64
    for channel, (low, pmf) in enumerate(calibration_tables.factorized_alphabets(prior, medians)):
      high = low + len(pmf) - 1
      assert low < 0 < high
      outer = np.array([[low + 0.5], [high - 0.5], [low - 0.5], [high + 0.5]]) + medians
      below = prior.noisy.base.cdf(outer.astype(np.float32)).numpy()[:, channel]
      above = prior.noisy.base.survival_function(outer.astype(np.float32)).numpy()[:, channel]
      assert min(below[0], above[1]) > 1e-9
      assert max(below[2], above[3]) <= 1e-9

  def test_a_prior_narrower_than_an_integer_has_an_alphabet_around_its_median(self):
    prior = factorized.FactorizedPrior(2)
    for weight in prior.trainable_weights:
      if "matrix" in weight.name:
        weight.assign(tf.fill(weight.shape, 40.0))
    medians = np.rint(prior.medians().numpy() * 64) / 64
    made = calibration_tables.assemble(calibration_tables.factorized_alphabets(prior, medians))
    _check_is_whole(made)
    for alphabet, counts in _rows(made):
      assert alphabet.min() <= 0 <= alphabet.max()
      assert counts[alphabet == 0] > 65000


class TestArrays:
  def test_give_back_the_same_tables(self, gaussians):
    again = tables_lib.Tables.from_arrays(gaussians.to_arrays())
    for name, value in gaussians._asdict().items():
      np.testing.assert_array_equal(getattr(again, name), value)
