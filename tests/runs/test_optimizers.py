"""Optimizers beside the formulas of their steps."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from khuvcm_tf.runs import muon, optimizers, schedules
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


def _muon(**fields) -> tf.keras.optimizers.Optimizer:
  fields = {"learning_rate": 0.1, "learning_rate_schedule": "constant", "clip_norm": 0.0, **fields}
  options = RunOptions(workdir="unused", optimizer="muon", **fields)
  return optimizers.create(options, schedules.Schedule(options))


@pytest.mark.parametrize("shape", [(3, 3, 5, 8), (3, 3, 8, 96), (1, 1, 6, 6), (5, 4, 7)])
def test_muon_steps_as_a_plain_loop_does(shape):
  rng = np.random.default_rng(0)
  start = rng.normal(size=shape).astype(np.float32)
  optimizer, weight = _muon(), tf.Variable(start)
  expected, momentum = start.astype(np.float64), np.zeros(shape)
  for _ in range(3):
    gradient = rng.normal(size=shape).astype(np.float32)
    optimizer.apply_gradients([(tf.constant(gradient), weight)])
    momentum = 0.95 * momentum + gradient
    x = (gradient + 0.95 * momentum).reshape(-1, shape[-1])
    x /= np.linalg.norm(x)
    for _ in range(5):
      square = x @ x.T
      x = 3.4445 * x - 4.7750 * square @ x + 2.0315 * square @ square @ x
    expected -= 0.1 * 0.2 * max(x.shape) ** 0.5 * x.reshape(shape)
  np.testing.assert_allclose(weight, expected, atol=2e-5)


def test_an_update_is_about_orthogonal():
  matrix = tf.random.stateless_normal([90, 12], [1, 2])
  values = np.linalg.svd(muon.orthogonal(matrix), compute_uv=False)
  assert values.min() > 0.6 and values.max() < 1.3


def test_muon_is_adam_for_other_weights():
  shapes, rng = [(8,), (6, 6), (3, 3, 3, 8), ()], np.random.default_rng(0)
  start = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
  found = []
  for name in ("muon", "adam"):
    fields = {"learning_rate": 0.1, "learning_rate_schedule": "constant", "weight_decay": 0.1}
    options = RunOptions(workdir="unused", optimizer=name, **fields)
    optimizer = optimizers.create(options, schedules.Schedule(options))
    weights = [tf.Variable(each) for each in start]
    for step in range(3):
      pairs = [(tf.cos(weight + step), weight) for weight in weights]
      optimizer.apply_gradients(pairs)
    found.append([weight.numpy() for weight in weights])
  for ours, adam in zip(*found):
    np.testing.assert_array_equal(ours, adam)


def test_muon_goes_on_from_a_checkpoint(tmp_path):
  def run(optimizer, weight, steps):
    for step in steps:
      gradient = tf.cos(weight * (step + 1.0))
      optimizer.apply_gradients([(gradient, weight)])

  whole, weight = _muon(ema=0.9, clip_norm=1.0), tf.Variable(tf.ones([3, 3, 4, 6]))
  run(whole, weight, range(4))
  first, part = _muon(ema=0.9, clip_norm=1.0), tf.Variable(tf.ones([3, 3, 4, 6]))
  run(first, part, range(2))
  path = tf.train.Checkpoint(optimizer=first, weight=part).save(str(tmp_path / "c"))
  second, resumed = _muon(ema=0.9, clip_norm=1.0), tf.Variable(tf.zeros([3, 3, 4, 6]))
  second.build([resumed])
  tf.train.Checkpoint(optimizer=second, weight=resumed).restore(path)
  run(second, resumed, range(2, 4))
  np.testing.assert_allclose(resumed, weight, atol=1e-6)


def test_muon_runs_on_several_devices(tmp_path):
  strategy = tf.distribute.MirroredStrategy(["/cpu:0"])
  with strategy.scope():
    optimizer, weight = _muon(), tf.Variable(tf.ones([3, 3, 4, 6]))
    optimizer.build([weight])

  @tf.function
  def step():
    strategy.run(lambda: optimizer.apply_gradients([(tf.cos(weight), weight)]))

  step()
  alone, other = _muon(), tf.Variable(tf.ones([3, 3, 4, 6]))
  alone.apply_gradients([(tf.cos(other), other)])
  np.testing.assert_allclose(weight.numpy(), other, atol=1e-6)
