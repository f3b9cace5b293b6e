"""What integer entropy models share: side information z, and one path for all that coding does.

  z      symbol = rint(z - median of its channel); CDF row of its channel

A subclass says in `code_y` how latents follow. It serves encoder, decoder and estimate alike, which
differ only in the coder (`range_coder`) that it is given. Medians, means and z_hat are in fixed
point with 6 fractional bits (`tables.SCALE`).
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from khuvcm_tf import errors
from khuvcm_tf.entropy.integer import range_coder
from khuvcm_tf.entropy.integer import tables as tables_lib
from khuvcm_tf.entropy.integer.tables import SCALE


class InexactArithmetic(errors.Error):
  """A machine on which integers in floating point are not exact."""


class Decoded(NamedTuple):
  """The content of substreams.

  Attributes:
    z: int32 symbols [1, h/4, w/4, N].
    y_hat: float32 [1, h, w, M].
    exact: bool, whether the substreams are what their symbols encode to. That finds bytes left
      over, which a range decoder does not notice.
  """

  z: tf.Tensor
  y_hat: tf.Tensor
  exact: tf.Tensor


class IntegerEntropyModel(tf.Module):
  """Codes latents y [1, h, w, M] with side information z [1, h/4, w/4, N].

  Args:
    medians: int32 [N], in fixed point.
    tables: CDF rows of bytes and of N channels, then those of the subclass.
    checksum: expected of `self_test`, None where the model was converted on this machine.

  Attributes:
    depth: M.
    y_coder: of y's values: `range_coder.TableCoder` or its like.
    max_shift: by how many rows of scales the model can be shifted either way; 0 where it cannot.
  """

  substreams = ("z", "y")
  max_shift = 0

  def __init__(self, medians: np.ndarray, tables: tables_lib.Tables, checksum: int | None):
    super().__init__()
    self.medians, self.tables, self.checksum = medians, tables, checksum
    self.table_coder = range_coder.TableCoder(tables)

  def with_shifts(self) -> IntegerEntropyModel:
    """Returns this model for several rates around its own, or itself where its kind has one."""
    return self

  def shifted(self, shift: tf.Tensor) -> IntegerEntropyModel:
    """Returns this model for another rate.

    Args:
      shift: int32 scalar, -max_shift .. max_shift; 0 is the model's own rate.
    """
    raise NotImplementedError

  def sample_parameters(self) -> list[tf.Tensor]:
    """Returns int32 parameters of latents for made-up inputs that span their whole range."""
    raise NotImplementedError

  def code_y(self, coder, state, y: tf.Tensor | None, z: tf.Tensor):
    """Codes latents.

    Args:
      coder, state: of `y_coder`.
      y: float [1, h, w, M]; None where a decoder finds them.
      z: int32 symbols [1, h/4, w/4, N].

    Returns:
      The state, and y_hat float32 [1, h, w, M].
    """
    raise NotImplementedError

  def y_hat(self, y: tf.Tensor, z: tf.Tensor) -> tf.Tensor:
    """Returns the rounded latents that a decoder reconstructs, float32 [1, h, w, M].

    Args:
      y: float [1, h, w, M].
      z: float [1, h/4, w/4, N].
    """
    raise NotImplementedError

  def self_test(self) -> int:
    """Returns a checksum of `sample_parameters`."""
    parts = [part.numpy().astype("<i4").reshape(-1) for part in self.sample_parameters()]
    return zlib.crc32(np.concatenate(parts).tobytes())

  def sample_z(self, height: int, width: int, max_abs: int) -> tf.Tensor:
    """Returns int32 symbols [1, height, width, N], from -max_abs to max_abs."""
    span = np.array([-2, 1, 0, 3, -1, 2, -3]) * max_abs // 3
    return tf.constant(np.resize(span, (1, height, width, len(self.medians))).astype(np.int32))

  def check_arithmetic(self):
    """Raises InexactArithmetic where this machine does not compute as the converting one did."""
    found = self.self_test()
    if found != self.checksum:
      raise InexactArithmetic(
        f"this machine's matrix products are not exact: the entropy model's checksum is "
        f"{found:08x}, expected {self.checksum:08x}; unset settings that lower the precision "
        "of float32 (such as ONEDNN_DEFAULT_FPMATH_MODE), or use another machine"
      )

  def symbols_of_z(self, z: tf.Tensor) -> tf.Tensor:
    """Rounds side information: float [1, h/4, w/4, N] -> int32 symbols."""
    medians = tf.constant(self.medians / SCALE, z.dtype)
    return rounded(z - medians)

  def z_hat(self, z: tf.Tensor) -> tf.Tensor:
    """Returns rounded side information in fixed point: int32 symbols -> int32."""
    return z * SCALE + self.medians

  def blank_z(self, height, width) -> tf.Tensor:
    """Returns zeros in the shape of z's symbols, which a decoder ignores, for sides of y."""
    return tf.zeros(tf.stack([1, height // 4, width // 4, len(self.medians)]), tf.int32)

  def code_z(self, coder, z: tf.Tensor):
    """Codes int32 symbols [1, h/4, w/4, N] with a coder of `table_coder`.

    Returns:
      What the coder's `finalize` returns, and the symbols.
    """
    rows = tf.broadcast_to(1 + np.arange(len(self.medians), dtype=np.int32), tf.shape(z))
    state, found = self.table_coder.code(
      coder, coder.init(), tf.reshape(z, [-1]), tf.reshape(rows, [-1])
    )
    return coder.finalize(state), tf.reshape(found, tf.shape(z))

  def encode(self, y: tf.Tensor, z: tf.Tensor) -> tf.Tensor:
    """Encodes float y [1, h, w, M] and z [1, h/4, w/4, N]; returns the substreams, string [2]."""
    return tf.stack(self._coded(lambda coder: coder.encoder(), y, z))

  def estimate(self, y: tf.Tensor, z: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns the bits that the tables give to each substream, float64 scalars."""
    bits = self._coded(lambda coder: coder.bit_counter(), y, z)
    return dict(zip(self.substreams, bits))

  def _coded(self, coder_of, y, z):
    with tf.device("CPU:0"), range_coder.without_xla():
      return self.code_all(coder_of, y, z)

  def code_all(self, coder_of, y: tf.Tensor, z: tf.Tensor) -> list[tf.Tensor]:
    """Codes latents, with a coder for each substream.

    Args:
      coder_of: (`table_coder` or `y_coder`) -> one of its coders.
      y, z: as for `encode`.

    Returns:
      What the coders' `finalize` return.
    """
    z = self.symbols_of_z(z)
    end_of_z, _ = self.code_z(coder_of(self.table_coder), z)
    coder = coder_of(self.y_coder)
    state, _ = self.code_y(coder, coder.init(), y, z)
    return [end_of_z, coder.finalize(state)]

  def decode(self, substreams: tf.Tensor, height, width) -> Decoded:
    """Decodes latents.

    Args:
      substreams: string [2].
      height, width: of y, multiples of 4.
    """
    with tf.device("CPU:0"), range_coder.without_xla():
      z_exact, z = self.code_z(self.table_coder.decoder(substreams[0]), self.blank_z(height, width))
      coder = self.y_coder.decoder(substreams[1])
      state, y_hat = self.code_y(coder, coder.init(), None, z)
      return Decoded(z, y_hat, z_exact & coder.finalize(state))

  def to_arrays(self) -> dict[str, np.ndarray]:
    """Returns all integers, for the model's folder and its fingerprint."""
    return {
      "medians": self.medians,
      "known_answer": np.array(self.self_test(), np.int64),
      **prefixed("tables", self.tables.to_arrays()),
    }


def prefixed(name: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Puts `name/` in front of all names."""
  return {f"{name}/{key}": value for key, value in arrays.items()}


def within(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
  """Returns the arrays whose names begin with `name/`, without it."""
  return {
    key[len(name) + 1 :]: value for key, value in arrays.items() if key.startswith(name + "/")
  }


def rounded(values: tf.Tensor) -> tf.Tensor:
  """Rounds floats to nearest even: float -> int32."""
  # Far beyond what can be coded, and within int32.
  return tf.cast(tf.round(tf.clip_by_value(values, -(2.0**24), 2.0**24)), tf.int32)
