"""The integer hyperprior against its float twin, and its parts against one another."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from khuvcm_tf import codecs
from khuvcm_tf.entropy import exact, gaussian, integer_coder, integer_hyperprior, range_coder
from khuvcm_tf.entropy import tables as tables_lib

_LIMIT = 0.01


def _with_spread_weights(floats):
  """Makes h_s tell scales from 0.1 to 40 and means of several units, as a trained one does."""
  rng = np.random.default_rng(6)
  for weight in floats.h_s.trainable_weights:
    if "kernel" in weight.name:
      weight.assign_add(rng.normal(scale=0.15, size=weight.shape))
  return floats


def _latents(floats, seed):
  """Returns y whose values follow what h_s tells of a z drawn at random, and that z."""
  rng = np.random.default_rng(seed)
  z_hat = np.rint(rng.normal(scale=2, size=(1, 3, 2, floats.hyper_depth)))
  z_hat = (z_hat + floats.prior.medians()).numpy().astype(np.float32)
  mean, index = floats.parameters(z_hat)
  scale = gaussian.MIN_SCALE * np.exp(gaussian.LOG_STEP * np.asarray(index))
  y = np.asarray(mean) + scale * rng.normal(size=scale.shape)
  z = z_hat + rng.uniform(-0.4, 0.4, z_hat.shape)
  return tf.constant(y, tf.float32), tf.constant(z, tf.float32)


class _Pair:
  """A float hyperprior and its conversion, with latents on which it was calibrated."""

  def __init__(self, name):
    tf.keras.utils.set_random_seed(1)
    codec = codecs.create(name, num_filters=8, latent_depth=12)
    self.floats = _with_spread_weights(codec.branches[0].latent_coder)
    pairs = [_latents(self.floats, seed) for seed in range(2)]
    # These z stand for what h_a would tell.
    known = {y.ref(): z for y, z in pairs}
    self.floats.side_information = lambda y: known[y.ref()]
    self.conversion = exact.convert(self.floats, [y for y, _ in pairs], _LIMIT)
    self.coder = self.conversion.coder
    self.y, self.z = pairs[0]
    self.floats.side_information = lambda y: self.z


@pytest.fixture(scope="module", autouse=True)
def eagerly():
  """Runs the measurements of a conversion as they stand: tracing each width takes seconds."""
  tf.config.run_functions_eagerly(True)
  yield
  tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module", params=["bmshj2018", "mbt2018_mean"])
def pair(request):
  return _Pair(request.param)


def _told(pair):
  """Returns symbols of z, means, rows, and symbols of y."""
  z = pair.coder.symbols_of_z(pair.z)
  mean, rows = pair.coder.parameters(z)
  return z, mean, rows, pair.coder.symbols_of_y(pair.y, mean)


class TestParameters:
  def test_are_the_float_ones_rounded(self, pair):
    z, mean, rows, _ = _told(pair)
    medians = pair.coder.medians / tables_lib.UNITS
    float_mean, float_index = pair.floats.parameters(z.numpy() + medians.astype(np.float32))
    index = rows.numpy() - 1 - pair.floats.hyper_depth
    assert np.ptp(index) > 15
    assert np.abs(index - float_index).max() < 1.5
    assert np.abs(np.mean(index - float_index)) < 0.1
    difference = mean.numpy() / tables_lib.UNITS - float_mean
    if pair.floats.means:
      assert np.ptp(mean) > 2 * tables_lib.UNITS
    else:
      assert not np.any(mean)
    assert np.abs(difference).max() < 0.1

  def test_are_rows_of_scales_whatever_z(self, pair):
    z = np.full((1, 1, 1, 8), 2**16, np.int32) * np.array([1, -1] * 4, np.int32)
    _, rows = pair.coder.parameters(z)
    first = 1 + pair.floats.hyper_depth
    assert first <= np.min(rows) <= np.max(rows) < first + gaussian.NUM_SCALES

  def test_tell_latents_within_half_of_y(self, pair):
    _, mean, _, y = _told(pair)
    y_hat = pair.coder.latents(y, mean).numpy()
    assert np.abs(y_hat - pair.y).max() <= 0.5 + 1e-5
    # Exact: multiples of 1/64.
    np.testing.assert_array_equal(y_hat * 64, y.numpy() * 64 + mean.numpy())


def _written(pair, rows, symbols):
  """Returns the bytes of symbols, each by its row of the tables."""
  coder = range_coder.TableCoder(pair.coder.tables)
  writer = coder.writer()
  flat = (tf.constant(np.ravel(each), tf.int32) for each in (symbols, rows))
  state, _ = coder.code(writer, writer.open(), *flat)
  return writer.close(state).numpy()


class TestCoding:
  def test_writes_symbols_by_the_rows_of_their_channels_and_scales(self, pair):
    z, _, rows, y = _told(pair)
    rows_of_z = np.broadcast_to(1 + np.arange(8), z.shape)
    expected = [_written(pair, rows_of_z, z), _written(pair, rows, y)]
    assert list(pair.coder.encode(pair.y, pair.z).numpy()) == expected

  def test_gives_back_symbols_and_latents(self, pair):
    z, mean, _, y = _told(pair)
    found = pair.coder.decode(pair.coder.encode(pair.y, pair.z), *pair.y.shape[1:3])
    np.testing.assert_array_equal(found.z, z)
    np.testing.assert_array_equal(found.y_hat, pair.coder.latents(y, mean))
    assert found.exact

  @pytest.mark.parametrize("substream", [0, 1])
  def test_finds_bytes_left_over_in_either_substream(self, pair, substream):
    z, mean, _, y = _told(pair)
    substreams = pair.coder.encode(pair.y, pair.z).numpy()
    substreams[substream] += b"\x01"
    found = pair.coder.decode(tf.constant(substreams), *pair.y.shape[1:3])
    np.testing.assert_array_equal(found.z, z)
    np.testing.assert_array_equal(found.y_hat, pair.coder.latents(y, mean))
    assert not found.exact

  def test_takes_the_estimated_bits(self, pair):
    substreams = pair.coder.encode(pair.y, pair.z).numpy()
    estimates = pair.coder.estimate(pair.y, pair.z)
    for data, name in zip(substreams, pair.coder.substreams):
      assert len(data) * 8 == pytest.approx(float(estimates[name]), abs=24)

  def test_gives_back_values_far_beyond_the_tables(self, pair):
    y = pair.y + tf.constant(np.resize([0, 3000, 0, 0, -3000], pair.y.shape), tf.float32)
    _, mean, _, _ = _told(pair)
    symbols = pair.coder.symbols_of_y(y, mean)
    assert np.max(np.abs(symbols)) > 2900
    found = pair.coder.decode(pair.coder.encode(y, pair.z), y.shape[1], y.shape[2])
    np.testing.assert_array_equal(found.y_hat, pair.coder.latents(symbols, mean))

  @pytest.mark.parametrize("value", [1e5, -1e9, np.inf])
  def test_refuses_values_beyond_what_escapes_reach(self, pair, value):
    y = pair.y + tf.constant(np.resize([0, 0, value], pair.y.shape), tf.float32)
    for use in (pair.coder.encode, pair.coder.estimate):
      with pytest.raises(tf.errors.InvalidArgumentError, match="a latent lies"):
        use(y, pair.z)


class TestTwins:
  def test_integers_cost_what_floats_cost_within_a_percent(self, pair):
    """Evaluation's float bits, with values rounded, against the estimate of the tables."""
    _, bits = pair.floats(pair.y)
    estimates = pair.coder.estimate(pair.y, pair.z)
    for name, value in estimates.items():
      assert float(value) == pytest.approx(float(bits[name][0]), rel=0.01)
    assert pair.conversion.loss < _LIMIT

  def test_training_counts_about_what_rounding_costs(self, pair):
    """Noise counts another point of each latent's unit interval: within a tenth on average."""
    total = [
      sum(float(value[0]) for value in pair.floats(pair.y, training=True)[1].values())
      for _ in range(8)
    ]
    real = sum(float(value) for value in pair.coder.estimate(pair.y, pair.z).values())
    assert np.mean(total) == pytest.approx(real, rel=0.1)
    # It is noise: no two draws are alike.
    assert len(set(total)) == len(total)


