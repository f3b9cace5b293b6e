"""The learned factorized prior: one density for each channel (Ballé et al., 2018, appendix 6.1)."""

from __future__ import annotations

import tensorflow as tf
import tensorflow_compression as tfc

# Bisection of [-_REACH, _REACH] to 2^-12: finer than the 1/64 to which medians are rounded.
_REACH = 2.0**14
_HALVINGS = 27

_FILTERS = 3  # of each hidden layer of a density


class FactorizedPrior(tf.keras.layers.Layer):
  """p(z) for latents z [..., C] whose channels are independent and identically distributed.

  Args:
    channels: C.
    hidden_layers: of the network that tells a channel's cumulative density, 3 wide each.
    stored_medians: whether values are rounded around weights of their own, as in published weights
      (CompressAI learns them apart), not around the medians that the densities have. They stay as
      they are in training.
  """

  def __init__(
    self,
    channels: int,
    hidden_layers: int = 2,
    stored_medians: bool = False,
    name: str = "prior",
  ):
    super().__init__(name=name, dtype="float32")
    self.noisy = tfc.NoisyDeepFactorized(
      batch_shape=(channels,), num_filters=(_FILTERS,) * hidden_layers
    )
    self.stored = None
    if stored_medians:
      self.stored = self.add_weight("medians", (channels,), initializer="zeros", trainable=False)

  def bits(self, z: tf.Tensor) -> tf.Tensor:
    """Returns -log2 of the mass of [z - 1/2, z + 1/2], for each element of z [..., C] float32."""
    return self.noisy.log_prob(z) / -tf.math.log(2.0)

  def medians(self) -> tf.Tensor:
    """Returns what values are rounded around, float32 [C]: medians, to 2^-12, by bisection."""
    if self.stored is not None:
      return tf.identity(self.stored)
    low = tf.fill(self.noisy.batch_shape_tensor(), -_REACH)
    high = -low

    def halve(low, high):
      middle = (low + high) / 2
      below = self.noisy.base.log_cdf(middle) < tf.math.log(0.5)
      return tf.where(below, middle, low), tf.where(below, high, middle)

    low, high = tf.while_loop(lambda *_: True, halve, (low, high), maximum_iterations=_HALVINGS)
    return tf.stop_gradient((low + high) / 2)
