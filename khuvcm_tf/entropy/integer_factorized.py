"""Latents by the factorized prior alone, in integers: what files are written and read with.

  y      symbol = rint(y - median of its channel, in 1/64); table of its channel
  y_hat  = symbol + median

No network stands before the coder: only the tables have to be equal on all machines.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from khuvcm_tf.entropy import factorized_coder, integer_coder, integer_network, range_coder
from khuvcm_tf.entropy import tables as tables_lib
from khuvcm_tf.entropy.tables import UNITS


class IntegerFactorized(integer_coder.IntegerCoder):
  """A density for each channel: y is coded as others code their side information.

  Args:
    medians: int32 [M], in 1/64.
    tables: rows of bytes and of M channels.
    known_answer: as in `IntegerCoder`.
  """

  substreams = ("y",)

  def __init__(
    self, medians: np.ndarray, tables: tables_lib.Tables, known_answer: int | None = None
  ):
    super().__init__(medians, tables, known_answer)
    self.depth = len(medians)
    self.y_coder = self.table_coder

  def sample_parameters(self):
    return [self.z_hat(self.sample_z(1, 1, 3))]

  def latents(self, symbols: tf.Tensor) -> tf.Tensor:
    """Returns y_hat, float32 [1, h, w, M]: exact, as symbols are small and medians are in 1/64."""
    return tf.cast(self.z_hat(symbols), tf.float32) / UNITS

  def y_hat(self, y, z=None):
    return self.latents(self.symbols_of_z(y))

  def pass_through(self, stream_of, y, z):
    return [self.pass_z(stream_of(self.table_coder), self.symbols_of_z(y))[0]]

  def decode(self, substreams, height, width):
    with tf.device("CPU:0"), range_coder.uncompiled():
      unknown = tf.zeros(tf.stack([1, height, width, self.depth]), tf.int32)
      exact, symbols = self.pass_z(self.table_coder.reader(substreams[0]), unknown)
      return integer_coder.Decoded(symbols, self.latents(symbols), exact)

  @classmethod
  def from_state(cls, state: dict[str, np.ndarray]) -> IntegerFactorized:
    return cls(
      state["medians"],
      tables_lib.Tables.from_state(integer_coder.within(state, "tables")),
      int(state["known_answer"]),
    )


def convert(
  floats: factorized_coder.FactorizedCoder, latents: Sequence[np.ndarray], limit: float
) -> integer_coder.Conversion:
  """Converts a trained factorized coder to integers, as `exact.convert` says."""
  medians = integer_coder.whole_medians(floats.prior)
  tables = tables_lib.assemble(integer_coder.z_alphabets(floats.prior, medians))
  coder = IntegerFactorized(medians, tables)
  bits_of_floats = sum(integer_coder.counted(floats.element_bits(y)[1]["y"]) for y in latents)
  loss = integer_coder.loss_of(coder, latents, latents, bits_of_floats)
  integer_network.check_loss(loss, limit)
  return integer_coder.Conversion(coder, loss)
