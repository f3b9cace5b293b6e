"""Scale hyperprior.

J. Ballé, D. Minnen, S. Singh, S. J. Hwang, N. Johnston: Variational image compression with a scale
hyperprior. ICLR 2018. https://openreview.net/forum?id=rkcQFMZRb (figure 4).

  y = g_a(x)                    z = h_a(|y|)
  z_hat = round(z)              sigma = h_s(z_hat)
  y_hat = round(y)              y_hat ~ N(0, sigma^2) * U(-1/2, 1/2)
  x_hat = g_s(y_hat)

N = num_filters, M = latent_depth; the paper takes N = 128, M = 192 for its five lower rates and
N = 192, M = 320 for its three higher ones. Ours differs in one thing: h_s ends in the logarithm
of sigma, so that its index in the table of scales is linear in the network's output. With
`log_scales=False` it ends in sigma, as the paper's does (whose last ReLU the bound of sigma, 0.11,
makes superfluous).

What to expect on Kodak (bmshj2018-hyperprior as published; docs/published_weights.md):

  lambda    0.0018     0.0130     0.1800
  bpp        0.131      0.478      1.660
  dB         27.58      32.84      40.56   (PSNR of RGB)
"""

from __future__ import annotations

from khuvcm_tf import layers
from khuvcm_tf.codecs import codec, input_format
from khuvcm_tf.entropy import entropy_model, hyperprior


def build(
  num_filters: int = 128,
  latent_depth: int = 192,
  activation: str = "gdn",
  entropy_config: dict | None = None,
  planes: int = 3,
) -> codec.Codec:
  """Composes the codec.

  Args:
    num_filters: N, channels of the transforms and of z.
    latent_depth: M, channels of y.
    activation: of the transforms, "gdn" (the paper's) or "prelu".
    entropy_config: fields of `entropy_model.EntropyModelConfig` that differ from its defaults.
    planes: channels of the samples.
  """
  n, m = num_filters, latent_depth
  h_a = [
    layers.conv(n, 3, name="conv0"),
    layers.Rectifier(0.0, name="act0"),
    layers.conv_down(n, 5, 2, name="conv1"),
    layers.Rectifier(0.0, name="act1"),
    layers.conv_down(n, 5, 2, name="conv2"),
  ]
  h_s = [
    layers.conv_up(n, 5, 2, name="conv0"),
    layers.Rectifier(0.0, name="act0"),
    layers.conv_up(n, 5, 2, name="conv1"),
    layers.Rectifier(0.0, name="act1"),
    layers.conv(m, 3, name="conv2"),
  ]
  return codec.Codec(
    input_format.Rgb(),
    codec.Branch(
      g_a=layers.four_stage_analysis(n, m, activation, planes),
      g_s=layers.four_stage_synthesis(n, m, activation, planes),
      entropy_model=hyperprior.ScaleHyperprior(
        h_a,
        h_s,
        latent_depth=m,
        hyper_depth=n,
        quantization_mode="noise",
        config=entropy_model.configured(entropy_config),
      ),
    ),
  )
