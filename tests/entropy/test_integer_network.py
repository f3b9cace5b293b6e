"""Integer networks against the float layers, plain loops, and int64 arithmetic of numpy."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from khuvcm_tf import layers
from khuvcm_tf.entropy import integer_coder, integer_network
from khuvcm_tf.layers import masked, signal

_UNIT = 4096


def _float_network(kind="transposed", slope=0.2):
  """A small h_s with larger weights than new ones have: two stages that enlarge and a plain one."""
  enlarging = {
    "transposed": [layers.conv_up(6, 5, 2, name="conv0"), layers.conv_up(7, 3, 2, name="conv1")],
    "subpixel": [layers.Subpixel(6, 3, 2, name="up0"), layers.Subpixel(7, 1, 2, name="up1")],
  }[kind]
  network = tf.keras.Sequential(
    [
      enlarging[0],
      layers.Rectifier(slope, name="act0"),
      enlarging[1],
      layers.Rectifier(slope, name="act1"),
      layers.conv(5, 3, name="conv2"),
    ]
  )
  network.build((None, None, None, 4))
  rng = np.random.default_rng(8)
  # An output of a transposed convolution sees a quarter of its kernel.
  gain = {"transposed": 2, "subpixel": 1}[kind]
  for weight in network.trainable_weights:
    fan_in = np.prod(weight.shape[:-1]) or 1
    weight.assign(rng.normal(scale=gain * fan_in**-0.5, size=weight.shape))
  return network


def _inputs(seed=0, size=6, reach=300):
  return np.random.default_rng(seed).integers(-reach, reach + 1, (1, size, size + 1, 4), np.int32)


def _peaks(network, x):
  """Returns the largest magnitudes of each channel behind each rectifier."""
  peaks = []
  for layer in network.layers:
    x = layer(x)
    if isinstance(layer, signal.Rectifier):
      peaks.append(np.abs(x).max(axis=(0, 1, 2)))
  return peaks


def _converted(network, dtype="float32", bits=(10, 10), unit=64.0):
  return integer_network.convert(
    integer_network.float_layers(network),
    _peaks(network, _inputs() / 64),
    integer_network.whole_reach(np.abs(_inputs() / 64).max(axis=(0, 1, 2)), 64),
    np.full(4, 64.0),
    bits,
    np.full(5, unit),
    2**15,
    dtype,
  )


def _in_int64(network, x):
  """The same network in int64: loops over output places and taps, shifts in place of floors."""
  x = np.clip(x, -network.amax, network.amax).astype(np.int64)
  for layer in network.layers:
    kernel, bias = layer.kernel.astype(np.int64), layer.bias.astype(np.int64)
    reach = kernel.shape[0] // 2
    height, width = x.shape[1] * layer.up, x.shape[2] * layer.up
    y = np.empty((1, height, width, len(bias)), np.int64)
    for n, m in np.ndindex(height, width):
      total = bias.copy()
      for j, i in np.ndindex(kernel.shape[:2]):
        row, column = n + j - reach, m + i - reach
        if row % layer.up or column % layer.up:
          continue
        row, column = row // layer.up, column // layer.up
        if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
          total += x[0, row, column] @ kernel[j, i]
      y[0, n, m] = total >> layer.shift
    if layer.slope >= 0:
      bound = int(integer_network.BOUNDS[layer.kernel.dtype.name])
      most = (bound - _UNIT) // max(layer.slope, 1)
      y = np.clip(y, -most, most)
      y = np.maximum(y, (y * layer.slope + _UNIT // 2) // _UNIT)
    x = np.clip(_spread(y, layer.shuffle), -layer.limit, layer.limit)
  return x


def _spread(y, cell):
  """Makes channel (cell i + j) filters + c of a place channel c of pixel (i, j) of its cell."""
  _, height, width, channels = y.shape
  filters = channels // cell**2
  x = np.empty((1, height * cell, width * cell, filters), y.dtype)
  for i, j in np.ndindex(cell, cell):
    first = (cell * i + j) * filters
    x[:, i::cell, j::cell] = y[..., first : first + filters]
  return x


def _with_quarters(layer, channels):
  """Gives a layer weights that are whole quarters: the integer layer holds these exactly."""
  layer(tf.zeros((1, 4, 4, channels)))
  rng = np.random.default_rng(4)
  for weight in layer.trainable_weights:
    weight.assign(rng.integers(-8, 9, weight.shape) / 4)
  return layer


def _converted_layer(layer, amax, filters):
  return integer_network.convert(
    integer_network.float_layers(tf.keras.Sequential([layer])),
    [],
    amax,
    np.ones(len(amax)),
    [],
    np.ones(filters),
    2**20,
    "float32",
  )


def _rounded(values):
  return np.floor(np.asarray(values, np.float64) + 0.5)


@pytest.fixture(scope="module", params=["transposed", "subpixel"])
def network(request):
  return _float_network(request.param)


class TestTapsOfPhases:
  @pytest.mark.parametrize("size", [1, 3, 5, 7])
  @pytest.mark.parametrize("up", [1, 2, 3])
  def test_put_each_kernel_place_where_a_plain_loop_does(self, size, up):
    """Of a row of zeros between the inputs, output n reads place n + j - k // 2 by kernel[j]."""
    phases = integer_network.taps_of_phases(np.zeros((size, size, 1, 1)), up)
    assert len(phases) == up * up
    met = []
    for phase, taps in enumerate(phases):
      py, px = divmod(phase, up)
      for (dy, dx), (jy, jx) in taps:
        assert up * dy == py + jy - size // 2
        assert up * dx == px + jx - size // 2
        met.append((jy, jx))
    # Each place of the kernel belongs to one phase.
    assert sorted(met) == [(jy, jx) for jy in range(size) for jx in range(size)]


