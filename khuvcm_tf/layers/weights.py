"""Weights by name, as files hold them."""

from __future__ import annotations

import numpy as np
import tensorflow as tf


def assign_by_name(weights: dict[str, tf.Variable], values: dict[str, np.ndarray]) -> None:
  """Sets all weights from arrays of the same names.

  Raises:
    ValueError: a name or a shape is not that of the weights.
  """
  if set(weights) != set(values):
    odd = sorted(set(weights) ^ set(values))
    raise ValueError(f"weights {odd[:4]} stand on one side only")
  for name, weight in weights.items():
    if weight.shape != values[name].shape:
      raise ValueError(
        f"weight {name} has shape {values[name].shape}, expected {tuple(weight.shape)}"
      )
    weight.assign(values[name].astype(weight.dtype.as_numpy_dtype))
