"""Keras callbacks: the log, the checkpoints with their validation, and the guard against NaN."""

from __future__ import annotations

import math
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
  """A loss that is not finite, or far beyond its running mean.

  Args:
    step: at which it was seen.
    loss: what was seen.
    mean: the running mean until then, None at the first step.
  """

  def __init__(self, step: int, loss: float, mean: float | None):
    expected = "a finite value" if mean is None else f"a value near {mean:.4g}"
    super().__init__(f"the loss is {loss:g} at step {step}, expected {expected}")


class Log(tf.keras.callbacks.Callback):
  """Scalars to the board and a progress bar (or lines where there is no terminal).

  Args:
    board: where scalars go, None in workers that keep no log.
    every: steps between two entries.
    first_step, max_steps: of the run.
  """

  def __init__(self, board: board_lib.Board, every: int, first_step: int, max_steps: int):
    super().__init__()
    self._board, self._every = board, every
    self._step, self._max_steps = first_step, max_steps
    self._bar = None
    if board and sys.stderr.isatty():
      self._bar = tqdm.tqdm(total=max_steps, initial=first_step, unit="step", dynamic_ncols=True)
    self._started = self._since = time.perf_counter()
    self._first_step = self._logged = first_step

  def on_train_batch_end(self, batch, logs=None):
    self._step += 1
    if self._bar is not None:
      self._bar.update()
    if self._board and (self._step % self._every == 0 or self._step == self._max_steps):
      self._write()

  def _write(self):
    trainer, now = self.model, time.perf_counter()
    values = {name: float(mean.result()) for name, mean in trainer.means.items()}
    steps, seconds = self._step - self._logged, now - self._since
    self._board.scalars(
      self._step,
      {
        **{f"train/{name}": value for name, value in values.items()},
        "run/learning_rate": float(trainer.schedule(self._step)),
        "run/steps_per_second": steps / seconds,
        "run/input_wait": trainer.input_seconds / seconds,
      },
    )
    told = f"loss {values['loss']:.4f}, {values['bpp']:.4f} bpp, {values['psnr']:.2f} dB"
    if self._bar is not None:
      self._bar.set_postfix_str(told)
    else:
      rate = (self._step - self._first_step) / (now - self._started)
      left = (self._max_steps - self._step) / rate
      print(
        f"step {self._step} of {self._max_steps}: {told}, {rate:.2f} steps/s, "
        f"{left / 60:.0f} min left",
        file=sys.stderr,
        flush=True,
      )
    for mean in trainer.means.values():
      mean.reset_state()
    trainer.input_seconds = 0.0
    self._since, self._logged = now, self._step

  def on_train_end(self, logs=None):
    if self._bar is not None:
      self._bar.close()


class Keep(tf.keras.callbacks.Callback):
  """Validates, shows pictures and writes a checkpoint every so many steps, and at the end.

  Args:
    checkpoints: of the run.
    board: None in workers that keep no log.
    pictures: validation pictures, uint8 [H, W, C], any sizes.
    every: steps between two checkpoints.
    max_steps: of the run.
  """

  def __init__(
    self,
    checkpoints: checkpoints_lib.Checkpoints,
    board: board_lib.Board,
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
    with checkpoints_lib.averaged_weights(self.model):
      values = validate(self.model, self._pictures, self._board, step)
      self._checkpoints.save_best(values["loss"])
    self._checkpoints.save()
    if self._board:
      self._board.flush()
      print(
        f"step {step}: validation loss {values['loss']:.4f}, {values['bpp']:.4f} bpp, "
        f"{values['psnr']:.2f} dB",
        file=sys.stderr,
        flush=True,
      )


def validate(
  trainer: trainer_lib.Trainer, pictures: Sequence[np.ndarray], board: board_lib.Board, step: int
):
  """Returns the mean terms of the loss over whole pictures, and shows them on the board."""
  terms = []
  for i, picture in enumerate(pictures):
    decoded, values = trainer.validate(picture[np.newaxis])
    terms.append({name: float(value) for name, value in values.items()})
    if board and i < _PICTURES_SHOWN:
      board.pictures(step, f"validation/{i}", picture, decoded[0])
  means = {name: float(np.mean([each[name] for each in terms])) for name in terms[0]}
  if board:
    board.scalars(step, {f"validation/{name}": value for name, value in means.items()})
    codec = trainer.codec
    y_hat, bits = codec.latent_coder.element_bits(codec.latents(pictures[0][np.newaxis]))
    board.latents(step, y_hat[0].numpy(), bits["y"][0].numpy())
  return means


class Guard(tf.keras.callbacks.Callback):
  """Raises `Exploded` when the loss or its gradient is not finite or the loss leaps."""

  def __init__(self):
    super().__init__()
    self._mean = None

  def on_train_batch_end(self, batch, logs=None):
    loss, norm = float(logs["loss"]), float(logs["grad_norm"])
    leaps = self._mean is not None and loss > _EXPLOSION * max(self._mean, 1e-3)
    if leaps or not math.isfinite(loss) or not math.isfinite(norm):
      raise Exploded(int(self.model.optimizer.iterations), loss, self._mean)
    self._mean = loss if self._mean is None else 0.99 * self._mean + 0.01 * loss
