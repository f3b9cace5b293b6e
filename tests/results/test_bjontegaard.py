"""BD-rate and BD-PSNR against closed forms and the package bjontegaard."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from khuvcm_tf import errors
from khuvcm_tf.results import bjontegaard

_FIVE = [(0.12, 27.1), (0.25, 30.0), (0.51, 32.6), (0.93, 35.8), (1.70, 38.4)]
_FOUR = [(0.10, 27.9), (0.30, 31.9), (0.62, 34.1), (1.35, 38.9)]
_THREE = [(0.40, 30.5), (0.66, 32.0), (1.9, 37.9)]


def _straight(rates, slope=5.0, offset=34.0):
  """A curve of `slope` dB for each factor e of the rate."""
  return [(rate, offset + slope * math.log(rate)) for rate in rates]


@pytest.mark.parametrize("curve", [_FIVE, _FOUR, _THREE])
@pytest.mark.parametrize("factor", [0.5, 0.9, 1.0, 3.0])
def test_a_rate_of_half_everywhere_is_minus_50_percent(curve, factor):
  scaled = [(factor * rate, quality) for rate, quality in curve]
  result = bjontegaard.bd_rate(curve, scaled)
  assert result.value == pytest.approx(100 * (factor - 1), abs=1e-9)
  assert result[1:] == (curve[0][1], curve[-1][1], 1.0)


@pytest.mark.parametrize("curve", [_FIVE, _FOUR, _THREE])
def test_a_quality_of_1_db_more_everywhere_is_1_db(curve):
  better = [(rate, quality + 1) for rate, quality in curve]
  result = bjontegaard.bd_psnr(curve, better)
  assert result.value == pytest.approx(1, abs=1e-12)
  assert result[1:] == pytest.approx((curve[0][0], curve[-1][0], 1.0), rel=1e-12)


@pytest.mark.parametrize("gain", [-0.7, 0.3, 1.0])
def test_between_parallel_straight_lines_rate_and_quality_say_the_same(gain):
  # Wherever their points lie: PCHIP draws straight lines as they are.
  anchor = _straight([0.1, 0.2, 0.5, 1.5])
  curve = _straight([0.15, 0.4, 0.8, 1.1, 2.0], offset=34 + gain)
  assert bjontegaard.bd_psnr(anchor, curve).value == pytest.approx(gain, abs=1e-9)
  expected = 100 * (math.exp(-gain / 5) - 1)
  assert bjontegaard.bd_rate(anchor, curve).value == pytest.approx(expected, abs=1e-9)


def test_straight_lines_that_diverge_differ_by_the_mean_over_the_common_range():
  # log R = (Q - 34) / 5 and (Q - 34) / 4: their difference is linear, its mean that of the middle.
  anchor, curve = _straight([0.2, 0.5, 1.0]), _straight([0.25, 0.6, 1.2], slope=4.0)
  lowest, highest = 34 + 4 * math.log(0.25), 34.0
  middle = (lowest + highest) / 2
  result = bjontegaard.bd_rate(anchor, curve)
  assert result[1:3] == pytest.approx((lowest, highest), rel=1e-12)
  expected = 100 * math.expm1((middle - 34) / 4 - (middle - 34) / 5)
  assert result.value == pytest.approx(expected, abs=1e-9)


# Of the package bjontegaard 1.3.0, method "pchip": BD-rate, BD-PSNR.
@pytest.mark.parametrize(
  "anchor, curve, rate, psnr",
  [
    (_FIVE, _FOUR, -20.402550463706703, 1.0118410548218808),
    (_FOUR, _FIVE, 25.632166083919493, -1.0118410548218808),
    (_FIVE, _THREE, 51.772081472283695, -1.8488633995138228),
    (_FOUR, _THREE, 81.03277244714859, -2.58348028291288),
  ],
)
def test_differences_equal_those_of_the_package_bjontegaard(anchor, curve, rate, psnr):
  assert bjontegaard.bd_rate(anchor, curve).value == pytest.approx(rate, abs=1e-9)
  assert bjontegaard.bd_psnr(anchor, curve).value == pytest.approx(psnr, abs=1e-9)


@st.composite
def _curves(draw):
  """Three to six points; any two such curves have rates and qualities in common."""
  count = draw(st.integers(2, 5))
  log_steps = draw(st.lists(st.floats(0.7, 1.5), min_size=count, max_size=count))
  steps = draw(st.lists(st.floats(3, 6), min_size=count, max_size=count))
  rates = np.exp(np.cumsum([draw(st.floats(-3, -2)), *log_steps]))
  return list(zip(rates.tolist(), np.cumsum([draw(st.floats(25, 30)), *steps]).tolist()))


@given(_curves(), _curves())
def test_exchanging_the_curves_inverts_the_ratio_and_turns_the_sign(anchor, curve):
  there, back = bjontegaard.bd_rate(anchor, curve), bjontegaard.bd_rate(curve, anchor)
  assert (1 + there.value / 100) * (1 + back.value / 100) == pytest.approx(1, rel=1e-9)
  assert there[1:] == back[1:]
  there, back = bjontegaard.bd_psnr(anchor, curve), bjontegaard.bd_psnr(curve, anchor)
  assert there.value == pytest.approx(-back.value, abs=1e-9)
  assert there[1:] == back[1:]


@given(_curves(), _curves(), st.floats(1e-3, 1e6))
def test_neither_the_unit_of_rate_nor_the_order_of_points_matters(anchor, curve, factor):
  expected = bjontegaard.bd_rate(anchor, curve).value
  turned = [
    [(factor * rate, quality) for rate, quality in points[::-1]] for points in (anchor, curve)
  ]
  assert bjontegaard.bd_rate(*turned).value == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_the_overlap_is_the_share_of_the_shorter_range():
  anchor = [(0.1, 30), (0.2, 32), (0.4, 40)]
  assert bjontegaard.bd_rate(anchor, [(0.1, 38), (0.2, 39), (0.4, 42)])[1:] == (38, 40, 0.5)
  assert bjontegaard.bd_rate(anchor, [(0.1, 33), (0.2, 34), (0.4, 35)])[1:] == (33, 35, 1.0)
  # From 0.2 to 0.4 is one of the two doublings that the anchor covers.
  result = bjontegaard.bd_psnr(anchor, [(0.2, 33), (0.4, 34), (1.6, 35)])
  assert result[1:] == pytest.approx((0.2, 0.4, 0.5))


def test_a_small_overlap_logs_a_warning(caplog):
  anchor = [(0.1, 30), (0.2, 32), (0.4, 40)]
  bjontegaard.bd_rate(anchor, [(0.1, 32), (0.2, 39), (0.4, 42)])
  assert not caplog.text  # 8 of 10 dB
  bjontegaard.bd_rate(anchor, [(0.1, 38), (0.2, 39), (0.4, 42)], warns=False)
  assert not caplog.text
  bjontegaard.bd_rate(anchor, [(0.1, 38), (0.2, 39), (0.4, 42)])
  assert "have only quality 38..40 in common, 50 % of the shorter one" in caplog.text
  bjontegaard.bd_psnr(anchor, [(0.2, 33), (0.4, 34), (1.6, 35)])
  assert "have only rate 0.2..0.4 in common, 50 % of the shorter one" in caplog.text


_BOTH = pytest.mark.parametrize("difference", [bjontegaard.bd_rate, bjontegaard.bd_psnr])


def test_curves_without_a_common_range_are_refused():
  higher = [(rate, quality + 20) for rate, quality in _FOUR]
  with pytest.raises(
    bjontegaard.CurveError,
    match=r"no common range of quality: 27.9..38.9 and 47.9..58.9; measure them at rate ",
  ):
    bjontegaard.bd_rate(_FOUR, higher)
  faster = [(rate + 10, quality) for rate, quality in _FOUR]
  with pytest.raises(
    bjontegaard.CurveError, match=r"no common range of rate: 0.1..1.35 and 10.1..11.35; measure"
  ):
    bjontegaard.bd_psnr(_FOUR, faster)


@_BOTH
def test_two_points_are_no_curve(difference):
  with pytest.raises(bjontegaard.CurveError, match="`curve` has 2 points; expected 3 or more; mea"):
    difference(_FOUR, _FOUR[:2])
  with pytest.raises(bjontegaard.CurveError, match="`anchor` has 0 points; expected 3 or more"):
    difference([], _FOUR)


@_BOTH
@pytest.mark.parametrize(
  "wrong, place",
  [
    ((0.5, 31.5), r"from \(rate 0.3, quality 31.9\) to \(rate 0.5, quality 31.5\)"),
    ((0.2, 31.9), r"from \(rate 0.2, quality 31.9\) to \(rate 0.3, quality 31.9\)"),
    ((0.3, 32.5), r"from \(rate 0.3, quality 31.9\) to \(rate 0.3, quality 32.5\)"),
  ],
)
def test_points_that_cost_more_for_no_more_are_named(difference, wrong, place):
  with pytest.raises(bjontegaard.CurveError, match=f"`curve` does not rise {place}; expected more"):
    difference(_FIVE, [*_FOUR, wrong])
  with pytest.raises(bjontegaard.CurveError, match=f"`anchor` does not rise {place}; .* leave out"):
    difference([*_FOUR, wrong], _FIVE)


@_BOTH
@pytest.mark.parametrize(
  "wrong",
  [(0.0, 20.0), (-1.0, 20.0), (math.nan, 33.0), (2.0, math.nan), (2.0, math.inf), (math.inf, 45.0)],
)
def test_points_that_are_not_finite_are_refused(difference, wrong):
  with pytest.raises(
    bjontegaard.CurveError, match=r"`curve` has the point .*; expected a positive rate and a finite"
  ):
    difference(_FIVE, [*_FOUR, wrong])


def test_errors_are_for_people():
  assert issubclass(bjontegaard.CurveError, errors.Error)


def test_curves_are_compared_with_one_of_them_or_say_why_not():
  half = [(0.5 * rate, quality) for rate, quality in _FIVE]
  found = bjontegaard.bd_rates({"x": half, "anchor": _FIVE, "short": _FIVE[:2]}, "anchor")
  assert found["x"] == pytest.approx({"value": -50, "lowest": 27.1, "highest": 38.4, "overlap": 1})
  assert list(found) == ["x", "short"] and "has 2 points" in found["short"]["error"]
  assert "`anchor` has 0 points" in bjontegaard.bd_rates({"x": half}, "gone")["x"]["error"]
