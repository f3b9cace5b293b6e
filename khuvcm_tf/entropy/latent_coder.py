"""What latent coders share in floats, as training needs them: rounding, and the factorized prior.

Their exact twins, which files are written and read with, are in `khuvcm_tf.entropy.exact`.

Letters: y latents [B, h, w, M]; z side information [B, h/4, w/4, N]; a hat is a rounded value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from khuvcm_tf.entropy import factorized, quantization


class Form(NamedTuple):
  """How an entropy model is written down: where published weights and ours differ.

  Attributes:
    log_scales: whether networks tell log(sigma) (ours: its index is linear in what they tell), or
      sigma itself (the papers and published weights).
    prior_layers: hidden layers of the factorized prior (tfc's default 2; published weights: 4).
    stored_medians: as `FactorizedPrior` says.
  """

  log_scales: bool = True
  prior_layers: int = 2
  stored_medians: bool = False


OURS = Form()


class LatentCoder(tf.keras.layers.Layer):
  """Quantizes latents y and counts their bits.

  A subclass says in `element_bits` how.

  Args:
    latent_depth: M.
    prior_depth: channels of what the factorized prior codes.
    quantization_mode: what the decoder sees in training, "noise" or "mixed" (straight-through
      rounded values; the rate has noise in both; Minnen and Singh, 2020, section 3.2).
    form: of the entropy model.
  """

  stride = 1
  substreams: tuple[str, ...] = ("y",)

  def __init__(
    self, latent_depth: int, prior_depth: int, quantization_mode: str, form: Form, name: str
  ):
    super().__init__(name=name)
    if quantization_mode not in quantization.MODES:
      raise ValueError(
        f"`quantization_mode` is {quantization_mode!r}, expected one of {quantization.MODES}"
      )
    # Its state is saved with training's checkpoints, so that a run goes on with the same noise.
    self.noise = tf.random.Generator.from_seed(0)
    self.prior = factorized.FactorizedPrior(prior_depth, form.prior_layers, form.stored_medians)
    self.latent_depth, self.form = latent_depth, form
    self.quantization_mode = quantization_mode

  @property
  def networks(self) -> dict[str, tf.keras.layers.Layer]:
    """Parts that have weights, by name."""
    return {"prior": self.prior}

  def side_information(self, y: tf.Tensor) -> tf.Tensor | None:
    """Returns z, or None where there is none."""
    del y
    return None

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
      y: [B, h, w, M], h and w multiples of `stride`.
      training: whether bits are differentiable, with noise in place of rounding.

    Returns:
      y_hat [B, h, w, M], and of each substream the bits of its elements, such as
      {"z": [B, h/4, w/4, N], "y": [B, h, w, M]}.
    """
    raise NotImplementedError

  def call(self, y: tf.Tensor, training: bool = False):
    """As `element_bits`, with the bits of each picture, [B]."""
    y_hat, bits = self.element_bits(y, training=training)
    return y_hat, {name: tf.reduce_sum(each, axis=(1, 2, 3)) for name, each in bits.items()}


class SideInformed(LatentCoder):
  """Quantizes latents y and counts their bits, given side information z = h_a(y).

  A subclass says in `latent_bits` what it makes of y and z_hat.

  Args:
    analysis: h_a, layers from y to z, total stride 4.
    latent_depth, quantization_mode, form: as in `LatentCoder`.
    hyper_depth: N, channels of z.
    absolute: whether h_a sees abs(y) (Ballé et al., 2018) or y (Minnen et al., 2018).
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
    form: Form,
    name: str,
  ):
    super().__init__(latent_depth, hyper_depth, quantization_mode, form, name)
    self.h_a = tf.keras.Sequential(analysis, name="hyper_analysis")
    self.hyper_depth, self.absolute = hyper_depth, absolute
    self.h_a.build((None, None, None, latent_depth))

  @property
  def networks(self):
    return {"hyper_analysis": self.h_a, **super().networks}

  def side_information(self, y: tf.Tensor) -> tf.Tensor:
    """Returns z = h_a(y), [B, h/4, w/4, N]; y has sides that are multiples of 4."""
    return self.h_a(tf.abs(y) if self.absolute else y)

  def latent_bits(self, y: tf.Tensor, z_hat: tf.Tensor, training: bool):
    """Returns y_hat and the bits of each element, both [B, h, w, M] float32."""
    raise NotImplementedError

  def element_bits(self, y: tf.Tensor, training: bool = False):
    z = tf.cast(self.side_information(y), tf.float32)
    z_hat, z_counted = self.quantized(z, self.prior.medians(), training)
    y_hat, bits = self.latent_bits(tf.cast(y, tf.float32), z_hat, training)
    return y_hat, {"z": self.prior.bits(z_counted), "y": bits}
