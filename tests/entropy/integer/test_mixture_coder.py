"""The coder of mixtures against SciPy's Gaussians in float64, and its bytes against itself."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from khuvcm_tf.entropy import gaussian
from khuvcm_tf.entropy.calibration import tables as calibration_tables
from khuvcm_tf.entropy.integer import mixture_coder, range_coder
from khuvcm_tf.entropy.integer.mixture_coder import NUM_SCALES
from khuvcm_tf.entropy.integer.tables import SCALE

_TABLES = calibration_tables.mixture_tables()
_SCALES = gaussian.MIN_SCALE * np.exp(gaussian.LOG_STEP / mixture_coder.SCALE_STEPS) ** np.arange(
  NUM_SCALES
)


def _coder(num_mixtures):
  return mixture_coder.MixtureCoder(_TABLES, num_mixtures)


@functools.lru_cache
def _graphs(num_mixtures, depth):
  """Returns functions of values [n, M] and parameters [n, 3 K M].

  encode -> bytes; count -> bits; count_each -> bits of each value, for an M of 1; and of bytes
  and parameters: decode -> values, and whether the bytes are what these encode to.
  """
  coder = _coder(num_mixtures)
  values = tf.TensorSpec((None, depth), tf.int32)
  params = tf.TensorSpec((None, depth * num_mixtures * (3 if num_mixtures > 1 else 2)), tf.int32)

  def coded(symbol_coder, values, params):
    state, found = coder.code(symbol_coder, symbol_coder.init(), values, params)
    return found, symbol_coder.finalize(state)

  def graph(*signature):
    return functools.partial(tf.function, input_signature=signature, autograph=False)

  @graph(values, params)
  def encode(values, params):
    found, data = coded(coder.encoder(), values, params)
    with tf.control_dependencies([tf.debugging.assert_equal(found, values)]):
      return tf.identity(data)

  @graph(values, params)
  def count(values, params):
    return coded(coder.bit_counter(), values, params)[1]

  @graph(values, params)
  def count_each(values, params):
    def one(each):
      return count(each[0][tf.newaxis], each[1][tf.newaxis])

    return tf.map_fn(one, (values, params), fn_output_signature=tf.float64)

  @graph(tf.TensorSpec((), tf.string), params)
  def decode(data, params):
    # A decoder ignores the values that it is given.
    return coded(coder.decoder(data), tf.fill((tf.shape(params)[0], depth), 77), params)

  return encode, count, count_each, decode


@pytest.fixture(scope="module", autouse=True)
def graphs_end_with_this_module():
  yield
  _graphs.cache_clear()


def _packed(logits, means, scales):
  """Packs integers [n, K, M] as the network predicts them."""
  parts = [means, scales] if np.shape(means)[1] == 1 else [logits, means, scales]
  return np.stack(parts, axis=1).reshape(len(means), -1).astype(np.int32)


class _Mixture:
  """A discretized mixture in float64: weights, means and scales of K components."""

  def __init__(self, logits, means, scales):
    self.weights = scipy.special.softmax(np.asarray(logits) / SCALE)
    self.means, self.scales = np.asarray(means) / SCALE, _SCALES[np.clip(scales, 0, NUM_SCALES - 1)]

  def probability(self, values):
    """Of [v - 1/2, v + 1/2], computed in the tail where nothing cancels."""
    distance = np.abs(np.asarray(values, np.float64)[..., np.newaxis] - self.means)
    inner, outer = ((edge - distance) / self.scales for edge in (0.5, -0.5))
    return (scipy.special.ndtr(inner) - scipy.special.ndtr(outer)) @ self.weights

  def cdf(self, values):
    """Of all that is less than v - 1/2."""
    edges = (np.asarray(values, np.float64)[..., np.newaxis] - 0.5 - self.means) / self.scales
    return scipy.special.ndtr(edges) @ self.weights

  def support(self):
    """All integers within 9 sigma of a component."""
    low, high = np.min(self.means - 9 * self.scales), np.max(self.means + 9 * self.scales)
    return np.arange(int(low) - 1, int(high) + 2)

  def entropy(self):
    p = self.probability(self.support())
    p = p[p > 0]
    return -np.sum(p * np.log2(p))

  def samples(self, count):
    """The integers at quantiles 1/2, 3/2 ... of `count`: without the noise of random ones."""
    integers = self.support()
    quantiles = (np.arange(count) + 0.5) / count
    return integers[np.searchsorted(self.cdf(integers + 1)[:-1], quantiles)]


def _random_parameters(rng, *shape):
  """Logits, means and indices of scales: near one another, as those of a latent are."""
  means = rng.integers(-40 * SCALE, 40 * SCALE, (shape[0], 1, *shape[2:]))
  return (
    rng.integers(-2 * SCALE, 2 * SCALE, shape),
    means + rng.integers(-8 * SCALE, 8 * SCALE, shape),
    rng.integers(0, NUM_SCALES, shape),
  )


class TestLength:
  @pytest.mark.parametrize("num_mixtures", [1, 3])
  def test_of_samples_is_the_entropy_of_their_mixtures(self, num_mixtures):
    encode, count, *_ = _graphs(num_mixtures, 2)
    number, samples = 24, 3000
    parameters = _random_parameters(np.random.default_rng(3), number, num_mixtures, 2)
    mixtures = [
      [_Mixture(*(part[i, :, channel] for part in parameters)) for channel in range(2)]
      for i in range(number)
    ]
    values = np.concatenate(
      [np.stack([mixture.samples(samples) for mixture in pair], axis=1) for pair in mixtures]
    ).astype(np.int32)
    params = np.repeat(_packed(*parameters), samples, axis=0)
    entropy = samples * sum(mixture.entropy() for pair in mixtures for mixture in pair)
    exact = -sum(
      np.sum(np.log2(mixture.probability(values[i * samples : (i + 1) * samples, channel])))
      for i, pair in enumerate(mixtures)
      for channel, mixture in enumerate(pair)
    )
    counted, encoded = float(count(values, params)), 8 * len(encode(values, params).numpy())
    assert counted == pytest.approx(entropy, rel=1e-3)
    assert counted == pytest.approx(exact, rel=2e-4)
    assert encoded == pytest.approx(counted, rel=1e-5, abs=64)

  @pytest.mark.parametrize("scale", [0, 30, 60, 90, 120, 150, 180, 210, 252])
  def test_is_the_entropy_at_each_scale(self, scale):
    """Within a thousandth, and 2e-4 bits: a decision costs 2e-5 bits where nothing is uncertain."""
    _, count, *_ = _graphs(1, 2)
    means = np.concatenate([np.arange(0, SCALE, 7), [-(2**15), 2**15]])
    samples = 2000
    values, entropy, parameters = [], 0.0, []
    for mean in means:
      mixture = _Mixture([0], [mean], [scale])
      values.append(mixture.samples(samples))
      parameters.append(np.broadcast_to([mean, scale], (samples, 2)))
      entropy += mixture.entropy()
    values = np.reshape(values, (-1, 2))
    parameters = np.reshape(parameters, (-1, 2, 2)).transpose(0, 2, 1)
    params = parameters.reshape(len(values), -1)
    bits = float(count(values.astype(np.int32), params.astype(np.int32))) / samples
    assert abs(bits - entropy) <= 1e-3 * entropy + 2e-4 * len(means)

  def test_of_two_peaks_is_a_tenth_less_than_that_of_one_gaussian_of_their_moments(self):
    parameters = [0, 0], [-4 * SCALE, 4 * SCALE], [60, 60]
    mixture = _Mixture(*parameters)
    values = mixture.samples(4000)
    deviation = np.sqrt(np.sum(mixture.probability(mixture.support()) * mixture.support() ** 2.0))
    assert abs(np.sum(mixture.probability(mixture.support()) * mixture.support())) < 1e-9
    nearest = int(np.argmin(np.abs(_SCALES - np.sqrt(deviation**2 - 1 / 12))))
    one = _graphs(1, 1)[0](
      values[:, np.newaxis].astype(np.int32), np.tile(np.array([[0, nearest]], np.int32), (4000, 1))
    )
    two = _graphs(2, 1)[0](
      values[:, np.newaxis].astype(np.int32),
      np.tile(np.array([np.ravel(parameters)], np.int32), (4000, 1)),
    )
    assert 8 * len(two.numpy()) == pytest.approx(4000 * mixture.entropy(), rel=2e-3)
    single = _Mixture([0], [0], [nearest])
    assert 8 * len(one.numpy()) == pytest.approx(
      -np.sum(np.log2(single.probability(values))), rel=2e-3
    )
    assert len(one.numpy()) > 1.1 * len(two.numpy())


@st.composite
def _anything(draw, num_mixtures):
  """Parameters in range, and values near modes or far out: int32 [n, 1] and [n, 3 K]."""
  extremes = st.sampled_from([-(2**15), 2**15, -1, 0, 1, NUM_SCALES - 1, NUM_SCALES, 31, 32, 33])
  whole = st.one_of(st.integers(-(2**15), 2**15), st.integers(-200, 300), extremes)
  parts = 2 if num_mixtures == 1 else 3
  params = draw(
    st.lists(
      st.lists(whole, min_size=parts * num_mixtures, max_size=parts * num_mixtures), max_size=12
    )
  )
  params = np.array(params, np.int32).reshape(-1, parts * num_mixtures)
  mode, half = _window(_coder(num_mixtures), params)
  farthest = range_coder.MAX_EXCESS
  offsets = []
  for edge in half:
    near = st.sampled_from([0, 1, -1, edge, -edge, edge - 1, edge + 1, -edge - 1])
    far = st.integers(-edge - farthest, edge + farthest)
    ends = st.sampled_from([-edge - farthest, edge + farthest])
    offsets.append(draw(st.one_of(near, st.integers(-20, 20), far, ends)))
  return (mode + np.array(offsets, np.int64)).astype(np.int32).reshape(-1, 1), params


def _window(coder, params):
  """Returns the mode of each latent, and half the width of its window, of M = 1."""
  mixtures = coder._mixtures(tf.constant(params), tf.constant([len(params), 1]))
  return mixtures.mode.numpy(), 2 ** coder._levels(mixtures).numpy()


class TestRoundTrip:
  @pytest.mark.parametrize("num_mixtures", [1, 2, 3])
  def test_gives_back_any_values_whatever_is_predicted(self, num_mixtures):
    encode, _, _, decode = _graphs(num_mixtures, 1)

    @settings(max_examples=120, deadline=None)
    @given(_anything(num_mixtures))
    def check(drawn):
      values, params = drawn
      data = encode(values, params)
      found, exact = decode(data, params)
      np.testing.assert_array_equal(found, values)
      assert exact

    check()

  def test_eager_coding_gives_the_bytes_of_a_graph(self):
    coder, rng = _coder(3), np.random.default_rng(6)
    params = _packed(*_random_parameters(rng, 40, 3, 2))
    values = rng.integers(-300, 300, (40, 2)).astype(np.int32)
    encoder = coder.encoder()
    state, found = coder.code(encoder, encoder.init(), tf.constant(values), tf.constant(params))
    np.testing.assert_array_equal(found, values)
    assert encoder.finalize(state) == _graphs(3, 2)[0](values, params)

  @pytest.mark.parametrize("side", [-1, 1])
  def test_ends_65535_beyond_the_window(self, side):
    encode, count, _, decode = _graphs(1, 1)
    for scale in (0, 150, NUM_SCALES - 1):
      params = np.array([[640, scale]], np.int32)
      mode, half = _window(_coder(1), params)
      last = (mode + side * (half + range_coder.MAX_EXCESS)).reshape(1, 1).astype(np.int32)
      found, exact = decode(encode(last, params), params)
      assert exact
      assert found == last
      for use in (encode, count):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"(?s)a latent lies.*65536.*beyo"):
          use(last + side, params)

  def test_finds_bytes_left_over(self):
    encode, _, _, decode = _graphs(3, 2)
    rng = np.random.default_rng(8)
    params = _packed(*_random_parameters(rng, 50, 3, 2))
    values = rng.integers(-60, 60, (50, 2)).astype(np.int32)
    data = encode(values, params).numpy()
    # A decoder reads zeros behind the end.
    found, exact = decode(data + b"\x00", params)
    np.testing.assert_array_equal(found, values)
    assert not exact
    for more in (b"\xff", b"\x80", b"more"):
      _, exact = decode(data + more, params)
      assert not exact


class TestForeignBytes:
  """Whatever the bytes, decoding ends, with values that can be encoded."""

  def _check(self, num_mixtures, data, params):
    encode, _, _, decode = _graphs(num_mixtures, 1)
    found, exact = decode(data, params)
    mode, half = _window(_coder(num_mixtures), params)
    assert np.max(np.abs(found.numpy()[:, 0] - mode) - half) <= range_coder.MAX_EXCESS
    assert bool(exact) == (encode(found, params).numpy() == data)

  @pytest.mark.parametrize("num_mixtures", [1, 3])
  def test_of_random_bytes(self, num_mixtures):
    parameters = _random_parameters(np.random.default_rng(5), 500, num_mixtures, 1)

    @settings(max_examples=60, deadline=None)
    @given(st.binary(max_size=300))
    def check(data):
      self._check(num_mixtures, data, _packed(*parameters))

    check()

  @pytest.mark.parametrize("data", [b"", b"\x80", b"\x80" * 4, b"\xff" * 900, b"\x00" * 900])
  def test_of_special_bytes(self, data):
    parameters = _random_parameters(np.random.default_rng(5), 500, 3, 1)
    self._check(3, data, _packed(*parameters))


def _extreme_parameters(rng, number, num_mixtures):
  """Random ones, of which half are far apart, within the range of a network."""
  near = _random_parameters(rng, number, num_mixtures, 1)
  far = [rng.integers(-(2**15), 2**15 + 1, part.shape) for part in near]
  return [np.concatenate(pair) for pair in zip(near, far)]


class TestCdf:
  @pytest.mark.parametrize("num_mixtures", [1, 3])
  def test_rises_with_every_integer_from_above_0_to_below_the_whole(self, num_mixtures):
    coder = _coder(num_mixtures)
    params = _packed(*_extreme_parameters(np.random.default_rng(2), 60, num_mixtures))
    mixtures = coder._mixtures(tf.constant(params), tf.constant([len(params), 1]))
    mode, half = _window(coder, params)
    for i in range(len(params)):
      values = np.arange(mode[i] - half[i], mode[i] + half[i] + 2, dtype=np.int32)
      below = coder._cdf_below(mixtures.at(tf.constant([i])), values[:, np.newaxis]).numpy()[:, 0]
      whole = int(mixtures.total[i])
      assert np.diff(below).min() >= 1
      assert 0 < below[0] and below[-1] < whole
      # A product with 2^16 keeps within 63 bits.
      assert whole < 2**39

  @pytest.mark.parametrize("num_mixtures", [1, 3])
  def test_is_scipys_mixture_within_a_4000th(self, num_mixtures):
    """Weights are rounded to 1/4096 of the greatest, and positions to 1/4096 sigma."""
    coder = _coder(num_mixtures)
    parameters = _extreme_parameters(np.random.default_rng(9), 60, num_mixtures)
    params = _packed(*parameters)
    mixtures = coder._mixtures(tf.constant(params), tf.constant([len(params), 1]))
    mode, half = _window(coder, params)
    for i in range(len(params)):
      values = np.arange(mode[i] - half[i], mode[i] + half[i] + 2, dtype=np.int32)
      below = coder._cdf_below(mixtures.at(tf.constant([i])), values[:, np.newaxis]).numpy()[:, 0]
      expected = _Mixture(*(part[i, :, 0] for part in parameters)).cdf(values)
      np.testing.assert_allclose(below / int(mixtures.total[i]), expected, rtol=0, atol=2.5e-4)

  @pytest.mark.parametrize("num_mixtures", [1, 3])
  def test_windows_extend_beyond_6_sigma_of_all_components_of_weight(self, num_mixtures):
    parameters = _extreme_parameters(np.random.default_rng(4), 200, num_mixtures)
    mode, half = _window(_coder(num_mixtures), _packed(*parameters))
    logits, means, scales = (part[:, :, 0] for part in parameters)
    max_abs = 6 * _SCALES[np.clip(scales, 0, NUM_SCALES - 1)]
    distance = np.abs(means / SCALE - mode[:, np.newaxis]) + max_abs
    # 1e-4 of the greatest weight or less is taken for none.
    counts = logits.max(axis=1, keepdims=True) - logits < 8 * SCALE
    if num_mixtures > 1:
      assert 0 < np.count_nonzero(counts) < counts.size
    assert np.all(np.where(counts, distance, 0).max(axis=1) < half + 1)
    # None is larger than twice what it needs.
    assert np.all((half == 16) | (half <= 2 * (distance.max(axis=1) + 1)))


class _Decisions:
  """A coder that counts symbols."""

  def code(self, count, rows, symbols):
    return count + tf.size(rows), symbols

  def within_limits(self, excess):
    return excess


def _decided(coder, values, params):
  values, params = (tf.constant(each, tf.int32) for each in (values, params))
  return int(coder.code(_Decisions(), tf.constant(0), values, params)[0])


class TestDecisions:
  @pytest.mark.parametrize(
    "parameters",
    [
      ([0], [0], [0]),
      ([0], [33], [70]),
      ([0], [-3000], [120]),
      ([0, 40, -20], [100, 130, -60], [40, 90, 10]),
      ([0, -300, 10], [0, 6000, -4000], [0, 100, 60]),
    ],
  )
  def test_give_the_integers_of_a_window_and_its_escapes_a_whole(self, parameters):
    """And each integer what SciPy's mixture gives it, where that is more than 1e-6."""
    num_mixtures = len(parameters[0])
    count_each = _graphs(num_mixtures, 1)[2]
    params = _packed(*(np.reshape(part, (1, -1, 1)) for part in parameters))
    (mode,), (half,) = _window(_coder(num_mixtures), params)
    values = np.arange(mode - half, mode + half + 1, dtype=np.int32)
    bits = count_each(values[:, np.newaxis], np.repeat(params, len(values), axis=0)).numpy()
    # The outermost integers are followed by 16 bits of an escape.
    bits[[0, -1]] -= 16
    probabilities = 2.0**-bits
    assert probabilities.sum() == pytest.approx(1.0, abs=1e-9)
    expected = _Mixture(*parameters).probability(values)
    likely = expected > 1e-6
    assert np.count_nonzero(likely) >= 1
    np.testing.assert_allclose(probabilities[likely], expected[likely], rtol=0.02, atol=1e-4)
    # Unlikely ones can be coded all the same.
    assert bits.max() < 80

  def test_are_one_for_the_integer_at_the_mean_of_the_heaviest_component(self):
    parameters = _random_parameters(np.random.default_rng(12), 60, 3, 1)
    logits, means, _ = (part[:, :, 0] for part in parameters)
    heaviest = np.take_along_axis(means, np.argmax(logits, axis=1)[:, np.newaxis], axis=1)
    assert len(np.unique(np.argmax(logits, axis=1))) == 3
    values = np.floor(heaviest / SCALE + 0.5)
    params = _packed(*parameters)
    assert _decided(_coder(3), values, params) == 60
    # For others there follow a side and 4 halvings, and more where the window is wide.
    assert _decided(_coder(3), values + 1, params) >= 60 * (1 + 1 + 4)

  def test_with_probabilities_of_cdf_rows_cost_less_than_a_millionth_of_a_bit_more(self):
    probabilities = np.arange(1, 2**16)
    starts = mixture_coder._START[mixture_coder._ROW_OF[probabilities]]
    lookup = mixture_coder._LOOKUP
    np.testing.assert_array_equal(lookup[starts - 1], 16)
    np.testing.assert_array_equal(lookup[starts], 0)
    np.testing.assert_array_equal(lookup[starts + 2], 2**16)
    wanted, found = probabilities / 2**16, lookup[starts + 1] / 2**16
    assert found.min() > 0 and found.max() < 1
    excess = wanted * np.log2(wanted / found) + (1 - wanted) * np.log2((1 - wanted) / (1 - found))
    assert np.max(excess) < 1e-6
    # None is impossible or certain, also where a quotient is rounded to nothing.
    ends = lookup[mixture_coder._START[mixture_coder._ROW_OF[[0, 2**16]]] + 1]
    np.testing.assert_array_equal(ends, [1, 2**16 - 1])


