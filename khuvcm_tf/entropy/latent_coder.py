"""What latent coders share in floats, as training needs them: the side information z.

Their exact twins, which files are written and read with, are in `khuvcm_tf.entropy.exact`.

Letters: y latents [B, h, w, M]; z side information [B, h/4, w/4, N]; a hat is a rounded value.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from khuvcm_tf.entropy import factorized, quantization


class LatentCoder(tf.keras.layers.Layer):
  """Quantizes latents y and counts their bits, given side information z = h_a(y).

  A subclass says in `latent_bits` what it makes of y and z_hat.

  Args:
    analysis: h_a, layers from y to z, total stride 4.
    latent_depth: M.
    hyper_depth: N, channels of z.
    absolute: whether h_a sees abs(y) (Ballé et al., 2018) or y (Minnen et al., 2018).
    quantization_mode: what the decoder sees in training, "noise" or "mixed" (straight-through
      rounded values; the rate has noise in both; Minnen and Singh, 2020, section 3.2).
  """

  stride = 4
  substreams = ("z", "y")

  def __init__(
    self,
    analysis: Sequence[tf.keras.layers.Layer],
    latent_depth: int,
    hyper_depth: int,
    absolute: bool,
    quantization_mode: str,
    name: str,
  ):
    super().__init__(name=name)
    if quantization_mode not in quantization.MODES:
      raise ValueError(
        f"`quantization_mode` is {quantization_mode!r}, expected one of {quantization.MODES}"
      )
    self.h_a = tf.keras.Sequential(analysis, name="hyper_analysis")
    # Its state is saved with training's checkpoints, so that a run goes on with the same noise.
    self.noise = tf.random.Generator.from_seed(0)
    self.prior = factorized.FactorizedPrior(hyper_depth)
    self.latent_depth, self.hyper_depth = latent_depth, hyper_depth
    self.absolute, self.quantization_mode = absolute, quantization_mode
    self.h_a.build((None, None, None, latent_depth))

  @property
  def networks(self) -> dict[str, tf.keras.layers.Layer]:
    """Parts that have weights, by name."""
    return {"hyper_analysis": self.h_a, "prior": self.prior}

  def side_information(self, y: tf.Tensor) -> tf.Tensor:
    """Returns z = h_a(y), [B, h/4, w/4, N]; y has sides that are multiples of 4."""
    return self.h_a(tf.abs(y) if self.absolute else y)

  def latent_bits(self, y: tf.Tensor, z_hat: tf.Tensor, training: bool):
    """Returns y_hat and the bits of each element, both [B, h, w, M] float32."""
    raise NotImplementedError

  def quantized(self, values: tf.Tensor, offset, training: bool):
    """Rounds values around an offset.

    Returns:
      What the decoder sees, and what the rate is counted for: the same but in training.
    """
    rounded = quantization.rounded(values, offset)
    if not training:
      return rounded, rounded
    noisy = quantization.with_noise(values, self.noise)
    return (noisy if self.quantization_mode == "noise" else rounded), noisy

  def element_bits(self, y: tf.Tensor, training: bool = False):
    """Rounds y (in training: or its stand-in) and counts the bits of each element, in floats.

    Args:
      y: [B, h, w, M], h and w multiples of 4.
      training: whether bits are differentiable, with noise in place of rounding.

    Returns:
      y_hat [B, h, w, M], and {"z": bits [B, h/4, w/4, N], "y": bits [B, h, w, M]}.
    """
    z = tf.cast(self.side_information(y), tf.float32)
    z_hat, z_counted = self.quantized(z, self.prior.medians(), training)
    y_hat, bits = self.latent_bits(tf.cast(y, tf.float32), z_hat, training)
    return y_hat, {"z": self.prior.bits(z_counted), "y": bits}

  def call(self, y: tf.Tensor, training: bool = False):
    """As `element_bits`, with the bits of each picture, [B]."""
    y_hat, bits = self.element_bits(y, training=training)
    return y_hat, {name: tf.reduce_sum(each, axis=(1, 2, 3)) for name, each in bits.items()}
