"""What a run needs to go on after it was killed, written whole every so many steps."""

from __future__ import annotations

import contextlib
import os

import tensorflow as tf


class Checkpoints:
  """Checkpoints of a run in WORKDIR/checkpoints: the last three, and the best by validation loss.

  TensorFlow writes a checkpoint under a temporary name and renames it, and names it in the file
  `checkpoint` (renamed too) only then: a run that is killed leaves whole ones.

  Args:
    workdir: of the run.
    trainer: `Trainer`, compiled.
    chief: whether this process's checkpoints are the ones to keep. In a run of several workers all
      must write, but only the chief's count.
  """

  def __init__(self, workdir: str, trainer: tf.keras.Model, chief: bool = True):
    optimizer = trainer.optimizer
    optimizer.build(trainer.codec.trainable_variables)
    self._trainer = trainer
    self.best_loss = tf.Variable(float("inf"), trainable=False, name="best_loss")
    folder = os.path.join(workdir, "checkpoints" if chief else f"worker-{os.getpid()}")
    self._all = tf.train.Checkpoint(
      codec=trainer.codec,
      optimizer=optimizer,
      scale=trainer.schedule.scale,
      best_loss=self.best_loss,
    )
    self._last = tf.train.CheckpointManager(
      self._all, folder, max_to_keep=3, step_counter=optimizer.iterations, checkpoint_name="step"
    )
    self._best = tf.train.CheckpointManager(
      tf.train.Checkpoint(codec=trainer.codec),
      os.path.join(folder, "best"),
      max_to_keep=1,
      step_counter=optimizer.iterations,
      checkpoint_name="step",
    )

  @property
  def step(self) -> int:
    """Steps that the run has made."""
    return int(self._trainer.optimizer.iterations)

  def restore(self) -> str | None:
    """Goes back to the last checkpoint; returns its path, or None where there is none."""
    return self._last.restore_or_initialize()

  def save(self) -> str:
    """Writes a checkpoint of the whole run."""
    return self._last.save(checkpoint_number=self.step)

  def save_best(self, loss: float):
    """Keeps the codec's weights as they are now if `loss` is the lowest so far."""
    if loss < float(self.best_loss):
      self.best_loss.assign(loss)
      self._best.save(checkpoint_number=self.step)

  def restore_best(self):
    """Puts the best weights into the codec."""
    self._best.restore_or_initialize()


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
