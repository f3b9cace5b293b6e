"""The integer hyperprior against its float counterpart, and its parts against one another."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from khuvcm_tf import codecs
from khuvcm_tf.entropy import calibration, gaussian
from khuvcm_tf.entropy.integer import entropy_model as integer_entropy_model
from khuvcm_tf.entropy.integer import hyperprior as integer_hyperprior
from khuvcm_tf.entropy.integer import range_coder
from khuvcm_tf.entropy.integer import tables as tables_lib

_MAX_LOSS = 0.01


def _with_spread_weights(floats):
  """Makes h_s predict scales from 0.1 to 40 and means of several units, as a trained one does."""
  rng = np.random.default_rng(6)
  for weight in floats.h_s.trainable_weights:
    if "kernel" in weight.name:
      weight.assign_add(rng.normal(scale=0.15, size=weight.shape))
  return floats


def _latents(floats, seed):
  """Returns y drawn from what h_s predicts for a random z, and that z."""
  rng = np.random.default_rng(seed)
  z_hat = np.rint(rng.normal(scale=2, size=(1, 3, 2, floats.hyper_depth)))
  z_hat = (z_hat + floats.prior.medians()).numpy().astype(np.float32)
  mean, log_scale = floats.predicted(z_hat)
  scale = gaussian.MIN_SCALE * np.exp(gaussian.LOG_STEP * gaussian.index_of(log_scale).numpy())
  y = np.asarray(mean) + scale * rng.normal(size=scale.shape)
  z = z_hat + rng.uniform(-0.4, 0.4, z_hat.shape)
  return tf.constant(y, tf.float32), tf.constant(z, tf.float32)


class _Pair:
  """A float hyperprior and its conversion, with latents on which it was calibrated."""

  def __init__(self, name):
    tf.keras.utils.set_random_seed(1)
    codec = codecs.create(name, num_filters=8, latent_depth=12)
    self.floats = _with_spread_weights(codec.branches[0].entropy_model)
    pairs = [_latents(self.floats, seed) for seed in range(2)]
    # In place of what h_a would compute.
    z_of = {y.ref(): z for y, z in pairs}
    self.floats.side_information = lambda y: z_of[y.ref()]
    self.conversion = calibration.convert(self.floats, [y for y, _ in pairs], _MAX_LOSS)
    self.integers = self.conversion.model
    self.y, self.z = pairs[0]
    self.floats.side_information = lambda y: self.z


@pytest.fixture(scope="module", autouse=True)
def eagerly():
  """Runs the estimates of a conversion eagerly: tracing one for each width takes seconds."""
  tf.config.run_functions_eagerly(True)
  yield
  tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module", params=["bmshj2018", "mbt2018_mean"])
def pair(request):
  return _Pair(request.param)


def _coded(pair):
  """Returns symbols of z, means, rows, and symbols of y."""
  z = pair.integers.symbols_of_z(pair.z)
  mean, rows = pair.integers.parameters(z)
  return z, mean, rows, pair.integers.symbols_of_y(pair.y, mean)


class TestParameters:
  def test_are_the_float_ones_rounded(self, pair):
    z, mean, rows, _ = _coded(pair)
    medians = pair.integers.medians / tables_lib.SCALE
    float_mean, log_scale = pair.floats.predicted(z.numpy() + medians.astype(np.float32))
    float_index = gaussian.index_of(log_scale)
    index = rows.numpy() - 1 - pair.floats.hyper_depth
    assert np.ptp(index) > 15
    assert np.abs(index - float_index).max() < 1.5
    assert np.abs(np.mean(index - float_index)) < 0.1
    difference = mean.numpy() / tables_lib.SCALE - float_mean
    if pair.floats.has_means:
      assert np.ptp(mean) > 2 * tables_lib.SCALE
    else:
      assert not np.any(mean)
    assert np.abs(difference).max() < 0.1

  def test_are_rows_of_scales_whatever_z(self, pair):
    z = np.full((1, 1, 1, 8), 2**16, np.int32) * np.array([1, -1] * 4, np.int32)
    _, rows = pair.integers.parameters(z)
    first = 1 + pair.floats.hyper_depth
    assert first <= np.min(rows) <= np.max(rows) < first + gaussian.NUM_SCALES

  def test_give_latents_within_half_of_y(self, pair):
    _, mean, _, y = _coded(pair)
    y_hat = pair.integers.latents(y, mean).numpy()
    assert np.abs(y_hat - pair.y).max() <= 0.5 + 1e-5
    # Exact: multiples of 1/64.
    np.testing.assert_array_equal(y_hat * 64, y.numpy() * 64 + mean.numpy())


def _encoded(pair, rows, symbols):
  """Returns the bytes of symbols, each by its row of the tables."""
  coder = range_coder.TableCoder(pair.integers.tables)
  encoder = coder.encoder()
  flat = (tf.constant(np.ravel(each), tf.int32) for each in (symbols, rows))
  state, _ = coder.code(encoder, encoder.init(), *flat)
  return encoder.finalize(state).numpy()


class TestCoding:
  def test_writes_symbols_by_the_rows_of_their_channels_and_scales(self, pair):
    z, _, rows, y = _coded(pair)
    rows_of_z = np.broadcast_to(1 + np.arange(8), z.shape)
    expected = [_encoded(pair, rows_of_z, z), _encoded(pair, rows, y)]
    assert list(pair.integers.encode(pair.y, pair.z).numpy()) == expected

  def test_gives_back_symbols_and_latents(self, pair):
    z, mean, _, y = _coded(pair)
    found = pair.integers.decode(pair.integers.encode(pair.y, pair.z), *pair.y.shape[1:3])
    np.testing.assert_array_equal(found.z, z)
    np.testing.assert_array_equal(found.y_hat, pair.integers.latents(y, mean))
    assert found.exact

  @pytest.mark.parametrize("substream", [0, 1])
  def test_finds_bytes_left_over_in_either_substream(self, pair, substream):
    z, mean, _, y = _coded(pair)
    substreams = pair.integers.encode(pair.y, pair.z).numpy()
    substreams[substream] += b"\x01"
    found = pair.integers.decode(tf.constant(substreams), *pair.y.shape[1:3])
    np.testing.assert_array_equal(found.z, z)
    np.testing.assert_array_equal(found.y_hat, pair.integers.latents(y, mean))
    assert not found.exact

  def test_takes_the_estimated_bits(self, pair):
    substreams = pair.integers.encode(pair.y, pair.z).numpy()
    estimates = pair.integers.estimate(pair.y, pair.z)
    for data, name in zip(substreams, pair.integers.substreams):
      assert len(data) * 8 == pytest.approx(float(estimates[name]), abs=24)

  def test_gives_back_values_far_beyond_the_tables(self, pair):
    y = pair.y + tf.constant(np.resize([0, 3000, 0, 0, -3000], pair.y.shape), tf.float32)
    _, mean, _, _ = _coded(pair)
    symbols = pair.integers.symbols_of_y(y, mean)
    assert np.max(np.abs(symbols)) > 2900
    found = pair.integers.decode(pair.integers.encode(y, pair.z), y.shape[1], y.shape[2])
    np.testing.assert_array_equal(found.y_hat, pair.integers.latents(symbols, mean))

  @pytest.mark.parametrize("value", [1e5, -1e9, np.inf])
  def test_refuses_values_beyond_what_escapes_can_code(self, pair, value):
    y = pair.y + tf.constant(np.resize([0, 0, value], pair.y.shape), tf.float32)
    for use in (pair.integers.encode, pair.integers.estimate):
      with pytest.raises(tf.errors.InvalidArgumentError, match="a latent lies"):
        use(y, pair.z)


class TestShifts:
  """Of rates around a model's own."""

  @pytest.fixture
  def shifting(self, pair):
    return pair.integers.with_shifts()

  def test_the_own_rate_is_that_of_the_model(self, pair, shifting):
    own = shifting.shifted(tf.constant(0))
    for found, expected in zip(own.encode(pair.y, pair.z), pair.integers.encode(pair.y, pair.z)):
      assert found == expected

  @pytest.mark.parametrize("shift", [-6, -1, 3, 6])
  def test_latents_lie_within_half_a_step_and_come_back_exactly(self, pair, shifting, shift):
    model = shifting.shifted(tf.constant(shift))
    z = pair.integers.symbols_of_z(pair.z)
    mean, rows = model.parameters(z)
    y_hat = model.y_hat(pair.y, pair.z).numpy()
    step = np.exp(-gaussian.LOG_STEP * shift)
    assert np.abs(y_hat - pair.y).max() <= 0.5 * step * 1.001
    distances = (y_hat - mean.numpy() / tables_lib.SCALE) * 1024
    np.testing.assert_array_equal(distances, np.rint(distances))
    decoded = model.decode(model.encode(pair.y, pair.z), *pair.y.shape[1:3])
    np.testing.assert_array_equal(decoded.y_hat, y_hat)
    assert decoded.exact
    _, own_rows = pair.integers.parameters(z)
    first = 1 + pair.floats.hyper_depth
    own = own_rows.numpy() - first
    moved = np.clip(own + shift, 0, gaussian.NUM_SCALES - 1)
    is_inside = (own > 0) & (own < gaussian.NUM_SCALES - 1)  # others may lie beyond the table
    np.testing.assert_array_equal((rows.numpy() - first)[is_inside], moved[is_inside])
    assert is_inside.mean() > 0.5

  def test_cost_what_a_gaussian_of_the_new_scale_costs(self, pair, shifting):
    """Entropy grows by the logarithm of the step's change, where scales exceed the step."""
    _, rows = pair.integers.parameters(pair.integers.symbols_of_z(pair.z))
    scales = gaussian.scale_table()[rows.numpy() - 1 - pair.floats.hyper_depth]
    bits = [
      float(shifting.shifted(tf.constant(shift)).estimate(pair.y, pair.z)["y"]) for shift in (0, 6)
    ]
    gained = 6 * gaussian.LOG_STEP / np.log(2)
    assert gained * np.mean(scales > 2) * scales.size * 0.9 < bits[1] - bits[0]
    assert bits[1] - bits[0] < gained * scales.size * 1.1

  def test_are_kept_by_arrays(self, pair, shifting):
    again = integer_hyperprior.IntegerHyperprior.from_arrays(shifting.to_arrays())
    assert again.max_shift == integer_hyperprior.MAX_SHIFT
    assert "max_shift" not in pair.integers.to_arrays()
    with pytest.raises(ValueError, match="`max_shift` is 7"):
      integer_hyperprior.IntegerHyperprior.from_arrays(
        {**shifting.to_arrays(), "max_shift": np.array(7)}
      )


