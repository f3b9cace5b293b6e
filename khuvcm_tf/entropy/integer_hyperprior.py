"""The hyperprior in integers: what files are written and read with, equal on every machine.

  z      as in `integer_coder`
  h_s    integers from z_hat in 1/64 to the mean of each latent in 1/64 and its scale's index
  y      symbol = rint(y - mean); table of its scale's index
  y_hat  = symbol + mean

Rows of the tables: bytes, then the channels of z, then the scales.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from khuvcm_tf.entropy import gaussian, hyperprior, integer_coder, integer_network
from khuvcm_tf.entropy import tables as tables_lib
from khuvcm_tf.entropy.tables import UNITS

_LARGEST_MEAN = 2**15


class IntegerHyperprior(integer_coder.IntegerCoder):
  """A Gaussian for each latent, told by side information.

  Args:
    medians: int32 [N], in 1/64.
    network: integer h_s, z_hat in 1/64 to M means in 1/64 (where it tells means) and M indices.
    tables: rows of bytes, of N channels, and of the scales.
    means: whether the network tells means.
    known_answer: as in `IntegerCoder`.
  """

  def __init__(
    self,
    medians: np.ndarray,
    network: integer_network.IntegerNetwork,
    tables: tables_lib.Tables,
    means: bool,
    known_answer: int | None = None,
  ):
    super().__init__(medians, tables, known_answer)
    self.network, self.means = network, means
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
      mean, index = tf.split(told, 2, axis=-1)
    else:
      mean, index = tf.zeros_like(told), told
    first_scale = 1 + len(self.medians)
    return mean, first_scale + tf.clip_by_value(index, 0, gaussian.NUM_SCALES - 1)

  def symbols_of_y(self, y: tf.Tensor, mean: tf.Tensor) -> tf.Tensor:
    """Rounds latents to whole distances from their means: float [1, h, w, M] -> int32."""
    # Far beyond what can be coded, and within int32.
    distance = tf.clip_by_value(y - tf.cast(mean, y.dtype) / UNITS, -(2.0**24), 2.0**24)
    return tf.cast(tf.round(distance), tf.int32)

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
      **integer_coder.folder("network", self.network.state()),
    }

  @classmethod
  def from_state(cls, state: dict[str, np.ndarray]) -> IntegerHyperprior:
    return cls(
      state["medians"],
      integer_network.IntegerNetwork.from_state(integer_coder.within(state, "network")),
      tables_lib.Tables.from_state(integer_coder.within(state, "tables")),
      bool(state["means"]),
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
  layers[-1] = as_indices(layers[-1], depth)
  t_out = np.full(depth, 1 / gaussian.LOG_STEP)
  if floats.means:
    t_out = np.concatenate([np.full(depth, float(UNITS)), t_out])
  amax = integer_network.whole_reach(z_peak, UNITS)

  def build(bits, dtype):
    network = integer_network.convert(
      layers, peaks, amax, np.full(amax.shape, float(UNITS)), bits, t_out, _LARGEST_MEAN, dtype
    )
    return IntegerHyperprior(medians, network, tables, floats.means)

  bits_of_floats = integer_coder.float_bits(floats, latents, z_hat)
  return integer_coder.Conversion(
    *integer_network.narrowest(
      build,
      lambda coder: integer_coder.loss_of(coder, latents, z, bits_of_floats),
      list(itertools.product((9, 10), repeat=len(layers) - 1)),
      limit,
    )
  )


def as_indices(layer: integer_network.FloatLayer, count: int) -> integer_network.FloatLayer:
  """Returns a last layer whose last `count` outputs are log-scales above the least, not log-scales:
  divided by `gaussian.LOG_STEP` they are indices."""
  bias = layer.bias.copy()
  bias[-count:] -= math.log(gaussian.MIN_SCALE)
  return layer._replace(bias=bias)
