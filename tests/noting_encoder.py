"""An encoder that notes by which CDF rows it codes: whether a test uses many of them."""

from __future__ import annotations

import tensorflow as tf

from khuvcm_tf.entropy.integer import range_coder


class NotingEncoder(range_coder.RangeEncoder):
  """Writes symbols with the CDF rows of a lookup, and notes the rows; also in graphs."""

  def init(self):
    return super().init(), tf.zeros(tf.shape(self._lookup), tf.bool)

  def code(self, state, rows, symbols):
    handle, noted = state
    handle, symbols = super().code(handle, rows, symbols)
    noted = tf.tensor_scatter_nd_update(noted, rows[:, tf.newaxis], tf.ones_like(rows, tf.bool))
    return (handle, noted), symbols

  def finalize(self, state):
    """Returns the bytes, and how many rows were noted, scalar int64."""
    handle, noted = state
    return super().finalize(handle), tf.math.count_nonzero(noted)

  @classmethod
  def of(cls, coder: range_coder.RangeEncoder) -> NotingEncoder:
    """Returns one with the lookup of another encoder."""
    return cls(coder._lookup)
