"""The study's own codec: 4:2:0 as it is, a branch each for luma and chroma, PReLU.

After H. E. Egilmez, A. K. Singh, M. Coban, M. Karczewicz, Y. Zhu, Y. Yang, A. Said, T. S. Cohen:
Transform network architectures for deep learning based end-to-end image/video coding in subsampled
color spaces. IEEE Open Journal of Signal Processing 2021. https://arxiv.org/abs/2103.01760.

  Y  [H, W, 1]      5x5, 1/2 - act -+
                                    +- 1x1 - 5x5, 1/2 - act - 5x5, 1/2 - act - 5x5, 1/2 -+
  UV [H/2, W/2, 2]  3x3 ------ act -+                                                    |
                                                                          y [H/16, W/16, M]
  Y  [H, W, 1]      5x5, x2 -- act -+                                                    |
                                    +- 1x1 - 5x5, x2 -- act - 5x5, x2 -- act - 5x5, x2 --+
  UV [H/2, W/2, 2]  3x3 ------ act -+

N = num_filters behind the join, half of them in each branch; M = latent_depth. PReLU keeps negative
responses, has a slope for each channel, and is much cheaper than GDN; chroma loses next to nothing
with 3x3. The entropy model is Minnen's, by argument. In training the errors of Y, Cb and Cr are
weighted 4 : 1 : 1, each over its own samples.
"""

from __future__ import annotations

import tensorflow as tf

from khuvcm_tf import layers
from khuvcm_tf.codecs import codec, latent_coders, picture_format


def build(
  num_filters: int = 192,
  latent_depth: int = 192,
  entropy_model: str = "context",
  activation: str = "prelu",
  leaky_slope: float = 0.2,
) -> codec.Codec:
  """Composes the codec.

  Args:
    num_filters: N, of the transforms and of z; even.
    latent_depth: M, channels of y.
    entropy_model: "hyperprior", "context", or "mixture" (`latent_coders.create`).
    activation: of the transforms, "prelu" (the study's) or "gdn".
    leaky_slope: of the rectifiers in the entropy model.
  """
  n, m = num_filters, latent_depth
  if n % 2:
    raise ValueError(f"`num_filters` is {n}, expected an even number: half for luma and for chroma")
  g_a = [
    _Join(n, activation, name="join"),
    layers.conv_down(n, 5, 2, name="conv1"),
    layers.activation(activation, name="act1"),
    layers.conv_down(n, 5, 2, name="conv2"),
    layers.activation(activation, name="act2"),
    layers.conv_down(m, 5, 2, name="conv3"),
  ]
  g_s = [
    layers.conv_up(n, 5, 2, name="conv0"),
    layers.activation(activation, inverse=True, name="act0"),
    layers.conv_up(n, 5, 2, name="conv1"),
    layers.activation(activation, inverse=True, name="act1"),
    layers.conv_up(n, 5, 2, name="conv2"),
    _Split(n, activation, name="split"),
  ]
  return codec.Codec(
    picture_format.Ycbcr420(),
    codec.Branch(
      layers.Transform(g_a, name="analysis", in_channels=6, side=2),
      layers.Transform(g_s, name="synthesis", in_channels=m, side=2),
      latent_coders.create(entropy_model, n, m, leaky_slope),
    ),
  )


class _Join(tf.keras.layers.Layer):
  """Both branches, joined and mixed: samples of 4:2:0 [B, h, w, 6] -> [B, h, w, filters]."""

  def __init__(self, filters: int, activation: str, name: str):
    super().__init__(name=name)
    self.filters = filters
    self.luma = layers.LumaDown(filters // 2, name="luma")
    self.luma_act = layers.activation(activation, name="luma_act")
    self.chroma = layers.conv(filters // 2, 3, name="chroma")
    self.chroma_act = layers.activation(activation, name="chroma_act")
    self.mix = layers.conv(filters, 1, name="mix")
    self.path = self.luma.path

  def call(self, inputs):
    luma = self.luma_act(self.luma(inputs[..., :4]))
    chroma = self.chroma_act(self.chroma(inputs[..., 4:]))
    return self.mix(tf.concat([luma, chroma], axis=-1))


class _Split(tf.keras.layers.Layer):
  """Back from the mix to both branches: [B, h, w, filters] -> samples of 4:2:0 [B, h, w, 6]."""

  def __init__(self, filters: int, activation: str, name: str):
    super().__init__(name=name)
    self.filters = filters
    self.mix = layers.conv(filters, 1, name="mix")
    self.luma_act = layers.activation(activation, inverse=True, name="luma_act")
    self.luma = layers.LumaUp(name="luma")
    self.chroma_act = layers.activation(activation, inverse=True, name="chroma_act")
    self.chroma = layers.conv(2, 3, name="chroma")
    self.path = self.luma.path

  def call(self, inputs):
    luma, chroma = tf.split(self.mix(inputs), 2, axis=-1)
    luma = self.luma(self.luma_act(luma))
    return tf.concat([luma, self.chroma(self.chroma_act(chroma))], axis=-1)
