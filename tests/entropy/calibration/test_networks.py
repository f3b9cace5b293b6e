"""Reading float networks, their activation ranges, and the choice of bit widths."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from khuvcm_tf import layers
from khuvcm_tf.entropy.calibration import networks
from tests.entropy import small_networks


@pytest.fixture(scope="module", params=["transposed", "subpixel"])
def network(request):
  return small_networks.create(request.param)


class TestFloatLayers:
  def test_refuses_a_layer_without_integer_form(self):
    network = layers.Stack(
      [layers.conv(2, 3, name="c"), tf.keras.layers.ELU(name="elu")], 2, name="stack"
    )
    with pytest.raises(TypeError, match=r"no integer form of layer elu \(ELU\)"):
      networks.float_layers(network)

  def test_reads_slopes_in_4096ths_and_none_behind_the_last(self, network):
    found = networks.float_layers(network)
    assert [layer.slope for layer in found] == [819, 819, None]

  def test_reads_how_each_layer_enlarges(self):
    def forms(kind):
      network = networks.float_layers(small_networks.create(kind))
      return [(layer.up, layer.shuffle) for layer in network]

    assert {kind: forms(kind) for kind in ("transposed", "subpixel")} == {
      "transposed": [(2, 1), (2, 1), (1, 1)],
      "subpixel": [(1, 2), (1, 2), (1, 1)],
    }


class TestActivationRanges:
  def test_are_the_largest_magnitudes_behind_each_rectifier_and_at_both_ends(self, network):
    inputs = [small_networks.inputs(seed) / np.float32(64) for seed in range(3)]
    first, *hidden, last = networks.activation_ranges(network, inputs)
    np.testing.assert_array_equal(first, np.max(np.abs(inputs), axis=(0, 1, 2, 3)))
    np.testing.assert_array_equal(
      last, np.max([np.abs(network(x)) for x in inputs], axis=(0, 1, 2, 3))
    )
    of_each = [small_networks.max_abs_of_hidden(network, x) for x in inputs]
    assert len(hidden) == 2
    for found, expected in zip(hidden, zip(*of_each)):
      np.testing.assert_array_equal(found, np.max(expected, axis=0))


def _named(bits, dtype):
  return tuple(bits), dtype


class TestSearchBitWidths:
  WIDTHS = ((9, 9), (9, 10), (10, 9), (10, 10))

  def test_takes_the_width_of_least_loss(self):
    losses = {(9, 9): 0.3, (9, 10): 0.1, (10, 9): 0.2, (10, 10): 0.4}
    found = networks.search_bit_widths(
      _named, lambda network: losses[network[0]], self.WIDTHS, 0.15
    )
    assert found == (((9, 10), "float32"), 0.1)

  def test_skips_a_width_without_room(self):
    def build(bits, dtype):
      if bits != (9, 10):
        raise networks._OutOfRoom("too wide")
      return bits, dtype

    found = networks.search_bit_widths(build, lambda _: 0.1, self.WIDTHS, 0.15)
    assert found == (((9, 10), "float32"), 0.1)

  def test_goes_to_float64_where_float32_loses_too_much(self):
    found = networks.search_bit_widths(
      _named,
      lambda network: 0.3 if network[1] == "float32" else 0.01,
      self.WIDTHS,
      0.1,
    )
    assert found == (((13, 13), "float64"), 0.01)

  def test_goes_to_float64_where_float32_has_no_room_at_all(self, network):
    def build(bits, dtype):
      return small_networks.converted(network, dtype, bits, scale=1e7)

    with pytest.raises(ValueError, match="sums exceed the bound at any shift"):
      build((9, 9), "float32")
    found, lost = networks.search_bit_widths(build, lambda _: 0.01, self.WIDTHS, 0.1)
    assert lost == 0.01
    assert {layer.kernel.dtype for layer in found.layers} == {np.dtype(np.float64)}
    assert [layer.limit for layer in found.layers[:2]] == [2**13 - 1] * 2

  def test_lets_other_errors_of_a_conversion_pass(self):
    def build(bits, dtype):
      raise ValueError("of another kind")

    with pytest.raises(ValueError, match="of another kind"):
      networks.search_bit_widths(build, lambda _: 0.1, self.WIDTHS, 0.15)

  @pytest.mark.parametrize("loss", [0.0625, float("nan")])
  def test_raises_where_float64_loses_too_much_too(self, loss):
    with pytest.raises(ValueError, match=r"integers cost .* more bits .*, expected at most 5.00%"):
      networks.search_bit_widths(_named, lambda _: loss, self.WIDTHS, 0.05)
