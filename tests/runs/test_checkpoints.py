"""Checkpoints: what comes back, what is kept, what is refused."""

from __future__ import annotations

import os

import numpy as np
import pytest
import tensorflow as tf

from khuvcm_tf.runs import RunError, schedules
from khuvcm_tf.runs import checkpoints as checkpoints_lib
from khuvcm_tf.runs.options import RunOptions


class _Task:
  """Four weights, trained by given gradients."""

  def __init__(self, **settings):
    self.codec = tf.keras.Sequential([tf.keras.layers.Dense(4, use_bias=False)])
    self.codec.build((None, 1))
    self.codec.layers[0].kernel.assign([[1.0, 2.0, 3.0, 4.0]])
    self.schedule = schedules.Schedule(RunOptions(workdir="w", learning_rate_schedule="constant"))
    self.model = tf.keras.Sequential([self.codec])
    self.model.compile(tf.keras.optimizers.Adam(self.schedule, **settings))
    self.model.optimizer.build(self.codec.trainable_variables)

  @property
  def checkpointed(self):
    return {"codec": self.codec}

  @property
  def weights_now(self) -> np.ndarray:
    return self.codec.trainable_variables[0].numpy()[0]

  def step(self, gradient: float = 1.0):
    variables = self.codec.trainable_variables
    self.model.optimizer.apply_gradients([(tf.fill(variables[0].shape, gradient), variables[0])])


def _checkpoints(workdir, **settings):
  task = _Task(**settings)
  return task, checkpoints_lib.Checkpoints(str(workdir), task, task.schedule)


def test_a_new_workdir_has_nothing_to_restore(tmp_path):
  _, checkpoints = _checkpoints(tmp_path)
  assert checkpoints.restore() is None
  assert checkpoints.step == 0


def test_weights_moments_step_and_scale_come_back(tmp_path):
  task, checkpoints = _checkpoints(tmp_path)
  for gradient in (1.0, -2.0, 5.0):
    task.step(gradient)
  task.schedule.scale.assign(0.25)
  checkpoints.save()
  task.step()
  again, others = _checkpoints(tmp_path)
  assert others.restore().endswith("step-3")
  assert (others.step, float(again.schedule.scale)) == (3, 0.25)
  again.step()
  np.testing.assert_array_equal(again.weights_now, task.weights_now)


def test_the_last_three_are_kept_and_the_best(tmp_path):
  task, checkpoints = _checkpoints(tmp_path)
  best = None
  for loss in (5.0, 3.0, 4.0, 6.0, 7.0):
    task.step()
    checkpoints.save_best(loss)
    if loss == 3.0:
      best = task.weights_now
    checkpoints.save()
  folder = tmp_path / "checkpoints"
  kept = {name for name in os.listdir(folder) if name.endswith(".index")}
  assert kept == {"step-3.index", "step-4.index", "step-5.index"}
  assert [name for name in os.listdir(folder / "best") if name.endswith(".index")] == [
    "step-2.index"
  ]
  checkpoints.restore_best()
  np.testing.assert_array_equal(task.weights_now, best)
  assert checkpoints.step == 5


def test_the_best_loss_comes_back_after_a_restart(tmp_path):
  task, checkpoints = _checkpoints(tmp_path)
  task.step()
  checkpoints.save_best(3.0)
  checkpoints.save()
  best = task.weights_now
  again, others = _checkpoints(tmp_path)
  others.restore()
  again.step()
  others.save_best(4.0)
  others.save_best(float("nan"))
  others.restore_best()
  np.testing.assert_array_equal(again.weights_now, best)


def test_a_checkpoint_of_other_variables_is_refused(tmp_path):
  task, checkpoints = _checkpoints(tmp_path)
  task.step()
  checkpoints.save()
  _, others = _checkpoints(tmp_path, use_ema=True)
  with pytest.raises(
    RunError,
    match=r"^\S+step-1 does not fit this run: found .*; give the flags in flags\.txt, or [^\n]*$",
  ):
    others.restore()


def test_a_damaged_checkpoint_is_refused(tmp_path):
  task, checkpoints = _checkpoints(tmp_path)
  task.step()
  checkpoints.save()
  index = tmp_path / "checkpoints" / "step-1.index"
  index.write_bytes(index.read_bytes()[:-20])
  with pytest.raises(RunError, match=r"step-1 does not fit .* damage \("):
    checkpoints.restore()


def test_only_the_chief_writes(tmp_path):
  task = _Task()
  checkpoints = checkpoints_lib.Checkpoints(str(tmp_path), task, task.schedule, chief=False)
  task.step()
  checkpoints.save_best(1.0)
  checkpoints.save()
  assert not [name for _, _, names in os.walk(tmp_path) for name in names]


def test_objects_have_the_names_that_earlier_versions_gave_them(tmp_path):
  task, checkpoints = _checkpoints(tmp_path)
  task.step()
  checkpoints.save()
  names = dict(tf.train.list_variables(str(tmp_path / "checkpoints")))
  parts = {name.split("/")[0] for name in names if "OBJECT_GRAPH" not in name}
  assert parts == {"best_loss", "codec", "optimizer", "save_counter", "scale"}
