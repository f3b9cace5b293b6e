"""Learning rates against their closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from khuvcm_tf import options
from khuvcm_tf.runs import schedules
from khuvcm_tf.runs.options import RunOptions


def _schedule(kind: str, warmup_steps: int = 0) -> schedules.Schedule:
  given = {"learning_rate": 1e-3, "learning_rate_schedule": kind, "warmup_steps": warmup_steps}
  return schedules.Schedule(RunOptions(workdir="w", max_steps=1000, **given))


def _rates(kind: str, steps, warmup: int = 0) -> list[float]:
  return [float(_schedule(kind, warmup)(step)) for step in steps]


def test_constant_stays_at_its_peak():
  np.testing.assert_allclose(_rates("constant", (0, 500, 1000, 5000)), 1e-3, rtol=1e-6)


def test_drops_are_at_80_and_95_percent():
  expected = [1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5]
  found = _rates("drops", (0, 799, 800, 949, 950, 1000))
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_cosine_ends_at_a_hundredth_and_is_half_way_in_the_middle():
  steps = (0, 250, 500, 1000, 2000)
  expected = [
    1e-3 * (0.01 + 0.99 * (1 + math.cos(math.pi * min(step / 1000, 1))) / 2) for step in steps
  ]
  np.testing.assert_allclose(_rates("cosine", steps), expected, rtol=1e-4)
  assert _rates("cosine", [1000])[0] == pytest.approx(1e-5, rel=1e-3)


def test_warm_up_rises_by_equal_steps_to_the_peak():
  found = _rates("constant", range(12), warmup=10)
  np.testing.assert_allclose(found, [1e-4 * min(i + 1, 10) for i in range(12)], rtol=1e-6)


def test_scale_multiplies_all_rates():
  schedule = _schedule("drops")
  schedule.scale.assign(0.5)
  np.testing.assert_allclose([float(schedule(0)), float(schedule(960))], [5e-4, 5e-6], rtol=1e-6)


def test_every_choice_of_the_option_is_a_schedule():
  specs = {field.name: spec for field, spec, _ in options._options(RunOptions)}
  assert specs["learning_rate_schedule"].choices == tuple(schedules.COURSES)
