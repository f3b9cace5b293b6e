"""Optimizers beside the formulas of their steps."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from khuvcm_tf.runs import optimizers, schedules
from khuvcm_tf.runs.options import RunOptions


def _weights(steps: int, **fields) -> list[float]:
  """Returns a weight that begins with 2 after each step with a gradient of 0.5."""
  fields = {"learning_rate": 0.1, "learning_rate_schedule": "constant", "clip_norm": 0.0, **fields}
  options = RunOptions(workdir="unused", **fields)
  optimizer = optimizers.create(options, schedules.Schedule(options))
  weight = tf.Variable(2.0)
  found = []
  for _ in range(steps):
    optimizer.apply_gradients([(tf.constant(0.5), weight)])
    found.append(float(weight.numpy()))
  return found


def test_gradient_descent_has_momentum():
  first = 2.0 - 0.1 * 0.5
  assert _weights(2, optimizer="sgd") == pytest.approx([first, first - 0.1 * 0.5 * 1.9])


def test_adam_steps_by_the_learning_rate_whatever_the_gradient():
  np.testing.assert_allclose(_weights(3), [1.9, 1.8, 1.7], rtol=1e-5)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_decay_takes_a_share_of_the_weight_off(optimizer):
  (without,), (decayed,) = (_weights(1, optimizer=optimizer, weight_decay=d) for d in (0.0, 0.2))
  assert without - decayed == pytest.approx(0.1 * 0.2 * 2.0)


def test_gradients_are_scaled_to_the_norm():
  assert _weights(1, optimizer="sgd", clip_norm=0.25) == pytest.approx([2.0 - 0.1 * 0.25])
