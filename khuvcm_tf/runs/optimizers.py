"""The optimizer of a run, and the moving average of weights that it keeps."""

from __future__ import annotations

import contextlib

import tensorflow as tf

from khuvcm_tf.runs import muon, schedules
from khuvcm_tf.runs.options import RunOptions
from khuvcm_tf.runs.task import TrainableModel

_MOMENTUM = 0.9  # of gradient descent


def create(options: RunOptions, schedule: schedules.Schedule) -> tf.keras.optimizers.Optimizer:
  """Returns the optimizer as the options want it."""
  arguments = {
    "learning_rate": schedule,
    "weight_decay": options.weight_decay or None,
    "global_clipnorm": options.clip_norm or None,
    "use_ema": options.ema > 0,
    "ema_momentum": options.ema or 0.99,  # Keras checks it also where it is not used.
  }
  if options.optimizer == "sgd":
    return tf.keras.optimizers.SGD(momentum=_MOMENTUM, **arguments)
  if options.optimizer == "muon":
    return muon.Muon(**arguments)
  return tf.keras.optimizers.Adam(**arguments)


@contextlib.contextmanager
def averaged_weights(model: TrainableModel):
  """Within, the model has the moving averages of its weights, if its optimizer keeps them."""
  if not model.optimizer.use_ema:
    yield
    return
  variables = model.trainable_variables
  own = [variable.numpy() for variable in variables]
  # Keras 2.14 has no public name for them.
  for variable, average in zip(variables, model.optimizer._model_variables_moving_average):
    variable.assign(average)
  try:
    yield
  finally:
    for variable, value in zip(variables, own):
      variable.assign(value)
