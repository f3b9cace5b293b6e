"""The Gaussian of a latent, its scale taken from a table of log-spaced scales.

Networks predict log-scales, or scales; `index_of` is their position in the table. Training uses
real indices, coding integer ones.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf
import tensorflow_compression as tfc

NUM_SCALES = 64
MIN_SCALE = 0.11
MAX_SCALE = 256.0
# From one scale of the table to the next, as a natural logarithm.
LOG_STEP = math.log(MAX_SCALE / MIN_SCALE) / (NUM_SCALES - 1)


def scale_table() -> np.ndarray:
  """Returns the NUM_SCALES scales from MIN_SCALE to MAX_SCALE, float64."""
  return MIN_SCALE * np.exp(LOG_STEP * np.arange(NUM_SCALES))


def index_of(predicted: tf.Tensor, log_scales: bool = True) -> tf.Tensor:
  """Returns the real index in the table, within [0, NUM_SCALES - 1]; gradients pass the bounds.

  Args:
    predicted: log(sigma), or sigma itself.
    log_scales: whether it is log(sigma).
  """
  if not log_scales:
    predicted = tf.math.log(tfc.lower_bound(predicted, MIN_SCALE))
  index = (predicted - math.log(MIN_SCALE)) / LOG_STEP
  return tfc.upper_bound(tfc.lower_bound(index, 0.0), NUM_SCALES - 1.0)


def bits(values: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
  """Returns -log2 of the probability that N(0, scale(index)^2) gives to [v - 1/2, v + 1/2].

  Args:
    values: distances from the mean, float32.
    index: real index of the scale, same shape.

  Returns:
    Bits, float32, same shape, finite in both tails.
  """
  scale = MIN_SCALE * tf.exp(LOG_STEP * index)
  return tfc.NoisyNormal(loc=0.0, scale=scale).log_prob(values) / -tf.math.log(2.0)


def mixture_bits(component_bits: tf.Tensor, log_weights: tf.Tensor | None) -> tf.Tensor:
  """Returns -log2 of the probability that a mixture gives.

  Args:
    component_bits: -log2 of the probability that each component gives, [..., K, M].
    log_weights: natural logarithms of the weights, likewise; None where K is 1.

  Returns:
    Bits, [..., M].
  """
  if log_weights is None:
    return tf.squeeze(component_bits, -2)
  log_probabilities = log_weights - component_bits * math.log(2.0)
  return tf.reduce_logsumexp(log_probabilities, axis=-2) / -math.log(2.0)
