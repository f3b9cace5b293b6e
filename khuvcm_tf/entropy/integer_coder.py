"""What integer latent coders share: side information z, and one path for reading and writing.

  z      symbol = rint(z - median of its channel, in 1/64); table of its channel

A subclass says in `code_y` how latents follow. It serves encoder, decoder and estimate alike: what
differs is the stream (`range_coder`) that it is given.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from khuvcm_tf import errors
from khuvcm_tf.entropy import factorized, range_coder
from khuvcm_tf.entropy import tables as tables_lib
from khuvcm_tf.entropy.tables import UNITS
from khuvcm_tf.layers import signal

# A decision of the least chance, and two bytes.
_ESCAPE_BITS = 32.0

_LARGEST_MEDIAN = 2**14


class InexactArithmetic(errors.Error):
  """A machine on which integers in floating point are not exact."""


class Conversion(NamedTuple):
  """A converted latent coder, and what integers cost: bits over bits of floats, minus 1."""

  coder: IntegerCoder
  loss: float


class Decoded(NamedTuple):
  """What substreams tell.

  Attributes:
    z: int32 symbols [1, h/4, w/4, N].
    y_hat: float32 [1, h, w, M].
    exact: bool, whether the substreams are what their symbols encode to. That finds bytes left
      over, of which a range decoder knows nothing.
  """

  z: tf.Tensor
  y_hat: tf.Tensor
  exact: tf.Tensor


class IntegerCoder(tf.Module):
  """Codes latents y [1, h, w, M] with side information z [1, h/4, w/4, N].

  Args:
    medians: int32 [N], in 1/64.
    tables: rows of bytes and of N channels, and what the subclass puts behind.
    known_answer: what `answer` must give, None where the coder was converted on this machine.

  Attributes:
    depth: M.
    y_coder: of y's values: `range_coder.TableCoder` or its like.
  """

  substreams = ("z", "y")

  def __init__(self, medians: np.ndarray, tables: tables_lib.Tables, known_answer: int | None):
    super().__init__()
    self.medians, self.tables, self.known_answer = medians, tables, known_answer
    self.table_coder = range_coder.TableCoder(tables)

  def sample_parameters(self) -> list[tf.Tensor]:
    """Returns int32 parameters of latents for made-up inputs that span their whole range."""
    raise NotImplementedError

  def code_y(self, stream, state, y: tf.Tensor | None, z: tf.Tensor):
    """Codes latents.

    Args:
      stream, state: of `y_coder`.
      y: float [1, h, w, M]; None where a reader tells them.
      z: int32 symbols [1, h/4, w/4, N].

    Returns:
      The state, and y_hat float32 [1, h, w, M].
    """
    raise NotImplementedError

  def y_hat(self, y: tf.Tensor, z: tf.Tensor) -> tf.Tensor:
    """Returns what a decoder finds: float y [1, h, w, M] and z [1, h/4, w/4, N] -> float32."""
    raise NotImplementedError

  def answer(self) -> int:
    """Returns a checksum of `sample_parameters`."""
    parts = [part.numpy().astype("<i4").reshape(-1) for part in self.sample_parameters()]
    return zlib.crc32(np.concatenate(parts).tobytes())

  def sample_z(self, height: int, width: int, largest: int) -> tf.Tensor:
    """Returns int32 symbols [1, height, width, N], from -largest to largest."""
    span = np.array([-2, 1, 0, 3, -1, 2, -3]) * largest // 3
    return tf.constant(np.resize(span, (1, height, width, len(self.medians))).astype(np.int32))

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
    return rounded(z - medians)

  def z_hat(self, z: tf.Tensor) -> tf.Tensor:
    """Returns rounded side information in 1/64: int32 symbols -> int32."""
    return z * UNITS + self.medians

  def unknown_z(self, height, width) -> tf.Tensor:
    """Returns what a reader is given for symbols of z, where y has `height` and `width`."""
    return tf.zeros(tf.stack([1, height // 4, width // 4, len(self.medians)]), tf.int32)

  def pass_z(self, stream, z: tf.Tensor):
    """Passes int32 symbols [1, h/4, w/4, N] through a stream of `table_coder`.

    Returns:
      What the stream closes with, and the symbols.
    """
    rows = tf.broadcast_to(1 + np.arange(len(self.medians), dtype=np.int32), tf.shape(z))
    state, found = self.table_coder.code(
      stream, stream.open(), tf.reshape(z, [-1]), tf.reshape(rows, [-1])
    )
    return stream.close(state), tf.reshape(found, tf.shape(z))

  def encode(self, y: tf.Tensor, z: tf.Tensor) -> tf.Tensor:
    """Encodes float y [1, h, w, M] and z [1, h/4, w/4, N]; returns the substreams, string [2]."""
    return tf.stack(self._passed(lambda coder: coder.writer(), y, z))

  def estimate(self, y: tf.Tensor, z: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns the bits that the tables give to each substream, float64 scalars."""
    bits = self._passed(lambda coder: coder.counter(), y, z)
    return dict(zip(self.substreams, bits))

  def _passed(self, stream_of, y, z):
    with tf.device("CPU:0"), range_coder.uncompiled():
      return self.pass_through(stream_of, y, z)

  def pass_through(self, stream_of, y: tf.Tensor, z: tf.Tensor) -> list[tf.Tensor]:
    """Passes latents through a stream for each substream.

    Args:
      stream_of: (`table_coder` or `y_coder`) -> a stream of it.
      y, z: as for `encode`.

    Returns:
      What the streams close with.
    """
    z = self.symbols_of_z(z)
    end_of_z, _ = self.pass_z(stream_of(self.table_coder), z)
    stream = stream_of(self.y_coder)
    state, _ = self.code_y(stream, stream.open(), y, z)
    return [end_of_z, stream.close(state)]

  def decode(self, substreams: tf.Tensor, height, width) -> Decoded:
    """Decodes latents.

    Args:
      substreams: string [2].
      height, width: of y, multiples of 4.
    """
    with tf.device("CPU:0"), range_coder.uncompiled():
      z_exact, z = self.pass_z(
        self.table_coder.reader(substreams[0]), self.unknown_z(height, width)
      )
      stream = self.y_coder.reader(substreams[1])
      state, y_hat = self.code_y(stream, stream.open(), None, z)
      return Decoded(z, y_hat, z_exact & stream.close(state))

  def state(self) -> dict[str, np.ndarray]:
    """Returns all integers, for the model's folder and its fingerprint."""
    return {
      "medians": self.medians,
      "known_answer": np.array(self.answer(), np.int64),
      **folder("tables", self.tables.state()),
    }