class TestBits:
  def test_integers_cost_what_floats_cost_within_a_percent(self, pair):
    """Evaluation's float bits, with values rounded, against the estimate of the tables."""
    _, bits = pair.floats(pair.y)
    estimates = pair.integers.estimate(pair.y, pair.z)
    for name, value in estimates.items():
      assert float(value) == pytest.approx(float(bits[name][0]), rel=0.01)
    assert pair.conversion.loss < _MAX_LOSS

  def test_training_has_about_the_rate_of_rounded_latents(self, pair):
    """Noise takes another point of each latent's unit interval: within a tenth on average."""
    total = [
      sum(float(value[0]) for value in pair.floats(pair.y, training=True)[1].values())
      for _ in range(8)
    ]
    real = sum(float(value) for value in pair.integers.estimate(pair.y, pair.z).values())
    assert np.mean(total) == pytest.approx(real, rel=0.1)
    # It is noise: no two draws are alike.
    assert len(set(total)) == len(total)


class TestSelfTest:
  def test_raises_where_arithmetic_gives_another(self, pair):
    arrays = pair.integers.to_arrays()
    integer_hyperprior.IntegerHyperprior.from_arrays(arrays).check_arithmetic()
    arrays["known_answer"] = arrays["known_answer"] ^ 1
    with pytest.raises(
      integer_entropy_model.InexactArithmetic,
      match=(
        r"matrix products are not exact: .* checksum is [0-9a-f]{8}, expected [0-9a-f]{8}; "
        "unset .*ONEDNN_DEFAULT_FPMATH_MODE.*, or use another machine"
      ),
    ):
      integer_hyperprior.IntegerHyperprior.from_arrays(arrays).check_arithmetic()

  def test_changes_with_one_weight_of_each_layer(self, pair):
    for layer in range(3):
      arrays = pair.integers.to_arrays()
      bias = arrays[f"network/{layer}/bias"].copy()
      # Half the step of an output, and a whole one in the last layer.
      bias += 2 ** arrays[f"network/{layer}/shift"]
      arrays[f"network/{layer}/bias"] = bias
      changed = integer_hyperprior.IntegerHyperprior.from_arrays(arrays)
      assert changed.self_test() != pair.integers.self_test()


class TestArrays:
  def test_give_back_a_model_of_the_same_bytes(self, pair):
    again = pair.floats.integer_class.from_arrays(pair.integers.to_arrays())
    assert isinstance(again, integer_hyperprior.IntegerHyperprior)
    np.testing.assert_array_equal(
      again.encode(pair.y, pair.z), pair.integers.encode(pair.y, pair.z)
    )
    assert again.means == pair.floats.has_means
    for name, value in again.to_arrays().items():
      np.testing.assert_array_equal(value, pair.integers.to_arrays()[name])

  def test_are_integers_alone(self, pair):
    assert {value.dtype.kind for value in pair.integers.to_arrays().values()} <= {"i", "b"}


class TestConversion:
  def test_raises_where_integers_cost_more_than_allowed(self, pair):
    with pytest.raises(ValueError, match=r"integers cost .* more bits than floats, .* -50.00%"):
      calibration.convert(pair.floats, [pair.y], -0.5)
