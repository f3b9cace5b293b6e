"""Factorized prior.

J. Ballé, D. Minnen, S. Singh, S. J. Hwang, N. Johnston: Variational image compression with a scale
hyperprior. ICLR 2018. https://openreview.net/forum?id=rkcQFMZRb ("factorized prior" in section 4),
after J. Ballé, V. Laparra, E. P. Simoncelli: End-to-end optimized image compression. ICLR 2017.

  y = g_a(x)      y_hat = round(y)      x_hat = g_s(y_hat)
                  y_hat ~ one learned density for each channel

N = num_filters, M = latent_depth; published models take N = 128, M = 192 for the lower rates and
N = 192, M = 320 for the higher ones.
"""

from __future__ import annotations

from khuvcm_tf import layers
from khuvcm_tf.codecs import codec, picture_format
from khuvcm_tf.entropy import factorized_coder, latent_coder


def build(
  num_filters: int = 128,
  latent_depth: int = 192,
  activation: str = "gdn",
  prior_layers: int = 2,
  stored_medians: bool = False,
) -> codec.Codec:
  """Composes the codec.

  Args:
    num_filters: N, channels of the transforms.
    latent_depth: M, channels of y.
    activation: of the transforms, "gdn" (the paper's) or "prelu".
    prior_layers, stored_medians: form of the entropy model (`latent_coder.Form`).
  """
  n, m = num_filters, latent_depth
  form = latent_coder.Form(prior_layers=prior_layers, stored_medians=stored_medians)
  return codec.Codec(
    picture_format.Rgb(),
    codec.Branch(
      layers.four_stage_analysis(n, m, activation),
      layers.four_stage_synthesis(n, m, activation),
      factorized_coder.FactorizedCoder(m, quantization_mode="noise", form=form),
    ),
  )
