"""Discretized Gaussian mixtures and attention.

Z. Cheng, H. Sun, M. Takeuchi, J. Katto: Learned image compression with discretized Gaussian mixture
likelihoods and attention modules. CVPR 2020. https://arxiv.org/abs/2001.01568 (figures 4 to 6).

  y = g_a(x)                  z = h_a(y)
  z_hat = round(z)            psi = h_s(z_hat)
  y_hat = round(y)            phi = masked 5x5 convolution of y_hat
  x_hat = g_s(y_hat)          w_k, mu_k, sigma_k = three 1x1 layers of (phi, psi)
                              y_hat ~ sum_k w_k N(mu_k, sigma_k^2) * U(-1/2, 1/2)

N = num_filters, of the transforms, of y and of z; the paper takes N = 128 for the lower rates and
N = 192 for the higher ones, and K = num_mixtures = 3. Two of the paper's gains have a switch:
`attention=False` is its transforms without attention modules ("anchor"), `num_mixtures=1` one
Gaussian. The 1x1 layers are as wide as Minnen's (10/3 and 8/3 N), as in published weights.

What to expect on Kodak (cheng2020-anchor, K = 1 as published; docs/published_weights.md):

  lambda    0.0018     0.0130     0.0483
  bpp        0.120      0.417      0.806
  dB         28.58      33.39      36.70   (PSNR of RGB)
"""

from __future__ import annotations

from khuvcm_tf import layers
from khuvcm_tf.codecs import codec, input_format
from khuvcm_tf.entropy import context, entropy_model


def build(
  num_filters: int = 128,
  num_mixtures: int = 3,
  attention: bool = True,
  activation: str = "gdn",
  leaky_slope: float = 0.01,
  entropy_config: dict | None = None,
  planes: int = 3,
) -> codec.Codec:
  """Composes the codec.

  Args:
    num_filters: N.
    num_mixtures: K, Gaussians of each latent.
    attention: whether the transforms have attention modules.
    activation: of the transforms, "gdn" (the paper's) or "prelu".
    leaky_slope: of the rectifiers in the entropy model.
    entropy_config: fields of `entropy_model.EntropyModelConfig` that differ from its defaults.
    planes: channels of the samples.
  """
  n, slope = num_filters, leaky_slope
  h_a = [
    layers.conv(n, 3, name="conv0"),
    layers.Rectifier(slope, name="act0"),
    layers.conv(n, 3, name="conv1"),
    layers.Rectifier(slope, name="act1"),
    layers.conv_down(n, 3, 2, name="conv2"),
    layers.Rectifier(slope, name="act2"),
    layers.conv(n, 3, name="conv3"),
    layers.Rectifier(slope, name="act3"),
    layers.conv_down(n, 3, 2, name="conv4"),
  ]
  h_s = [
    layers.conv(n, 3, name="conv0"),
    layers.Rectifier(slope, name="act0"),
    layers.Subpixel(n, 3, 2, name="up1"),
    layers.Rectifier(slope, name="act1"),
    layers.conv(n * 3 // 2, 3, name="conv2"),
    layers.Rectifier(slope, name="act2"),
    layers.Subpixel(n * 3 // 2, 3, 2, name="up3"),
    layers.Rectifier(slope, name="act3"),
    layers.conv(2 * n, 3, name="conv4"),
  ]
  entropy_parameters = [
    layers.conv(n * 10 // 3, 1, name="conv0"),
    layers.Rectifier(slope, name="act0"),
    layers.conv(n * 8 // 3, 1, name="conv1"),
    layers.Rectifier(slope, name="act1"),
    layers.conv((3 * num_mixtures if num_mixtures > 1 else 2) * n, 1, name="conv2"),
  ]
  return codec.Codec(
    input_format.Rgb(),
    codec.Branch(
      g_a=_analysis(n, attention, activation, planes),
      g_s=_synthesis(n, attention, activation, planes),
      entropy_model=context.ContextModel(
        h_a,
        h_s,
        entropy_parameters,
        latent_depth=n,
        hyper_depth=n,
        num_mixtures=num_mixtures,
        quantization_mode="mixed",
        config=entropy_model.configured(entropy_config),
      ),
    ),
  )


def _analysis(n: int, attention: bool, activation: str, planes: int) -> layers.Transform:
  """g_a: [B, H, W, P] -> [B, H/16, W/16, N]."""
  return layers.Transform(
    [
      layers.ResidualDown(n, activation, name="down0"),
      layers.ResidualBlock(n, name="block0"),
      layers.ResidualDown(n, activation, name="down1"),
      *([layers.Attention(n, name="attention1")] if attention else []),
      layers.ResidualBlock(n, name="block1"),
      layers.ResidualDown(n, activation, name="down2"),
      layers.ResidualBlock(n, name="block2"),
      layers.conv_down(n, 3, 2, name="conv3"),
      *([layers.Attention(n, name="attention3")] if attention else []),
    ],
    planes,
    name="analysis",
  )


def _synthesis(n: int, attention: bool, activation: str, planes: int) -> layers.Transform:
  """g_s: [B, h, w, N] -> [B, 16 h, 16 w, P]."""
  return layers.Transform(
    [
      *([layers.Attention(n, name="attention0")] if attention else []),
      layers.ResidualBlock(n, name="block0"),
      layers.ResidualUp(n, activation, name="up0"),
      layers.ResidualBlock(n, name="block1"),
      layers.ResidualUp(n, activation, name="up1"),
      *([layers.Attention(n, name="attention2")] if attention else []),
      layers.ResidualBlock(n, name="block2"),
      layers.ResidualUp(n, activation, name="up2"),
      layers.ResidualBlock(n, name="block3"),
      layers.Subpixel(planes, 3, 2, name="up3"),
    ],
    n,
    name="synthesis",
  )
