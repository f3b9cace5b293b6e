"""Integers to bytes and back, by tfc's range coder and integer tables; in the graph.

What is coded is a sequence of symbols, each by a row of a lookup (`tables`). A stream does one of
three things with it: `Writer` encodes, `Reader` decodes, `Counter` sums up the bits. All have

  code(state, rows, symbols) -> (state, symbols)

so that whatever codes latents is written once: a reader is given symbols too, and ignores them.
States may be variables of `loop`.

Values beyond an alphabet's edge are escaped: behind each vector of values come those of them at an
edge, in order: |value - edge| as two bytes, low byte first, each with 8 bits of its own. tfc's own
escapes (negative precision) are not used: the stream 0x80 makes their decoder loop without end.
"""

from __future__ import annotations

import contextlib

import numpy as np
import tensorflow as tf
from tensorflow_compression.python.ops import gen_ops

from khuvcm_tf.entropy import tables as tables_lib

# The row of `tables_lib.byte_alphabet()`: the first of each lookup.
BYTE_ROW = 0
MAX_EXCESS = 2**16 - 1


class Writer:
  """Encodes symbols with the rows of a lookup."""

  def __init__(self, lookup: tf.Tensor):
    self._lookup = lookup

  def open(self):
    return gen_ops.create_range_encoder([], self._lookup)

  def code(self, handle, rows: tf.Tensor, symbols: tf.Tensor):
    return gen_ops.entropy_encode_index(handle, rows, symbols), symbols

  def within_limits(self, excess: tf.Tensor) -> tf.Tensor:
    """Returns `excess` int32 [n], after a check that it can be written."""
    return _checked(excess)

  def close(self, handle) -> tf.Tensor:
    """Returns the bytes, a scalar string."""
    return gen_ops.entropy_encode_finalize(handle)


class Reader:
  """Decodes symbols, and encodes them again: only so are bytes left over found."""

  def __init__(self, lookup: tf.Tensor, data: tf.Tensor):
    self._lookup, self._data = lookup, data

  def open(self):
    return (
      gen_ops.create_range_decoder(self._data, self._lookup),
      gen_ops.create_range_encoder([], self._lookup),
    )

  def code(self, handles, rows: tf.Tensor, symbols: tf.Tensor):
    decoder, encoder = handles
    decoder, symbols = gen_ops.entropy_decode_index(decoder, rows, tf.shape(rows), tf.int32)
    return (decoder, gen_ops.entropy_encode_index(encoder, rows, symbols)), symbols

  def within_limits(self, excess: tf.Tensor) -> tf.Tensor:
    return excess

  def close(self, handles) -> tf.Tensor:
    """Tells whether the bytes are what the symbols encode to, a scalar bool."""
    return tf.equal(gen_ops.entropy_encode_finalize(handles[1]), self._data)


class Counter:
  """Sums up the bits that the lookup gives to symbols, float64."""

  def __init__(self, lookup: tf.Tensor, start: tf.Tensor):
    self._lookup, self._start = lookup, start

  def open(self):
    return tf.constant(0.0, tf.float64)

  def code(self, bits: tf.Tensor, rows: tf.Tensor, symbols: tf.Tensor):
    place = tf.gather(self._start, rows) + symbols
    share = tf.gather(self._lookup, place + 1) - tf.gather(self._lookup, place)
    share = tf.cast(share, tf.float64)
    return bits + tf.reduce_sum(tables_lib.PRECISION - tf.math.log(share) / np.log(2.0)), symbols

  def within_limits(self, excess: tf.Tensor) -> tf.Tensor:
    return _checked(excess)

  def close(self, bits: tf.Tensor) -> tf.Tensor:
    return bits


def uncompiled():
  """Returns a context whose ops XLA leaves alone, also where it compiles all it can.

  The coder's shapes differ from step to step, and each would be compiled anew.
  """
  if tf.executing_eagerly():
    return contextlib.nullcontext()
  return tf.xla.experimental.jit_scope(compile_ops=False)


def loop(condition, body, variables):
  """tf.while_loop whose variables may be states of streams."""

  def uncompiled_body(*args):
    with uncompiled():
      return body(*args)

  return tf.while_loop(condition, uncompiled_body, variables, parallel_iterations=1)


def _checked(excess: tf.Tensor) -> tf.Tensor:
  far = tf.reduce_max(tf.concat([[0], excess], 0))
  message = ["a latent lies", far, "beyond its alphabet, at most", MAX_EXCESS, "can be coded"]
  with tf.control_dependencies([tf.debugging.Assert(far <= MAX_EXCESS, message)]):
    return tf.identity(excess)


def code_escapes(stream, state, at_edge: tf.Tensor, excess: tf.Tensor):
  """Codes the excess of values at an edge of their alphabet.

  Args:
    stream, state: what codes, and where it is.
    at_edge: bool [n].
    excess: int32 [n], how far values lie beyond the edge.

  Returns:
    The state, and the excess, int32 [n], 0 where not at an edge.
  """
  places = tf.cast(tf.where(at_edge), tf.int32)
  escaped = stream.within_limits(tf.gather_nd(excess, places))
  pairs = tf.reshape(tf.stack([escaped % 256, escaped // 256], axis=1), [-1])
  state, pairs = stream.code(state, tf.fill(tf.shape(pairs), BYTE_ROW), pairs)
  pairs = tf.reshape(pairs, [-1, 2])
  return state, tf.scatter_nd(places, pairs[:, 0] + 256 * pairs[:, 1], tf.shape(excess))


class TableCoder:
  """Codes values with rows of `tables`, of which the first is that of bytes."""

  def __init__(self, tables: tables_lib.Tables):
    # Made here, not in graphs: these capture them, and hold them once however often they are used.
    self._lookup, self._start = tf.constant(tables.lookup), tf.constant(tables.start)
    self._low, self._high = tf.constant(tables.low), tf.constant(tables.high)

  def code(self, stream, state, values: tf.Tensor, rows: tf.Tensor):
    """Codes values int32 [n], each by its row int32 [n]; returns (state, values)."""
    low = tf.gather(self._low, rows)
    high = tf.gather(self._high, rows)
    inside = tf.clip_by_value(values, low, high)
    state, symbols = stream.code(state, rows, inside - low)
    found = symbols + low
    at_edge = tf.equal(found, low) | tf.equal(found, high)
    state, excess = code_escapes(stream, state, at_edge, tf.abs(values - inside))
    return state, found + tf.where(tf.equal(found, low), -excess, excess)

  def writer(self) -> Writer:
    return Writer(self._lookup)

  def reader(self, data: tf.Tensor) -> Reader:
    return Reader(self._lookup, data)

  def counter(self) -> Counter:
    return Counter(self._lookup, self._start)
