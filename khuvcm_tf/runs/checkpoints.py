"""What a run needs to be resumed after it was killed, written whole every so many steps."""

from __future__ import annotations

import os

import tensorflow as tf

from khuvcm_tf import paths
from khuvcm_tf.runs import RunError, schedules
from khuvcm_tf.runs.task import Task


def exist(workdir: str) -> bool:
  """Returns whether the run in this folder has a checkpoint to be resumed from."""
  return tf.train.latest_checkpoint(_folder(workdir)) is not None


class Checkpoints:
  """Checkpoints of a run in WORKDIR/checkpoints: the last three, and the best by validation loss.

  TensorFlow writes a checkpoint under a temporary name, renames it, and only then names it in the
  file `checkpoint` (renamed, too): a run that is killed leaves whole ones.

  Args:
    workdir: of the run; all processes of it must see it.
    task: its model is compiled, with an optimizer that is built.
    schedule: of the learning rate.
    chief: whether this process writes. The others hold the same values and only read.
  """

  def __init__(self, workdir: str, task: Task, schedule: schedules.Schedule, chief: bool = True):
    self._optimizer, self._chief = task.model.optimizer, chief
    # Outside of the strategy's scope: within it, all processes would have to assign it together.
    self.best_loss = tf.Variable(float("inf"), trainable=False, name="best_loss")
    self._all = tf.train.Checkpoint(
      **task.checkpointed,
      optimizer=self._optimizer,
      scale=schedule.scale,
      best_loss=self.best_loss,
    )
    self._weights = tf.train.Checkpoint(**task.checkpointed)
    folder = _folder(workdir)
    self._last = _manager(self._all, folder, 3)
    self._best = _manager(self._weights, os.path.join(folder, "best"), 1)

  @property
  def step(self) -> int:
    """Steps that the run has made."""
    return int(self._optimizer.iterations.numpy())

  def restore(self) -> str | None:
    """Restores the last checkpoint; returns its path, or None where there is none.

    Raises:
      RunError: it is damaged, or of another model or optimizer.
    """
    return _restore(self._all, self._last.directory)

  def save(self):
    """Writes a checkpoint of the whole run."""
    if self._chief:
      self._last.save(checkpoint_number=self.step)

  def save_best(self, loss: float):
    """Keeps the weights as they are now if no `loss` so far was lower."""
    if self._chief and loss <= float(self.best_loss.numpy()):
      self.best_loss.assign(loss)
      self._best.save(checkpoint_number=self.step)

  def restore_best(self):
    """Gives the model the best weights."""
    _restore(self._weights, self._best.directory)


def _folder(workdir: str) -> str:
  return os.path.join(paths.for_tensorflow(workdir), "checkpoints")


def _manager(checkpoint: tf.train.Checkpoint, folder: str, kept: int):
  # Creates the counter here, outside of the scope that Keras `fit` opens.
  _ = checkpoint.save_counter
  return tf.train.CheckpointManager(checkpoint, folder, kept, checkpoint_name="step")


def _restore(checkpoint: tf.train.Checkpoint, folder: str) -> str | None:
  # Read anew from the folder: another process may have written it.
  path = tf.train.latest_checkpoint(folder)
  if path is None:
    return None
  try:
    checkpoint.restore(path).assert_existing_objects_matched()
  except (AssertionError, ValueError, tf.errors.OpError) as error:
    raise RunError(
      f"{os.path.realpath(path)} does not fit this run: found other variables than expected, or "
      f"damage ({str(error).strip().splitlines()[0]}); give the flags in flags.txt, or another "
      "--workdir"
    ) from error
  return path
