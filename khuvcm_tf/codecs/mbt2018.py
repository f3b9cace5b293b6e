"""Joint autoregressive and hierarchical priors.

D. Minnen, J. Ballé, G. Toderici: Joint autoregressive and hierarchical priors for learned image
compression. NeurIPS 2018. https://arxiv.org/abs/1809.02736 (table 1).

  y = g_a(x)                  z = h_a(y)
  z_hat = round(z)            psi = h_s(z_hat)
  y_hat = round(y)            phi = masked 5x5 convolution of y_hat
  x_hat = g_s(y_hat)          mu, sigma = three 1x1 layers of (phi, psi)
                              y_hat ~ N(mu, sigma^2) * U(-1/2, 1/2)

N = num_filters, M = latent_depth; the paper takes N = M = 192, and M = 320 for the higher rates.
Decoding goes position by position: `entropy.integer.context` does it in wavefronts, in integers.

What to expect on Kodak (mbt2018 as published; docs/published_weights.md):

  lambda    0.0018     0.0130     0.1800
  bpp        0.111      0.432      1.587
  dB         28.09      33.09      40.64   (PSNR of RGB)
"""

from __future__ import annotations

from khuvcm_tf import layers
from khuvcm_tf.codecs import codec, input_format
from khuvcm_tf.entropy import entropy_model, minnen2018


def build(
  num_filters: int = 192,
  latent_depth: int = 192,
  activation: str = "gdn",
  leaky_slope: float = 0.2,
  entropy_config: dict | None = None,
  planes: int = 3,
) -> codec.Codec:
  """Composes the codec.

  Args:
    num_filters: N, channels of the transforms and of z.
    latent_depth: M, channels of y.
    activation: of the transforms, "gdn" (the paper's) or "prelu".
    leaky_slope: of the rectifiers in the entropy model.
    entropy_config: fields of `entropy_model.EntropyModelConfig` that differ from its defaults.
    planes: channels of the samples.
  """
  n, m = num_filters, latent_depth
  return codec.Codec(
    input_format.Rgb(),
    codec.Branch(
      g_a=layers.four_stage_analysis(n, m, activation, planes),
      g_s=layers.four_stage_synthesis(n, m, activation, planes),
      entropy_model=minnen2018.context_model(
        n, m, 1, leaky_slope, entropy_model.configured(entropy_config)
      ),
    ),
  )
