"""Initial weights, which models that are loaded from a file do without."""

from __future__ import annotations

import contextlib
import contextvars

import tensorflow as tf

_ARE_ASSIGNED = contextvars.ContextVar("weights are assigned", default=False)


@contextlib.contextmanager
def weights_assigned():
  """Within, kernels begin as zeros: random numbers cost time, and these are to be overwritten."""
  token = _ARE_ASSIGNED.set(True)
  try:
    yield
  finally:
    _ARE_ASSIGNED.reset(token)


class VarianceScaling(tf.keras.initializers.VarianceScaling):
  """Keras' initializer, or zeros within `weights_assigned`."""

  def __call__(self, shape, dtype=None, **kwargs):
    if _ARE_ASSIGNED.get():
      return tf.zeros(shape, dtype)
    return super().__call__(shape, dtype, **kwargs)
