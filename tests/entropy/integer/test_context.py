"""The integer context model against the float one and a plain loop over positions in int64."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from khuvcm_tf import layers
from khuvcm_tf.entropy import calibration, context, gaussian
from khuvcm_tf.entropy.integer import context as integer_context
from khuvcm_tf.entropy.integer import entropy_model as integer_entropy_model
from khuvcm_tf.entropy.integer import mixture_coder
from khuvcm_tf.entropy.integer.tables import SCALE

_MAX_LOSS = 0.01
_DEPTH = 6
_SIZES = [(4, 4), (4, 12), (12, 4), (8, 20)]


@contextlib.contextmanager
def _eagerly():
  """Runs the estimates of a conversion eagerly: tracing one for each width takes seconds."""
  tf.config.run_functions_eagerly(True)
  try:
    yield
  finally:
    tf.config.run_functions_eagerly(False)


def _float_model(num_mixtures):
  """A model whose predictions depend on z and on the positions before, as if trained."""
  tf.keras.utils.set_random_seed(7)
  outputs = (3 if num_mixtures > 1 else 2) * num_mixtures * _DEPTH
  floats = context.ContextModel(
    [layers.conv_down(_DEPTH, 5, 4, name="conv0")],
    [
      layers.conv_up(8, 3, 2, name="conv0"),
      layers.Rectifier(0.2, name="act0"),
      layers.Subpixel(12, 1, 2, name="up1"),
    ],
    [
      layers.conv(20, 1, name="conv0"),
      layers.Rectifier(0.01, name="act0"),
      layers.conv(16, 1, name="conv1"),
      layers.Rectifier(0.01, name="act1"),
      layers.conv(outputs, 1, name="conv2"),
    ],
    latent_depth=_DEPTH,
    hyper_depth=_DEPTH,
    num_mixtures=num_mixtures,
    quantization_mode="mixed",
  )
  rng = np.random.default_rng(6)
  gains = ((floats.h_s, 1.2), (floats.context, 0.5), (floats.entropy_parameters, 1.2))
  for network, gain in gains:
    for weight in network.trainable_weights:
      fan_in = np.prod(weight.shape[:-1]) if "kernel" in weight.name else 4
      weight.assign(rng.normal(scale=gain * fan_in**-0.5, size=weight.shape))
  return floats


def _drawn(floats, seed, height=4, width=12):
  """Returns y drawn position by position from what the model predicts, and z.

  All random numbers are drawn first; then each pass settles one more wavefront.
  """
  rng = np.random.default_rng(seed)
  z_hat = np.rint(rng.normal(scale=2, size=(1, height // 4, width // 4, _DEPTH)))
  z_hat = (z_hat + floats.prior.medians()).numpy().astype(np.float32)
  shape = (1, height, width, _DEPTH)
  normal = rng.normal(size=shape)
  gumbel = rng.gumbel(size=(1, height, width, floats.num_mixtures, _DEPTH))
  y = np.zeros(shape, np.float32)
  for _ in range(width + 3 * (height - 1)):
    weights, *params = floats.predicted(np.rint(y), z_hat)
    chosen = np.argmax(gumbel + (0 if weights is None else weights), axis=3)[:, :, :, np.newaxis]
    mean, index = (np.take_along_axis(part.numpy(), chosen, axis=3)[:, :, :, 0] for part in params)
    scale = gaussian.MIN_SCALE * np.exp(gaussian.LOG_STEP * index)
    y = (mean + scale * normal).astype(np.float32)
  z = z_hat + rng.uniform(-0.4, 0.4, z_hat.shape)
  return tf.constant(y), tf.constant(z, tf.float32)


class _Pair:
  """A float context model and its conversion, with latents on which it was calibrated."""

  def __init__(self, num_mixtures):
    self.floats = _float_model(num_mixtures)
    pairs = [_drawn(self.floats, seed) for seed in range(2)]
    # In place of what h_a would compute.
    z_of = {y.ref(): z for y, z in pairs}
    self.floats.side_information = lambda y: z_of[y.ref()]
    with _eagerly():
      self.conversion = calibration.convert(self.floats, [y for y, _ in pairs], _MAX_LOSS)
    self.integers = self.conversion.model
    self.y, self.z = pairs[0]
    y = tf.TensorSpec((1, None, None, _DEPTH), tf.float32)
    size = tf.TensorSpec((), tf.int32)
    # For any size, as a model's graphs.
    self.encode = tf.function(self.integers.encode, (y, y), autograph=False)
    self.decode = tf.function(
      self.integers.decode, (tf.TensorSpec((2,), tf.string), size, size), autograph=False
    )


@pytest.fixture(scope="module", params=[1, 3])
def pair(request):
  return _Pair(request.param)


def _in_int64(network, x):
  """1x1 layers of a network in int64: integers [I] -> [O]."""
  x = np.clip(x, -network.amax, network.amax).astype(np.int64)
  for layer in network.layers:
    assert layer.kernel.shape[:2] == (1, 1)
    y = (x @ layer.kernel[0, 0].astype(np.int64) + layer.bias.astype(np.int64)) >> layer.shift
    if layer.slope >= 0:
      y = np.maximum(y, (y * layer.slope + 2048) >> 12)
    x = np.clip(y, -layer.limit, layer.limit)
  return x


def _in_raster_order(model, psi, code):
  """Codes positions in raster order, params -> values by `code`; returns both, of all positions."""
  height, width = psi.shape[1:3]
  symbols = np.zeros((height, width, _DEPTH), np.int64)
  params = []
  for row, column in np.ndindex(height, width):
    neighbourhood = []
    for dy, dx in [(dy, dx) for dy in (-2, -1, 0) for dx in range(-2, 3) if (dy, dx) < (0, 0)]:
      r, c = row + dy, column + dx
      inside = r >= 0 and 0 <= c < width
      neighbourhood.append(symbols[r, c] if inside else np.zeros(_DEPTH, np.int64))
    assert len(neighbourhood) == 12
    phi = _in_int64(model.context, np.concatenate(neighbourhood))
    params.append(_in_int64(model.parameters, np.concatenate([phi, psi[0, row, column]])))
    symbols[row, column] = code(params[-1][np.newaxis], row * width + column)[0]
  return symbols, np.reshape(params, (height, width, -1))


def _in_order(model, psi, skew, code):
  """Codes positions by `in_order`; returns the values and the parameters, of all positions."""
  height, width = psi.shape[1:3]
  params_at = np.full((height * width, model.parameters.filters), 2**20)

  def code_positions(state, positions, params):
    # The values to code are here each position's number, M times.
    positions = positions.numpy()[:, 0]
    assert np.all(params_at[positions] == 2**20)
    params_at[positions] = params
    return state + len(positions), tf.constant(code(params.numpy(), positions), tf.int32)

  positions = np.broadcast_to(
    np.arange(height * width).reshape(height, width, 1), (height, width, 6)
  )
  count, found = model.in_order(code_positions, 0, tf.constant(positions, tf.int32), psi, skew)
  assert count == height * width
  return found.numpy(), params_at.reshape(height, width, -1)


def _values_of(params, positions):
  """Returns values, -6 to 6 and a far one, that depend on all parameters and on the position."""
  params = params.astype(np.int64)
  mixed = np.cumsum(params * np.arange(1, params.shape[1] + 1), axis=1)[:, -_DEPTH:]
  values = (mixed // 3 + np.reshape(positions, (-1, 1))) % 13 - 6
  return np.where(mixed % 41 == 0, 3000, values)


class TestOrder:
  # Wavefronts, raster order, and an order between them.
  @pytest.mark.parametrize(
    "size,skews",
    [((4, 4), (3, 4)), ((4, 12), (3, 12)), ((12, 4), (3, 4)), ((8, 20), (3,)), ((5, 9), (3, 5, 9))],
  )
  def test_gives_the_parameters_and_values_of_a_plain_loop_in_int64(self, pair, size, skews):
    rng = np.random.default_rng(3)
    largest = int(pair.integers.hyper.layers[-1].limit)
    psi = rng.integers(-largest, largest + 1, (1, *size, pair.integers.hyper.filters))
    expected, params = _in_raster_order(pair.integers, psi, _values_of)
    psi = tf.constant(psi, tf.int32)
    # Parameters differ from position to position, and values lie on both sides of their clip.
    assert len(np.unique(params.reshape(-1, params.shape[-1]), axis=0)) == size[0] * size[1]
    assert np.any(np.abs(expected) > pair.integers.context.amax.max()) or size == (4, 4)
    for skew in skews:
      found, found_params = _in_order(pair.integers, psi, skew, _values_of)
      np.testing.assert_array_equal(found, expected)
      np.testing.assert_array_equal(found_params, params)


def _params(pair, y, z):
  """Returns the parameters of each position of rounded y, [h, w, 3 K M], by the plain loop."""
  psi = pair.integers.hyper(pair.integers.z_hat(pair.integers.symbols_of_z(z))).numpy()
  symbols = np.rint(y[0].numpy()).astype(np.int64).reshape(-1, _DEPTH)
  return _in_raster_order(pair.integers, psi, lambda _, position: symbols[[position]])[1]


class TestParameters:
  def test_are_the_float_ones_within_a_tenth(self, pair):
    """Means in units, logarithms of weights; scales within a step of the table (13 %)."""
    params = _params(pair, pair.y, pair.z)
    components = pair.floats.num_mixtures
    params = params.reshape(*params.shape[:2], -1, components, _DEPTH)
    z_hat = pair.integers.z_hat(pair.integers.symbols_of_z(pair.z)).numpy() / SCALE
    weights, means, indices = pair.floats.predicted(np.rint(pair.y), z_hat.astype(np.float32))
    assert np.ptp(means) > 3
    assert np.ptp(indices) > 10
    difference = params[:, :, -2] / SCALE - means[0]
    assert np.abs(difference).max() < 0.1
    assert np.abs(np.mean(difference)) < 0.01
    scales = np.clip(params[:, :, -1], 0, mixture_coder.NUM_SCALES - 1) / mixture_coder.SCALE_STEPS
    assert np.abs(scales - indices[0]).max() < 1
    assert np.abs(np.mean(scales - indices[0])) < 0.1
    if components > 1:
      assert np.ptp(weights) > 3
      found = scipy.special.log_softmax(params[:, :, 0] / SCALE, axis=2)
      assert np.abs(found - weights[0]).max() < 0.1

  def test_stay_within_what_the_coder_takes_whatever_the_symbols(self, pair):
    rng = np.random.default_rng(1)
    far = tf.constant(rng.choice([-(2**16), 2**16, 0], (1, 1, 1, _DEPTH)), tf.int32)
    psi = pair.integers.hyper(pair.integers.z_hat(far))
    neighbourhood = rng.choice([-(2**20), 2**20, 0], (1, 4, 4, 12 * _DEPTH))
    params = pair.integers.mixture_parameters(
      pair.integers.context(tf.constant(neighbourhood, tf.int32)), pair.integers.psi_sums(psi)
    )
    assert np.abs(params).max() <= 2**15


class TestCoding:
  @pytest.mark.parametrize("size", _SIZES)
  def test_gives_back_rounded_latents(self, pair, size):
    y, z = _drawn(pair.floats, 5, *size)
    found = pair.decode(pair.encode(y, z), *size)
    np.testing.assert_array_equal(found.y_hat, np.rint(y))
    np.testing.assert_array_equal(found.z, pair.integers.symbols_of_z(z))
    assert found.exact

  @pytest.mark.parametrize("size", [(4, 12), (8, 20)])
  def test_gives_back_values_far_beyond_windows_and_calibration(self, pair, size):
    y, z = _drawn(pair.floats, 6, *size)
    y = y + tf.constant(np.resize([0, 0, 3000, 0, 0, 0, -60_000], y.shape), tf.float32)
    assert np.abs(y).max() > 100 * pair.integers.context.amax.max()
    found = pair.decode(pair.encode(y, z), *size)
    np.testing.assert_array_equal(found.y_hat, np.rint(y))
    assert found.exact

  @pytest.mark.parametrize("value", [1e5, -1e9, np.inf])
  def test_refuses_values_beyond_what_escapes_can_code(self, pair, value):
    y = pair.y + tf.constant(np.resize([0, 0, value], pair.y.shape), tf.float32)
    for use in (pair.encode, pair.integers.estimate):
      with pytest.raises(tf.errors.InvalidArgumentError, match="a latent lies"):
        use(y, pair.z)

  def test_codes_each_position_with_its_parameters(self, pair):
    """All at once, by the plain loop's parameters: the same bits."""
    params = _params(pair, pair.y, pair.z).reshape(-1, pair.integers.parameters.filters)
    coder = pair.integers.y_coder
    counter = coder.bit_counter()
    values = tf.constant(np.rint(pair.y).reshape(-1, _DEPTH), tf.int32)
    bits, _ = coder.code(counter, counter.init(), values, tf.constant(params, tf.int32))
    estimate = pair.integers.estimate(pair.y, pair.z)
    assert float(estimate["y"]) == pytest.approx(float(bits), rel=1e-12)

  def test_takes_the_estimated_bits(self, pair):
    substreams = pair.encode(pair.y, pair.z).numpy()
    estimates = pair.integers.estimate(pair.y, pair.z)
    for data, name in zip(substreams, pair.integers.substreams):
      assert len(data) * 8 == pytest.approx(float(estimates[name]), abs=24)

  def test_eager_gives_the_bytes_of_a_graph(self, pair):
    y, z = _drawn(pair.floats, 8, 4, 8)
    np.testing.assert_array_equal(pair.integers.encode(y, z), pair.encode(y, z))

  @pytest.mark.parametrize("substream", [0, 1])
  def test_finds_bytes_left_over_in_either_substream(self, pair, substream):
    substreams = pair.encode(pair.y, pair.z).numpy()
    substreams[substream] += b"\x00"
    found = pair.decode(tf.constant(substreams), *pair.y.shape[1:3])
    np.testing.assert_array_equal(found.y_hat, np.rint(pair.y))
    assert not found.exact

  @pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 400, bytes(range(256))])
  def test_ends_whatever_the_bytes(self, pair, data):
    found = pair.decode(tf.constant([data, data[::-1]]), 4, 12)
    assert found.y_hat.shape == (1, 4, 12, _DEPTH)
    # These are latents like others: what they encode to gives them back.
    z = tf.cast(pair.integers.z_hat(found.z), tf.float32) / SCALE
    again = pair.decode(pair.encode(found.y_hat, z), 4, 12)
    np.testing.assert_array_equal(again.y_hat, found.y_hat)
    np.testing.assert_array_equal(again.z, found.z)
    assert again.exact


