"""Thresholds of distortion against curves that were made with one."""

from __future__ import annotations

import numpy as np
import pytest

from detection.feature_coding import threshold

_D = np.geomspace(0.05, 5.0, 12)


def _performance(at, slope, base=0.5):
  return base - slope * np.maximum(0.0, np.log(_D / at))


@pytest.mark.parametrize("at", [0.1, 0.4, 1.5])
def test_a_curve_gives_its_own_threshold(at):
  found = threshold.fit(_D, _performance(at, 0.08), 0.5)
  assert found.distortion == pytest.approx(at, rel=0.02)
  assert found.slope == pytest.approx(0.08, rel=0.05)
  assert found.residual < 1e-3 and found.is_reached


def test_a_curve_that_does_not_fall_has_its_greatest_distortion():
  found = threshold.fit(_D, np.full(12, 0.5), 0.5)
  assert found.distortion == pytest.approx(5.0) and found.slope == 0.0


def test_a_curve_that_has_fallen_from_its_first_point_on_has_not_reached_it():
  far = _D > 0.5
  found = threshold.fit(_D[far], _performance(0.1, 0.08)[far], 0.5)
  assert not found.is_reached and found.distortion == pytest.approx(_D[far].min())


def test_the_interval_holds_the_threshold_and_grows_with_the_noise():
  rng, widths = np.random.default_rng(0), []
  for noise in (0.002, 0.02):
    base = 0.5 + rng.normal(scale=noise, size=400)
    draws = _performance(0.4, 0.08) + (base - 0.5)[:, np.newaxis]
    draws += rng.normal(scale=noise, size=draws.shape)
    found = threshold.fit(_D, _performance(0.4, 0.08), 0.5, draws, base)
    assert found.low < 0.4 < found.high
    widths.append(found.high / found.low)
  assert widths[0] < widths[1]


def test_points_of_one_distortion_are_no_curve():
  with pytest.raises(ValueError, match="all the same"):
    threshold.fit(np.ones(4), np.ones(4), 1.0)
