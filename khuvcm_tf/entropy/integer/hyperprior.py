"""The hyperprior in integers: what files are written and read with, equal on every machine.

  z      as in `integer.entropy_model`
  h_s    integers from z_hat to the mean of each latent, both in fixed point, and its scale's index
  y      symbol = rint((y - mean) / step); CDF row of its scale
  y_hat  = symbol step + mean

The step is 1. A model with shifts has others, for rates around its own: with a step of
exp(-shift LOG_STEP), what is coded has a scale `shift` rows further down the table, so nothing but
the number of a row changes. Steps are multiples of 2^-10, so that y_hat is exact.

CDF rows of the tables: bytes, then the channels of z, then the scales.
"""

from __future__ import annotations

import copy

import numpy as np
import tensorflow as tf

from khuvcm_tf.entropy import gaussian
from khuvcm_tf.entropy.integer import entropy_model, scales
from khuvcm_tf.entropy.integer import network as network_lib
from khuvcm_tf.entropy.integer import tables as tables_lib
from khuvcm_tf.entropy.integer.tables import SCALE

# Of models with shifts, either way: a step of 1/2 or 2, which is two octaves of lambda.
MAX_SHIFT = 6
_STEP_UNIT = 2.0**-10
_STEPS = _STEP_UNIT * np.round(
  np.exp(-gaussian.LOG_STEP * np.arange(-MAX_SHIFT, MAX_SHIFT + 1)) / _STEP_UNIT
)


class IntegerHyperprior(entropy_model.IntegerEntropyModel):
  """A Gaussian for each latent, predicted from side information.

  Args:
    medians: int32 [N], in fixed point.
    network: integer h_s, z_hat to M means (where it predicts means), in fixed point, and M scales.
    tables: CDF rows of bytes, of N channels, and of the scales.
    means: whether the network predicts means.
    thresholds: between scale indices (`integer.scales`); None where it predicts indices.
    checksum: as in `IntegerEntropyModel`.
    max_shift: MAX_SHIFT of a model with shifts, else 0.
  """

  def __init__(
    self,
    medians: np.ndarray,
    network: network_lib.IntegerNetwork,
    tables: tables_lib.Tables,
    means: bool,
    thresholds: np.ndarray | None = None,
    checksum: int | None = None,
    max_shift: int = 0,
  ):
    super().__init__(medians, tables, checksum)
    scales.check(thresholds)
    if max_shift not in (0, MAX_SHIFT):
      raise ValueError(f"`max_shift` is {max_shift}, expected 0 or {MAX_SHIFT}")
    self.max_shift, self._shift = max_shift, None
    self.network, self.means, self.thresholds = network, means, thresholds
    self._thresholds = None if thresholds is None else tf.constant(thresholds)
    self.depth = network.filters // (2 if means else 1)
    self.y_coder = self.table_coder

  def with_shifts(self) -> IntegerHyperprior:
    return _changed(self, max_shift=MAX_SHIFT)

  def shifted(self, shift: tf.Tensor) -> IntegerHyperprior:
    return _changed(self, _shift=shift)

  def sample_parameters(self):
    return list(self.parameters(self.sample_z(2, 2, self.network.amax.max() // SCALE + 1)))

  def parameters(self, z: tf.Tensor):
    """Predicts the distribution of each latent, exactly.

    Args:
      z: int32 symbols [1, h/4, w/4, N].

    Returns:
      Means in fixed point and CDF rows, int32 [1, h, w, M] each.
    """
    params = self.network(self.z_hat(z))
    if self.means:
      mean, scale = tf.split(params, 2, axis=-1)
    else:
      mean, scale = tf.zeros_like(params), params
    index = scales.indices(scale, self._thresholds)
    if self._shift is not None:
      index += self._shift
    first_scale = 1 + len(self.medians)
    return mean, first_scale + tf.clip_by_value(index, 0, gaussian.NUM_SCALES - 1)

  def symbols_of_y(self, y: tf.Tensor, mean: tf.Tensor) -> tf.Tensor:
    """Rounds the distances of latents from their means: float [1, h, w, M] -> int32."""
    distances = y - tf.cast(mean, y.dtype) / SCALE
    return entropy_model.rounded(distances if self._shift is None else distances / self._step(y))

  def latents(self, symbols: tf.Tensor, mean: tf.Tensor) -> tf.Tensor:
    """Returns y_hat, float32 [1, h, w, M]: exact, as symbols are small and means in fixed point."""
    distances = tf.cast(symbols, tf.float32)
    if self._shift is not None:
      distances *= self._step(distances)
    return distances + tf.cast(mean, tf.float32) / SCALE

  def _step(self, like: tf.Tensor) -> tf.Tensor:
    """Returns the step between two values of y_hat, a scalar of the type of `like`."""
    return tf.gather(tf.constant(_STEPS, like.dtype), self._shift + MAX_SHIFT)

  def y_hat(self, y, z):
    mean, _ = self.parameters(self.symbols_of_z(z))
    return self.latents(self.symbols_of_y(y, mean), mean)

  def code_y(self, coder, state, y: tf.Tensor | None, z: tf.Tensor):
    mean, rows = self.parameters(z)
    symbols = tf.zeros_like(rows) if y is None else self.symbols_of_y(y, mean)
    state, symbols = self.table_coder.code(
      coder, state, tf.reshape(symbols, [-1]), tf.reshape(rows, [-1])
    )
    return state, self.latents(tf.reshape(symbols, tf.shape(rows)), mean)

  def to_arrays(self) -> dict[str, np.ndarray]:
    return {
      **super().to_arrays(),
      "means": np.array(self.means),
      **({"max_shift": np.array(self.max_shift)} if self.max_shift else {}),
      **scales.to_arrays(self.thresholds),
      **entropy_model.prefixed("network", self.network.to_arrays()),
    }

  @classmethod
  def from_arrays(cls, arrays: dict[str, np.ndarray]) -> IntegerHyperprior:
    return cls(
      arrays["medians"],
      network_lib.IntegerNetwork.from_arrays(entropy_model.within(arrays, "network")),
      tables_lib.Tables.from_arrays(entropy_model.within(arrays, "tables")),
      bool(arrays["means"]),
      arrays.get("thresholds"),
      int(arrays["known_answer"]),
      int(arrays.get("max_shift", 0)),
    )


def _changed(model: IntegerHyperprior, **attributes) -> IntegerHyperprior:
  """Returns a copy of a model, which shares all arrays, with other attributes."""
  changed = copy.copy(model)
  for name, value in attributes.items():
    setattr(changed, name, value)
  return changed