class TestTables:
  def test_cdf_is_the_gaussians_in_24_bits(self):
    points = np.linspace(-6, 6, 12 * 4096 + 1)
    np.testing.assert_allclose(_TABLES.cdf, scipy.special.ndtr(points) * 2**24, rtol=0, atol=0.501)
    assert np.diff(_TABLES.cdf).min() >= 0
    np.testing.assert_array_equal(_TABLES.cdf + _TABLES.cdf[::-1], 2**24)

  def test_weight_is_the_exponential_in_12_bits_and_ends_at_10(self):
    expected = np.exp(-np.arange(10 * SCALE) / SCALE) * 4096
    np.testing.assert_allclose(_TABLES.weight[:-1], expected[:-1], rtol=0, atol=0.5)
    assert _TABLES.weight[0] == 4096
    assert _TABLES.weight[-1] == 0

  def test_max_abs_is_6_sigma(self):
    np.testing.assert_allclose(_TABLES.max_abs, 6 * SCALE * _SCALES, rtol=1e-4, atol=1)
    assert np.all(_TABLES.max_abs <= 6 * SCALE * _SCALES)

  def test_factor_takes_distances_to_steps_of_a_4096th_of_a_sigma(self):
    steps = _TABLES.max_abs.astype(np.int64) * _TABLES.factor / 2**15
    np.testing.assert_allclose(steps, 4096 * _TABLES.max_abs / SCALE / _SCALES, rtol=1e-4)

  def test_keep_distances_on_the_grid_and_products_within_31_bits(self):
    middle = 6 * 4096 * 2**15 + 2**14
    product = _TABLES.max_abs.astype(np.int64) * _TABLES.factor
    assert np.max(product + middle) < 2**31
    assert np.min((middle - product) >> 15) >= 0
    assert np.max((middle + product) >> 15) <= len(_TABLES.cdf) - 1

  def test_keep_cdfs_within_39_bits(self):
    """For as many as 7 components; so that products with 2^16 are within 63 bits."""
    assert 7 * 4096 * int(_TABLES.cdf.max()) + 2 * mixture_coder._OFFSET < 2**39
