"""The joint autoregressive and hierarchical prior in floats, as training needs it.

Minnen et al. (2018), with one Gaussian or a mixture (Cheng et al., 2020) for each latent. Its exact
twin is `integer_context`.

Letters as in `latent_coder`; K mixture components.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from khuvcm_tf.entropy import gaussian, latent_coder
from khuvcm_tf.layers import MaskedConv2D


class ContextModel(latent_coder.SideInformed):
  """A mixture of Gaussians for each latent, told by side information and by decoded latents.

    y_hat = round(y);  psi = h_s(z_hat);  phi = masked 5x5 convolution of y_hat
    (phi, psi) -> entropy parameters: three 1x1 layers -> logits, means, log-scales

  As in the paper y_hat is round(y), not round(y - mean) + mean, so that all places are computed at
  once in training.

  Args:
    analysis, latent_depth, hyper_depth, quantization_mode, form: as in `SideInformed`.
    synthesis: h_s, layers from z to psi.
    hyper_features: channels of psi.
    parameters: 1x1 layers from phi and psi to K M logits, K M means and K M (log-)scales, of
      which the first M belong to the first component; without logits where K is 1.
    num_mixtures: K.
  """

  def __init__(
    self,
    analysis: Sequence[tf.keras.layers.Layer],
    synthesis: Sequence[tf.keras.layers.Layer],
    parameters: Sequence[tf.keras.layers.Layer],
    latent_depth: int,
    hyper_depth: int,
    hyper_features: int,
    num_mixtures: int,
    quantization_mode: str,
    form: latent_coder.Form = latent_coder.OURS,
  ):
    super().__init__(
      analysis, latent_depth, hyper_depth, False, quantization_mode, form, name="context_model"
    )
    self.h_s = tf.keras.Sequential(synthesis, name="hyper_synthesis")
    self.context = tf.keras.Sequential(
      [MaskedConv2D(2 * latent_depth, 5, name="masked")], name="context"
    )
    self.parameter_layers = tf.keras.Sequential(parameters, name="entropy_parameters")
    self.num_mixtures = num_mixtures
    self.h_s.build((None, None, None, hyper_depth))
    self.context.build((None, None, None, latent_depth))
    self.parameter_layers.build((None, None, None, 2 * latent_depth + hyper_features))

  @property
  def networks(self):
    return {
      **super().networks,
      "hyper_synthesis": self.h_s,
      "context": self.context,
      "entropy_parameters": self.parameter_layers,
    }

  def parameters(self, y_hat: tf.Tensor, z_hat: tf.Tensor):
    """Returns log-weights (None where K is 1), means and real scale indices of each latent.

    Args:
      y_hat: [B, h, w, M]; a place's parameters depend on those before it in raster order.
      z_hat: [B, h/4, w/4, N].

    Returns:
      [B, h, w, K, M] float32 each.
    """
    told = tf.concat([self.context(y_hat), self.h_s(z_hat)], axis=-1)
    told = tf.cast(self.parameter_layers(told), tf.float32)
    shape = tf.concat([tf.shape(told)[:3], [-1, self.num_mixtures, self.latent_depth]], axis=0)
    *logits, means, scales = tf.unstack(
      tf.ensure_shape(
        tf.reshape(told, shape),
        (None, None, None, 2 + (self.num_mixtures > 1), self.num_mixtures, self.latent_depth),
      ),
      axis=3,
    )
    weights = tf.nn.log_softmax(logits[0], axis=3) if logits else None
    return weights, means, gaussian.index_of(scales, self.form.log_scales)

  def latent_bits(self, y: tf.Tensor, z_hat: tf.Tensor, training: bool):
    y_hat, y_counted = self.quantized(y, 0.0, training)
    weights, means, indices = self.parameters(y_hat, z_hat)
    bits = gaussian.bits(y_counted[:, :, :, tf.newaxis] - means, indices)
    return y_hat, gaussian.mixture_bits(bits, weights)
