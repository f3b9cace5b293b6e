"""The hyperprior in floats (Ballé et al., 2018; Minnen et al., 2018).

Its exact counterpart is `integer.hyperprior`. Letters as in `entropy_model`.
"""

from __future__ import annotations

import tensorflow as tf

from khuvcm_tf.entropy import entropy_model, gaussian
from khuvcm_tf.entropy.integer.hyperprior import IntegerHyperprior


class Hyperprior(entropy_model.HyperpriorBase):
  """A Gaussian for each latent, predicted from side information.

    z = h_a(y)
    z_hat = round(z - median) + median      z_hat ~ factorized prior
    mu, sigma = h_s(z_hat)
    y_hat = round(y - mu) + mu              y_hat ~ N(mu, sigma^2) * U(-1/2, 1/2)

  Args:
    h_a, h_s, latent_depth, hyper_depth, quantization_mode, config: as in `HyperpriorBase`; h_s
      predicts M means, then M (log-)scales.
  """

  integer_class = IntegerHyperprior
  has_means = True

  def __init__(
    self,
    h_a,
    h_s,
    latent_depth: int,
    hyper_depth: int,
    quantization_mode: str,
    config: entropy_model.EntropyModelConfig = entropy_model.DEFAULT,
  ):
    super().__init__(
      h_a, h_s, latent_depth, hyper_depth, quantization_mode, config, name="hyperprior"
    )

  def predicted(self, z_hat: tf.Tensor):
    """Returns mu and the (log-)scale, [B, h, w, M] each."""
    return tf.split(tf.cast(self.h_s(z_hat), tf.float32), 2, axis=-1)

  def element_bits(self, y: tf.Tensor, training: bool = False, medians: tf.Tensor | None = None):
    z, y = tf.cast(self.side_information(y), tf.float32), tf.cast(y, tf.float32)
    z_hat, z_rate = self.quantized(z, self.medians(medians), training)
    mu, scale = self.predicted(z_hat)
    y_hat, y_rate = self.quantized(y, mu, training)
    y_bits = gaussian.bits(y_rate - mu, gaussian.index_of(scale, self.config.log_scales))
    return y_hat, {"z": self.prior.bits(z_rate), "y": y_bits}


class ScaleHyperprior(Hyperprior):
  """A Gaussian of mean 0 for each latent, its scale predicted from side information.

    z = h_a(|y|)
    sigma = h_s(z_hat)
    y_hat = round(y)                        y_hat ~ N(0, sigma^2) * U(-1/2, 1/2)

  Args:
    as in `Hyperprior`; h_s predicts M (log-)scales.
  """

  has_means = False

  def side_information(self, y):
    return self.h_a(tf.abs(y))

  def predicted(self, z_hat):
    return 0.0, tf.cast(self.h_s(z_hat), tf.float32)
