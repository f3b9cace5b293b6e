"""Distortions between a picture and its reconstruction, on the 0..255 scale."""

from __future__ import annotations

import tensorflow as tf


def mse(original: tf.Tensor, decoded: tf.Tensor) -> tf.Tensor:
  """Mean squared error of each picture: [B, H, W, C] twice, 0..255 -> [B]."""
  difference = tf.cast(original, tf.float32) - tf.cast(decoded, tf.float32)
  return tf.reduce_mean(tf.square(difference), axis=(1, 2, 3))


def ms_ssim(original: tf.Tensor, decoded: tf.Tensor) -> tf.Tensor:
  """1 - MS-SSIM of each picture (sides of at least 176): [B, H, W, C] twice, 0..255 -> [B]."""
  return 1.0 - tf.image.ssim_multiscale(
    tf.cast(original, tf.float32), tf.cast(decoded, tf.float32), 255.0
  )


DISTORTIONS = {"mse": mse, "ms_ssim": ms_ssim}