def folder(name: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Puts `name/` in front of all names."""
  return {f"{name}/{key}": value for key, value in arrays.items()}


def within(state: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
  """Returns the arrays whose names begin with `name/`, without it."""
  return {key[len(name) + 1 :]: value for key, value in state.items() if key.startswith(name + "/")}


def rounded(values: tf.Tensor) -> tf.Tensor:
  """Rounds floats to nearest even: float -> int32."""
  # Far beyond what can be coded, and within int32.
  return tf.cast(tf.round(tf.clip_by_value(values, -(2.0**24), 2.0**24)), tf.int32)


def whole_medians(prior: factorized.FactorizedPrior) -> np.ndarray:
  """Returns what values are rounded around, int32 [C] in 1/64, or raises ValueError."""
  medians = np.rint(prior.medians().numpy().astype(np.float64) * UNITS)
  if np.abs(medians).max() > _LARGEST_MEDIAN * UNITS:
    raise ValueError(
      f"a median of the factorized prior is {np.abs(medians).max() / UNITS:g}, expected at most "
      f"{_LARGEST_MEDIAN}"
    )
  return medians.astype(np.int32)


def rounded_side_information(floats, latents):
  """Returns medians int32 [N] in 1/64, and of each picture's latents z and z_hat, in floats."""
  medians = whole_medians(floats.prior)
  z = [floats.side_information(y) for y in latents]
  return medians, z, [np.rint(each - medians / UNITS) + medians / UNITS for each in z]


def z_alphabets(prior: factorized.FactorizedPrior, medians: np.ndarray):
  """Returns the alphabets that tables begin with: bytes, and those of z's channels."""
  return [
    tables_lib.byte_alphabet(),
    *tables_lib.factorized_alphabets(prior, medians / UNITS),
  ]


def float_bits(floats, latents, z_hats) -> float:
  """Returns the bits of all latents by the float model, rounded as a file would."""
  total = 0.0
  for y, z_hat in zip(latents, z_hats):
    z_hat = tf.cast(z_hat, tf.float32)
    _, bits = floats.latent_bits(tf.cast(y, tf.float32), z_hat, training=False)
    total += counted(floats.prior.bits(z_hat)) + counted(bits)
  return total


def counted(bits: tf.Tensor) -> float:
  """Returns the sum of bits by a float model.

  A latent counts at most what an escape costs: the tails of floats would hide what integers cost.
  """
  return float(tf.reduce_sum(tf.minimum(bits, _ESCAPE_BITS)))


def loss_of(coder: IntegerCoder, latents, side_information, bits_of_floats: float) -> float:
  """Returns by how much the coder's bits exceed the float model's, as a share of them."""
  signature = [
    tf.TensorSpec((1, None, None, each[0].shape[-1]), each[0].dtype)
    for each in (latents, side_information)
  ]
  estimate = tf.function(coder.estimate, signature, autograph=False)
  bits = sum(
    sum(float(each) for each in estimate(y, z).values()) for y, z in zip(latents, side_information)
  )
  return bits / bits_of_floats - 1.0


def peaks(network: tf.keras.Sequential, inputs) -> list[np.ndarray]:
  """Returns the largest magnitudes of each channel at a network's input and behind each layer
  that `integer_network` makes one of: a convolution and its rectifier."""
  found = None
  for x in inputs:
    seen = [np.abs(x).max(axis=(0, 1, 2))]
    for layer in network.layers:
      x = layer(x)
      if isinstance(layer, signal.Rectifier):
        seen.append(np.abs(x).max(axis=(0, 1, 2)))
    seen.append(np.abs(x).max(axis=(0, 1, 2)))
    found = seen if found is None else [np.maximum(a, b) for a, b in zip(found, seen)]
  return found
