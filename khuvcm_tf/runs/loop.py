"""A run from its options to its end product; it reads top to bottom in `train`."""

from __future__ import annotations

import contextlib
import os
from typing import Callable

import tensorflow as tf
from absl import logging

from khuvcm_tf import paths
from khuvcm_tf.runs import (
  RunError,
  callbacks,
  checkpoints,
  distribution,
  optimizers,
  schedules,
  summaries,
  workdir,
)
from khuvcm_tf.runs.options import RunOptions
from khuvcm_tf.runs.task import Task

# How often a run may restore its last checkpoint before it stops all the same.
_MAX_RESTORES = 5


def train(options: RunOptions, create_task: Callable[[], Task]) -> str | None:
  """Trains to `max_steps`, from the last checkpoint in `workdir` on where there is one.

  Args:
    options: of the run.
    create_task: returns the task; called once, in the scope of the run's strategy.

  Returns:
    The path of the end product; None in workers that are not the chief.

  Raises:
    errors.Error: what the caller can mend.
  """
  strategy = distribution.create_strategy(options.strategy)
  process = distribution.current_process(strategy)
  distribution.check_batch_size(options, strategy.num_replicas_in_sync)
  tf.keras.utils.set_random_seed(options.seed)
  with strategy.scope():
    task = create_task()
    schedule = schedules.Schedule(options)
    optimizer = optimizers.create(options, schedule)
    optimizer.build(task.model.trainable_variables)
    task.model.compile(optimizer, jit_compile=options.jit_compile)
  if process.is_chief:
    workdir.record_flags(options)
  kept = checkpoints.Checkpoints(options.workdir, task, schedule, process.is_chief)
  if kept.restore():
    logging.info("resumes after step %d of %d", kept.step, options.max_steps)
  restores = 0
  while kept.step < options.max_steps:
    try:
      _fit(options, process, task, schedule, kept)
    except callbacks.Diverged as error:
      restores += 1
      _restore_after(error, options, schedule, kept, restores)
  kept.restore_best()
  return task.finalize(kept.step) if process.is_chief else None


def _fit(options, process, task, schedule, kept):
  """Runs Keras `fit` from the step reached to the last."""
  first_step = kept.step
  logdir = os.path.join(paths.for_tensorflow(options.workdir), "logs")
  steps = options.max_steps - first_step
  dataset = distribution.distribute(
    task.model.distribute_strategy,
    lambda shard: task.batches(first_step, shard),
    options.batch_size,
    process,
  )
  with contextlib.ExitStack() as stack:

    def closed_at_the_end(resource):
      return stack.enter_context(contextlib.closing(resource))

    writer, hooks = None, [callbacks.DivergenceGuard()]
    if process.is_chief:
      writer = closed_at_the_end(summaries.SummaryWriter(logdir, first_step))
      writer.text("flags", summaries.options_table(options))
      log = callbacks.ProgressLog(options, task, schedule, writer, first_step)
      hooks.append(closed_at_the_end(log))
    if process.is_chief and options.profile:
      hooks.append(closed_at_the_end(callbacks.Profile(logdir, steps)))
    hooks.append(callbacks.ValidateAndCheckpoint(options, task, kept, writer))
    hooks = tf.keras.callbacks.CallbackList(hooks, model=task.model)
    # Keras would warn that validation takes longer than a step.
    hooks._check_timing = False
    stack.enter_context(task.failures_named())
    stack.enter_context(distribution.lost_workers_named())
    try:
      task.model.fit(dataset, steps_per_epoch=steps, epochs=1, verbose=0, callbacks=hooks)
    except KeyboardInterrupt:
      kept.save()
      raise


def _restore_after(error: callbacks.Diverged, options, schedule, kept, restores: int):
  """Restores the last checkpoint and halves the learning rate, or ends the run."""
  if options.on_nan == "stop":
    raise RunError(
      f"{error}; lower --learning_rate, or give --on_nan=restore to go on from the last checkpoint "
      "at half of it"
    )
  scale = float(schedule.scale.numpy()) / 2
  if restores > _MAX_RESTORES:
    raise RunError(f"{error}, after {_MAX_RESTORES} restores; lower --learning_rate")
  if not kept.restore():
    raise RunError(f"{error}, before the first checkpoint; lower --learning_rate")
  schedule.scale.assign(scale)
  logging.warning("%s: restored step %d, at %g of the learning rate", error, kept.step, scale)