class TestIntegerNetwork:
  @pytest.mark.parametrize("dtype,bits,error", [("float32", 9, 2.5), ("float64", 13, 0.6)])
  def test_equals_the_float_network_up_to_rounding(self, network, dtype, bits, error):
    """In steps of 1/64: rounding of the output alone would be 0.5."""
    x = _inputs()
    expected = network(x / 64).numpy() * 64
    assert np.abs(expected).max() > 300
    found = _converted(network, dtype, (bits, bits))(x).numpy()
    assert np.abs(found - expected).max() < error
    assert np.abs(np.mean(found - expected)) < 0.05

  @pytest.mark.parametrize(
    "layer",
    [
      layers.conv(3, 1, name="c1"),
      layers.conv(3, 3, name="c3"),
      layers.conv(3, 5, name="c5"),
      layers.conv_up(3, 3, 2, name="u3"),
      layers.conv_up(3, 5, 2, name="u5"),
      layers.Subpixel(3, 1, 2, name="s1"),
      layers.Subpixel(3, 3, 2, name="s3"),
      layers.Subpixel(3, 3, 3, name="cells_of_9"),
    ],
    ids=lambda layer: layer.name,
  )
  def test_a_layer_rounds_the_float_layer_to_nearest(self, layer):
    layer = _with_quarters(layer, 4)
    x = _inputs(reach=50)
    converted = _converted_layer(layer, np.full(4, 56), 3)
    np.testing.assert_array_equal(converted(x), _rounded(layer(x.astype(np.float32))))
    assert converted.filters == 3

  @pytest.mark.parametrize("size", [3, 5])
  def test_a_masked_layer_sees_the_places_before_one_behind_the_other(self, size):
    layer = _with_quarters(layers.MaskedConv2D(3, size, name="m"), 4)
    places = masked.causal_places(size)
    x = _inputs(reach=50, size=5)
    _, height, width, _ = x.shape
    around = np.zeros((1, height, width, len(places), 4), np.int32)
    for row, column in np.ndindex(height, width):
      for place, (dy, dx) in enumerate(places):
        if row + dy >= 0 and 0 <= column + dx < width:
          around[0, row, column, place] = x[0, row + dy, column + dx]
    converted = _converted_layer(layer, np.full(4 * len(places), 56), 3)
    found = converted(around.reshape(1, height, width, -1))
    np.testing.assert_array_equal(found, _rounded(layer(x.astype(np.float32))))

  @pytest.mark.parametrize("dtype,bits", [("float32", 9), ("float32", 10), ("float64", 13)])
  @pytest.mark.parametrize("slope", [0.0, 0.2])
  @pytest.mark.parametrize("kind", ["transposed", "subpixel"])
  def test_equals_int64_arithmetic_exactly(self, kind, dtype, bits, slope):
    converted = _converted(_float_network(kind, slope), dtype, (bits, bits))
    # Also far beyond what it was calibrated on, where all clips are at work.
    for reach in (300, 10_000):
      x = _inputs(seed=reach, size=3, reach=reach)
      np.testing.assert_array_equal(converted(x), _in_int64(converted, x))

  @pytest.mark.parametrize("parts", [[1, 3], [2, 1, 1]])
  def test_sums_of_parts_of_the_channels_add_up_to_the_whole(self, network, parts):
    converted = _converted(network)
    # Each channel is clipped at its own reach, also where it is the first of its part.
    converted.amax = np.array([250, 20, 100, 3], np.int32)
    x = _inputs(seed=5)
    assert np.all(np.abs(x).max(axis=(0, 1, 2)) > 250)
    whole = converted.begin(x, 0)
    ends = np.cumsum(parts)
    begun = [
      converted.begin(x[..., end - count : end], int(end - count))
      for count, end in zip(parts, ends)
    ]
    np.testing.assert_array_equal(np.sum(begun, axis=0), whole)
    found = converted.finish(tf.add_n(begun))
    np.testing.assert_array_equal(found, _in_int64(converted, x))

  def test_is_equal_in_float32_and_float64(self):
    # Without a slope: what lies below zero is held within other limits before it is applied.
    narrow = _converted(_float_network(slope=0.0))
    wide = integer_network.IntegerNetwork(
      narrow.amax,
      [
        layer._replace(kernel=layer.kernel.astype(np.float64), bias=layer.bias.astype(np.float64))
        for layer in narrow.layers
      ],
    )
    np.testing.assert_array_equal(narrow(_inputs(1)), wide(_inputs(1)))

  def test_sums_stay_below_the_bound_and_use_at_least_a_quarter_of_it(self, network):
    converted = _converted(network)
    limits = converted.amax.astype(np.float64)
    for layer in converted.layers:
      reach = integer_network._reach(layer.kernel, layer.bias, layer.up, limits)
      assert reach.max() < 2**24
      # Shifts are as large as the bound allows: one more would double the sums.
      assert reach.min() >= 2**22
      limits = np.full(layer.filters, float(layer.limit))

  @pytest.mark.parametrize("dtype,factor", [("float32", 4), ("float64", 2**31)])
  def test_refuses_weights_that_break_the_bound(self, network, dtype, factor):
    state = _converted(network).state()
    if dtype == "float64":
      state = {
        name: value.astype(np.int64) if name.endswith(("kernel", "bias")) else value
        for name, value in state.items()
      }
    integer_network.IntegerNetwork.from_state(state)
    state["1/kernel"] = state["1/kernel"] * factor
    bound = integer_network.BOUNDS[dtype]
    with pytest.raises(ValueError, match=rf"sums of an integer layer reach \d+, .*below {bound}"):
      integer_network.IntegerNetwork.from_state(state)

  def test_conversion_raises_where_no_shift_keeps_the_bound(self, network):
    with pytest.raises(ValueError, match="sums exceed the bound at any shift"):
      _converted(network, unit=1e7)

  def test_comes_back_from_its_state_with_integer_types(self, network):
    for dtype in integer_network.BOUNDS:
      converted = _converted(network, dtype)
      state = converted.state()
      assert all(array.dtype.kind == "i" for array in state.values())
      again = integer_network.IntegerNetwork.from_state(state)
      np.testing.assert_array_equal(again(_inputs(3)), converted(_inputs(3)))
      for name, array in again.state().items():
        np.testing.assert_array_equal(array, state[name])