class TestKnownAnswer:
  def test_raises_where_arithmetic_gives_another(self, pair):
    state = pair.coder.state()
    integer_hyperprior.IntegerHyperprior.from_state(state).check_arithmetic()
    state["known_answer"] = state["known_answer"] ^ 1
    with pytest.raises(
      integer_coder.InexactArithmetic,
      match=(
        r"matrix products are not exact: .* checksum is [0-9a-f]{8}, expected [0-9a-f]{8}; "
        "unset .*ONEDNN_DEFAULT_FPMATH_MODE.*, or use another machine"
      ),
    ):
      integer_hyperprior.IntegerHyperprior.from_state(state).check_arithmetic()

  def test_changes_with_one_weight_of_each_layer(self, pair):
    for layer in range(3):
      state = pair.coder.state()
      bias = state[f"network/{layer}/bias"].copy()
      # Half the step of an output, and a whole one in the last layer.
      bias += 2 ** state[f"network/{layer}/shift"]
      state[f"network/{layer}/bias"] = bias
      changed = integer_hyperprior.IntegerHyperprior.from_state(state)
      assert changed.answer() != pair.coder.known_answer


class TestState:
  def test_gives_back_a_coder_of_the_same_bytes(self, pair):
    again = exact.from_state(pair.floats, pair.coder.state())
    assert isinstance(again, integer_hyperprior.IntegerHyperprior)
    np.testing.assert_array_equal(again.encode(pair.y, pair.z), pair.coder.encode(pair.y, pair.z))
    assert again.means == pair.floats.means
    for name, value in again.state().items():
      np.testing.assert_array_equal(value, pair.coder.state()[name])

  def test_is_of_integers_alone(self, pair):
    assert {value.dtype.kind for value in pair.coder.state().values()} <= {"i", "b"}


class TestConversion:
  def test_raises_where_integers_cost_more_than_allowed(self, pair):
    with pytest.raises(ValueError, match=r"integers cost .* more bits than floats, .* -50.00%"):
      integer_hyperprior.convert(pair.floats, [pair.y], -0.5)
