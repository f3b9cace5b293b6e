"""Learning rates as functions of the step alone, so that a resumed run goes on with the same."""

from __future__ import annotations

import math

import tensorflow as tf

KINDS = ("constant", "cosine", "drops")


class Schedule(tf.keras.optimizers.schedules.LearningRateSchedule):
  """Linear warm-up, then one of three courses to `max_steps`.

  Args:
    peak: the learning rate after warm-up.
    kind: "constant"; "cosine", down to a hundredth of the peak; "drops", divided by 10 at 80 % and
      again at 95 % of the steps.
    warmup_steps: steps from 0 to the peak.
    max_steps: length of the run.

  `scale` is a variable factor, 1 unless a run went back after an explosion.
  """

  def __init__(self, peak: float, kind: str, warmup_steps: int, max_steps: int):
    if kind not in KINDS:
      raise ValueError(f"`kind` is {kind!r}, expected one of {KINDS}")
    self.peak, self.kind = peak, kind
    self.warmup_steps, self.max_steps = warmup_steps, max_steps
    self.scale = tf.Variable(1.0, trainable=False, name="learning_rate_scale")

  def __call__(self, step):
    step = tf.cast(step, tf.float32)
    done = tf.minimum(step / self.max_steps, 1.0)
    if self.kind == "cosine":
      course = 0.01 + 0.99 * 0.5 * (1.0 + tf.cos(math.pi * done))
    elif self.kind == "drops":
      course = tf.where(done < 0.8, 1.0, tf.where(done < 0.95, 0.1, 0.01))
    else:
      course = 1.0
    warmup = tf.minimum((step + 1.0) / max(self.warmup_steps, 1), 1.0)
    return self.peak * self.scale * warmup * course

  def get_config(self):
    return {
      "peak": self.peak,
      "kind": self.kind,
      "warmup_steps": self.warmup_steps,
      "max_steps": self.max_steps,
    }
