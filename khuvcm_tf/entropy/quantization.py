"""Rounding, and its differentiable stand-ins in training."""

from __future__ import annotations

import tensorflow as tf
import tensorflow_compression as tfc

# What the synthesis receives in training: noisy values as the rate, or rounded ones with
# straight-through gradients.
MODES = ("noise", "mixed")


def with_noise(values: tf.Tensor, generator: tf.random.Generator) -> tf.Tensor:
  """Adds uniform noise from [-1/2, 1/2): the differentiable stand-in of rounding for the rate."""
  return values + generator.uniform(tf.shape(values), -0.5, 0.5, dtype=values.dtype)


def rounded(values: tf.Tensor, offset) -> tf.Tensor:
  """Rounds `values - offset` to nearest even and adds `offset`; gradients pass straight through."""
  return tfc.round_st(values - offset) + offset
