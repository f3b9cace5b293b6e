"""Checkpoints, and the weights that a moving average leaves."""

from __future__ import annotations

import os

import numpy as np
import pytest
import tensorflow as tf

from khuvcm_tf.training import checkpoints as checkpoints_lib
from khuvcm_tf.training import schedules


class _Parts(tf.keras.Model):
  """Four weights, trained by given gradients, in the place of a trainer."""

  def __init__(self, **settings):
    super().__init__()
    self.codec = tf.keras.Sequential([tf.keras.layers.Dense(4, use_bias=False)])
    self.codec.build((None, 1))
    self.codec.layers[0].kernel.assign([[1.0, 2.0, 3.0, 4.0]])
    self.schedule = schedules.Schedule(0.1, "constant", 0, 100)
    self.compile(tf.keras.optimizers.Adam(self.schedule, **settings))

  @property
  def weights_now(self) -> np.ndarray:
    return self.codec.trainable_variables[0].numpy()[0]

  def step(self, gradient: float = 1.0):
    variables = self.codec.trainable_variables
    self.optimizer.apply_gradients([(tf.fill(variables[0].shape, gradient), variables[0])])


def _checkpoints(workdir, parts=None, **settings):
  parts = parts or _Parts(**settings)
  return parts, checkpoints_lib.Checkpoints(str(workdir), parts)


def test_a_new_workdir_has_nothing_to_restore(tmp_path):
  _, checkpoints = _checkpoints(tmp_path)
  assert checkpoints.restore() is None
  assert checkpoints.step == 0


def test_weights_moments_step_and_scale_come_back(tmp_path):
  parts, checkpoints = _checkpoints(tmp_path)
  for gradient in (1.0, -2.0, 5.0):
    parts.step(gradient)
  parts.schedule.scale.assign(0.25)
  checkpoints.save()
  parts.step()
  again, others = _checkpoints(tmp_path)
  assert others.restore().endswith("step-3")
  assert (others.step, float(again.schedule.scale)) == (3, 0.25)
  again.step()
  np.testing.assert_array_equal(again.weights_now, parts.weights_now)


def test_the_last_three_are_kept_and_the_best(tmp_path):
  parts, checkpoints = _checkpoints(tmp_path)
  best = None
  for loss in (5.0, 3.0, 4.0, 6.0, 7.0):
    parts.step()
    checkpoints.save_best(loss)
    if loss == 3.0:
      best = parts.weights_now
    checkpoints.save()
  folder = tmp_path / "checkpoints"
  kept = {name for name in os.listdir(folder) if name.endswith(".index")}
  assert kept == {"step-3.index", "step-4.index", "step-5.index"}
  assert [name for name in os.listdir(folder / "best") if name.endswith(".index")] == [
    "step-2.index"
  ]
  checkpoints.restore_best()
  np.testing.assert_array_equal(parts.weights_now, best)
  assert checkpoints.step == 5


def test_the_best_loss_is_known_after_a_restart(tmp_path):
  parts, checkpoints = _checkpoints(tmp_path)
  parts.step()
  checkpoints.save_best(3.0)
  checkpoints.save()
  best = parts.weights_now
  again, others = _checkpoints(tmp_path)
  others.restore()
  again.step()
  others.save_best(4.0)
  others.save_best(float("nan"))
  others.restore_best()
  np.testing.assert_array_equal(again.weights_now, best)


def test_a_checkpoint_of_other_variables_is_refused(tmp_path):
  parts, checkpoints = _checkpoints(tmp_path)
  parts.step()
  checkpoints.save()
  _, others = _checkpoints(tmp_path, use_ema=True)
  with pytest.raises(
    checkpoints_lib.CheckpointError,
    match=r"^\S+step-1 does not fit this run: found .*; give the flags in flags\.txt, or [^\n]*$",
  ):
    others.restore()


def test_a_damaged_checkpoint_is_refused(tmp_path):
  parts, checkpoints = _checkpoints(tmp_path)
  parts.step()
  checkpoints.save()
  index = tmp_path / "checkpoints" / "step-1.index"
  index.write_bytes(index.read_bytes()[:-20])
  with pytest.raises(checkpoints_lib.CheckpointError, match=r"step-1 does not fit .* damage \("):
    checkpoints.restore()


def test_only_the_chief_writes(tmp_path):
  parts = _Parts()
  checkpoints = checkpoints_lib.Checkpoints(str(tmp_path), parts, chief=False)
  parts.step()
  checkpoints.save_best(1.0)
  checkpoints.save()
  assert not [name for _, _, names in os.walk(tmp_path) for name in names]


def test_averaged_weights_are_the_moving_average_and_then_gone(tmp_path):
  parts, _ = _checkpoints(tmp_path, use_ema=True, ema_momentum=0.7)
  average = parts.weights_now
  for gradient in (1.0, 3.0, -2.0, 0.5):
    parts.step(gradient)
    average = 0.7 * average + 0.3 * parts.weights_now
  own = parts.weights_now
  with pytest.raises(KeyError), checkpoints_lib.averaged_weights(parts):
    np.testing.assert_allclose(parts.weights_now, average, rtol=1e-6)
    raise KeyError
  np.testing.assert_array_equal(parts.weights_now, own)


def test_without_an_average_the_weights_stay(tmp_path):
  parts, _ = _checkpoints(tmp_path)
  parts.step()
  own = parts.weights_now
  with checkpoints_lib.averaged_weights(parts):
    np.testing.assert_array_equal(parts.weights_now, own)
