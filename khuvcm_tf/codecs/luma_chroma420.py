"""The study's own codec: 4:2:0, separate first and last layers for luma and chroma, PReLU.

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

What to expect on Kodak, of small models (N = 32, M = 48, an hour on a core; docs/results.md):

  lambda    0.0056     0.0113     0.0225
  bpp        0.157      0.208      0.262
  dB         26.66      27.09      27.38   (PSNR of Y)
"""

from __future__ import annotations

import tensorflow as tf

from khuvcm_tf import layers
from khuvcm_tf.codecs import codec, input_format
from khuvcm_tf.entropy import minnen2018


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
    entropy_model: "hyperprior", "context", or "mixture" (`minnen2018.create`).
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
    input_format.Ycbcr420(),
    codec.Branch(
      g_a=layers.Transform(g_a, 6, name="analysis", subsampling=2),
      g_s=layers.Transform(g_s, m, name="synthesis", subsampling=2),
      entropy_model=minnen2018.create(entropy_model, n, m, leaky_slope),
    ),
  )


class _Join(tf.keras.layers.Layer):
  """The first stage of luma and chroma, joined: 4:2:0 [B, h, w, 6] -> [B, h, w, filters]."""

  def __init__(self, filters: int, activation: str, name: str):
    super().__init__(name=name)
    self.filters = filters
    self.luma = layers.LumaDown(filters // 2, name="luma")
    self.luma_act = layers.activation(activation, name="luma_act")
    self.chroma = layers.conv(filters // 2, 3, name="chroma")
    self.chroma_act = layers.activation(activation, name="chroma_act")
    self.mix = layers.conv(filters, 1, name="mix")
    self.longest_path = self.luma.longest_path

  def call(self, inputs):
    luma = self.luma_act(self.luma(inputs[..., :4]))
    chroma = self.chroma_act(self.chroma(inputs[..., 4:]))
    return self.mix(tf.concat([luma, chroma], axis=-1))


class _Split(tf.keras.layers.Layer):
  """From the mix back to luma and chroma: [B, h, w, filters] -> samples of 4:2:0 [B, h, w, 6]."""

  def __init__(self, filters: int, activation: str, name: str):
    super().__init__(name=name)
    self.filters = filters
    self.mix = layers.conv(filters, 1, name="mix")
    self.luma_act = layers.activation(activation, inverse=True, name="luma_act")
    self.luma = layers.LumaUp(name="luma")
    self.chroma_act = layers.activation(activation, inverse=True, name="chroma_act")
    self.chroma = layers.conv(2, 3, name="chroma")
    self.longest_path = self.luma.longest_path

  def call(self, inputs):
    luma, chroma = tf.split(self.mix(inputs), 2, axis=-1)
    luma = self.luma(self.luma_act(luma))
    return tf.concat([luma, self.chroma(self.chroma_act(chroma))], axis=-1)
