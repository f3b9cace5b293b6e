"""Cross-component compression: luma first, then chroma, which looks at what is known of luma.

  luma     y1 = g_a1(Y)                      Y_hat = g_s1(y1_hat)
  chroma   y2 = g_a2(UV, known of luma)      UV_hat = g_s2(y2_hat, known of luma)

Pictures are 4:2:0. Each network has an entropy model and substreams of its own, so that luma can be
decoded alone. What the decoder knows of luma is its latents y1_hat, its samples Y_hat, or both:

  "latents"   g_a2 = 1x1 of (the stack's end, y1_hat)      g_s2 = the stack of (y2_hat, y1_hat)
  "samples"   g_a2 = the stack of (UV, Y_hat)              g_s2 = 3x3, act, 3x3 of (features, Y_hat)

The stack is three 5x5 stages of stride 2; features are the synthesis stack's end, at chroma's own
resolution. The chroma network is half as wide by default, as chroma tells less.

The study proposes two networks with a large weight on luma's error (`--component_weights`,
`--lambda_chroma`); how luma conditions chroma is ours. Chroma's entropy model sees nothing of luma:
what it looked at would have to be exact.
"""

from __future__ import annotations

import tensorflow as tf

from khuvcm_tf import layers
from khuvcm_tf.codecs import codec, latent_coders, picture_format

_CONDITIONS = ("latents", "samples", "both")
# Features that meet luma's samples.
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
    condition: what chroma looks at: "latents", "samples" or "both".
    entropy_model: "hyperprior", "context", or "mixture" (`latent_coders.create`).
    activation: of the transforms, "prelu" or "gdn".
    leaky_slope: of the rectifiers in the entropy models.
  """
  n, m = num_filters, latent_depth
  chroma_n = max(n // 2, 1) if chroma_filters is None else chroma_filters
  chroma_m = max(m // 2, 1) if chroma_depth is None else chroma_depth
  if condition not in _CONDITIONS:
    raise ValueError(f"`condition` is {condition!r}, expected one of {', '.join(_CONDITIONS)}")
  return codec.Codec(
    picture_format.Ycbcr420(),
    _Luma(
      _analysis(layers.LumaDown(n, name="conv0"), 4, n, m, activation),
      _synthesis(m, n, layers.LumaUp(name="conv3"), activation),
      latent_coders.create(entropy_model, n, m, leaky_slope),
      name="luma",
    ),
    _Chroma(
      chroma_n,
      chroma_m,
      m,
      condition,
      activation,
      latent_coders.create(entropy_model, chroma_n, chroma_m, leaky_slope),
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
  return layers.Transform(stack, name="analysis", in_channels=in_channels, side=2)


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
  return layers.Transform(stack, name="synthesis", in_channels=in_channels, side=2)


class _Luma(codec.Branch):
  """Codes the four channels of luma."""

  def latents(self, samples, known, run):
    return run(self.analysis, samples[..., :4])


class _Chroma(codec.Branch):
  """Codes the two channels of chroma, and looks at what is known of luma."""

  def __init__(self, n, m, luma_m, condition, activation, latent_coder):
    self.sees_latents = condition in ("latents", "both")
    self.sees_samples = condition in ("samples", "both")
    last = layers.conv(_FEATURES if self.sees_samples else 2, 3, name="conv3")
    super().__init__(
      _analysis(layers.conv(n, 3, name="conv0"), 6 if self.sees_samples else 2, n, m, activation),
      _synthesis(m + luma_m if self.sees_latents else m, n, last, activation),
      latent_coder,
      name="chroma",
    )
    if self.sees_latents:
      self.join = layers.Transform(
        [layers.conv(m, 1, name="conv")], name="join", in_channels=m + luma_m
      )
    if self.sees_samples:
      self.meet = layers.Transform(
        [
          layers.conv(n, 3, name="conv0"),
          layers.activation(activation, inverse=True, name="act0"),
          layers.conv(2, 3, name="conv1"),
        ],
        name="synthesis_with_luma",
        in_channels=_FEATURES + 4,
        side=2,
      )

  @property
  def networks(self):
    return {
      **super().networks,
      **({"analysis_with_luma": self.join} if self.sees_latents else {}),
      **({"synthesis_with_luma": self.meet} if self.sees_samples else {}),
    }

  def latents(self, samples, known, run):
    (luma,) = known
    seen = [samples[..., 4:], luma.samples] if self.sees_samples else [samples[..., 4:]]
    y = run(self.analysis, tf.concat(seen, axis=-1))
    return self.join(tf.concat([y, luma.y_hat], axis=-1)) if self.sees_latents else y

  def samples(self, y_hat, known, run):
    (luma,) = known
    seen = [y_hat, luma.y_hat] if self.sees_latents else [y_hat]
    features = run(self.synthesis, tf.concat(seen, axis=-1))
    if not self.sees_samples:
      return features
    return run(self.meet, tf.concat([features, luma.samples], axis=-1))
