"""Cross-component compression: luma first, then chroma, conditioned on decoded luma.

  luma     y1 = g_a1(Y)                      Y_hat = g_s1(y1_hat)
  chroma   y2 = g_a2(UV, condition)          UV_hat = g_s2(y2_hat, condition)

Images are 4:2:0. Each network has an entropy model and substreams of its own, so that luma can be
decoded alone. The condition is decoded luma: its latents y1_hat, its samples Y_hat, or both:

  "latents"   g_a2 = 1x1 of (the stack's end, y1_hat)      g_s2 = the stack of (y2_hat, y1_hat)
  "samples"   g_a2 = the stack of (UV, Y_hat)              g_s2 = 3x3, act, 3x3 of (features, Y_hat)

The stack is three 5x5 stages of stride 2; features are the synthesis stack's end, at chroma's own
resolution. The chroma network is half as wide by default, as chroma holds less information.

The study proposes two networks with a large weight on luma's error (`--component_weights`,
`--lambda_chroma`); how luma conditions chroma is ours. Chroma's entropy model does not depend on
luma: its inputs would have to be exact.

What to expect on Kodak, of small models (N = 32, M = 48, an hour on a core; docs/results.md):

  lambda    0.0056     0.0113     0.0225
  bpp        0.173      0.226      0.290
  dB         27.07      27.56      27.91   (PSNR of Y)
"""

from __future__ import annotations

import tensorflow as tf

from khuvcm_tf import layers
from khuvcm_tf.codecs import codec, input_format
from khuvcm_tf.entropy import minnen2018

_CONDITIONS = ("latents", "samples", "both")
# Features that are joined with luma's samples.
_FEATURES = 16


def build(
  num_filters: int = 192,
  latent_depth: int = 192,
  chroma_filters: int | None = None,
  chroma_depth: int | None = None,
  condition: str = "both",
  entropy_model: str = "context",
  activation: str = "prelu",
  leaky_slope: float = 0.2,
) -> codec.Codec:
  """Composes the codec.

  Args:
    num_filters, latent_depth: N and M of luma.
    chroma_filters, chroma_depth: N and M of chroma; half of luma's where None.
    condition: what of decoded luma chroma is conditioned on: "latents", "samples" or "both".
    entropy_model: "hyperprior", "context", or "mixture" (`minnen2018.create`).
    activation: of the transforms, "prelu" or "gdn".
    leaky_slope: of the rectifiers in the entropy models.
  """
  n, m = num_filters, latent_depth
  chroma_n = max(n // 2, 1) if chroma_filters is None else chroma_filters
  chroma_m = max(m // 2, 1) if chroma_depth is None else chroma_depth
  if condition not in _CONDITIONS:
    raise ValueError(f"`condition` is {condition!r}, expected one of {', '.join(_CONDITIONS)}")
  return codec.Codec(
    input_format.Ycbcr420(),
    _Luma(
      _analysis(layers.LumaDown(n, name="conv0"), 4, n, m, activation),
      _synthesis(m, n, layers.LumaUp(name="conv3"), activation),
      minnen2018.create(entropy_model, n, m, leaky_slope),
      name="luma",
    ),
    _Chroma(
      chroma_n,
      chroma_m,
      m,
      condition,
      activation,
      minnen2018.create(entropy_model, chroma_n, chroma_m, leaky_slope),
    ),
  )


def _analysis(first, in_channels: int, n: int, m: int, activation: str) -> layers.Transform:
  """A layer to N features at chroma's resolution, then three stages to latents."""
  stack = [
    first,
    layers.activation(activation, name="act0"),
    layers.conv_down(n, 5, 2, name="conv1"),
    layers.activation(activation, name="act1"),
    layers.conv_down(n, 5, 2, name="conv2"),
    layers.activation(activation, name="act2"),
    layers.conv_down(m, 5, 2, name="conv3"),
  ]
  return layers.Transform(stack, in_channels, name="analysis", subsampling=2)


def _synthesis(in_channels: int, n: int, last, activation: str) -> layers.Transform:
  """Three stages from latents to N features at chroma's resolution, then a layer to samples."""
  stack = [
    layers.conv_up(n, 5, 2, name="conv0"),
    layers.activation(activation, inverse=True, name="act0"),
    layers.conv_up(n, 5, 2, name="conv1"),
    layers.activation(activation, inverse=True, name="act1"),
    layers.conv_up(n, 5, 2, name="conv2"),
    layers.activation(activation, inverse=True, name="act2"),
    last,
  ]
  return layers.Transform(stack, in_channels, name="synthesis", subsampling=2)


class _Luma(codec.Branch):
  """Codes the four channels of luma."""

  def analyze(self, x, context):
    return super().analyze(x[..., :4], context)


class _Chroma(codec.Branch):
  """Codes the two channels of chroma, conditioned on decoded luma."""

  def __init__(self, n, m, luma_m, condition, activation, entropy_model):
    self.uses_latents = condition in ("latents", "both")
    self.uses_samples = condition in ("samples", "both")
    last = layers.conv(_FEATURES if self.uses_samples else 2, 3, name="conv3")
    super().__init__(
      _analysis(layers.conv(n, 3, name="conv0"), 6 if self.uses_samples else 2, n, m, activation),
      _synthesis(m + luma_m if self.uses_latents else m, n, last, activation),
      entropy_model,
      name="chroma",
    )
    if self.uses_latents:
      self.join = layers.Transform([layers.conv(m, 1, name="conv")], m + luma_m, name="join")
    if self.uses_samples:
      self.merge = layers.Transform(
        [
          layers.conv(n, 3, name="conv0"),
          layers.activation(activation, inverse=True, name="act0"),
          layers.conv(2, 3, name="conv1"),
        ],
        _FEATURES + 4,
        name="synthesis_with_luma",
        subsampling=2,
      )

  @property
  def networks(self):
    return {
      **super().networks,
      **({"analysis_with_luma": self.join} if self.uses_latents else {}),
      **({"synthesis_with_luma": self.merge} if self.uses_samples else {}),
    }

  def analyze(self, x, context):
    (luma,) = context.decoded
    inputs = [x[..., 4:], luma.x_hat] if self.uses_samples else [x[..., 4:]]
    y = super().analyze(tf.concat(inputs, axis=-1), context)
    return self.join(tf.concat([y, luma.y_hat], axis=-1)) if self.uses_latents else y

  def synthesize(self, y_hat, context):
    (luma,) = context.decoded
    inputs = [y_hat, luma.y_hat] if self.uses_latents else [y_hat]
    features = super().synthesize(tf.concat(inputs, axis=-1), context)
    if not self.uses_samples:
      return features
    return context.run(self.merge, tf.concat([features, luma.x_hat], axis=-1))
