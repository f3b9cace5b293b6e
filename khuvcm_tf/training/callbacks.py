"""Keras callbacks: the log, the checkpoints with their validation, and the guard against NaN."""

from __future__ import annotations

import collections
import math
import os
import sys
import time
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tqdm

from khuvcm_tf.training import board as board_lib
from khuvcm_tf.training import checkpoints as checkpoints_lib
from khuvcm_tf.training import trainer as trainer_lib

# A loss beyond this many times its running mean is taken for an explosion.
_EXPLOSION = 100.0
_PICTURES_SHOWN = 3


class Exploded(Exception):
  """A loss or a gradient that is not finite, or a loss far beyond its running mean."""


def tell(line: str):
  """Prints a line to stderr, above the progress bar where there is one."""
  tqdm.tqdm.write(line, file=sys.stderr)
  sys.stderr.flush()


class Log(tf.keras.callbacks.Callback):
  """Scalars to the board and a progress bar (or lines where there is no terminal).

  Args:
    board: where scalars go.
    every: steps between two entries.
    first_step: steps that the run has made.
    max_steps: of the run.
  """

  def __init__(self, board: board_lib.Board, every: int, first_step: int, max_steps: int):
    super().__init__()
    self._board, self._every = board, every
    self._step, self._max_steps = first_step, max_steps
    self._bar = None
    # A terminal may not know its width (0): tqdm would show nothing there.
    if sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns:
      self._bar = tqdm.tqdm(total=max_steps, initial=first_step, unit="step", dynamic_ncols=True)
    self._since, self._logged = time.perf_counter(), first_step
    self._sums = collections.Counter()

  def on_train_batch_end(self, batch, logs=None):
    self._step += 1
    # Keras metrics would do, but in a run of several workers reading one takes all of them.
    self._sums.update({name: float(value) for name, value in logs.items()})
    if self._bar is not None:
      self._bar.update()
    if self._step % self._every == 0 or self._step == self._max_steps:
      self._write()

  def _write(self):
    trainer, now = self.model, time.perf_counter()
    steps, seconds = self._step - self._logged, now - self._since
    values, rate = {name: total / steps for name, total in self._sums.items()}, steps / seconds
    self._board.scalars(
      self._step,
      {
        **{f"train/{name}": value for name, value in values.items()},
        "run/learning_rate": float(trainer.schedule(self._step - 1)),
        "run/steps_per_second": rate,
        "run/input_wait": trainer.input_seconds / seconds,
      },
    )
    told = f"loss {values['loss']:.4f}, {values['bpp']:.4f} bpp, {values['psnr']:.2f} dB"
    if self._bar is not None:
      self._bar.set_postfix_str(told)
    else:
      left = (self._max_steps - self._step) / rate
      tell(
        f"step {self._step} of {self._max_steps}: {told}, {rate:.2f} steps/s, "
        f"{left / 60:.0f} min left"
      )
    self._sums.clear()
    trainer.input_seconds = 0.0
    self._since, self._logged = now, self._step

  def close(self):
    """Ends the bar, also after an error, which Keras tells no callback of."""
    if self._bar is not None:
      self._bar.close()


class Keep(tf.keras.callbacks.Callback):
  """Validates, shows pictures and writes a checkpoint every so many steps, and at the end.

  Args:
    checkpoints: of the run.
    board: where validation goes; None in workers that are not the chief: they only lend a hand
      with the averaged weights.
    pictures: validation pictures, uint8 [H, W, C], any sizes.
    every: steps between two checkpoints.
    max_steps: of the run.
  """

  def __init__(
    self,
    checkpoints: checkpoints_lib.Checkpoints,
    board: board_lib.Board | None,
    pictures: Sequence[np.ndarray],
    every: int,
    max_steps: int,
  ):
    super().__init__()
    self._checkpoints, self._board = checkpoints, board
    self._pictures, self._every, self._max_steps = pictures, every, max_steps

  def on_train_batch_end(self, batch, logs=None):
    step = self._checkpoints.step
    if step % self._every == 0 or step == self._max_steps:
      self.keep(step)

  def keep(self, step: int):
    # All workers: to assign a weight takes all of them.
    with checkpoints_lib.averaged_weights(self.model):
      if self._board is None:
        return
      values = validate(self.model, self._pictures, self._board, step)
      self._checkpoints.save_best(values["loss"])
    # Before the checkpoint: a run that goes on from it finds all that was logged until then.
    self._board.flush()
    self._checkpoints.save()
    tell(
      f"step {step}: validation loss {values['loss']:.4f}, {values['bpp']:.4f} bpp, "
      f"{values['psnr']:.2f} dB"
    )


def validate(
  trainer: trainer_lib.Trainer, pictures: Sequence[np.ndarray], board: board_lib.Board, step: int
):
  """Returns the mean terms of the loss over whole pictures, and shows them on the board."""
  terms = []
  for i, picture in enumerate(pictures):
    decoded, values = trainer.validate(picture[np.newaxis])
    terms.append({name: float(value) for name, value in values.items()})
    if i < _PICTURES_SHOWN:
      board.pictures(step, f"validation/{i}", picture, decoded[0])
  means = {name: float(np.mean([each[name] for each in terms])) for name in terms[0]}
  board.scalars(step, {f"validation/{name}": value for name, value in means.items()})
  codec = trainer.codec
  for branch, y in zip(codec.branches, codec.latents(codec.planes(pictures[0][np.newaxis]))):
    y_hat, bits = branch.latent_coder.element_bits(y)
    name = "latents" if len(codec.branches) == 1 else f"latents_{branch.name}"
    board.latents(step, name, y_hat[0].numpy(), bits["y"][0].numpy())
  return means


class Guard(tf.keras.callbacks.Callback):
  """Raises `Exploded` when the loss or its gradient is not finite or the loss leaps."""

  def __init__(self):
    super().__init__()
    self._mean = None

  def on_train_batch_end(self, batch, logs=None):
    loss, norm = float(logs["loss"]), float(logs["grad_norm"])
    step = int(self.model.optimizer.iterations.numpy())
    if not math.isfinite(loss):
      raise Exploded(f"the loss is {loss:g} at step {step}, expected a finite value")
    if not math.isfinite(norm):
      raise Exploded(
        f"the gradient's norm is {norm:g} at step {step} (loss {loss:.4g}), expected a finite value"
      )
    if self._mean is not None and loss > _EXPLOSION * max(self._mean, 1e-3):
      raise Exploded(
        f"the loss is {loss:.4g} at step {step}, expected a value near its mean of {self._mean:.4g}"
      )
    self._mean = loss if self._mean is None else 0.99 * self._mean + 0.01 * loss


class Profile(tf.keras.callbacks.Callback):
  """Traces some steps after the first ones, for TensorBoard's profile page.

  Args:
    logdir: of the run's event files.
    steps: that this start will make; ten of them are traced, less where there are fewer.
  """

  def __init__(self, logdir: str, steps: int):
    super().__init__()
    self._logdir = logdir
    # The first steps build graphs and fill buffers.
    self._first = min(10, steps // 2)
    self._last = min(self._first + 9, steps - 1)
    self._running = False

  def on_train_batch_begin(self, batch, logs=None):
    if batch == self._first:
      tf.profiler.experimental.start(self._logdir)
      self._running = True

  def on_train_batch_end(self, batch, logs=None):
    if batch == self._last:
      self.close()

  def close(self):
    """Writes the trace, where one was begun."""
    if self._running:
      self._running = False
      tf.profiler.experimental.stop()