class TestFloatLayers:
  def test_refuses_a_layer_without_integer_form(self):
    network = tf.keras.Sequential([layers.conv(2, 3, name="c"), tf.keras.layers.ELU(name="elu")])
    network.build((None, None, None, 2))
    with pytest.raises(TypeError, match=r"no integer form of layer elu \(ELU\)"):
      integer_network.float_layers(network)

  def test_reads_slopes_in_4096ths_and_none_behind_the_last(self, network):
    found = integer_network.float_layers(network)
    assert [layer.slope for layer in found] == [819, 819, None]

  def test_reads_how_each_layer_enlarges(self):
    forms = {
      kind: [
        (layer.up, layer.shuffle) for layer in integer_network.float_layers(_float_network(kind))
      ]
      for kind in ("transposed", "subpixel")
    }
    assert forms == {
      "transposed": [(2, 1), (2, 1), (1, 1)],
      "subpixel": [(1, 2), (1, 2), (1, 1)],
    }


class TestPeaks:
  def test_of_calibration_are_those_behind_each_rectifier_and_at_both_ends(self, network):
    inputs = [_inputs(seed) / np.float32(64) for seed in range(3)]
    first, *hidden, last = integer_coder.peaks(network, inputs)
    np.testing.assert_array_equal(first, np.max(np.abs(inputs), axis=(0, 1, 2, 3)))
    np.testing.assert_array_equal(
      last, np.max([np.abs(network(x)) for x in inputs], axis=(0, 1, 2, 3))
    )
    of_each = [_peaks(network, x) for x in inputs]
    assert len(hidden) == 2
    for found, expected in zip(hidden, zip(*of_each)):
      np.testing.assert_array_equal(found, np.max(expected, axis=0))


