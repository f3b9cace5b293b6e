"""The factorized prior as the whole entropy model: in floats, and the files of its integer twin."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from khuvcm_tf import codecs, coding, model_files
from khuvcm_tf.entropy import (
  exact,
  factorized,
  factorized_coder,
  integer_coder,
  integer_factorized,
  latent_coder,
  range_coder,
)

_DEPTH = 5
_MEDIANS = np.array([0.0, 0.25, -3.5, 7.40625, -100.0], np.float32)  # whole numbers of 1/64


def _coder(mode="noise", **form):
  """A coder whose densities have moved apart, as training would move them."""
  tf.keras.utils.set_random_seed(11)
  coder = factorized_coder.FactorizedCoder(_DEPTH, mode, latent_coder.Form(**form))
  rng = np.random.default_rng(4)
  for weight in coder.prior.trainable_weights:
    weight.assign_add(rng.normal(scale=0.4, size=weight.shape))
  if coder.prior.stored is not None:
    _move_medians(coder.prior, _MEDIANS)
    coder.prior.stored.assign(_MEDIANS)
  return coder


def _move_medians(prior, medians):
  """Shifts each density so that its own median lies near a given one, a fifth above it."""
  weights = {weight.name.split("/")[-1].split(":")[0]: weight for weight in prior.weights}
  stored, prior.stored = prior.stored, None
  shift = medians + 0.2 - prior.medians().numpy()
  prior.stored = stored
  matrix = np.log1p(np.exp(weights["matrix_0"].numpy()))[:, :, 0]
  weights["bias_0"].assign_sub((matrix * shift[:, np.newaxis])[..., np.newaxis])


def _latents(coder, height=4, width=3, seed=0, spread=4.0):
  rng = np.random.default_rng(seed)
  noise = rng.normal(scale=spread, size=(1, height, width, _DEPTH))
  return tf.constant(coder.prior.medians().numpy() + noise, tf.float32)


class TestFactorizedCoder:
  @pytest.mark.parametrize("stored", [False, True])
  def test_counts_the_bits_of_the_prior_at_rounded_values(self, stored):
    coder = _coder(stored_medians=stored, prior_layers=4 if stored else 2)
    y, medians = _latents(coder).numpy(), coder.prior.medians().numpy()
    y_hat, bits = coder.element_bits(y)
    expected = np.rint(y - medians) + medians
    np.testing.assert_array_equal(y_hat, expected)
    assert bits.keys() == {"y"}
    # Masses of whole steps of the distribution around the rounded values.
    above, below = (coder.prior.noisy.base.cdf(expected + d).numpy() for d in (0.5, -0.5))
    np.testing.assert_allclose(2.0 ** -bits["y"].numpy(), above - below, rtol=1e-3, atol=1e-6)

  def test_sums_the_bits_of_each_picture(self):
    coder = _coder()
    y = tf.concat([_latents(coder, seed=seed) for seed in range(3)], axis=0)
    _, bits = coder.element_bits(y)
    _, summed = coder(y)
    np.testing.assert_allclose(summed["y"], np.sum(bits["y"], axis=(1, 2, 3)), rtol=1e-5)

  def test_has_no_side_information(self):
    coder = _coder()
    assert coder.side_information(_latents(coder)) is None
    assert (coder.stride, coder.substreams, coder.networks.keys()) == (1, ("y",), {"prior"})

  @pytest.mark.parametrize("mode", ["noise", "mixed"])
  def test_training_counts_uniform_noise_and_shows_it_to_the_decoder_by_its_mode(self, mode):
    coder = _coder(mode)
    y = _latents(coder, 64, 64)
    state = tf.Variable(coder.noise.state)
    y_hat, bits = coder.element_bits(y, training=True)
    coder.noise.reset(state)
    noise = coder.noise.uniform(tf.shape(y), -0.5, 0.5).numpy()
    assert -0.5 <= noise.min() < -0.499 and 0.499 < noise.max() <= 0.5
    np.testing.assert_allclose(bits["y"], coder.prior.bits(y + noise), rtol=1e-5)
    medians = coder.prior.medians()
    rounded = np.rint(y - medians) + medians.numpy()
    np.testing.assert_array_equal(y_hat, y + noise if mode == "noise" else rounded)
    # No two draws are alike.
    assert np.any(coder.element_bits(y, training=True)[1]["y"] != bits["y"])

  def test_training_passes_gradients_to_latents_and_densities(self):
    coder = _coder(stored_medians=True)
    y = _latents(coder)
    with tf.GradientTape() as tape:
      tape.watch(y)
      y_hat, bits = coder(y, training=True)
      total = tf.reduce_sum(bits["y"]) + tf.reduce_sum(y_hat)
    weights = [y, *coder.trainable_weights]
    assert len(weights) > 5
    for gradient in tape.gradient(total, weights):
      assert np.isfinite(gradient).all() and np.any(gradient)


class TestStoredMedians:
  def test_are_what_values_are_rounded_around(self):
    coder = _coder(stored_medians=True)
    np.testing.assert_array_equal(coder.prior.medians(), _MEDIANS)
    # The densities have others, a fifth higher.
    stored, coder.prior.stored = coder.prior.stored, None
    np.testing.assert_allclose(coder.prior.medians(), _MEDIANS + 0.2, atol=2e-3)
    coder.prior.stored = stored
    y = tf.constant(np.tile(_MEDIANS + np.float32(0.375), (1, 1, 2, 1)))
    np.testing.assert_array_equal(coder.element_bits(y)[0], np.tile(_MEDIANS, (1, 1, 2, 1)))

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
      medians = codec.branches[0].latent_coder.prior.medians()
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

  def test_tell_a_distribution_that_rises_from_0_to_1(self, hidden):
    prior = _coder(prior_layers=hidden).prior
    x = np.linspace(-3000, 3000, 6001, dtype=np.float32)[:, np.newaxis] + np.zeros(_DEPTH)
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


@pytest.fixture(scope="module", params=[False, True], ids=["own medians", "stored medians"])
def pair(request):
  """A float coder and its conversion."""
  floats = _coder(stored_medians=request.param, prior_layers=4)
  tf.config.run_functions_eagerly(True)
  try:
    return floats, exact.convert(floats, [_of_the_prior(floats, seed) for seed in range(2)], 0.01)
  finally:
    tf.config.run_functions_eagerly(False)


def _of_the_prior(floats, seed):
  """Returns latents [1, 24, 24, M] drawn from the densities, by bisection of the distribution."""
  rng = np.random.default_rng(seed)
  chance = rng.uniform(size=(1, 24, 24, _DEPTH))
  low, high = np.full(chance.shape, -4096.0), np.full(chance.shape, 4096.0)
  for _ in range(30):
    middle = (low + high) / 2
    below = floats.prior.noisy.base.cdf(tf.constant(middle, tf.float32)).numpy() < chance
    low, high = np.where(below, middle, low), np.where(below, high, middle)
  return tf.constant(low, tf.float32)


_SIDES = st.integers(1, 4)


class TestIntegerFactorized:
  @given(height=_SIDES, width=_SIDES, data=st.data())
  @settings(max_examples=60, deadline=None)
  def test_gives_back_any_latents_of_any_size(self, pair, height, width, data):
    coder = pair[1].coder
    within = st.integers(-12, 12)
    far = st.sampled_from([-60_000, -5000, -1100, 1100, 5000, 60_000])
    count = height * width * _DEPTH
    drawn = data.draw(st.lists(st.one_of(within, within, far), min_size=count, max_size=count))
    symbols = np.array(drawn, np.int32).reshape(1, height, width, _DEPTH)
    self._check_round_trip(coder, symbols)

  def _check_round_trip(self, coder, symbols):
    medians = coder.medians / 64
    # Off the whole steps, but nearer to them than to others.
    y = tf.constant(symbols + medians + np.resize([0.0, 0.4, -0.4], symbols.shape))
    substreams = coder.encode(y, None)
    assert substreams.shape == (1,)
    found = coder.decode(substreams, *symbols.shape[1:3])
    np.testing.assert_array_equal(found.z, symbols)
    np.testing.assert_array_equal(found.y_hat, symbols + medians)
    np.testing.assert_array_equal(coder.y_hat(tf.cast(y, tf.float32)), found.y_hat)
    assert found.exact

  def test_gives_back_the_farthest_that_escapes_reach(self, pair):
    coder = pair[1].coder
    low, high = (np.array(each[1 : 1 + _DEPTH]) for each in (coder.tables.low, coder.tables.high))
    reach = range_coder.MAX_EXCESS
    self._check_round_trip(coder, np.stack([low - reach, high + reach]).reshape(1, 2, 1, _DEPTH))
    y = coder.latents(tf.constant((high + reach + 1).reshape(1, 1, 1, _DEPTH), tf.int32))
    for use in (coder.encode, coder.estimate):
      with pytest.raises(tf.errors.InvalidArgumentError, match="a latent lies"):
        use(y, None)

  def test_takes_the_estimated_bits(self, pair):
    floats, (coder, _) = pair
    for y in (_of_the_prior(floats, 5), _latents(floats, 9, 8, spread=200.0)):
      (data,) = coder.encode(y, None).numpy()
      (bits,) = coder.estimate(y, None).values()
      assert len(data) * 8 == pytest.approx(float(bits), abs=24)

  def test_costs_what_floats_cost_within_a_percent(self, pair):
    floats, (coder, loss) = pair
    y = _of_the_prior(floats, 6)
    (bits,) = coder.estimate(y, None).values()
    assert float(bits) == pytest.approx(float(floats(y)[1]["y"][0]), rel=0.01)
    assert abs(loss) < 0.01

  def test_rounds_as_its_float_twin_where_medians_are_whole_64ths(self, pair):
    floats, (coder, _) = pair
    if floats.prior.stored is None:
      # Its medians are found by bisection: of those the nearest 64ths are taken.
      np.testing.assert_allclose(coder.medians / 64, floats.prior.medians(), atol=1 / 128 + 1e-6)
      return
    y = _of_the_prior(floats, 7)
    np.testing.assert_array_equal(coder.medians / 64, _MEDIANS)
    np.testing.assert_array_equal(coder.y_hat(y), floats.element_bits(y)[0])

  def test_finds_bytes_left_over(self, pair):
    floats, (coder, _) = pair
    y = _latents(floats)
    (data,) = coder.encode(y, None).numpy()
    found = coder.decode(tf.constant([data + b"\x01"]), *y.shape[1:3])
    np.testing.assert_array_equal(found.y_hat, coder.y_hat(y))
    assert not found.exact

  def test_gives_back_itself_from_its_state(self, pair):
    floats, (coder, _) = pair
    state = coder.state()
    assert {value.dtype.kind for value in state.values()} == {"i"}
    again = exact.from_state(floats, state)
    assert isinstance(again, integer_factorized.IntegerFactorized)
    again.check_arithmetic()
    y = _of_the_prior(floats, 8)
    np.testing.assert_array_equal(again.encode(y, None), coder.encode(y, None))
    assert again.depth == _DEPTH
    assert again.state().keys() == state.keys()
    for name, value in again.state().items():
      np.testing.assert_array_equal(value, state[name])

  def test_knows_its_answer_by_its_medians(self, pair):
    state = pair[1].coder.state()
    state["medians"] = state["medians"] + np.array([0, 0, 0, 0, 1], np.int32)
    with pytest.raises(integer_coder.InexactArithmetic, match="are not exact"):
      integer_factorized.IntegerFactorized.from_state(state).check_arithmetic()


class TestConvert:
  @pytest.fixture(autouse=True)
  def eagerly(self):
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)

  def test_tells_the_loss_of_its_tables_against_floats(self, pair):
    floats, (coder, _) = pair
    latents = [_of_the_prior(floats, 9), _latents(floats, 2, 7)]
    found = integer_factorized.convert(floats, latents, 0.5)
    bits = sum(float(coder.estimate(y, None)["y"]) for y in latents)
    # As a float model counts, but no more than 32 bits for a latent.
    medians = floats.prior.medians().numpy()
    expected = sum(
      np.minimum(floats.prior.bits(np.rint(y - medians) + medians), 32).sum(dtype=np.float64)
      for y in latents
    )
    assert found.loss == pytest.approx(bits / expected - 1, abs=1e-6)

  def test_refuses_a_loss_above_the_limit(self, pair):
    floats, (_, loss) = pair
    latents = [_of_the_prior(floats, seed) for seed in range(2)]
    assert integer_factorized.convert(floats, latents, loss + 1e-9).loss == pytest.approx(loss)
    with pytest.raises(ValueError, match=r"^integers cost .* more bits than floats, .* -50.00%$"):
      integer_factorized.convert(floats, latents, -0.5)


def test_medians_that_no_table_reaches_are_refused_in_one_line(tmp_path):
  codec = codecs.create("bmshj2018_factorized", num_filters=4, latent_depth=4, stored_medians=True)
  coder = codec.branches[0].latent_coder
  for median, text in ((1e9, "a median of the factorized prior is 1e\\+09, expected at most"),):
    coder.prior.stored.assign(tf.fill([4], median))
    with pytest.raises(ValueError, match=text):
      integer_coder.whole_medians(coder.prior)
  # Within that, but so far off that escapes end.
  coder.prior.stored.assign(tf.fill([4], 16_000.0))
  with pytest.raises(coding.ModelError, match="^the model was not converted to integers: "):
    model_files.save(
      str(tmp_path / "m"),
      codec,
      {"codec": "bmshj2018_factorized", "arguments": {}},
      [np.zeros((32, 32, 3), np.uint8)],
    )
