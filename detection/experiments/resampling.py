"""Levels of a feature pyramid made smaller and larger, each channel for itself.

Positions are half-pixel centres: element i of n covers [i, i + 1) / n of the map. An output element
is the bilinear interpolation of the input at its centre, beyond the outer centres the outer
elements go on, and nothing is smoothed before a map shrinks (no antialiasing): at an even factor it
is the mean of the middle 2x2 elements. This is OpenCV's INTER_LINEAR.
"""

from __future__ import annotations

import tensorflow as tf


def resize(feature: tf.Tensor, height: tf.Tensor | int, width: tf.Tensor | int) -> tf.Tensor:
  """Resizes float32 [B, H, W, C] to [B, height, width, C]."""
  resized = tf.image.resize(feature, [height, width], tf.image.ResizeMethod.BILINEAR)
  return tf.ensure_shape(resized, [feature.shape[0], None, None, feature.shape[-1]])


def degrade(feature: tf.Tensor, factor: int) -> tf.Tensor:
  """Shrinks float32 [B, H, W, C] by a factor, sides rounded up, and enlarges it to its old size.

  Factor 1 changes nothing.
  """
  if factor == 1:
    return feature
  height, width = tf.shape(feature)[1], tf.shape(feature)[2]
  return resize(resize(feature, *degraded_size(height, width, factor)), height, width)


def degraded_size(height, width, factor: int):
  """Returns height and width after shrinking by a factor: rounded up, of integers or tensors."""
  return -(-height // factor), -(-width // factor)


def pick(feature: tf.Tensor, step: int) -> tf.Tensor:
  """Takes every `step`-th row and column of [B, H, W, C], from the first on."""
  return feature[:, ::step, ::step]
