"""Keras callbacks of a run: its log, its checkpoints with their validation, and its guards."""

from __future__ import annotations

import collections
import math
import os
import sys
import time

import tensorflow as tf
import tqdm

from khuvcm_tf.runs import checkpoints as checkpoints_lib
from khuvcm_tf.runs import optimizers, schedules, summaries
from khuvcm_tf.runs.options import RunOptions
from khuvcm_tf.runs.task import Task

# A loss above this many times its running mean has diverged.
_MAX_LEAP = 100.0


class Diverged(Exception):
  """A loss or a gradient that is not finite, or a loss far above its running mean."""


class DivergenceGuard(tf.keras.callbacks.Callback):
  """Raises `Diverged` when the loss or its gradient is not finite, or the loss leaps."""

  def __init__(self):
    super().__init__()
    self._mean = None

  def on_train_batch_end(self, batch, logs=None):
    loss, norm = float(logs["loss"]), float(logs["grad_norm"])
    step = int(self.model.optimizer.iterations.numpy())
    if not math.isfinite(loss):
      raise Diverged(f"the loss is {loss:g} at step {step}, expected a finite value")
    if not math.isfinite(norm):
      raise Diverged(
        f"the gradient's norm is {norm:g} at step {step} (loss {loss:.4g}), expected a finite value"
      )
    if self._mean is not None and loss > _MAX_LEAP * max(self._mean, 1e-3):
      raise Diverged(
        f"the loss is {loss:.4g} at step {step}, expected a value near its mean of {self._mean:.4g}"
      )
    self._mean = loss if self._mean is None else 0.99 * self._mean + 0.01 * loss


class ProgressLog(tf.keras.callbacks.Callback):
  """Writes scalars and shows a progress bar, or lines where there is no terminal.

  Args:
    options, task, schedule, writer: of the run.
    first_step: steps that the run has made.
  """

  def __init__(
    self,
    options: RunOptions,
    task: Task,
    schedule: schedules.Schedule,
    writer: summaries.SummaryWriter,
    first_step: int,
  ):
    super().__init__()
    self._options, self._task, self._schedule, self._writer = options, task, schedule, writer
    self._step, self._bar = first_step, None
    # A terminal may report a width of 0: tqdm would show nothing there.
    if sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns:
      total = options.max_steps
      self._bar = tqdm.tqdm(total=total, initial=first_step, unit="step", dynamic_ncols=True)
    self._logged_at, self._logged_step = time.perf_counter(), first_step
    self._sums = collections.Counter()

  def on_train_batch_end(self, batch, logs=None):
    self._step += 1
    # Keras metrics would do, but in a run of several workers reading one takes all of them.
    self._sums.update({name: float(value) for name, value in logs.items()})
    if self._bar is not None:
      self._bar.update()
    if self._step % self._options.log_steps == 0 or self._step == self._options.max_steps:
      self._write()

  def _write(self):
    now, steps = time.perf_counter(), self._step - self._logged_step
    seconds = now - self._logged_at
    metrics = {name: total / steps for name, total in self._sums.items()}
    self._writer.scalars(
      self._step,
      {
        **{f"train/{name}": value for name, value in metrics.items()},
        "run/learning_rate": float(self._schedule(self._step - 1)),
        "run/steps_per_second": steps / seconds,
        "run/input_wait": self.model.input_seconds / seconds,
      },
    )
    text, max_steps = self._task.summary(metrics), self._options.max_steps
    if self._bar is not None:
      self._bar.set_postfix_str(text)
    else:
      minutes = (max_steps - self._step) * seconds / steps / 60
      _print(
        f"step {self._step} of {max_steps}: {text}, {steps / seconds:.2f} steps/s, "
        f"{minutes:.0f} min left"
      )
    self._sums.clear()
    self.model.input_seconds = 0.0
    self._logged_at, self._logged_step = now, self._step

  def close(self):
    """Ends the bar, also after an error, which Keras reports to no callback."""
    if self._bar is not None:
      self._bar.close()


class ValidateAndCheckpoint(tf.keras.callbacks.Callback):
  """Validates and writes a checkpoint every `checkpoint_steps`, and at the end.

  Args:
    options, task, checkpoints: of the run.
    writer: of validation's scalars and drawings; None in workers that are not the chief, which
      take part in this only to assign the averaged weights.
  """

  def __init__(
    self,
    options: RunOptions,
    task: Task,
    checkpoints: checkpoints_lib.Checkpoints,
    writer: summaries.SummaryWriter | None,
  ):
    super().__init__()
    self._options, self._task = options, task
    self._checkpoints, self._writer = checkpoints, writer

  def on_train_batch_end(self, batch, logs=None):
    step = self._checkpoints.step
    if step % self._options.checkpoint_steps == 0 or step == self._options.max_steps:
      self._validate_and_checkpoint(step)

  def _validate_and_checkpoint(self, step: int):
    # All workers: assigning a weight takes all of them.
    with optimizers.averaged_weights(self.model):
      if self._writer is None:
        return
      metrics = self._task.validate(step, self._writer)
      self._checkpoints.save_best(metrics["loss"])
    self._writer.scalars(step, {f"validation/{name}": value for name, value in metrics.items()})
    # Before the checkpoint: a run that is resumed from it finds all that was logged until then.
    self._writer.flush()
    self._checkpoints.save()
    _print(f"step {step}: validation {self._task.summary(metrics)}")


class Profile(tf.keras.callbacks.Callback):
  """Traces some steps after the first ones, for TensorBoard's profile page.

  Args:
    logdir: of the run's event files.
    steps: that this start will make; ten of them are traced, fewer where there are fewer.
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
    """Writes the trace if one was begun."""
    if self._running:
      self._running = False
      tf.profiler.experimental.stop()


def _print(line: str):
  """Prints a line to stderr, above the progress bar where there is one."""
  tqdm.tqdm.write(line, file=sys.stderr)
  sys.stderr.flush()
