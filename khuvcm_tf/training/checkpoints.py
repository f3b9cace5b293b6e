"""What a run needs to go on after it was killed, written whole every so many steps."""

from __future__ import annotations

import contextlib
import os

import tensorflow as tf

from khuvcm_tf import errors


class CheckpointError(errors.Error):
  """A checkpoint that this run cannot go on from."""


def exist(workdir: str) -> bool:
  """Tells whether a run in this folder has been begun and can go on."""
  return tf.train.latest_checkpoint(_folder(workdir)) is not None


class Checkpoints:
  """Checkpoints of a run in WORKDIR/checkpoints: the last three, and the best by validation loss.

  TensorFlow writes a checkpoint under a temporary name and renames it, and names it in the file
  `checkpoint` (renamed too) only then: a run that is killed leaves whole ones.

  Args:
    workdir: of the run; all processes of it must see it.
    trainer: `Trainer`, compiled.
    chief: whether this process writes. The others hold the same values and only read.
  """

  def __init__(self, workdir: str, trainer: tf.keras.Model, chief: bool = True):
    optimizer = trainer.optimizer
    with trainer.distribute_strategy.scope():
      optimizer.build(trainer.codec.trainable_variables)
    self._trainer, self._chief = trainer, chief
    # Outside of the scope: within it, all processes would have to assign it together.
    self.best_loss = tf.Variable(float("inf"), trainable=False, name="best_loss")
    self._all = tf.train.Checkpoint(
      codec=trainer.codec,
      optimizer=optimizer,
      scale=trainer.schedule.scale,
      best_loss=self.best_loss,
    )
    self._weights = tf.train.Checkpoint(codec=trainer.codec)
    folder = _folder(workdir)
    self._last = self._manager(self._all, folder, 3)
    self._best = self._manager(self._weights, os.path.join(folder, "best"), 1)

  def _manager(self, checkpoint, folder: str, kept: int) -> tf.train.CheckpointManager:
    # Creates the counter here, outside of the scope that Keras `fit` opens.
    _ = checkpoint.save_counter
    return tf.train.CheckpointManager(checkpoint, folder, kept, checkpoint_name="step")

  @property
  def step(self) -> int:
    """Steps that the run has made."""
    return int(self._trainer.optimizer.iterations.numpy())

  def restore(self) -> str | None:
    """Goes back to the last checkpoint; returns its path, or None where there is none.

    Raises:
      CheckpointError: it is damaged, or another codec's or optimizer's.
    """
    return _restore(self._all, self._last.directory)

  def save(self):
    """Writes a checkpoint of the whole run."""
    if self._chief:
      self._last.save(checkpoint_number=self.step)

  def save_best(self, loss: float):
    """Keeps the codec's weights as they are now if `loss` is the lowest so far."""
    if self._chief and loss < float(self.best_loss.numpy()):
      self.best_loss.assign(loss)
      self._best.save(checkpoint_number=self.step)

  def restore_best(self):
    """Puts the best weights into the codec."""
    _restore(self._weights, self._best.directory)


def _folder(workdir: str) -> str:
  return os.path.join(workdir, "checkpoints")


def _restore(checkpoint: tf.train.Checkpoint, folder: str) -> str | None:
  # Read anew from the folder: another process may have written it.
  path = tf.train.latest_checkpoint(folder)
  if path is None:
    return None
  try:
    checkpoint.restore(path).assert_existing_objects_matched()
  except (AssertionError, ValueError, tf.errors.OpError) as error:
    raise CheckpointError(
      f"{path} does not fit this run: found other variables than expected, or damage "
      f"({str(error).strip().splitlines()[0]}); give the flags in flags.txt, or another --workdir"
    ) from error
  return path


@contextlib.contextmanager
def averaged_weights(trainer: tf.keras.Model):
  """Within, the codec has its moving-average weights, where the optimizer keeps such."""
  optimizer = trainer.optimizer
  if not optimizer.use_ema:
    yield
    return
  variables = trainer.codec.trainable_variables
  own = [variable.numpy() for variable in variables]
  # Keras 2.14 has no public name for them.
  for variable, average in zip(variables, optimizer._model_variables_moving_average):
    variable.assign(average)
  try:
    yield
  finally:
    for variable, value in zip(variables, own):
      variable.assign(value)
