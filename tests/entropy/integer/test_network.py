"""Integer networks against the float layers, plain loops, and int64 arithmetic of numpy."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from khuvcm_tf import layers
from khuvcm_tf.entropy.calibration import networks
from khuvcm_tf.entropy.integer import network as network_lib
from khuvcm_tf.layers import masked
from tests.entropy import small_networks

_SLOPE_SCALE = 4096


def _in_int64(network, x):
  """The same network in int64: loops over output positions and taps, shifts in place of floors."""
  x = np.clip(x, -network.amax, network.amax).astype(np.int64)
  for layer in network.layers:
    kernel, bias = layer.kernel.astype(np.int64), layer.bias.astype(np.int64)
    radius = kernel.shape[0] // 2
    height, width = x.shape[1] * layer.up, x.shape[2] * layer.up
    y = np.empty((1, height, width, len(bias)), np.int64)
    for n, m in np.ndindex(height, width):
      total = bias.copy()
      for j, i in np.ndindex(kernel.shape[:2]):
        row, column = n + j - radius, m + i - radius
        if row % layer.up or column % layer.up:
          continue
        row, column = row // layer.up, column // layer.up
        if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
          total += x[0, row, column] @ kernel[j, i]
      y[0, n, m] = total >> layer.shift
    if layer.slope >= 0:
      bound = int(network_lib.BOUNDS[layer.kernel.dtype.name])
      most = (bound - _SLOPE_SCALE) // max(layer.slope, 1)
      y = np.clip(y, -most, most)
      y = np.maximum(y, (y * layer.slope + _SLOPE_SCALE // 2) // _SLOPE_SCALE)
    x = np.clip(_shuffled(y, layer.shuffle), -layer.limit, layer.limit)
  return x


def _shuffled(y, cell):
  """Makes channel (cell i + j) filters + c of a position channel c of pixel (i, j) of its cell."""
  _, height, width, channels = y.shape
  filters = channels // cell**2
  x = np.empty((1, height * cell, width * cell, filters), y.dtype)
  for i, j in np.ndindex(cell, cell):
    first = (cell * i + j) * filters
    x[:, i::cell, j::cell] = y[..., first : first + filters]
  return x


def _with_quarters(layer):
  """Returns a stack of the layer, its weights multiples of 1/4, which integers hold exactly."""
  stack = layers.Stack([layer], 4, name="stack")
  rng = np.random.default_rng(4)
  for weight in stack.trainable_weights:
    weight.assign(rng.integers(-8, 9, weight.shape) / 4)
  return stack


def _converted_layer(stack, amax, filters):
  return networks.convert(
    networks.float_layers(stack),
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
  return small_networks.create(request.param)


class TestTapsOfPhases:
  @pytest.mark.parametrize("size", [1, 3, 5, 7])
  @pytest.mark.parametrize("up", [1, 2, 3])
  def test_put_each_position_of_a_kernel_where_a_plain_loop_does(self, size, up):
    """Of a row of zeros between the inputs, output n reads position n + j - k // 2 by kernel[j]."""
    phases = network_lib.taps_of_phases(np.zeros((size, size, 1, 1)), up)
    assert len(phases) == up * up
    found = []
    for phase, taps in enumerate(phases):
      py, px = divmod(phase, up)
      for (dy, dx), (jy, jx) in taps:
        assert up * dy == py + jy - size // 2
        assert up * dx == px + jx - size // 2
        found.append((jy, jx))
    # Each position of the kernel belongs to one phase.
    assert sorted(found) == [(jy, jx) for jy in range(size) for jx in range(size)]


