"""How integer networks tell the scales of latents: as indices, or as sigma itself.

Networks that tell log(sigma) tell its index in the table of scales, up to a factor and an offset,
which the last layer takes up. Those that tell sigma put it out in 1/256; its index is the number of
integer thresholds below it, which lie half-way, in logarithms, between the scales.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from khuvcm_tf.entropy import gaussian, integer_network

_UNITS = 256

# Indices are few; sigma may be as large as the table's greatest.
_LARGEST_INDEX = 2**15
_LARGEST_SIGMA = 2**17


class ScaleOutput:
  """The last outputs of a network, which tell scales.

  Args:
    count: of these outputs.
    log_scales: whether the float network tells log(sigma).
    steps: indices from one scale of `gaussian.scale_table` to the next.
  """

  def __init__(self, count: int, log_scales: bool, steps: int = 1):
    self.count, self.log_scales, self.steps = count, log_scales, steps

  def prepared(self, layer: integer_network.FloatLayer) -> integer_network.FloatLayer:
    """Returns the network's last layer as it is to be converted."""
    if not self.log_scales:
      return layer
    bias = layer.bias.copy()
    bias[-self.count :] -= math.log(gaussian.MIN_SCALE)
    return layer._replace(bias=bias)

  @property
  def t_out(self) -> np.ndarray:
    """Steps per unit of the float network's outputs, [count]."""
    return np.full(self.count, self.steps / gaussian.LOG_STEP if self.log_scales else _UNITS)

  @property
  def limit(self) -> int:
    """What the network's outputs are clipped to."""
    return _LARGEST_INDEX if self.log_scales else _LARGEST_SIGMA

  def thresholds(self) -> np.ndarray | None:
    """Returns the thresholds between indices, int32 and rising; None where indices are told."""
    if self.log_scales:
      return None
    between = np.arange((gaussian.NUM_SCALES - 1) * self.steps) + 0.5
    scales = gaussian.MIN_SCALE * np.exp(gaussian.LOG_STEP * between / self.steps)
    return np.rint(_UNITS * scales).astype(np.int32)


def indices(told: tf.Tensor, thresholds: np.ndarray | None) -> tf.Tensor:
  """Returns the indices of scales that a network has told, int32 of any shape."""
  if thresholds is None:
    return told
  found = tf.searchsorted(tf.constant(thresholds), tf.reshape(told, [-1]), side="left")
  return tf.reshape(found, tf.shape(told))


def state(thresholds: np.ndarray | None) -> dict[str, np.ndarray]:
  """Returns what a coder's state holds of thresholds."""
  return {} if thresholds is None else {"thresholds": thresholds}


def check(thresholds: np.ndarray | None, steps: int = 1) -> None:
  """Raises ValueError unless thresholds are as many whole numbers as `steps` asks for, and do not
  fall."""
  if thresholds is None:
    return
  shape = ((gaussian.NUM_SCALES - 1) * steps,)
  good = thresholds.dtype == np.int32 and thresholds.shape == shape
  if not good or thresholds[0] < 0 or (np.diff(thresholds) < 0).any():
    raise ValueError(f"`thresholds` of scales are not {shape[0]} int32 numbers that do not fall")
