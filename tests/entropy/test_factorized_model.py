"""The factorized prior as the whole entropy model, in floats."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from khuvcm_tf import codecs
from khuvcm_tf.entropy import factorized
from tests.entropy import factorized_models
from tests.entropy.factorized_models import DEPTH, MEDIANS


class TestFactorizedModel:
  @pytest.mark.parametrize("stored", [False, True])
  def test_has_the_bits_of_the_prior_at_rounded_values(self, stored):
    model = factorized_models.create(stored_medians=stored, prior_layers=4 if stored else 2)
    y, medians = factorized_models.around_medians(model).numpy(), model.prior.medians().numpy()
    y_hat, bits = model.element_bits(y)
    expected = np.rint(y - medians) + medians
    np.testing.assert_array_equal(y_hat, expected)
    assert bits.keys() == {"y"}
    # Differences of the CDF over a unit around the rounded values.
    above, below = (model.prior.noisy.base.cdf(expected + d).numpy() for d in (0.5, -0.5))
    np.testing.assert_allclose(2.0 ** -bits["y"].numpy(), above - below, rtol=1e-3, atol=1e-6)

  def test_sums_the_bits_of_each_image(self):
    model = factorized_models.create()
    y = tf.concat([factorized_models.around_medians(model, seed=seed) for seed in range(3)], axis=0)
    _, bits = model.element_bits(y)
    _, summed = model(y)
    np.testing.assert_allclose(summed["y"], np.sum(bits["y"], axis=(1, 2, 3)), rtol=1e-5)

  def test_has_no_side_information(self):
    model = factorized_models.create()
    assert model.side_information(factorized_models.around_medians(model)) is None
    assert (model.stride, model.substreams, model.networks.keys()) == (1, ("y",), {"prior"})

  @pytest.mark.parametrize("mode", ["noise", "mixed"])
  def test_training_has_the_rate_of_uniform_noise_which_the_synthesis_receives_by_mode(self, mode):
    model = factorized_models.create(mode)
    y = factorized_models.around_medians(model, 64, 64)
    state = tf.Variable(model.noise.state)
    y_hat, bits = model.element_bits(y, training=True)
    model.noise.reset(state)
    noise = model.noise.uniform(tf.shape(y), -0.5, 0.5).numpy()
    assert -0.5 <= noise.min() < -0.499 and 0.499 < noise.max() <= 0.5
    np.testing.assert_allclose(bits["y"], model.prior.bits(y + noise), rtol=1e-5)
    medians = model.prior.medians()
    rounded = np.rint(y - medians) + medians.numpy()
    np.testing.assert_array_equal(y_hat, y + noise if mode == "noise" else rounded)
    # No two draws are alike.
    assert np.any(model.element_bits(y, training=True)[1]["y"] != bits["y"])

  def test_training_passes_gradients_to_latents_and_densities(self):
    model = factorized_models.create(stored_medians=True)
    y = factorized_models.around_medians(model)
    with tf.GradientTape() as tape:
      tape.watch(y)
      y_hat, bits = model(y, training=True)
      total = tf.reduce_sum(bits["y"]) + tf.reduce_sum(y_hat)
    weights = [y, *model.trainable_weights]
    assert len(weights) > 5
    for gradient in tape.gradient(total, weights):
      assert np.isfinite(gradient).all() and np.any(gradient)


class TestStoredMedians:
  def test_are_what_values_are_rounded_around(self):
    model = factorized_models.create(stored_medians=True)
    np.testing.assert_array_equal(model.prior.medians(), MEDIANS)
    # The densities have others, a fifth higher.
    stored, model.prior.stored = model.prior.stored, None
    np.testing.assert_allclose(model.prior.medians(), MEDIANS + 0.2, atol=2e-3)
    model.prior.stored = stored
    y = tf.constant(np.tile(MEDIANS + np.float32(0.375), (1, 1, 2, 1)))
    np.testing.assert_array_equal(model.element_bits(y)[0], np.tile(MEDIANS, (1, 1, 2, 1)))

  def test_are_0_at_first_and_stay_as_they_are_in_training(self):
    prior = factorized.FactorizedPrior(3, stored_medians=True)
    np.testing.assert_array_equal(prior.medians(), np.zeros(3))
    assert all(weight is not prior.stored for weight in prior.trainable_weights)
    assert any(weight is prior.stored for weight in prior.weights)
    assert any(weight is prior.stored for weight in prior.non_trainable_weights)

  @pytest.mark.parametrize("stored", [False, True])
  def test_are_a_named_weight_of_a_codec_that_has_them(self, stored):
    codec = codecs.create(
      "bmshj2018_factorized", num_filters=2, latent_depth=3, stored_medians=stored
    )
    weights = codec.named_weights()
    assert ("prior/medians" in weights) == stored
    if stored:
      assert weights["prior/medians"].shape == (3,)
      codec.assign_weights(
        {name: weight.numpy() for name, weight in weights.items()}
        | {"prior/medians": np.array([1.5, -2.0, 3.25])}
      )
      medians = codec.branches[0].entropy_model.prior.medians()
      np.testing.assert_array_equal(medians, [1.5, -2.0, 3.25])


@pytest.mark.parametrize("hidden", [1, 2, 4])
class TestHiddenLayers:
  def test_are_3_wide_with_matrices_between_them(self, hidden):
    prior = factorized.FactorizedPrior(6, hidden_layers=hidden)
    shapes = {weight.name.split("/")[-1].split(":")[0]: weight.shape for weight in prior.weights}
    widths = [1] + [3] * hidden + [1]
    expected = {}
    for i, (inputs, outputs) in enumerate(zip(widths, widths[1:])):
      expected[f"matrix_{i}"] = (6, outputs, inputs)
      expected[f"bias_{i}"] = (6, outputs, 1)
      if i < hidden:
        expected[f"factor_{i}"] = (6, outputs, 1)
    assert shapes == expected

  def test_give_a_cdf_that_rises_from_0_to_1(self, hidden):
    prior = factorized_models.create(prior_layers=hidden).prior
    x = np.linspace(-3000, 3000, 6001, dtype=np.float32)[:, np.newaxis] + np.zeros(DEPTH)
    found = prior.noisy.base.cdf(tf.constant(x, tf.float32)).numpy()
    assert np.diff(found, axis=0).min() > -1e-6  # but for what float32 rounds
    assert found.min() >= 0 and found.max() <= 1
    assert found[0].max() < 1e-3 and found[-1].min() > 1 - 1e-3
    np.testing.assert_allclose(found, _plain_cdf(prior, x), atol=1e-5)


def _plain_cdf(prior, x):
  """The paper's formula (appendix 6.1), float64: x [n, C] -> [n, C]."""
  weights = {
    weight.name.split("/")[-1].split(":")[0]: weight.numpy().astype(np.float64)
    for weight in prior.weights
  }
  found = np.zeros(x.shape)
  for channel in range(x.shape[1]):
    values = x[np.newaxis, :, channel].astype(np.float64)
    for i in range(sum(name.startswith("matrix") for name in weights)):
      matrix = np.log1p(np.exp(weights[f"matrix_{i}"][channel]))
      values = matrix @ values + weights[f"bias_{i}"][channel]
      if f"factor_{i}" in weights:
        values = values + np.tanh(weights[f"factor_{i}"][channel]) * np.tanh(values)
    found[:, channel] = 1 / (1 + np.exp(-np.clip(values[0], -700, 700)))
  return found
