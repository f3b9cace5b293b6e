"""The factorized prior in integers, against its float counterpart."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from khuvcm_tf.entropy import calibration
from khuvcm_tf.entropy.integer import entropy_model as integer_entropy_model
from khuvcm_tf.entropy.integer import factorized as integer_factorized
from khuvcm_tf.entropy.integer import range_coder
from tests.entropy import factorized_models
from tests.entropy.factorized_models import DEPTH, MEDIANS


@pytest.fixture(scope="module", params=[False, True], ids=["own medians", "stored medians"])
def pair(request):
  """A float model and its conversion."""
  floats = factorized_models.create(stored_medians=request.param, prior_layers=4)
  tf.config.run_functions_eagerly(True)
  try:
    return floats, calibration.convert(
      floats, [factorized_models.drawn(floats, seed) for seed in range(2)], 0.01
    )
  finally:
    tf.config.run_functions_eagerly(False)


_SIDES = st.integers(1, 4)


class TestIntegerFactorized:
  @given(height=_SIDES, width=_SIDES, data=st.data())
  @settings(max_examples=60, deadline=None)
  def test_gives_back_any_latents_of_any_size(self, pair, height, width, data):
    model = pair[1].model
    within = st.integers(-12, 12)
    far = st.sampled_from([-60_000, -5000, -1100, 1100, 5000, 60_000])
    count = height * width * DEPTH
    drawn = data.draw(st.lists(st.one_of(within, within, far), min_size=count, max_size=count))
    symbols = np.array(drawn, np.int32).reshape(1, height, width, DEPTH)
    self._check_round_trip(model, symbols)

  def _check_round_trip(self, model, symbols):
    medians = model.medians / 64
    # Off the whole steps, but nearer to them than to others.
    y = tf.constant(symbols + medians + np.resize([0.0, 0.4, -0.4], symbols.shape))
    substreams = model.encode(y, None)
    assert substreams.shape == (1,)
    found = model.decode(substreams, *symbols.shape[1:3])
    np.testing.assert_array_equal(found.z, symbols)
    np.testing.assert_array_equal(found.y_hat, symbols + medians)
    np.testing.assert_array_equal(model.y_hat(tf.cast(y, tf.float32)), found.y_hat)
    assert found.exact

  def test_gives_back_the_farthest_that_escapes_can_code(self, pair):
    model = pair[1].model
    low, high = (np.array(each[1 : 1 + DEPTH]) for each in (model.tables.low, model.tables.high))
    far = range_coder.MAX_EXCESS
    self._check_round_trip(model, np.stack([low - far, high + far]).reshape(1, 2, 1, DEPTH))
    y = model.latents(tf.constant((high + far + 1).reshape(1, 1, 1, DEPTH), tf.int32))
    for use in (model.encode, model.estimate):
      with pytest.raises(tf.errors.InvalidArgumentError, match="a latent lies"):
        use(y, None)

  def test_takes_the_estimated_bits(self, pair):
    floats, (model, _) = pair
    for y in (
      factorized_models.drawn(floats, 5),
      factorized_models.around_medians(floats, 9, 8, spread=200.0),
    ):
      (data,) = model.encode(y, None).numpy()
      (bits,) = model.estimate(y, None).values()
      assert len(data) * 8 == pytest.approx(float(bits), abs=24)

  def test_costs_what_floats_cost_within_a_percent(self, pair):
    floats, (model, loss) = pair
    y = factorized_models.drawn(floats, 6)
    (bits,) = model.estimate(y, None).values()
    assert float(bits) == pytest.approx(float(floats(y)[1]["y"][0]), rel=0.01)
    assert abs(loss) < 0.01

  def test_rounds_as_its_float_counterpart_where_medians_are_multiples_of_a_64th(self, pair):
    floats, (model, _) = pair
    if floats.prior.stored is None:
      # Its medians are found by bisection: they are rounded to fixed point.
      np.testing.assert_allclose(model.medians / 64, floats.prior.medians(), atol=1 / 128 + 1e-6)
      return
    y = factorized_models.drawn(floats, 7)
    np.testing.assert_array_equal(model.medians / 64, MEDIANS)
    np.testing.assert_array_equal(model.y_hat(y), floats.element_bits(y)[0])

  def test_finds_bytes_left_over(self, pair):
    floats, (model, _) = pair
    y = factorized_models.around_medians(floats)
    (data,) = model.encode(y, None).numpy()
    found = model.decode(tf.constant([data + b"\x01"]), *y.shape[1:3])
    np.testing.assert_array_equal(found.y_hat, model.y_hat(y))
    assert not found.exact

  def test_gives_back_itself_from_its_arrays(self, pair):
    floats, (model, _) = pair
    arrays = model.to_arrays()
    assert {value.dtype.kind for value in arrays.values()} == {"i"}
    again = floats.integer_class.from_arrays(arrays)
    assert isinstance(again, integer_factorized.IntegerFactorized)
    again.check_arithmetic()
    y = factorized_models.drawn(floats, 8)
    np.testing.assert_array_equal(again.encode(y, None), model.encode(y, None))
    assert again.depth == DEPTH
    assert again.to_arrays().keys() == arrays.keys()
    for name, value in again.to_arrays().items():
      np.testing.assert_array_equal(value, arrays[name])

  def test_has_a_checksum_that_depends_on_its_medians(self, pair):
    arrays = pair[1].model.to_arrays()
    arrays["medians"] = arrays["medians"] + np.array([0, 0, 0, 0, 1], np.int32)
    with pytest.raises(integer_entropy_model.InexactArithmetic, match="are not exact"):
      integer_factorized.IntegerFactorized.from_arrays(arrays).check_arithmetic()