class TestIntegerNetwork:
  @pytest.mark.parametrize("dtype,bits,error", [("float32", 9, 2.5), ("float64", 13, 0.6)])
  def test_equals_the_float_network_up_to_rounding(self, network, dtype, bits, error):
    """In fixed point, steps of 1/64: rounding of the output alone would be 0.5."""
    x = small_networks.inputs()
    expected = network(x / 64).numpy() * 64
    assert np.abs(expected).max() > 300
    found = small_networks.converted(network, dtype, (bits, bits))(x).numpy()
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
    stack = _with_quarters(layer)
    x = small_networks.inputs(max_abs=50)
    converted = _converted_layer(stack, np.full(4, 56), 3)
    np.testing.assert_array_equal(converted(x), _rounded(stack(x.astype(np.float32))))
    assert converted.filters == 3

  @pytest.mark.parametrize("size", [3, 5])
  def test_a_masked_layer_takes_the_positions_before_one_behind_the_other(self, size):
    stack = _with_quarters(layers.MaskedConv2D(3, size, name="m"))
    positions = masked.causal_positions(size)
    x = small_networks.inputs(max_abs=50, size=5)
    _, height, width, _ = x.shape
    neighbourhood = np.zeros((1, height, width, len(positions), 4), np.int32)
    for row, column in np.ndindex(height, width):
      for i, (dy, dx) in enumerate(positions):
        if row + dy >= 0 and 0 <= column + dx < width:
          neighbourhood[0, row, column, i] = x[0, row + dy, column + dx]
    converted = _converted_layer(stack, np.full(4 * len(positions), 56), 3)
    found = converted(neighbourhood.reshape(1, height, width, -1))
    np.testing.assert_array_equal(found, _rounded(stack(x.astype(np.float32))))

  @pytest.mark.parametrize("dtype,bits", [("float32", 9), ("float32", 10), ("float64", 13)])
  @pytest.mark.parametrize("slope", [0.0, 0.2])
  @pytest.mark.parametrize("kind", ["transposed", "subpixel"])
  def test_equals_int64_arithmetic_exactly(self, kind, dtype, bits, slope):
    converted = small_networks.converted(small_networks.create(kind, slope), dtype, (bits, bits))
    # Also far beyond what it was calibrated on, where all clips are at work.
    for max_abs in (300, 10_000):
      x = small_networks.inputs(seed=max_abs, size=3, max_abs=max_abs)
      np.testing.assert_array_equal(converted(x), _in_int64(converted, x))

  @pytest.mark.parametrize("parts", [[1, 3], [2, 1, 1]])
  def test_sums_of_parts_of_the_channels_add_up_to_the_whole(self, network, parts):
    converted = small_networks.converted(network)
    # Each channel is clipped at its own limit, also where it is the first of its part.
    converted.amax = np.array([250, 20, 100, 3], np.int32)
    x = small_networks.inputs(seed=5)
    assert np.all(np.abs(x).max(axis=(0, 1, 2)) > 250)
    whole = converted.first_sums(x, 0)
    ends = np.cumsum(parts)
    sums = [
      converted.first_sums(x[..., end - count : end], int(end - count))
      for count, end in zip(parts, ends)
    ]
    np.testing.assert_array_equal(np.sum(sums, axis=0), whole)
    found = converted.finalize(tf.add_n(sums))
    np.testing.assert_array_equal(found, _in_int64(converted, x))

  def test_is_equal_in_float32_and_float64(self):
    # Without a slope: what lies below zero is held within other limits before it is applied.
    narrow = small_networks.converted(small_networks.create(slope=0.0))
    wide = network_lib.IntegerNetwork(
      narrow.amax,
      [
        network_lib.IntegerLayer(
          layer.kernel.astype(np.float64),
          layer.bias.astype(np.float64),
          layer.shift,
          layer.up,
          layer.slope,
          layer.limit,
        )
        for layer in narrow.layers
      ],
    )
    np.testing.assert_array_equal(narrow(small_networks.inputs(1)), wide(small_networks.inputs(1)))

  def test_sums_stay_below_the_bound_and_use_at_least_a_quarter_of_it(self, network):
    converted = small_networks.converted(network)
    limits = converted.amax.astype(np.float64)
    for layer in converted.layers:
      sums = network_lib.max_abs_sums(layer.kernel, layer.bias, layer.up, limits)
      assert sums.max() < 2**24
      # Shifts are as large as the bound allows: one more would double the sums.
      assert sums.min() >= 2**22
      limits = np.full(layer.filters, float(layer.limit))

  @pytest.mark.parametrize("dtype,factor", [("float32", 4), ("float64", 2**31)])
  def test_refuses_weights_that_break_the_bound(self, network, dtype, factor):
    arrays = small_networks.converted(network).to_arrays()
    if dtype == "float64":
      arrays = {
        name: value.astype(np.int64) if name.endswith(("kernel", "bias")) else value
        for name, value in arrays.items()
      }
    network_lib.IntegerNetwork.from_arrays(arrays)
    arrays["1/kernel"] = arrays["1/kernel"] * factor
    bound = network_lib.BOUNDS[dtype]
    with pytest.raises(ValueError, match=rf"sums of an integer layer reach \d+, .*below {bound}"):
      network_lib.IntegerNetwork.from_arrays(arrays)

  def test_conversion_raises_where_no_shift_keeps_the_bound(self, network):
    with pytest.raises(ValueError, match="sums exceed the bound at any shift"):
      small_networks.converted(network, scale=1e7)

  def test_comes_back_from_arrays_of_integers(self, network):
    x = small_networks.inputs(3)
    for dtype in network_lib.BOUNDS:
      converted = small_networks.converted(network, dtype)
      arrays = converted.to_arrays()
      assert all(array.dtype.kind == "i" for array in arrays.values())
      again = network_lib.IntegerNetwork.from_arrays(arrays)
      np.testing.assert_array_equal(again(x), converted(x))
      for name, array in again.to_arrays().items():
        np.testing.assert_array_equal(array, arrays[name])
