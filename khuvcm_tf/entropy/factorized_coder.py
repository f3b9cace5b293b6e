"""Latents by the factorized prior alone, in floats (Ballé et al., 2018).

Its exact twin is `integer_factorized`. Letters as in `latent_coder`.
"""

from __future__ import annotations

import tensorflow as tf

from khuvcm_tf.entropy import latent_coder


class FactorizedCoder(latent_coder.LatentCoder):
  """A density for each channel of the latents, without side information.

  Args:
    latent_depth, quantization_mode, form: as in `LatentCoder`.
  """

  def __init__(self, latent_depth: int, quantization_mode: str, form: latent_coder.Form):
    super().__init__(latent_depth, latent_depth, quantization_mode, form, name="factorized")

  def element_bits(self, y: tf.Tensor, training: bool = False):
    y_hat, counted = self.quantized(tf.cast(y, tf.float32), self.prior.medians(), training)
    return y_hat, {"y": self.prior.bits(counted)}
