"""Gains of latents: one codec for all rates.

Source: Z. Cui, J. Wang, S. Gao, T. Guo, Y. Feng, B. Bai: Asymmetric gained deep image compression
with continuous rate adaptation. CVPR 2021. https://arxiv.org/abs/2003.02050 (section 3).

Letters: K qualities, M latents of a position, B images; q is a real number of 0 .. K - 1.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf


class Gain(tf.keras.layers.Layer):
  """Multiplies latents [B, h, w, M] by exp(log_gain at q), linear in q between K anchors.

  Gains are computed in float64 and rounded once to float32, so that all machines use the same.

  Args:
    log_gain: the first values, float [K, M].
    name: of the layer; its weight is called `log_gain`.
  """

  def __init__(self, log_gain: np.ndarray, name: str):
    # Nothing of it is cast to the type of the networks before gains are computed.
    super().__init__(name=name, autocast=False)
    self.log_gain = self.add_weight(
      "log_gain",
      log_gain.shape,
      tf.float32,
      tf.keras.initializers.Constant(log_gain),
      experimental_autocast=False,
    )

  def call(self, y: tf.Tensor, quality: tf.Tensor) -> tf.Tensor:
    """Scales y.

    Args:
      y: [B, h, w, M].
      quality: q of the images, float [B], or of all of them, a scalar.
    """
    gains = tf.reshape(self.gains(quality), [-1, 1, 1, self.log_gain.shape[1]])
    return y * tf.cast(gains, y.dtype)

  def gains(self, quality: tf.Tensor) -> tf.Tensor:
    """Returns the factors at q, [..., M], float32."""
    quality = tf.cast(quality, tf.float64)[..., tf.newaxis]
    anchors = tf.range(self.log_gain.shape[0], dtype=tf.float64)
    shares = tf.maximum(1.0 - tf.abs(quality - anchors), 0.0)  # [..., K]
    logs = tf.tensordot(shares, tf.cast(self.log_gain, tf.float64), 1)
    return tf.cast(tf.exp(logs), tf.float32)


# By how much the logarithm of the analysis gain grows with that of lambda: at high rates an error
# of fixed size in scaled latents asks for 1/2.
_SLOPE = 0.4


def first_log_gains(octaves: np.ndarray, depth: int) -> np.ndarray:
  """Returns log-gains of an analysis to start training with, [K, depth]; a synthesis has -these.

  Equal gains would have to part before the rates do, and short training never gets there.

  Args:
    octaves: of each quality, by how many octaves its lambda exceeds that of gains of 1; [K].
    depth: M.
  """
  return np.tile(_SLOPE * math.log(2.0) * np.asarray(octaves)[:, np.newaxis], [1, depth])
