"""Vectors of integers to bytes and back, by tfc's range coder and integer tables; in the graph.

A substream is one stream of the range coder. Vectors are coded whole; behind each come the escapes
of its values at an edge of their alphabet, in order: |value - edge| as two bytes, low byte first,
each with 8 bits of its own. tfc's own escapes (negative precision) are not used: the stream 0x80
makes their decoder loop without end.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
from tensorflow_compression.python.ops import gen_ops

from khuvcm_tf.entropy import tables as tables_lib

# The row of `tables_lib.byte_alphabet()`: the first of each set of tables.
BYTE_ROW = 0
MAX_EXCESS = 2**16 - 1
_ESCAPE_BITS = 16.0


class RangeCoder(tf.Module):
  """Codes values with rows of `tables`, of which the first is that of bytes."""

  def __init__(self, tables: tables_lib.Tables):
    super().__init__()
    self.lookup = tf.constant(tables.lookup)
    self._start = tf.constant(tables.start)
    self._low = tf.constant(tables.low)
    self._high = tf.constant(tables.high)

  def encode(self, vectors: Sequence[tuple[tf.Tensor, tf.Tensor]]) -> tf.Tensor:
    """Encodes (values int32 [n], rows int32 [n]) of several vectors; returns a scalar string.

    Raises:
      tf.errors.InvalidArgumentError: a value is more than MAX_EXCESS beyond its alphabet.
    """
    handle = gen_ops.create_range_encoder([], self.lookup)
    for values, rows in vectors:
      clipped, symbols, excess = self._split(values, rows)
      far = tf.reduce_max(tf.concat([[0], excess], 0))
      with tf.control_dependencies(
        [
          tf.debugging.Assert(
            far <= MAX_EXCESS,
            ["a latent lies", far, "beyond its alphabet, at most", MAX_EXCESS, "can be coded"],
          )
        ]
      ):
        handle = gen_ops.entropy_encode_index(handle, rows, symbols)
      escapes = tf.boolean_mask(excess, self._at_edge(clipped, rows))
      pairs = tf.reshape(tf.stack([escapes % 256, escapes // 256], axis=1), [-1])
      handle = gen_ops.entropy_encode_index(handle, tf.fill(tf.shape(pairs), BYTE_ROW), pairs)
    return gen_ops.entropy_encode_finalize(handle)

  def decoder(self, data: tf.Tensor):
    """Returns a handle for `decode` on a substream (scalar string)."""
    return gen_ops.create_range_decoder(data, self.lookup)

  def decode(self, handle, rows: tf.Tensor):
    """Decodes the next vector, coded with `rows` int32 [n]; returns (handle, values int32 [n])."""
    handle, symbols = gen_ops.entropy_decode_index(handle, rows, tf.shape(rows), tf.int32)
    clipped = symbols + tf.gather(self._low, rows)
    places = tf.cast(tf.where(self._at_edge(clipped, rows)), tf.int32)
    byte_rows = tf.fill([2 * tf.shape(places)[0]], BYTE_ROW)
    handle, pairs = gen_ops.entropy_decode_index(handle, byte_rows, tf.shape(byte_rows), tf.int32)
    pairs = tf.reshape(pairs, [-1, 2])
    excess = tf.scatter_nd(places, pairs[:, 0] + 256 * pairs[:, 1], tf.shape(rows))
    below = tf.equal(clipped, tf.gather(self._low, rows))
    return handle, clipped + tf.where(below, -excess, excess)

  def bits(self, values: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Returns the bits that the tables give to values, float32, escapes included."""
    clipped, symbols, _ = self._split(values, rows)
    place = tf.gather(self._start, rows) + symbols
    counts = tf.gather(self.lookup, place + 1) - tf.gather(self.lookup, place)
    bits = tables_lib.PRECISION - tf.math.log(tf.cast(counts, tf.float32)) / tf.math.log(2.0)
    return bits + tf.where(self._at_edge(clipped, rows), _ESCAPE_BITS, 0.0)

  def _split(self, values, rows):
    """Returns values within the alphabet, their symbols, and by how much they lie beyond."""
    low = tf.gather(self._low, rows)
    clipped = tf.clip_by_value(values, low, tf.gather(self._high, rows))
    return clipped, clipped - low, tf.abs(values - clipped)

  def _at_edge(self, clipped, rows):
    low, high = tf.gather(self._low, rows), tf.gather(self._high, rows)
    return tf.equal(clipped, low) | tf.equal(clipped, high)
