"""Reads and writes .kvc files as TensorFlow ops, for SavedModels, which have no Python of ours.

`pack` and `unpack` run inside `tf.function` and in a SavedModel, and eagerly. `unpack` raises for
no content; `assert_valid` stops at what it found. Layout, checks and texts are those of
`khuvcm_tf.bitstream.layout`; Python programs use `bitstream.pack` and `bitstream.parse`.
Legend: V = 5 bytes for each varint that a header can have.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from khuvcm_tf.bitstream import layout as layout_lib
from khuvcm_tf.bitstream.layout import (
  BYTES,
  CRC_BYTES,
  FLAGS,
  FRAME_BYTES,
  MAGIC,
  MAX_SUBSTREAMS,
  VARINT_BYTES,
  BitstreamError,
  Check,
  Header,
  Layout,
  Reading,
)

# [4, 256]: the CRC register after four zero bytes, where it held byte x at position k before. The
# CRC of n bytes is affine in them, so the difference to zeros is the linear part.
_ADVANCE_4 = np.array(
  [
    [zlib.crc32((x << 8 * k).to_bytes(4, "little")) ^ zlib.crc32(bytes(4)) for x in range(256)]
    for k in range(4)
  ],
  np.int64,
)
# The four bytes that bring a register of zero to 0xffffffff, where a CRC-32 begins.
_CRC_START = b"\x62\xf5\x26\x92"


class Status(NamedTuple):
  """The first check that failed, with what was found and expected; scalar tensors."""

  code: tf.Tensor  # int32, an index into `layout.TEXTS`; 0 is good
  found: tf.Tensor  # int64
  expected: tf.Tensor  # int64


class _File(NamedTuple):
  """A file that was read by the layout of one version, and not checked."""

  reading: Reading
  status: Status
  lengths: tf.Tensor  # int64 [15], of the substreams but the last; zeros behind them


def pack(header: Header, substreams: tf.Tensor, version: int = 1) -> tf.Tensor:
  """Writes a file.

  Args:
    header: of scalar tensors or Python values.
    substreams: string [n], 1 <= n <= 16.
    version: of the format, a key of `layout.LAYOUTS`.

  Returns:
    Scalar string, the file.

  Raises:
    ValueError: `substreams` is not a vector, or a field is not a scalar.
    tf.errors.InvalidArgumentError: a field is out of range (`BitstreamError` in eager mode); the
      text is that of `bitstream.pack`.
  """
  with tf.device("CPU:0"):
    substreams = tf.convert_to_tensor(substreams, tf.string)
    if substreams.shape.rank != 1:
      raise ValueError(f"`substreams` has shape {substreams.shape}, expected [n]; stack them")
    layout = layout_lib.LAYOUTS[version]
    strings = [field.name for field in layout.fields if field.kind == BYTES]
    header = header._replace(
      **{
        name: tf.convert_to_tensor(value) if name in strings else tf.cast(value, tf.int64)
        for name, value in header._asdict().items()
      }
    )
    odd = [field.shape for field in header if field.shape.rank]
    if odd:
      raise ValueError(f"a field of `header` has shape {odd[0]}, expected scalars")
    sizes = {name: tf.strings.length(getattr(header, name)) for name in strings}
    count = tf.size(substreams)
    status = _first_failure(layout_lib.writing_checks(layout, header, sizes, count))
    with tf.control_dependencies([assert_valid(status)]):
      return _packed(layout, header, substreams)


def _packed(layout: Layout, header: Header, substreams: tf.Tensor) -> tf.Tensor:
  """Returns the file of a header that is valid."""
  lengths = tf.cast(tf.strings.length(substreams), tf.int64)
  numbers = [getattr(header, field.name) for field in layout.varints]
  numbers = tf.concat([tf.stack([*numbers, tf.size(lengths, tf.int64)]), lengths[:-1]], 0)
  fixed = [getattr(header, field.name) for field in layout.fixed]
  body = tf.strings.join(
    [
      MAGIC + bytes([layout.version, FLAGS]),
      *(each if each.dtype == tf.string else _bytes_string(each[tf.newaxis]) for each in fixed),
      _bytes_string(_to_varints(numbers)),
      tf.strings.reduce_join(substreams),
    ]
  )
  shifts = tf.range(0, 8 * CRC_BYTES, 8, tf.int64)
  return body + _bytes_string(tf.bitwise.right_shift(crc32(body), shifts) & 255)


def unpack(data: tf.Tensor, max_pixels: tf.Tensor) -> tuple[Header, tf.Tensor, Status]:
  """Reads a file; raises for no content whatever.

  Args:
    data: scalar string, the file.
    max_pixels: int64 scalar, the largest height * width to accept.

  Returns:
    (`Header`, substreams as string [n], `Status`). Where the status is not good, the header is
    zeros and an empty fingerprint and n is 0, so that nothing unchecked can steer an allocation.
  """
  with tf.device("CPU:0"):
    max_pixels = tf.cast(max_pixels, tf.int64)
    size_of_body = tf.maximum(tf.strings.length(data) - CRC_BYTES, 0)
    body = tf.strings.substr(data, 0, size_of_body)
    stored_crc = tf.strings.substr(data, size_of_body, CRC_BYTES)
    files = [
      _read(layout, data, body, stored_crc, crc32(body), max_pixels)
      for layout in layout_lib.LAYOUTS.values()
    ]
    version = _octets(body, FRAME_BYTES)[3]
    is_version = [version == known for known in layout_lib.LAYOUTS]
    # Of an unknown version the first: its VERSION check has failed.
    index = tf.argmax(tf.cast(tf.stack(is_version), tf.int32))
    file = tf.nest.map_structure(lambda *values: tf.stack(values)[index], *files)
    is_good = file.status.code == _code("GOOD")
    return *_blank_unless(is_good, file, body), file.status


def _read(layout, data, body, stored_crc, crc, max_pixels) -> _File:
  """Reads a file by the layout of one version."""
  size = tf.cast(tf.strings.length(data), tf.int64)
  size_of_body = tf.strings.length(body)
  varints = len(layout.varints) + 1 + MAX_SUBSTREAMS - 1
  octets = _octets(body, layout.fixed_bytes + varints * VARINT_BYTES)
  values = {name: tf.constant(default, tf.int64) for name, default in layout.absent.items()}
  offset = FRAME_BYTES
  for field in layout.fixed:
    values[field.name] = (
      tf.strings.substr(body, tf.minimum(offset, size_of_body), field.size)
      if field.kind == BYTES
      else octets[offset]
    )
    offset += field.size
  numbers, lengths, end, wrong_at = _read_numbers(
    octets[layout.fixed_bytes :], layout, tf.cast(size_of_body, tf.int64)
  )
  values.update(zip((field.name for field in layout.varints), tf.unstack(numbers)))
  reading = Reading(
    size=size,
    start=_little_endian(octets[3::-1]),
    flags=octets[4],
    crc=crc,
    stored_crc=_little_endian(_octets(stored_crc, CRC_BYTES)),
    header=layout_lib.Header(**values),
    count=numbers[-1],
    end=end + tf.reduce_sum(lengths),
    wrong_at=wrong_at,
  )
  status = _first_failure(layout_lib.reading_checks(layout, reading, max_pixels))
  return _File(reading, status, lengths)


def _read_numbers(octets, layout: Layout, size_of_body):
  """Reads all varints at once: for each byte, which varint it is of and its position there.

  Args:
    octets: int64 [V], the file from the first varint on, zeros after its end.
    layout: of the version.
    size_of_body: int64 scalar, bytes of the file before the CRC.

  Returns:
    The varints of the header and the number of substreams; the lengths, [15], zeros behind them;
    the offset behind them; and the offset of the first wrong byte, or -1. All are int64.
  """
  first, header_numbers = layout.fixed_bytes, len(layout.varints) + 1
  index = tf.range(octets.shape[0], dtype=tf.int64)  # [V]
  is_last = octets < 128
  owner = tf.cumsum(tf.cast(is_last, tf.int64), exclusive=True)  # [V], which varint a byte is of
  sizes = tf.math.unsorted_segment_sum(tf.ones_like(index), owner, octets.shape[0])
  position = index - tf.gather(tf.cumsum(sizes, exclusive=True), owner)
  bits = tf.bitwise.left_shift(octets & 127, 7 * tf.minimum(position, VARINT_BYTES - 1))
  values = tf.math.unsorted_segment_sum(bits, owner, octets.shape[0])

  count = values[header_numbers - 1]
  has_lengths = (count >= 1) & (count <= MAX_SUBSTREAMS)
  used = header_numbers + tf.where(has_lengths, count - 1, 0)  # varints
  is_padded = is_last & (octets == 0) & (position > 0)
  is_outside = index + first >= size_of_body
  is_wrong = (owner < used) & ((position >= VARINT_BYTES) | is_padded | is_outside)
  wrong_at = tf.where(tf.reduce_any(is_wrong), first + _first_true(is_wrong), -1)
  of_lengths = slice(header_numbers, header_numbers + MAX_SUBSTREAMS - 1)
  return (
    values[:header_numbers],
    tf.where(index[of_lengths] < used, values[of_lengths], 0),
    first + tf.reduce_sum(tf.where(index < used, sizes, 0)),
    wrong_at,
  )


def _blank_unless(is_good, file: _File, body) -> tuple[Header, tf.Tensor]:
  """Returns the header in its final types and the substreams; zeros and none of a bad file."""
  header = layout_lib.Header(
    *(
      tf.where(is_good, value, b"")
      if value.dtype == tf.string
      else tf.cast(tf.where(is_good, value, 0), tf.int32)
      for value in file.reading.header
    )
  )
  count = tf.cast(tf.where(is_good, file.reading.count, 0), tf.int32)
  start = file.reading.end - tf.reduce_sum(file.lengths)
  ends = start + tf.cumsum(file.lengths)
  starts = tf.concat([[start], ends], 0)[:count]
  size_of_body = tf.cast(tf.strings.length(body), tf.int64)
  ends = tf.concat([ends[: tf.maximum(count - 1, 0)], [size_of_body]], 0)[:count]
  # One by one: `substr` with vectors of offsets copies the whole file once for each of them.
  substreams = tf.map_fn(
    lambda span: tf.strings.substr(body, span[0], span[1] - span[0]),
    tf.stack([starts, ends], 1),
    fn_output_signature=tf.TensorSpec([], tf.string),
  )
  return header, substreams


def crc32(data: tf.Tensor) -> tf.Tensor:
  """CRC-32 of a string, equal to `zlib.crc32`.

  The CRC register is linear over GF(2): a pair of halves folds into advance(left) ^ right, where
  advance is the effect of as many zero bytes as the right half has. All pairs of a level fold at
  once, and advance for twice the bytes is advance applied to its own table. 2 ms for 100 kB.

  Args:
    data: scalar string of any length.

  Returns:
    int64 scalar, 0..2^32 - 1.
  """
  with tf.device("CPU:0"):
    padding = -tf.strings.length(data) % 4
    start = tf.strings.substr(bytes(3) + _CRC_START, 3 - padding, 4 + padding)
    words = tf.io.decode_raw(start + data, tf.int32, little_endian=True)
    words = tf.cast(words, tf.int64) & 0xFFFFFFFF

    def fold(words, table):
      # A zero in front leaves a register of zero as it is.
      words = tf.pad(words, [[tf.size(words) % 2, 0]])
      pairs = tf.reshape(words, [-1, 2])
      return _advance(pairs[:, 0], table) ^ pairs[:, 1], _advance(table, table)

    words, _ = tf.while_loop(
      lambda words, table: tf.size(words) > 1,
      fold,
      [words, tf.constant(_ADVANCE_4)],
      shape_invariants=[tf.TensorShape([None]), tf.TensorShape([4, 256])],
    )
    return _advance(words[0], _ADVANCE_4) ^ 0xFFFFFFFF


def _advance(register, table):
  """Returns CRC registers of any shape after as many zero bytes as the table [4, 256] is for."""
  parts = [
    tf.gather(table[k], tf.bitwise.right_shift(register, tf.constant(8 * k, tf.int64)) & 255)
    for k in range(4)
  ]
  return parts[0] ^ parts[1] ^ parts[2] ^ parts[3]


def assert_valid(status: Status) -> tf.Operation | None:
  """Stops with the text of a status that is not good.

  Returns:
    In a graph the assertion, for `tf.control_dependencies`; None in eager mode.

  Raises:
    BitstreamError: the status is not good (`tf.errors.InvalidArgumentError` in a graph).
  """
  is_good = status.code == _code("GOOD")
  if not tf.executing_eagerly():
    return tf.debugging.Assert(is_good, [_text(status)])
  if not is_good:
    raise BitstreamError(message(status))
  return None


def message(status: Status) -> str:
  """Returns the text of a status of eager mode: what was found, what was expected, what to do."""
  return _text(status).numpy().decode()


def _text(status: Status) -> tf.Tensor:
  """Returns `message` as a scalar string tensor."""
  text = tf.gather(tf.constant(list(layout_lib.TEXTS.values())), status.code)
  for name in ("found", "expected"):
    value = getattr(status, name)
    text = tf.strings.regex_replace(text, rf"\{{{name}\}}", tf.strings.as_string(value))
    text = tf.strings.regex_replace(text, rf"\{{{name}:08x\}}", _hexadecimal(value))
  return text


def _hexadecimal(value):
  """Returns eight digits of an int64 scalar as a scalar string."""
  digits = tf.bitwise.right_shift(value, tf.range(28, -1, -4, tf.int64)) & 15
  return tf.strings.reduce_join(tf.gather(list("0123456789abcdef"), digits))


def _first_failure(checks: Sequence[Check]) -> Status:
  """Returns the status of the first check that failed, or the good one."""
  names, failed, found, expected = zip(*checks, Check("GOOD", True, 0, 0))
  first = _first_true(tf.stack(failed))
  return Status(
    tf.constant([_code(name) for name in names])[first],
    tf.stack([tf.cast(value, tf.int64) for value in found])[first],
    tf.stack([tf.cast(value, tf.int64) for value in expected])[first],
  )


def _code(name: str) -> int:
  return list(layout_lib.TEXTS).index(name)


def _first_true(flags):
  """Returns the index, int64, of the first of bool [n] that is true; n where none is."""
  count = tf.size(flags, tf.int64)
  return tf.reduce_min(tf.where(flags, tf.range(count), count))


def _to_varints(values):
  """Returns the bytes, int64, of the varints of int64 [n] below 2^35, one after the other."""
  position = tf.range(VARINT_BYTES, dtype=tf.int64)
  rest = tf.bitwise.right_shift(values[:, None], 7 * position)  # [n, 5]
  more = tf.pad(rest[:, 1:] > 0, [[0, 0], [0, 1]])  # whether a byte follows
  octets = (rest & 127) + 128 * tf.cast(more, tf.int64)
  return tf.boolean_mask(octets, (rest > 0) | (position == 0))


def _octets(string, count):
  """Returns the first bytes of a string as int64 [count], zeros after its end."""
  octets = tf.io.decode_raw(tf.strings.substr(string, 0, count), tf.uint8, fixed_length=count)
  return tf.cast(tf.ensure_shape(octets, [count]), tf.int64)


def _bytes_string(octets):
  """Returns the scalar string of int64 [n] in 0..255."""
  return tf.strings.reduce_join(tf.gather([bytes([octet]) for octet in range(256)], octets))


def _little_endian(octets):
  """Returns the little-endian number of four bytes, int64 [4]."""
  return tf.reduce_sum(octets * tf.constant([1, 1 << 8, 1 << 16, 1 << 24], tf.int64))
