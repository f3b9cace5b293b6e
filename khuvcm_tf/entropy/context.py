"""The joint autoregressive and hierarchical prior in floats.

Minnen et al. (2018), with one Gaussian or a mixture (Cheng et al., 2020) for each latent. Its exact
counterpart is `integer.context`. Letters as in `entropy_model`; K mixture components.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from khuvcm_tf.entropy import entropy_model, gaussian
from khuvcm_tf.entropy.integer.context import IntegerContext
from khuvcm_tf.layers import MaskedConv2D, Stack


class ContextModel(entropy_model.HyperpriorBase):
  """A mixture of Gaussians for each latent, predicted from side information and earlier latents.

    z = h_a(y)
    z_hat = round(z - median) + median      z_hat ~ factorized prior
    psi = h_s(z_hat)
    y_hat = round(y)
    phi = masked 5x5 convolution of y_hat
    w_k, mu_k, sigma_k = three 1x1 layers of (phi, psi)
                                            y_hat ~ sum_k w_k N(mu_k, sigma_k^2) * U(-1/2, 1/2)

  As in the paper y_hat is round(y), not round(y - mu) + mu, so that training computes all positions
  at once.

  Args:
    h_a, h_s, latent_depth, hyper_depth, quantization_mode, config: as in `HyperpriorBase`; h_s
      predicts psi.
    entropy_parameters: 1x1 layers from phi and psi to K M logits, K M means and K M (log-)scales,
      of which the first M belong to the first component; without logits where K is 1.
    num_mixtures: K.
  """

  integer_class = IntegerContext

  def __init__(
    self,
    h_a: Sequence[tf.keras.layers.Layer],
    h_s: Sequence[tf.keras.layers.Layer],
    entropy_parameters: Sequence[tf.keras.layers.Layer],
    latent_depth: int,
    hyper_depth: int,
    num_mixtures: int,
    quantization_mode: str,
    config: entropy_model.EntropyModelConfig = entropy_model.DEFAULT,
  ):
    super().__init__(
      h_a, h_s, latent_depth, hyper_depth, quantization_mode, config, name="context_model"
    )
    masked = MaskedConv2D(2 * latent_depth, 5, name="masked")
    self.context = Stack([masked], latent_depth, name="context")
    depth = self.context.out_channels + self.h_s.out_channels
    self.entropy_parameters = Stack(entropy_parameters, depth, name="entropy_parameters")
    self.num_mixtures = num_mixtures

  @property
  def networks(self):
    return {
      **super().networks,
      "context": self.context,
      "entropy_parameters": self.entropy_parameters,
    }

  def predicted(self, y_hat: tf.Tensor, z_hat: tf.Tensor):
    """Returns log-weights (None where K is 1), means and real scale indices of each latent.

    Args:
      y_hat: [B, h, w, M]; predictions at a position depend on those before it in raster order.
      z_hat: [B, h/4, w/4, N].

    Returns:
      [B, h, w, K, M] float32 each.
    """
    psi = self.h_s(z_hat)
    phi = self.context(y_hat)
    params = tf.cast(self.entropy_parameters(tf.concat([phi, psi], axis=-1)), tf.float32)
    parts = 2 + (self.num_mixtures > 1)
    shape = tf.concat([tf.shape(params)[:3], [parts, self.num_mixtures, self.latent_depth]], 0)
    *logits, mu, scale = tf.unstack(tf.reshape(params, shape), num=parts, axis=3)
    mu, scale = (
      tf.ensure_shape(each, (None, None, None, self.num_mixtures, self.latent_depth))
      for each in (mu, scale)
    )
    log_weights = tf.nn.log_softmax(logits[0], axis=3) if logits else None
    return log_weights, mu, gaussian.index_of(scale, self.config.log_scales)

  def element_bits(self, y: tf.Tensor, training: bool = False, medians: tf.Tensor | None = None):
    z, y = tf.cast(self.side_information(y), tf.float32), tf.cast(y, tf.float32)
    z_hat, z_rate = self.quantized(z, self.medians(medians), training)
    y_hat, y_rate = self.quantized(y, 0.0, training)
    log_weights, mu, index = self.predicted(y_hat, z_hat)
    component_bits = gaussian.bits(y_rate[:, :, :, tf.newaxis] - mu, index)
    y_bits = gaussian.mixture_bits(component_bits, log_weights)
    return y_hat, {"z": self.prior.bits(z_rate), "y": y_bits}
