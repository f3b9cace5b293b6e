"""What entropy models share in floats, as training needs them: rounding, and the factorized prior.

Files are written and read with their exact integer counterparts (`khuvcm_tf.entropy.integer`).

Letters: y latents [B, h, w, M]; z side information [B, h/4, w/4, N]; a hat marks a rounded value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from khuvcm_tf.entropy import factorized, quantization
from khuvcm_tf.layers import Stack


class EntropyModelConfig(NamedTuple):
  """How an entropy model parameterizes its distributions: published weights differ from ours.

  Attributes:
    log_scales: whether networks predict log(sigma), whose index in the table of scales is linear in
      the prediction, or sigma itself (as the papers and published weights do).
    prior_layers: hidden layers of the factorized prior (tfc's default is 2, published weights have
      4).
    stored_medians: whether the medians of the factorized prior are weights (`FactorizedPrior`).
  """

  log_scales: bool = True
  prior_layers: int = 2
  stored_medians: bool = False


DEFAULT = EntropyModelConfig()


def configured(fields: dict[str, object] | None) -> EntropyModelConfig:
  """Returns the config with these fields, the others as in `DEFAULT`.

  Args:
    fields: of `EntropyModelConfig` by name; None for none.

  Raises:
    ValueError: a field is unknown, or its value of another type than expected.

  Example:
    >>> configured({"prior_layers": 4}).prior_layers
    4
  """
  config = dict(DEFAULT._asdict())
  for name, value in (fields or {}).items():
    if name not in config or type(value) is not type(config[name]):
      raise ValueError(
        f"`entropy_config` has {name}={value!r}, expected fields of {DEFAULT} and values of their "
        "types"
      )
    config[name] = value
  if config["prior_layers"] < 1:
    raise ValueError(
      f"`entropy_config` has prior_layers={config['prior_layers']}, expected 1 or more"
    )
  return EntropyModelConfig(**config)


class EntropyModel(tf.keras.layers.Layer):
  """Quantizes latents y and models their bits.

  A subclass writes down in `element_bits` how the distribution of y is predicted.

  Args:
    latent_depth: M.
    prior_depth: channels of the factorized prior.
    quantization_mode: values that the synthesis receives in training, "noise" or "mixed" (rounded,
      with straight-through gradients). The rate is that of noisy values in both (Minnen and Singh,
      2020, section 3.2).
    config: how distributions are parameterized.

  Attributes:
    stride: the sides of y are multiples of it.
    substreams: names of the parts that are coded, in the order of the file.
  """

  stride = 1
  substreams: tuple[str, ...] = ("y",)

  def __init__(
    self,
    latent_depth: int,
    prior_depth: int,
    quantization_mode: str,
    config: EntropyModelConfig,
    name: str,
  ):
    super().__init__(name=name)
    if quantization_mode not in quantization.MODES:
      raise ValueError(
        f"`quantization_mode` is {quantization_mode!r}, expected one of {quantization.MODES}"
      )
    # Its state is saved with training's checkpoints, so that a run goes on with the same noise.
    self.noise = tf.random.Generator.from_seed(0)
    self.prior = factorized.FactorizedPrior(prior_depth, config.prior_layers, config.stored_medians)
    self.latent_depth, self.config = latent_depth, config
    self.quantization_mode = quantization_mode

  @property
  def networks(self) -> dict[str, tf.keras.layers.Layer]:
    """Parts that have weights, by name."""
    return {"prior": self.prior}

  def side_information(self, y: tf.Tensor) -> tf.Tensor | None:
    """Returns z, or None where there is none."""
    del y
    return None

  def medians(self, given: tf.Tensor | None) -> tf.Tensor:
    """Returns the medians that values are rounded around: the given ones, or the prior's."""
    return self.prior.medians() if given is None else given

  def quantized(self, values: tf.Tensor, offset, training: bool):
    """Rounds values around an offset.

    Returns:
      The values that the synthesis receives, and those that the rate is computed for. Both are
      `round(values - offset) + offset`, but in training.
    """
    rounded = quantization.rounded(values, offset)
    if not training:
      return rounded, rounded
    noisy = quantization.with_noise(values, self.noise)
    return (noisy if self.quantization_mode == "noise" else rounded), noisy

  def element_bits(self, y: tf.Tensor, training: bool = False, medians: tf.Tensor | None = None):
    """Rounds y and models the bits of each element.

    Args:
      y: [B, h, w, M], h and w multiples of `stride`.
      training: whether bits are differentiable, with noise in place of rounding.
      medians: in place of the prior's own, as files have them; float32 [prior_depth].

    Returns:
      y_hat [B, h, w, M], and for each substream the bits of its elements, such as
      {"z": [B, h/4, w/4, N], "y": [B, h, w, M]}.
    """
    raise NotImplementedError

  def call(self, y: tf.Tensor, training: bool = False):
    """As `element_bits`, with the bits of each example, [B]."""
    y_hat, bits = self.element_bits(y, training=training)
    return y_hat, {name: tf.reduce_sum(each, axis=(1, 2, 3)) for name, each in bits.items()}


class HyperpriorBase(EntropyModel):
  """An entropy model with side information z, from which the distribution of y is predicted.

  Args:
    h_a: layers from y to z, total stride 4.
    h_s: layers from z_hat to predictions. These are convolutions and rectifiers of
      `khuvcm_tf.layers`, which have integer counterparts.
    latent_depth, quantization_mode, config: as in `EntropyModel`.
    hyper_depth: N, channels of z.
  """

  stride = 4
  substreams = ("z", "y")

  def __init__(
    self,
    h_a: Sequence[tf.keras.layers.Layer],
    h_s: Sequence[tf.keras.layers.Layer],
    latent_depth: int,
    hyper_depth: int,
    quantization_mode: str,
    config: EntropyModelConfig,
    name: str,
  ):
    super().__init__(latent_depth, hyper_depth, quantization_mode, config, name)
    self.hyper_depth = hyper_depth
    self.h_a = Stack(h_a, latent_depth, name="hyper_analysis")
    self.h_s = Stack(h_s, hyper_depth, name="hyper_synthesis")

  @property
  def networks(self):
    return {"hyper_analysis": self.h_a, **super().networks, "hyper_synthesis": self.h_s}

  def side_information(self, y: tf.Tensor) -> tf.Tensor:
    """Returns z, [B, h/4, w/4, N], before it is rounded."""
    return self.h_a(y)
