"""Latents modelled by the factorized prior alone, in floats (Ballé et al., 2018).

Its exact counterpart is `integer.factorized`. Letters as in `entropy_model`.
"""

from __future__ import annotations

import tensorflow as tf

from khuvcm_tf.entropy import entropy_model
from khuvcm_tf.entropy.integer.factorized import IntegerFactorized


class FactorizedModel(entropy_model.EntropyModel):
  """A learned density for each channel of the latents, without side information.

    y_hat = round(y - median) + median      y_hat ~ factorized prior

  Args:
    latent_depth, quantization_mode, config: as in `EntropyModel`.
  """

  integer_class = IntegerFactorized

  def __init__(
    self,
    latent_depth: int,
    quantization_mode: str,
    config: entropy_model.EntropyModelConfig = entropy_model.DEFAULT,
  ):
    super().__init__(latent_depth, latent_depth, quantization_mode, config, name="factorized")

  def element_bits(self, y: tf.Tensor, training: bool = False, medians: tf.Tensor | None = None):
    y_hat, y_rate = self.quantized(tf.cast(y, tf.float32), self.medians(medians), training)
    return y_hat, {"y": self.prior.bits(y_rate)}
