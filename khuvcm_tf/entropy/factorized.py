"""The learned factorized prior: one density for each channel (Ballé et al., 2018, appendix 6.1)."""

from __future__ import annotations

import tensorflow as tf
import tensorflow_compression as tfc

# Bisection of [-_MAX_ABS, _MAX_ABS] to 2^-12: finer than the fixed point of coded medians.
_MAX_ABS = 2.0**14
_HALVINGS = 27

_FILTERS = 3  # of each hidden layer of a density


class FactorizedPrior(tf.keras.layers.Layer):
  """p(z) for latents z [..., C] whose channels are independent and identically distributed.

  Args:
    channels: C.
    hidden_layers: of the network that is a channel's CDF, 3 wide each.
    stored_medians: whether values are rounded around stored weights, as in published models
      (CompressAI learns them apart from the densities), and not around the medians of the
      densities. Training leaves them as they are.
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
    """Returns -log2 of the probability of [z - 1/2, z + 1/2]: float32 [..., C] -> the same."""
    return self.noisy.log_prob(z) / -tf.math.log(2.0)

  def medians(self) -> tf.Tensor:
    """Returns the medians that values are rounded around, float32 [C], exact to 2^-12."""
    if self.stored is not None:
      return tf.identity(self.stored)
    low = tf.fill(self.noisy.batch_shape_tensor(), -_MAX_ABS)
    high = -low

    def halve(low, high):
      middle = (low + high) / 2
      below = self.noisy.base.log_cdf(middle) < tf.math.log(0.5)
      return tf.where(below, middle, low), tf.where(below, high, middle)

    low, high = tf.while_loop(lambda *_: True, halve, (low, high), maximum_iterations=_HALVINGS)
    return tf.stop_gradient((low + high) / 2)
