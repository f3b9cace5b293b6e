"""Mean and scale hyperprior.

D. Minnen, J. Ballé, G. Toderici: Joint autoregressive and hierarchical priors for learned image
compression. NeurIPS 2018. https://arxiv.org/abs/1809.02736 (table 1 without the context model).

  y = g_a(x)                      z = h_a(y)
  z_hat = round(z)                mu, sigma = h_s(z_hat)
  y_hat = round(y - mu) + mu      y_hat ~ N(mu, sigma^2) * U(-1/2, 1/2)
  x_hat = g_s(y_hat)

N = num_filters, M = latent_depth; published models take N = 128, M = 192 for the lower rates and
N = 192, M = 320 for the higher ones. In training the synthesis receives straight-through
rounded latents, the rate is that of noisy ones (D. Minnen, S. Singh: Channel-wise autoregressive
entropy models for learned image compression. ICIP 2020, section 3.2).

What to expect on Kodak (mbt2018-mean as published; docs/published_weights.md):

  lambda    0.0018     0.0130     0.1800
  bpp        0.124      0.461      1.619
  dB         27.70      32.95      40.63   (PSNR of RGB)
"""

from __future__ import annotations

from khuvcm_tf import layers
from khuvcm_tf.codecs import codec, input_format
from khuvcm_tf.entropy import entropy_model, minnen2018


def build(
  num_filters: int = 128,
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
    leaky_slope: of the rectifiers in the hyper transforms.
    entropy_config: fields of `entropy_model.EntropyModelConfig` that differ from its defaults.
    planes: channels of the samples.
  """
  n, m = num_filters, latent_depth
  return codec.Codec(
    input_format.Rgb(),
    codec.Branch(
      g_a=layers.four_stage_analysis(n, m, activation, planes),
      g_s=layers.four_stage_synthesis(n, m, activation, planes),
      entropy_model=minnen2018.mean_scale_hyperprior(
        n, m, leaky_slope, entropy_model.configured(entropy_config)
      ),
    ),
  )
