"""The factorized prior alone, in integers: what files are written and read with.

  y      symbol = rint(y - median of its channel); CDF row of its channel
  y_hat  = symbol + median

There is no network: only the tables have to be equal on all machines.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from khuvcm_tf.entropy.integer import entropy_model, range_coder
from khuvcm_tf.entropy.integer import tables as tables_lib
from khuvcm_tf.entropy.integer.tables import SCALE


class IntegerFactorized(entropy_model.IntegerEntropyModel):
  """A density for each channel: y is coded as other models code their side information.

  Args:
    medians: int32 [M], in fixed point.
    tables: CDF rows of bytes and of M channels.
    checksum: as in `IntegerEntropyModel`.
  """

  substreams = ("y",)

  def __init__(self, medians: np.ndarray, tables: tables_lib.Tables, checksum: int | None = None):
    super().__init__(medians, tables, checksum)
    self.depth = len(medians)
    self.y_coder = self.table_coder

  def sample_parameters(self):
    return [self.z_hat(self.sample_z(1, 1, 3))]

  def latents(self, symbols: tf.Tensor) -> tf.Tensor:
    """Returns y_hat, float32 [1, h, w, M]: exact: symbols are small, medians in fixed point."""
    return tf.cast(self.z_hat(symbols), tf.float32) / SCALE

  def y_hat(self, y, z=None):
    return self.latents(self.symbols_of_z(y))

  def code_all(self, coder_of, y, z):
    return [self.code_z(coder_of(self.table_coder), self.symbols_of_z(y))[0]]

  def decode(self, substreams, height, width):
    with tf.device("CPU:0"), range_coder.without_xla():
      blank = tf.zeros(tf.stack([1, height, width, self.depth]), tf.int32)
      exact, symbols = self.code_z(self.table_coder.decoder(substreams[0]), blank)
      return entropy_model.Decoded(symbols, self.latents(symbols), exact)

  @classmethod
  def from_arrays(cls, arrays: dict[str, np.ndarray]) -> IntegerFactorized:
    return cls(
      arrays["medians"],
      tables_lib.Tables.from_arrays(entropy_model.within(arrays, "tables")),
      int(arrays["known_answer"]),
    )
