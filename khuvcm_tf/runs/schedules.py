"""Learning rates as functions of the step alone, so that a resumed run goes on with the same."""

from __future__ import annotations

import math

import tensorflow as tf

from khuvcm_tf.runs.options import RunOptions

# Learning rate over its peak, by the share of the run's steps that is done.
COURSES = {
  "constant": tf.ones_like,
  "cosine": lambda done: 0.01 + 0.99 * 0.5 * (1.0 + tf.cos(math.pi * done)),
  "drops": lambda done: tf.where(done < 0.8, 1.0, tf.where(done < 0.95, 0.1, 0.01)),
}


class Schedule(tf.keras.optimizers.schedules.LearningRateSchedule):
  """Linear warm-up times one of the courses:

    learning_rate * scale * min((step + 1) / warmup_steps, 1) * course(step / max_steps)

  Later steps than max_steps have the learning rate of that step.

  Attributes:
    scale: variable factor, 1 unless a run was restored after it had diverged.
  """

  def __init__(self, options: RunOptions):
    self._options = options
    self.scale = tf.Variable(1.0, trainable=False, name="learning_rate_scale")

  def __call__(self, step):
    options, step = self._options, tf.cast(step, tf.float32)
    course = COURSES[options.learning_rate_schedule](tf.minimum(step / options.max_steps, 1.0))
    warmup = tf.minimum((step + 1.0) / max(options.warmup_steps, 1), 1.0)
    return options.learning_rate * self.scale * warmup * course
