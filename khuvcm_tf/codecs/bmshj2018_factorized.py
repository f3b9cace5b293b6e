"""Factorized prior.

J. Ballé, D. Minnen, S. Singh, S. J. Hwang, N. Johnston: Variational image compression with a scale
hyperprior. ICLR 2018. https://openreview.net/forum?id=rkcQFMZRb ("factorized prior" in section 4),
after J. Ballé, V. Laparra, E. P. Simoncelli: End-to-end optimized image compression. ICLR 2017.

  y = g_a(x)      y_hat = round(y)      x_hat = g_s(y_hat)
                  y_hat ~ one learned density for each channel

N = num_filters, M = latent_depth; published models take N = 128, M = 192 for the lower rates and
N = 192, M = 320 for the higher ones.

What to expect on Kodak (bmshj2018-factorized as published; docs/published_weights.md):

  lambda    0.0018     0.0130     0.1800
  bpp        0.123      0.440      1.833
  dB         26.91      31.28      39.62   (PSNR of RGB)
"""

from __future__ import annotations

from khuvcm_tf import layers
from khuvcm_tf.codecs import codec, input_format
from khuvcm_tf.entropy import entropy_model, factorized_model


def build(
  num_filters: int = 128,
  latent_depth: int = 192,
  activation: str = "gdn",
  entropy_config: dict | None = None,
  planes: int = 3,
) -> codec.Codec:
  """Composes the codec.

  Args:
    num_filters: N, channels of the transforms.
    latent_depth: M, channels of y.
    activation: of the transforms, "gdn" (the paper's) or "prelu".
    entropy_config: fields of `entropy_model.EntropyModelConfig` that differ from its defaults.
    planes: channels of the samples.
  """
  n, m = num_filters, latent_depth
  return codec.Codec(
    input_format.Rgb(),
    codec.Branch(
      g_a=layers.four_stage_analysis(n, m, activation, planes),
      g_s=layers.four_stage_synthesis(n, m, activation, planes),
      entropy_model=factorized_model.FactorizedModel(
        m, quantization_mode="noise", config=entropy_model.configured(entropy_config)
      ),
    ),
  )
