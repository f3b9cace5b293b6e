"""Integers to bytes and back, by tfc's range coder and integer CDF tables; as TensorFlow ops.

What is coded is a sequence of symbols, each with a CDF row of a lookup (`tables`). A coder does one
of three things with it: `RangeEncoder` writes, `RangeDecoder` reads, `BitCounter` adds up the bits.
All of them have

  init() -> state
  code(state, rows, symbols) -> (state, symbols)
  finalize(state) -> bytes | whether the bytes were exact | bits

so that an entropy model's way through its latents is written once: a decoder is given symbols too,
and ignores them. States may be variables of `loop`.

Values beyond an alphabet's edge are escaped: behind each vector of values come those of them at an
edge, in order: |value - edge| as two bytes, low byte first, each with 8 bits of its own. tfc's own
escapes (negative precision) are not used: the stream 0x80 makes their decoder loop without end.
"""

from __future__ import annotations

import contextlib

import numpy as np
import tensorflow as tf
from tensorflow_compression.python.ops import gen_ops

from khuvcm_tf.entropy.integer import tables as tables_lib

# The CDF row of bytes, 8 bits each: the first of each lookup.
BYTE_ROW = 0
MAX_EXCESS = 2**16 - 1


class RangeEncoder:
  """Writes symbols with the CDF rows of a lookup."""

  def __init__(self, lookup: tf.Tensor):
    self._lookup = lookup

  def init(self):
    return gen_ops.create_range_encoder([], self._lookup)

  def code(self, handle, rows: tf.Tensor, symbols: tf.Tensor):
    return gen_ops.entropy_encode_index(handle, rows, symbols), symbols

  def within_limits(self, excess: tf.Tensor) -> tf.Tensor:
    """Returns `excess` int32 [n], after a check that it can be written."""
    return _checked(excess)

  def finalize(self, handle) -> tf.Tensor:
    """Returns the bytes, a scalar string."""
    return gen_ops.entropy_encode_finalize(handle)


class RangeDecoder:
  """Reads symbols, and writes them again: only so are bytes found that are left over."""

  def __init__(self, lookup: tf.Tensor, data: tf.Tensor):
    self._lookup, self._data = lookup, data

  def init(self):
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

  def finalize(self, handles) -> tf.Tensor:
    """Returns whether the bytes are what the symbols encode to, a scalar bool."""
    return tf.equal(gen_ops.entropy_encode_finalize(handles[1]), self._data)


class BitCounter:
  """Adds up the bits that the lookup gives to symbols, float64."""

  def __init__(self, lookup: tf.Tensor, start: tf.Tensor):
    self._lookup, self._start = lookup, start

  def init(self):
    return tf.constant(0.0, tf.float64)

  def code(self, bits: tf.Tensor, rows: tf.Tensor, symbols: tf.Tensor):
    position = tf.gather(self._start, rows) + symbols
    pmf = tf.gather(self._lookup, position + 1) - tf.gather(self._lookup, position)
    pmf = tf.cast(pmf, tf.float64)
    return bits + tf.reduce_sum(tables_lib.PRECISION - tf.math.log(pmf) / np.log(2.0)), symbols

  def within_limits(self, excess: tf.Tensor) -> tf.Tensor:
    return _checked(excess)

  def finalize(self, bits: tf.Tensor) -> tf.Tensor:
    return bits


def without_xla():
  """Returns a context whose ops XLA leaves alone, also where it compiles all it can.

  The shapes of coded vectors differ from step to step, and each would be compiled anew.
  """
  if tf.executing_eagerly():
    return contextlib.nullcontext()
  return tf.xla.experimental.jit_scope(compile_ops=False)


def loop(condition, body, variables):
  """tf.while_loop whose variables may be states of coders."""

  def body_without_xla(*args):
    with without_xla():
      return body(*args)

  return tf.while_loop(condition, body_without_xla, variables, parallel_iterations=1)


def _checked(excess: tf.Tensor) -> tf.Tensor:
  largest = tf.reduce_max(tf.concat([[0], excess], 0))
  message = ["a latent lies", largest, "beyond its alphabet, at most", MAX_EXCESS, "can be coded"]
  with tf.control_dependencies([tf.debugging.Assert(largest <= MAX_EXCESS, message)]):
    return tf.identity(excess)


def code_escapes(coder, state, at_edge: tf.Tensor, excess: tf.Tensor):
  """Codes the excess of values at an edge of their alphabet.

  Args:
    coder, state: one of this module's classes, and its state.
    at_edge: bool [n].
    excess: int32 [n], how far values lie beyond the edge.

  Returns:
    The state, and the excess, int32 [n], 0 where not at an edge.
  """
  positions = tf.cast(tf.where(at_edge), tf.int32)
  escaped = coder.within_limits(tf.gather_nd(excess, positions))
  pairs = tf.reshape(tf.stack([escaped % 256, escaped // 256], axis=1), [-1])
  state, pairs = coder.code(state, tf.fill(tf.shape(pairs), BYTE_ROW), pairs)
  pairs = tf.reshape(pairs, [-1, 2])
  return state, tf.scatter_nd(positions, pairs[:, 0] + 256 * pairs[:, 1], tf.shape(excess))


class TableCoder:
  """Codes values with the CDF rows of `tables`, of which the first is that of bytes."""

  def __init__(self, tables: tables_lib.Tables):
    # Made here, not in graphs: these capture them, and hold them once however often they are used.
    self._lookup, self._start = tf.constant(tables.lookup), tf.constant(tables.start)
    self._low, self._high = tf.constant(tables.low), tf.constant(tables.high)

  def code(self, coder, state, values: tf.Tensor, rows: tf.Tensor):
    """Codes values int32 [n], each by its row int32 [n]; returns (state, values)."""
    low = tf.gather(self._low, rows)
    high = tf.gather(self._high, rows)
    inside = tf.clip_by_value(values, low, high)
    state, symbols = coder.code(state, rows, inside - low)
    found = symbols + low
    at_edge = tf.equal(found, low) | tf.equal(found, high)
    state, excess = code_escapes(coder, state, at_edge, tf.abs(values - inside))
    return state, found + tf.where(tf.equal(found, low), -excess, excess)

  def encoder(self) -> RangeEncoder:
    return RangeEncoder(self._lookup)

  def decoder(self, data: tf.Tensor) -> RangeDecoder:
    return RangeDecoder(self._lookup, data)

  def bit_counter(self) -> BitCounter:
    return BitCounter(self._lookup, self._start)
