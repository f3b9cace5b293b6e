"""The hyperprior in integers: what files are written and read with, equal on every machine.

  z      as in `integer_coder`
  h_s    integers from z_hat in 1/64 to the mean of each latent in 1/64 and its scale's index
  y      symbol = rint(y - mean); table of its scale's index
  y_hat  = symbol + mean

Rows of the tables: bytes, then the channels of z, then the scales.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from khuvcm_tf.entropy import (
  gaussian,
  hyperprior,
  integer_coder,
  integer_network,
  integer_scales,
)
from khuvcm_tf.entropy import tables as tables_lib
from khuvcm_tf.entropy.tables import UNITS


class IntegerHyperprior(integer_coder.IntegerCoder):
  """A Gaussian for each latent, told by side information.

  Args:
    medians: int32 [N], in 1/64.
    network: integer h_s, z_hat in 1/64 to M means in 1/64 (where it tells means) and M scales.
    tables: rows of bytes, of N channels, and of the scales.
    means: whether the network tells means.
    thresholds: how it tells scales (`integer_scales`).
    known_answer: as in `IntegerCoder`.
  """

  def __init__(
    self,
    medians: np.ndarray,
    network: integer_network.IntegerNetwork,
    tables: tables_lib.Tables,
    means: bool,
    thresholds: np.ndarray | None = None,
    known_answer: int | None = None,
  ):
    super().__init__(medians, tables, known_answer)
    integer_scales.check(thresholds)
    self.network, self.means, self.thresholds = network, means, thresholds
    self.depth = network.filters // (2 if means else 1)
    self.y_coder = self.table_coder

  def sample_parameters(self):
    return list(self.parameters(self.sample_z(2, 2, self.network.amax.max() // UNITS + 1)))

  def parameters(self, z: tf.Tensor):
    """Tells the distribution of each latent, exactly.

    Args:
      z: int32 symbols [1, h/4, w/4, N].

    Returns:
      Means in 1/64 and rows of the tables, int32 [1, h, w, M] each.
    """
    told = self.network(self.z_hat(z))
    if self.means:
      mean, scale = tf.split(told, 2, axis=-1)
    else:
      mean, scale = tf.zeros_like(told), told
    index = integer_scales.indices(scale, self.thresholds)
    first_scale = 1 + len(self.medians)
    return mean, first_scale + tf.clip_by_value(index, 0, gaussian.NUM_SCALES - 1)

  def symbols_of_y(self, y: tf.Tensor, mean: tf.Tensor) -> tf.Tensor:
    """Rounds latents to whole distances from their means: float [1, h, w, M] -> int32."""
    return integer_coder.rounded(y - tf.cast(mean, y.dtype) / UNITS)

  def latents(self, symbols: tf.Tensor, mean: tf.Tensor) -> tf.Tensor:
    """Returns y_hat, float32 [1, h, w, M]: exact, as symbols are small and means are in 1/64."""
    return tf.cast(symbols, tf.float32) + tf.cast(mean, tf.float32) / UNITS

  def y_hat(self, y, z):
    mean, _ = self.parameters(self.symbols_of_z(z))
    return self.latents(self.symbols_of_y(y, mean), mean)

  def code_y(self, stream, state, y: tf.Tensor | None, z: tf.Tensor):
    mean, rows = self.parameters(z)
    symbols = tf.zeros_like(rows) if y is None else self.symbols_of_y(y, mean)
    state, symbols = self.table_coder.code(
      stream, state, tf.reshape(symbols, [-1]), tf.reshape(rows, [-1])
    )
    return state, self.latents(tf.reshape(symbols, tf.shape(rows)), mean)

  def state(self) -> dict[str, np.ndarray]:
    return {
      **super().state(),
      "means": np.array(self.means),
      **integer_scales.state(self.thresholds),
      **integer_coder.folder("network", self.network.state()),
    }

  @classmethod
  def from_state(cls, state: dict[str, np.ndarray]) -> IntegerHyperprior:
    return cls(
      state["medians"],
      integer_network.IntegerNetwork.from_state(integer_coder.within(state, "network")),
      tables_lib.Tables.from_state(integer_coder.within(state, "tables")),
      bool(state["means"]),
      state.get("thresholds"),
      int(state["known_answer"]),
    )


def convert(
  floats: hyperprior.Hyperprior, latents: Sequence[np.ndarray], limit: float
) -> integer_coder.Conversion:
  """Converts a trained hyperprior to integers, as `exact.convert` says."""
  medians, z, z_hat = integer_coder.rounded_side_information(floats, latents)
  tables = tables_lib.assemble(
    integer_coder.z_alphabets(floats.prior, medians) + tables_lib.gaussian_alphabets()
  )
  z_peak, *peaks = integer_coder.peaks(floats.h_s, z_hat)
  layers = integer_network.float_layers(floats.h_s)
  depth = floats.latent_depth
  scales = integer_scales.ScaleOutput(depth, floats.form.log_scales)
  layers[-1] = scales.prepared(layers[-1])
  t_out = np.append(np.full(depth if floats.means else 0, float(UNITS)), scales.t_out)
  amax = integer_network.whole_reach(z_peak, UNITS)

  def build(bits, dtype):
    network = integer_network.convert(
      layers, peaks, amax, np.full(amax.shape, float(UNITS)), bits, t_out, scales.limit, dtype
    )
    return IntegerHyperprior(medians, network, tables, floats.means, scales.thresholds())

  bits_of_floats = integer_coder.float_bits(floats, latents, z_hat)
  return integer_coder.Conversion(
    *integer_network.narrowest(
      build,
      lambda coder: integer_coder.loss_of(coder, latents, z, bits_of_floats),
      list(itertools.product((9, 10), repeat=len(layers) - 1)),
      limit,
    )
  )
