"""What a codec is: a picture format, an analysis, a synthesis, and a latent coder between them."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from khuvcm_tf.layers import Transform
from khuvcm_tf.ops import padding


class Rgb:
  """RGB pictures, [B, H, W, 3], 0..255; networks see 0..1."""

  name = "rgb"
  channels = 3

  def to_network(self, pictures: tf.Tensor, dtype) -> tf.Tensor:
    return tf.cast(pictures, dtype) / 255.0

  def from_network(self, x: tf.Tensor) -> tf.Tensor:
    return x * 255.0


class Codec(tf.keras.Model):
  """A codec composed of its parts; it holds no coder state, and no float of it steers a coder.

  Args:
    picture_format: pictures to the networks' numbers and back.
    analysis: g_a, pictures to latents y.
    synthesis: g_s, latents to pictures.
    latent_coder: quantizes y and tells its bits (`entropy.hyperprior`).
  """

  def __init__(
    self,
    picture_format: Rgb,
    analysis: Transform,
    synthesis: Transform,
    latent_coder: tf.keras.layers.Layer,
  ):
    super().__init__()
    self.picture_format = picture_format
    self.analysis = analysis
    self.synthesis = synthesis
    self.latent_coder = latent_coder

  @property
  def stride(self) -> int:
    """Both sides of a picture are padded to a multiple of this."""
    return self.analysis.stride * self.latent_coder.stride

  @property
  def substreams(self):
    return self.latent_coder.substreams

  @property
  def networks(self) -> dict[str, tf.keras.layers.Layer]:
    """All parts that have weights, by name."""
    return {"analysis": self.analysis, "synthesis": self.synthesis, **self.latent_coder.networks}

  def named_weights(self) -> dict[str, tf.Variable]:
    """Returns all weights by names such as `synthesis/conv0/kernel`."""
    return {
      f"{part}/{weight.name.split(':')[0]}": weight
      for part, network in self.networks.items()
      for weight in network.trainable_weights
    }

  def assign_weights(self, values: dict[str, np.ndarray]):
    """Sets all weights from arrays by name.

    Raises:
      ValueError: a name or a shape is not the codec's.
    """
    weights = self.named_weights()
    if set(weights) != set(values):
      odd = sorted(set(weights) ^ set(values))
      raise ValueError(f"weights {odd[:4]} stand on one side only")
    for name, weight in weights.items():
      if weight.shape != values[name].shape:
        raise ValueError(
          f"weight {name} has shape {values[name].shape}, expected {tuple(weight.shape)}"
        )
      weight.assign(values[name].astype(weight.dtype.as_numpy_dtype))

  def call(self, pictures: tf.Tensor, training: bool = False):
    """Codes pictures in floats, as training and its validation need it.

    Args:
      pictures: [B, H, W, C], 0..255, any size.
      training: whether rounding is replaced by its differentiable stand-in.

    Returns:
      The decoded pictures [B, H, W, C] float32, neither rounded nor clipped, and
      {substream: bits [B]}.
    """
    padded = padding.pad_to_multiple(pictures, self.stride)
    y = self.analysis(self.picture_format.to_network(padded, self.compute_dtype))
    y_hat, bits = self.latent_coder(y, training=training)
    x_hat = self.synthesis(tf.cast(y_hat, self.compute_dtype))
    decoded = self.picture_format.from_network(tf.cast(x_hat, tf.float32))
    return padding.crop(decoded, tf.shape(pictures)[1], tf.shape(pictures)[2]), bits

  def latents(self, pictures: tf.Tensor) -> tf.Tensor:
    """Returns y = g_a(x) of pictures of any size, in bands, [B, H'/16, W'/16, M]."""
    padded = padding.pad_to_multiple(pictures, self.stride)
    return self.analysis.in_bands(self.picture_format.to_network(padded, self.compute_dtype))

  def reconstruction(self, y_hat: tf.Tensor, height, width) -> tf.Tensor:
    """Returns the uint8 pictures [B, height, width, C] of decoded latents, in bands."""
    x_hat = self.synthesis.in_bands(tf.cast(y_hat, self.compute_dtype))
    x_hat = padding.crop(x_hat, height, width)
    levels = tf.round(self.picture_format.from_network(x_hat))
    return tf.cast(tf.clip_by_value(levels, 0.0, 255.0), tf.uint8)
