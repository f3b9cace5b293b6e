"""The hyperprior in floats, as training needs it (Ballé et al., 2018; Minnen et al., 2018).

Its exact twin, which files are written and read with, is `integer_hyperprior`.

Letters: y latents [B, h, w, M]; z side information [B, h/4, w/4, N]; a hat is a rounded value.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from khuvcm_tf.entropy import factorized, gaussian, quantization


class Hyperprior(tf.keras.layers.Layer):
  """A Gaussian for each latent, its scale (and mean) told by side information z.

  Args:
    analysis: h_a, layers from y to z, total stride 4.
    synthesis: h_s, layers from z to M log-scales, or M means and then M log-scales. These are
      convolutions of `khuvcm_tf.layers` with the activations that `integer_network` knows.
    latent_depth: M.
    hyper_depth: N, channels of z.
    means: whether h_s tells means too.
    absolute: whether h_a sees abs(y) (Ballé et al.) or y (Minnen et al.).
    quantization_mode: what the decoder sees in training, "noise" or "mixed" (straight-through
      rounded values; the rate has noise in both; Minnen and Singh, 2020, section 3.2).
  """

  stride = 4
  substreams = ("z", "y")

  def __init__(
    self,
    analysis: Sequence[tf.keras.layers.Layer],
    synthesis: Sequence[tf.keras.layers.Layer],
    latent_depth: int,
    hyper_depth: int,
    means: bool,
    absolute: bool,
    quantization_mode: str,
  ):
    super().__init__(name="hyperprior")
    if quantization_mode not in quantization.MODES:
      raise ValueError(
        f"`quantization_mode` is {quantization_mode!r}, expected one of {quantization.MODES}"
      )
    self.h_a = tf.keras.Sequential(analysis, name="hyper_analysis")
    self.h_s = tf.keras.Sequential(synthesis, name="hyper_synthesis")
    # Its state is saved with training's checkpoints, so that a run goes on with the same noise.
    self.noise = tf.random.Generator.from_seed(0)
    self.prior = factorized.FactorizedPrior(hyper_depth)
    self.latent_depth, self.hyper_depth = latent_depth, hyper_depth
    self.means, self.absolute, self.quantization_mode = means, absolute, quantization_mode
    self.h_a.build((None, None, None, latent_depth))
    self.h_s.build((None, None, None, hyper_depth))

  @property
  def networks(self):
    """Parts that have weights, by name."""
    return {"hyper_analysis": self.h_a, "hyper_synthesis": self.h_s, "prior": self.prior}

  def side_information(self, y: tf.Tensor) -> tf.Tensor:
    """Returns z = h_a(y), [B, h/4, w/4, N]; y has sides that are multiples of 4."""
    return self.h_a(tf.abs(y) if self.absolute else y)

  def parameters(self, z_hat: tf.Tensor):
    """Returns the mean (0.0 where h_s tells none) and the real scale index, [B, h, w, M] each."""
    told = tf.cast(self.h_s(z_hat), tf.float32)
    if not self.means:
      return 0.0, gaussian.index_of(told)
    mean, log_scale = tf.split(told, 2, axis=-1)
    return mean, gaussian.index_of(log_scale)

  def element_bits(self, y: tf.Tensor, training: bool = False):
    """Rounds y (in training: or its stand-in) and counts the bits of each element, in floats.

    Args:
      y: [B, h, w, M], h and w multiples of 4.
      training: whether bits are differentiable, with noise in place of rounding.

    Returns:
      y_hat [B, h, w, M], and {"z": bits [B, h/4, w/4, N], "y": bits [B, h, w, M]}.
    """
    z = tf.cast(self.side_information(y), tf.float32)
    y = tf.cast(y, tf.float32)
    z_hat = quantization.rounded(z, self.prior.medians())
    z_counted = quantization.with_noise(z, self.noise) if training else z_hat
    if training and self.quantization_mode == "noise":
      z_hat = z_counted
    mean, index = self.parameters(z_hat)
    y_hat = quantization.rounded(y, mean)
    y_counted = quantization.with_noise(y, self.noise) if training else y_hat
    if training and self.quantization_mode == "noise":
      y_hat = y_counted
    return y_hat, {"z": self.prior.bits(z_counted), "y": gaussian.bits(y_counted - mean, index)}

  def call(self, y: tf.Tensor, training: bool = False):
    """As `element_bits`, with the bits of each picture, [B]."""
    y_hat, bits = self.element_bits(y, training=training)
    return y_hat, {name: tf.reduce_sum(each, axis=(1, 2, 3)) for name, each in bits.items()}
