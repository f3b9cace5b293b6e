"""The hyperprior in integers: what files are written and read with, equal on every machine.

  z      symbol = rint(z - median of its channel, in 1/64); table of its channel
  h_s    integers from z_hat in 1/64 to the mean of each latent in 1/64 and its scale's index
  y      symbol = rint(y - mean); table of its scale's index
  y_hat  = symbol + mean

`parameters` serves encoder, decoder and estimate alike. Rows of the tables: bytes, then the
channels of z, then the scales.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from khuvcm_tf import errors
from khuvcm_tf.entropy import gaussian, hyperprior, integer_network, range_coder
from khuvcm_tf.entropy import tables as tables_lib

# Means, medians and z_hat are whole numbers of this.
UNITS = 64
_LARGEST_MEAN = 2**15


class InexactArithmetic(errors.Error):
  """A machine on which integers in floating point are not exact."""


class Conversion(NamedTuple):
  """A converted latent coder, and what integers cost: bits over bits of floats, minus 1."""

  coder: IntegerHyperprior
  loss: float


class IntegerHyperprior(tf.Module):
  """Codes latents y [1, h, w, M] with side information z [1, h/4, w/4, N].

  Args:
    medians: int32 [N], in 1/64.
    network: integer h_s, z_hat in 1/64 to M means in 1/64 (where it tells means) and M indices.
    tables: rows of bytes, of N channels, and of the scales.
    means: whether the network tells means.
    known_answer: what `answer` must give; by default what it gives on this machine.
  """

  substreams = ("z", "y")

  def __init__(
    self,
    medians: np.ndarray,
    network: integer_network.IntegerNetwork,
    tables: tables_lib.Tables,
    means: bool,
    known_answer: int | None = None,
  ):
    super().__init__()
    self.medians, self.network, self.tables, self.means = medians, network, tables, means
    self.depth = network.layers[-1].bias.shape[0] // (2 if means else 1)
    self._coder = range_coder.RangeCoder(tables)
    self._z_rows = 1 + np.arange(len(medians), dtype=np.int32)
    self._first_scale = 1 + len(medians)
    self.known_answer = self.answer() if known_answer is None else known_answer

  def answer(self) -> int:
    """Returns a checksum of the parameters for side information that spans its whole range."""
    shape = (1, 2, 2, len(self.medians))
    span = np.array([-2, 1, 0, 3, -1, 2, -3]) * (self.network.amax.max() // UNITS + 1) // 3
    z = np.resize(span, shape).astype(np.int32)
    return zlib.crc32(np.stack(self.parameters(tf.constant(z))).astype("<i4").tobytes())

  def check_arithmetic(self):
    """Raises InexactArithmetic where this machine does not compute as the converting one did."""
    found = self.answer()
    if found != self.known_answer:
      raise InexactArithmetic(
        f"this machine's matrix products are not exact: the entropy model's checksum is "
        f"{found:08x}, expected {self.known_answer:08x}; unset settings that lower the precision "
        "of float32 (such as ONEDNN_DEFAULT_FPMATH_MODE), or use another machine"
      )

  def symbols_of_z(self, z: tf.Tensor) -> tf.Tensor:
    """Rounds side information: float [1, h/4, w/4, N] -> int32 symbols."""
    medians = tf.constant(self.medians / UNITS, z.dtype)
    return tf.cast(tf.round(z - medians), tf.int32)

  def parameters(self, z: tf.Tensor):
    """Tells the distribution of each latent, exactly.

    Args:
      z: int32 symbols [1, h/4, w/4, N].

    Returns:
      Means in 1/64 and rows of the tables, int32 [1, h, w, M] each.
    """
    told = self.network(z * UNITS + self.medians)
    if self.means:
      mean, index = tf.split(told, 2, axis=-1)
    else:
      mean, index = tf.zeros_like(told), told
    return mean, self._first_scale + tf.clip_by_value(index, 0, gaussian.NUM_SCALES - 1)

  def symbols_of_y(self, y: tf.Tensor, mean: tf.Tensor) -> tf.Tensor:
    """Rounds latents to whole distances from their means: float [1, h, w, M] -> int32."""
    # Far beyond what can be coded, and within int32.
    distance = tf.clip_by_value(y - tf.cast(mean, y.dtype) / UNITS, -(2.0**24), 2.0**24)
    return tf.cast(tf.round(distance), tf.int32)

  def latents(self, symbols: tf.Tensor, mean: tf.Tensor) -> tf.Tensor:
    """Returns y_hat, float32 [1, h, w, M]: exact, as symbols are small and means are in 1/64."""
    return tf.cast(symbols, tf.float32) + tf.cast(mean, tf.float32) / UNITS

  def encode(self, y: tf.Tensor, z: tf.Tensor) -> tf.Tensor:
    """Encodes float y [1, h, w, M] and z [1, h/4, w/4, N]; returns the substreams, string [2]."""
    z_symbols = self.symbols_of_z(z)
    mean, rows = self.parameters(z_symbols)
    return self.encode_symbols(z_symbols, self.symbols_of_y(y, mean), rows)

  def encode_symbols(self, z: tf.Tensor, y: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Encodes int32 symbols, y by its rows; returns the substreams, string [2]."""
    with tf.device("CPU:0"):
      return tf.stack(
        [
          self._coder.encode([(_flat(z), self._rows_of_z(tf.shape(z)))]),
          self._coder.encode([(_flat(y), _flat(rows))]),
        ]
      )

  def decode(self, substreams: tf.Tensor, height, width):
    """Decodes latents.

    Args:
      substreams: string [2].
      height, width: of y, multiples of 4.

    Returns:
      Symbols of z [1, h/4, w/4, N] and y [1, h, w, M], means in 1/64 and rows, all int32.
    """
    with tf.device("CPU:0"):
      shape = tf.stack([1, height // 4, width // 4, len(self.medians)])
      _, z = self._coder.decode(self._coder.decoder(substreams[0]), self._rows_of_z(shape))
      z = tf.reshape(z, shape)
      mean, rows = self.parameters(z)
      _, y = self._coder.decode(self._coder.decoder(substreams[1]), _flat(rows))
      return z, tf.reshape(y, tf.shape(rows)), mean, rows

  def estimate(self, y: tf.Tensor, z: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns the bits that the tables give to each substream, float32 scalars."""
    z_symbols = self.symbols_of_z(z)
    mean, rows = self.parameters(z_symbols)
    bits_of_z = self._coder.bits(_flat(z_symbols), self._rows_of_z(tf.shape(z)))
    bits_of_y = self._coder.bits(_flat(self.symbols_of_y(y, mean)), _flat(rows))
    return {"z": tf.reduce_sum(bits_of_z), "y": tf.reduce_sum(bits_of_y)}

  def _rows_of_z(self, shape) -> tf.Tensor:
    return _flat(tf.broadcast_to(self._z_rows, shape))

  def state(self) -> dict[str, np.ndarray]:
    """Returns all integers, for the model's folder and its fingerprint."""
    return {
      "medians": self.medians,
      "means": np.array(self.means),
      "known_answer": np.array(self.known_answer, np.int64),
      **{f"tables/{name}": value for name, value in self.tables.state().items()},
      **{f"network/{name}": value for name, value in self.network.state().items()},
    }

  @classmethod
  def from_state(cls, state: dict[str, np.ndarray]) -> IntegerHyperprior:
    def within(folder):
      return {
        name[len(folder) :]: value for name, value in state.items() if name.startswith(folder)
      }

    return cls(
      state["medians"],
      integer_network.IntegerNetwork.from_state(within("network/")),
      tables_lib.Tables.from_state(within("tables/")),
      bool(state["means"]),
      int(state["known_answer"]),
    )


def _flat(values: tf.Tensor) -> tf.Tensor:
  return tf.reshape(values, [-1])


def convert(
  floats: hyperprior.Hyperprior, latents: Sequence[np.ndarray], limit: float
) -> Conversion:
  """Converts a trained hyperprior to integers, calibrated and measured on latents of pictures.

  Args:
    floats: the trained part.
    latents: y [1, h, w, M] of several pictures, h and w multiples of 4.
    limit: the greatest acceptable relative loss of bits.

  Raises:
    ValueError: the loss is greater at any width.
  """
  medians = np.rint(floats.prior.medians().numpy() * UNITS).astype(np.int32)
  z = [floats.side_information(y) for y in latents]
  z_hat = [np.rint(each - medians / UNITS) + medians / UNITS for each in z]
  tables = tables_lib.assemble(
    [tables_lib.byte_alphabet()]
    + tables_lib.factorized_alphabets(floats.prior, medians / UNITS)
    + tables_lib.gaussian_alphabets()
  )
  layers = integer_network.float_layers(floats.h_s)
  peaks = _peaks(floats.h_s, z_hat)
  depth = floats.latent_depth
  # The network's last layer tells indices, not log-scales.
  index_steps = np.full(depth, 1 / gaussian.LOG_STEP)
  last = layers[-1]
  bias = last.bias.copy()
  bias[-depth:] -= math.log(gaussian.MIN_SCALE)
  layers[-1] = last._replace(bias=bias)
  t_out = (
    np.concatenate([np.full(depth, float(UNITS)), index_steps]) if floats.means else index_steps
  )

  def coder_of(network):
    return IntegerHyperprior(medians, network, tables, floats.means)

  float_bits = _float_bits(floats, latents, z_hat)

  def loss(network):
    coder = coder_of(network)
    bits = sum(
      sum(float(each) for each in coder.estimate(y, each_z).values())
      for y, each_z in zip(latents, z)
    )
    return bits / float_bits - 1.0

  network, lost = integer_network.narrowest(
    lambda bits, dtype: integer_network.convert(
      layers, peaks, float(UNITS), bits, t_out, _LARGEST_MEAN, dtype
    ),
    loss,
    len(layers) - 1,
    limit,
  )
  return Conversion(coder_of(network), lost)


def _peaks(network: tf.keras.Sequential, inputs: Sequence[np.ndarray]):
  """Returns the largest magnitudes of each channel at the input and behind each rectifier."""
  peaks = None
  for x in inputs:
    seen = [np.abs(x).max(axis=(0, 1, 2))]
    for layer in network.layers:
      x = layer(x)
      if isinstance(layer, tf.keras.layers.LeakyReLU):
        seen.append(np.abs(x).max(axis=(0, 1, 2)))
    peaks = seen if peaks is None else [np.maximum(a, b) for a, b in zip(peaks, seen)]
  return peaks


def _float_bits(floats: hyperprior.Hyperprior, latents, z_hats) -> float:
  """Returns the bits of all latents by the float model, rounded as a file would."""
  total = 0.0
  for y, z_hat in zip(latents, z_hats):
    mean, index = floats.parameters(z_hat)
    distance = tf.round(y - mean)
    total += float(tf.reduce_sum(floats.prior.bits(tf.cast(z_hat, tf.float32))))
    total += float(tf.reduce_sum(gaussian.bits(distance, index)))
  return total
