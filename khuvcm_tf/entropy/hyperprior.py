"""The hyperprior in floats (Ballé et al., 2018; Minnen et al., 2018); exact: `integer_hyperprior`.

Letters as in `latent_coder`.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from khuvcm_tf.entropy import gaussian, latent_coder


class Hyperprior(latent_coder.SideInformed):
  """A Gaussian for each latent, its scale (and mean) told by side information z.

  Args:
    analysis, latent_depth, hyper_depth, absolute, quantization_mode, form: as in `SideInformed`.
    synthesis: h_s, layers from z to M (log-)scales, or M means and then M (log-)scales. These are
      convolutions of `khuvcm_tf.layers` with the activations that `integer_network` knows.
    means: whether h_s tells means too.
  """

  def __init__(
    self,
    analysis: Sequence[tf.keras.layers.Layer],
    synthesis: Sequence[tf.keras.layers.Layer],
    latent_depth: int,
    hyper_depth: int,
    means: bool,
    absolute: bool,
    quantization_mode: str,
    form: latent_coder.Form = latent_coder.OURS,
  ):
    super().__init__(
      analysis, latent_depth, hyper_depth, absolute, quantization_mode, form, name="hyperprior"
    )
    self.h_s = tf.keras.Sequential(synthesis, name="hyper_synthesis")
    self.means = means
    self.h_s.build((None, None, None, hyper_depth))

  @property
  def networks(self):
    return {**super().networks, "hyper_synthesis": self.h_s}

  def parameters(self, z_hat: tf.Tensor):
    """Returns the mean (0.0 where h_s tells none) and the real scale index, [B, h, w, M] each."""
    told = tf.cast(self.h_s(z_hat), tf.float32)
    if not self.means:
      return 0.0, gaussian.index_of(told, self.form.log_scales)
    mean, scale = tf.split(told, 2, axis=-1)
    return mean, gaussian.index_of(scale, self.form.log_scales)

  def latent_bits(self, y: tf.Tensor, z_hat: tf.Tensor, training: bool):
    mean, index = self.parameters(z_hat)
    y_hat, y_counted = self.quantized(y, mean, training)
    return y_hat, gaussian.bits(y_counted - mean, index)