class TestBits:
  def test_integers_cost_what_floats_cost_within_a_percent(self, pair):
    """Evaluation's float bits, with values rounded, against the estimate of the tables."""
    assert abs(pair.conversion.loss) < _MAX_LOSS
    pair.floats.side_information = lambda y: pair.z
    _, bits = pair.floats(pair.y)
    estimates = pair.integers.estimate(pair.y, pair.z)
    assert set(estimates) == set(bits) == {"z", "y"}
    for name, value in estimates.items():
      assert float(value) == pytest.approx(float(bits[name][0]), rel=0.01)

  def test_the_context_saves_bits(self, pair):
    """Latents whose context is another's, each with its own z, cost more."""
    own = float(pair.integers.estimate(pair.y, pair.z)["y"])
    params = _params(pair, tf.reverse(pair.y, [1, 2]), pair.z)
    coder = pair.integers.y_coder
    counter = coder.bit_counter()
    values = tf.constant(np.rint(pair.y).reshape(-1, _DEPTH), tf.int32)
    params = tf.constant(params.reshape(len(values), -1), tf.int32)
    assert float(coder.code(counter, counter.init(), values, params)[0]) > 1.05 * own


class TestSelfTest:
  def test_raises_where_one_weight_gives_another_checksum(self, pair):
    arrays = pair.integers.to_arrays()
    integer_context.IntegerContext.from_arrays(arrays).check_arithmetic()
    for name in ("hyper/0", "context/0", "parameters/0", "parameters/2"):
      changed = dict(arrays)
      # One step of an output.
      changed[f"{name}/bias"] = arrays[f"{name}/bias"] + 2 ** arrays[f"{name}/shift"]
      with pytest.raises(
        integer_entropy_model.InexactArithmetic,
        match=r"matrix products are not exact: .* checksum is [0-9a-f]{8}, expected [0-9a-f]{8}; ",
      ):
        integer_context.IntegerContext.from_arrays(changed).check_arithmetic()


class TestArrays:
  def test_give_back_a_model_of_the_same_bytes(self, pair):
    arrays = pair.integers.to_arrays()
    again = pair.floats.integer_class.from_arrays(arrays)
    assert isinstance(again, integer_context.IntegerContext)
    y, z = _drawn(pair.floats, 9, 4, 8)
    np.testing.assert_array_equal(again.encode(y, z), pair.encode(y, z))
    assert again.to_arrays().keys() == arrays.keys()
    for name, value in again.to_arrays().items():
      np.testing.assert_array_equal(value, arrays[name])

  def test_are_integers_alone(self, pair):
    assert {value.dtype.kind for value in pair.integers.to_arrays().values()} == {"i"}


class TestConversion:
  def test_raises_where_integers_cost_more_than_allowed(self, pair):
    pair.floats.side_information = lambda y: pair.z[:, :1, :1]
    with (
      _eagerly(),
      pytest.raises(ValueError, match=r"integers cost .* more bits than floats, .* -100.00%"),
    ):
      calibration.convert(pair.floats, [pair.y[:, :4, :4]], -1.0)
