"""The scales of latents as integer networks predict them: as indices, or as sigma itself.

Networks that predict log(sigma) predict its index in the table of scales, up to a factor and an
offset, which their last layer takes up. Those that predict sigma put it out with 8 fractional bits;
its index is the number of integer thresholds below it, which lie half-way, in logarithms, between
the scales.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from khuvcm_tf.entropy import gaussian


def indices(params: tf.Tensor, thresholds: tf.Tensor | None) -> tf.Tensor:
  """Returns the indices of predicted scales.

  Args:
    params: int32 of any shape, predictions of a network.
    thresholds: int32, between indices; None where the network predicts indices.

  Returns:
    int32 of the shape of `params`.
  """
  if thresholds is None:
    return params
  found = tf.searchsorted(thresholds, tf.reshape(params, [-1]), side="left")
  return tf.reshape(found, tf.shape(params))


def to_arrays(thresholds: np.ndarray | None) -> dict[str, np.ndarray]:
  """Returns what an entropy model's arrays hold of thresholds."""
  return {} if thresholds is None else {"thresholds": thresholds}


def check(thresholds: np.ndarray | None, steps: int = 1) -> None:
  """Checks thresholds that were read from a file.

  Args:
    thresholds: between indices; None where there are none.
    steps: indices from one scale of `gaussian.scale_table` to the next.

  Raises:
    ValueError: they are not int32, not as many as there are indices less one, or they fall.
  """
  if thresholds is None:
    return
  shape = ((gaussian.NUM_SCALES - 1) * steps,)
  good = thresholds.dtype == np.int32 and thresholds.shape == shape
  if not good or thresholds[0] < 0 or (np.diff(thresholds) < 0).any():
    raise ValueError(f"`thresholds` of scales are not {shape[0]} int32 numbers that do not fall")