def _named(bits, dtype):
  return tuple(bits), dtype


class TestNarrowest:
  WIDTHS = ((9, 9), (9, 10), (10, 9), (10, 10))

  def test_takes_the_width_of_least_loss(self):
    losses = {(9, 9): 0.3, (9, 10): 0.1, (10, 9): 0.2, (10, 10): 0.4}
    found = integer_network.narrowest(_named, lambda network: losses[network[0]], self.WIDTHS, 0.15)
    assert found == (((9, 10), "float32"), 0.1)

  def test_skips_a_width_without_room(self):
    def build(bits, dtype):
      if bits != (9, 10):
        raise integer_network._OutOfRoom("too wide")
      return bits, dtype

    found = integer_network.narrowest(build, lambda _: 0.1, self.WIDTHS, 0.15)
    assert found == (((9, 10), "float32"), 0.1)

  def test_goes_to_float64_where_float32_loses_too_much(self):
    found = integer_network.narrowest(
      _named,
      lambda network: 0.3 if network[1] == "float32" else 0.01,
      self.WIDTHS,
      0.1,
    )
    assert found == (((13, 13), "float64"), 0.01)

  def test_goes_to_float64_where_float32_has_no_room_at_all(self, network):
    def build(bits, dtype):
      return _converted(network, dtype, bits, unit=1e7)

    with pytest.raises(ValueError, match="sums exceed the bound at any shift"):
      build((9, 9), "float32")
    found, lost = integer_network.narrowest(build, lambda _: 0.01, self.WIDTHS, 0.1)
    assert lost == 0.01
    assert {layer.kernel.dtype for layer in found.layers} == {np.dtype(np.float64)}
    assert [layer.limit for layer in found.layers[:2]] == [2**13 - 1] * 2

  def test_lets_other_errors_of_a_conversion_pass(self):
    def build(bits, dtype):
      raise ValueError("of another kind")

    with pytest.raises(ValueError, match="of another kind"):
      integer_network.narrowest(build, lambda _: 0.1, self.WIDTHS, 0.15)

  @pytest.mark.parametrize("loss", [0.0625, float("nan")])
  def test_raises_where_float64_loses_too_much_too(self, loss):
    with pytest.raises(ValueError, match=r"integers cost .* more bits .*, expected at most 5.00%"):
      integer_network.narrowest(_named, lambda _: loss, self.WIDTHS, 0.05)
