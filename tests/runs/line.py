"""Fits a line to noisy points: a task that has nothing to do with images.

As a program it trains, for tests that look at a run from outside:

  python line.py '{"workdir": ...}' [KILL_AT]

takes the fields of `RunOptions`, and the step after which the process kills itself.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import tensorflow as tf
from absl import logging

from khuvcm_tf import errors
from khuvcm_tf.runs import loop, task
from khuvcm_tf.runs.options import RunOptions


class LineModel(task.TrainableModel):
  def __init__(self):
    super().__init__()
    self.line = tf.keras.layers.Dense(1, kernel_initializer="zeros")
    self.line.build((None, 1))

  def loss_and_metrics(self, batch):
    x, y = batch
    return {"loss": tf.reduce_mean(tf.square(self.line(x) - y))}


class LineTask(task.Task):
  def __init__(self, options: RunOptions, model_class=LineModel):
    self.options, self.model = options, model_class()

  @property
  def checkpointed(self):
    return {"line": self.model.line}

  def batches(self, first_step, shard):
    def points(step):
      x, noise = tf.unstack(tf.random.stateless_normal((2, self.options.batch_size, 1), (1, step)))
      size = self.options.batch_size // shard[1]
      return tuple(each[shard[0] * size :][:size] for each in (x, 3.0 * x - 1.0 + 0.1 * noise))

    return tf.data.Dataset.range(first_step, 2**62).map(points)

  def validate(self, step, writer):
    x = tf.linspace((-1.0,), (1.0,), 9)
    return {"loss": float(self.model.loss_and_metrics((x, 3.0 * x - 1.0))["loss"])}

  def summary(self, metrics):
    return f"loss {metrics['loss']:.4f}"

  def finalize(self, step):
    path = os.path.join(self.options.workdir, "line.json")
    tf.io.write_file(path, json.dumps([each.numpy().item() for each in self.model.line.variables]))
    return path


def make_options(**fields: object) -> RunOptions:
  """Returns the options of a short run."""
  common = {"batch_size": 4, "learning_rate": 0.05, "log_steps": 4, "checkpoint_steps": 8}
  return RunOptions(**{**common, **fields})


class KilledLineModel(LineModel):
  """Kills its process after a step, as `kill -9` from outside would."""

  def loss_and_metrics(self, batch):
    def kill(step):
      if step == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

    tf.py_function(kill, [self.optimizer.iterations], [])
    return super().loss_and_metrics(batch)


def main():
  logging.set_verbosity(logging.INFO)
  options = make_options(**json.loads(sys.argv[1]))
  model_class = KilledLineModel if len(sys.argv) > 2 else LineModel
  try:
    loop.train(options, lambda: LineTask(options, model_class))
  except errors.Error as error:
    sys.exit(f"error: {error}")


if __name__ == "__main__":
  main()
