"""Mean and scale hyperprior.

D. Minnen, J. Ballé, G. Toderici: Joint autoregressive and hierarchical priors for learned image
compression. NeurIPS 2018. https://arxiv.org/abs/1809.02736 (table 1 without the context model).

  y = g_a(x)                      z = h_a(y)
  z_hat = round(z)                mu, sigma = h_s(z_hat)
  y_hat = round(y - mu) + mu      y_hat ~ N(mu, sigma^2) * U(-1/2, 1/2)
  x_hat = g_s(y_hat)

N = num_filters, M = latent_depth; published models take N = 128, M = 192 for the lower rates and
N = 192, M = 320 for the higher ones. In training the synthesis sees straight-through rounded
latents, the rate sees noise (D. Minnen, S. Singh: Channel-wise autoregressive entropy models for
learned image compression. ICIP 2020, section 3.2).
"""

from __future__ import annotations

from khuvcm_tf import layers
from khuvcm_tf.codecs import codec, latent_coders, picture_format
from khuvcm_tf.entropy import latent_coder


def build(
  num_filters: int = 128,
  latent_depth: int = 192,
  activation: str = "gdn",
  leaky_slope: float = 0.2,
  log_scales: bool = True,
  prior_layers: int = 2,
  stored_medians: bool = False,
) -> codec.Codec:
  """Composes the codec.

  Args:
    num_filters: N, channels of the transforms and of z.
    latent_depth: M, channels of y.
    activation: of the transforms, "gdn" (the paper's) or "prelu".
    leaky_slope: of the rectifiers in the hyper transforms.
    log_scales, prior_layers, stored_medians: form of the entropy model (`latent_coder.Form`).
  """
  n, m = num_filters, latent_depth
  form = latent_coder.Form(log_scales, prior_layers, stored_medians)
  return codec.Codec(
    picture_format.Rgb(),
    codec.Branch(
      layers.four_stage_analysis(n, m, activation),
      layers.four_stage_synthesis(n, m, activation),
      latent_coders.mean_and_scale(n, m, leaky_slope, form),
    ),
  )
