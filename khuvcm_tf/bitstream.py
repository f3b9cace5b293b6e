"""The container of a compressed picture (.kvc): one file, one picture.

| offset | bytes  | content                                                                    |
| ------ | ------ | -------------------------------------------------------------------------- |
| 0      | 3      | `KVC`                                                                      |
| 3      | 1      | version, 1                                                                 |
| 4      | 1      | flags, 0                                                                   |
| 5      | 8      | fingerprint of the model                                                   |
| 13     | 1      | input format: 0 RGB, 1 grey, 2 YCbCr 4:4:4, 3 YCbCr 4:2:0                  |
| 14     | 1      | bit depth: 8, or 10 for formats 2 and 3                                    |
| 15     | varint | height in (luma) pixels, 1..65535                                          |
|        | varint | width in (luma) pixels, 1..65535                                           |
|        | varint | n, the number of substreams, 1..16                                         |
|        | varint | length in bytes of each substream but the last, n - 1 numbers              |
|        |        | the substreams; the last one takes what is left                            |
| -4     | 4      | CRC-32 (that of zlib) of all bytes before it, little-endian                |

A varint is unsigned LEB128, at most 5 bytes, in its shortest form. `docs/format.md` has the
details, the order of checks and an example.

Everything is written once, as TensorFlow ops: `pack` and `unpack` run eagerly, inside
`tf.function` and in a SavedModel, and `unpack` raises for no input. Python programs call `parse`.
Legend: V = 90 bytes, the most that 18 varints take.
"""

from __future__ import annotations

import operator
import typing
import zlib

import numpy as np
import tensorflow as tf

from khuvcm_tf import errors

RGB, GREY, YCBCR444, YCBCR420, FEATURES = range(5)
DEFAULT_MAX_PIXELS = 2**27
MAX_SIDE = 65535
MAX_SUBSTREAMS = 16

_PREFIX = b"KVC\x01\x00"  # magic, version, flags
_FINGERPRINT_BYTES = 8
_FIXED_BYTES = 15  # what stands before the first varint
_CRC_BYTES = 4
_VARINT_BYTES = 5
_VARINTS = 3 + MAX_SUBSTREAMS - 1  # height, width, n, n - 1 lengths
_MIN_BYTES = _FIXED_BYTES + 3 + _CRC_BYTES

# [4, 256]: the CRC register, four zero bytes after it held byte x at place k. The CRC of n bytes
# is affine in them, so the difference to zeros is the linear part.
_ADVANCE_4 = np.array(
  [
    [zlib.crc32((x << 8 * k).to_bytes(4, "little")) ^ zlib.crc32(bytes(4)) for x in range(256)]
    for k in range(4)
  ],
  np.int64,
)
# The four bytes that lead a register of zero to 0xffffffff, where a CRC-32 begins.
_CRC_START = b"\x62\xf5\x26\x92"


class BitstreamError(errors.Error):
  """A file that cannot be read, or a header that cannot be written."""


class Header(typing.NamedTuple):
  """What is known of a picture before its substreams are decoded; scalar tensors."""

  fingerprint: tf.Tensor  # string of 8 bytes
  input_format: tf.Tensor  # int32, RGB, GREY, YCBCR444 or YCBCR420
  bit_depth: tf.Tensor  # int32, bits per sample
  height: tf.Tensor  # int32, luma pixels
  width: tf.Tensor  # int32, luma pixels


class ParsedHeader(typing.NamedTuple):
  """`Header` as Python values."""

  fingerprint: bytes
  input_format: int
  bit_depth: int
  height: int
  width: int


class Status(typing.NamedTuple):
  """The first check that failed, with what it found and expected; scalar tensors."""

  code: tf.Tensor  # int32, an index into `_TEXTS`; 0 is good
  found: tf.Tensor  # int64
  expected: tf.Tensor  # int64


class _Numbers(typing.NamedTuple):
  """The varints of a header, unchecked but for their form; int64."""

  height: tf.Tensor
  width: tf.Tensor
  count: tf.Tensor  # number of substreams
  lengths: tf.Tensor  # [15], zeros from the last substream on
  end: tf.Tensor  # offset in the file of the first substream
  wrong_at: tf.Tensor  # offset in the file of the first byte that is wrong in form, or -1


_TEXTS = {
  "GOOD": "the file is good",
  "EMPTY": "the file is empty: found {found} bytes, expected at least {expected}; "
  "compress the picture again",
  "TOO_SHORT": "the file is too short: found {found} bytes, expected at least {expected}; "
  "copy it again from its source",
  "MAGIC": "not a .kvc file: its first bytes are 0x{found:x}, expected 0x{expected:x} (KVC and "
  "the version); check the name of the file",
  "VERSION": "the file has format version {found}, expected {expected}; "
  "read it with the program that wrote it or a newer one",
  "FLAGS": "the file has unknown flags: found {found}, expected {expected}; "
  "read it with the program that wrote it or a newer one",
  "CUT": "the file is cut short or damaged: found {found} bytes, expected at least {expected} by "
  "its header; copy it again from its source",
  "CRC": "the file is damaged, cut short or extended: its CRC-32 is 0x{found:x}, expected "
  "0x{expected:x} as stored at its end; copy it again from its source",
  "INPUT_FORMAT": "unsupported input format: found {found}, expected 0 to {expected} (RGB, grey, "
  "YCbCr 4:4:4, YCbCr 4:2:0); use one of these or a newer program",
  "BIT_DEPTH": "unsupported bit depth: found {found}, expected 8 (10 only for YCbCr), at most "
  "{expected} for this input format; convert the picture",
  "VARINT": "a number in the header is overlong, not in its shortest form or unfinished: found at "
  "byte {found}, expected at most {expected} bytes a number; compress the picture again",
  "HEIGHT": "height out of range: found {found}, expected 1 to {expected} pixels; "
  "compress the picture in parts",
  "WIDTH": "width out of range: found {found}, expected 1 to {expected} pixels; "
  "compress the picture in parts",
  "PIXELS": "the picture is larger than allowed: found {found} pixels, expected at most "
  "{expected}; raise max_pixels if you trust the file",
  "SUBSTREAMS": "number of substreams out of range: found {found}, expected 1 to {expected}; "
  "compress the picture again",
  "LENGTHS": "the substreams exceed the file: found lengths that need {found} bytes, expected at "
  "most {expected}; compress the picture again",
  "FINGERPRINT": "wrong fingerprint of the model: found {found} bytes, expected {expected}; "
  "take it from the model",
}
_CODES = {name: code for code, name in enumerate(_TEXTS)}


@tf.function(input_signature=[tf.TensorSpec([], tf.string)])
def crc32(data):
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
  """CRC registers of any shape after as many zero bytes as the table [4, 256] stands for."""
  parts = [
    tf.gather(table[k], tf.bitwise.right_shift(register, tf.constant(8 * k, tf.int64)) & 255)
    for k in range(4)
  ]
  return parts[0] ^ parts[1] ^ parts[2] ^ parts[3]


def pack(header, substreams):
  """Writes a file.

  Args:
    header: `Header` of tensors or Python values.
    substreams: string [n], 1 <= n <= 16.

  Returns:
    Scalar string, the file: at most 31 bytes more than the substreams for an RGB picture with two.

  Raises:
    ValueError: `substreams` is not a vector, or a field not a scalar.
    BitstreamError: a field is out of range (`tf.errors.InvalidArgumentError` with the same text in
      a graph).

  Example:
    >>> file = pack(Header(b"modelABC", RGB, 8, height=512, width=768), [b"side", b"main"])
    >>> parse(file.numpy())[1]
    [b'side', b'main']
  """
  with tf.device("CPU:0"):
    substreams = tf.convert_to_tensor(substreams, tf.string)
    if substreams.shape.rank != 1:
      raise ValueError(f"`substreams` has shape {substreams.shape}, expected [n]; stack them")
    fingerprint = tf.convert_to_tensor(header.fingerprint, tf.string)
    fields = [tf.cast(field, tf.int64) for field in header[1:]]
    # A `tf.function` that is called with wrong shapes keeps its lock: it would hang all threads.
    odd = [each.shape for each in (fingerprint, *fields) if each.shape.rank]
    if odd:
      raise ValueError(f"a field of `header` has shape {odd[0]}, expected scalars")
    file, status = _packed(fingerprint, tf.stack(fields), substreams)
    with tf.control_dependencies([assert_valid(status)]):
      return tf.identity(file)


@tf.function(
  input_signature=[
    tf.TensorSpec([], tf.string),
    tf.TensorSpec([4], tf.int64),
    tf.TensorSpec([None], tf.string),
  ]
)
def _packed(fingerprint, fields, substreams):
  """The file, which is one where the `Status` beside it is good."""
  with tf.device("CPU:0"):
    fields = Header(fingerprint, *tf.unstack(fields))
    lengths = tf.strings.length(substreams)
    count = tf.size(substreams)

    fingerprint_bytes = tf.strings.length(fingerprint)
    status = _first_failure(
      [
        (
          "FINGERPRINT",
          fingerprint_bytes != _FINGERPRINT_BYTES,
          fingerprint_bytes,
          _FINGERPRINT_BYTES,
        ),
        *_format_checks(fields),
        *_size_checks(fields.height, fields.width, count, max_pixels=MAX_SIDE**2),
      ]
    )
    numbers = tf.concat(
      [[fields.height, fields.width, tf.cast(count, tf.int64)], tf.cast(lengths[:-1], tf.int64)],
      0,
    )
    body = (
      tf.constant(_PREFIX)
      + fingerprint
      + _bytes_string(tf.stack([fields.input_format, fields.bit_depth]) & 255)
      + _bytes_string(_to_varints(numbers))
      + tf.strings.reduce_join(substreams)
    )
    shifts = tf.range(0, 32, 8, tf.int64)
    return body + _bytes_string(tf.bitwise.right_shift(crc32(body), shifts) & 255), status


@tf.function(input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int64)])
def unpack(data, max_pixels):
  """Reads a file; raises for no content whatever.

  Args:
    data: scalar string, the file.
    max_pixels: int64 scalar, the largest height * width to accept.

  Returns:
    (`Header`, substreams as string [n], `Status`). Where the status is not good, the header is
    zeros and an empty fingerprint and n is 0, so that nothing unchecked can steer an allocation.
  """
  with tf.device("CPU:0"):
    size = tf.strings.length(data)
    size_of_body = tf.maximum(size - _CRC_BYTES, 0)
    body = tf.strings.substr(data, 0, size_of_body)
    octets = _octets(body, _FIXED_BYTES + _VARINTS * _VARINT_BYTES)
    numbers = _read_numbers(octets[_FIXED_BYTES:], tf.cast(size_of_body, tf.int64))
    end = numbers.end + tf.reduce_sum(numbers.lengths)
    exceeds = end > tf.cast(size_of_body, tf.int64)
    stored_crc = _little_endian(
      _octets(tf.strings.substr(data, size_of_body, _CRC_BYTES), _CRC_BYTES)
    )
    crc = crc32(body)
    header = Header(
      tf.strings.substr(body, tf.minimum(len(_PREFIX), size_of_body), _FINGERPRINT_BYTES),
      octets[13],
      octets[14],
      numbers.height,
      numbers.width,
    )
    # The word for a cut file trusts the lengths before the CRC, but only to say so better.
    cut = (crc != stored_crc) & (numbers.wrong_at < 0) & exceeds

    status = _first_failure(
      [
        ("EMPTY", size == 0, size, _MIN_BYTES),
        ("TOO_SHORT", size < _MIN_BYTES, size, _MIN_BYTES),
        (
          "MAGIC",
          tf.reduce_any(octets[:3] != list(_PREFIX[:3])),
          _little_endian(octets[3::-1]),
          int.from_bytes(_PREFIX[:4], "big"),
        ),
        ("VERSION", octets[3] != _PREFIX[3], octets[3], _PREFIX[3]),
        ("FLAGS", octets[4] != _PREFIX[4], octets[4], _PREFIX[4]),
        ("CUT", cut, size, end + _CRC_BYTES),
        ("CRC", crc != stored_crc, crc, stored_crc),
        *_format_checks(header),
        ("VARINT", numbers.wrong_at >= 0, numbers.wrong_at, _VARINT_BYTES),
        *_size_checks(header.height, header.width, numbers.count, max_pixels),
        ("LENGTHS", exceeds, end + _CRC_BYTES, size),
      ]
    )
    return *_blank_unless_good(status, header, body, numbers), status


def _blank_unless_good(status, header, body, numbers):
  """The header in its final types and the substreams; zeros and none where a check failed."""
  good = status.code == _CODES["GOOD"]
  header = Header(
    tf.where(good, header.fingerprint, b""),
    *(tf.cast(tf.where(good, field, 0), tf.int32) for field in header[1:]),
  )
  count = tf.cast(tf.where(good, numbers.count, 0), tf.int32)
  ends = numbers.end + tf.cumsum(numbers.lengths)
  starts = tf.concat([[numbers.end], ends], 0)[:count]
  size_of_body = tf.cast(tf.strings.length(body), tf.int64)
  ends = tf.concat([ends[: tf.maximum(count - 1, 0)], [size_of_body]], 0)[:count]
  # One by one: `substr` with vectors of positions copies the whole file once for each of them.
  substreams = tf.map_fn(
    lambda span: tf.strings.substr(body, span[0], span[1] - span[0]),
    tf.stack([starts, ends], 1),
    fn_output_signature=tf.TensorSpec([], tf.string),
  )
  return header, substreams


def parse(data, max_pixels=DEFAULT_MAX_PIXELS):
  """Reads a file, in Python.

  Args:
    data: bytes, the file.
    max_pixels: the largest height * width to accept.

  Returns:
    (`ParsedHeader`, list of bytes, one per substream).

  Raises:
    TypeError: `data` is not bytes, or `max_pixels` no integer.
    BitstreamError: the file is not valid, or its picture is larger than `max_pixels`.
  """
  if not isinstance(data, bytes):
    raise TypeError(f"`data` is {type(data).__name__}, expected bytes; read the file in mode 'rb'")
  # What is no integer is refused here, not by the `tf.function`, which would keep its lock.
  header, substreams, status = unpack(data, tf.constant(operator.index(max_pixels), tf.int64))
  assert_valid(status)
  fields = (int(field) for field in header[1:])
  return ParsedHeader(header.fingerprint.numpy(), *fields), substreams.numpy().tolist()


def message(status):
  """The text of a status, in one line: what was found, what was expected, what to do."""
  return _text(status).numpy().decode()


def assert_valid(status):
  """Stops with the status' text where it is not good.

  Args:
    status: `Status`.

  Returns:
    In a graph the assertion, for `tf.control_dependencies`; None in eager mode.

  Raises:
    BitstreamError: the status is not good (`tf.errors.InvalidArgumentError` in a graph).
  """
  good = status.code == _CODES["GOOD"]
  if not tf.executing_eagerly():
    return tf.debugging.Assert(good, [_text(status)])
  if not good:
    raise BitstreamError(message(status))
  return None


def _text(status):
  """`message` as a scalar string tensor."""
  text = tf.gather(tf.constant(list(_TEXTS.values())), status.code)
  for name in ("found", "expected"):
    value = getattr(status, name)
    text = tf.strings.regex_replace(text, rf"\{{{name}\}}", tf.strings.as_string(value))
    text = tf.strings.regex_replace(text, rf"\{{{name}:x\}}", _hexadecimal(value))
  return text


def _hexadecimal(value):
  """Eight digits of an int64 scalar as a scalar string."""
  digits = tf.bitwise.right_shift(value, tf.range(28, -1, -4, tf.int64)) & 15
  return tf.strings.reduce_join(tf.gather(list("0123456789abcdef"), digits))


def _first_failure(checks):
  """`Status` of the first of the checks (name of the code, failed, found, expected)."""
  names, failed, found, expected = zip(*checks, ("GOOD", True, 0, 0))
  first = _first_true(tf.stack(failed))
  return Status(
    tf.constant([_CODES[name] for name in names])[first],
    tf.stack([tf.cast(value, tf.int64) for value in found])[first],
    tf.stack([tf.cast(value, tf.int64) for value in expected])[first],
  )


def _format_checks(header):
  is_ycbcr = header.input_format >= YCBCR444
  depth = header.bit_depth
  return [
    (
      "INPUT_FORMAT",
      (header.input_format < RGB) | (header.input_format > YCBCR420),
      header.input_format,
      YCBCR420,
    ),
    ("BIT_DEPTH", (depth != 8) & ~(is_ycbcr & (depth == 10)), depth, tf.where(is_ycbcr, 10, 8)),
  ]


def _size_checks(height, width, count, max_pixels):
  return [
    ("HEIGHT", (height < 1) | (height > MAX_SIDE), height, MAX_SIDE),
    ("WIDTH", (width < 1) | (width > MAX_SIDE), width, MAX_SIDE),
    ("PIXELS", height * width > max_pixels, height * width, max_pixels),
    ("SUBSTREAMS", (count < 1) | (count > MAX_SUBSTREAMS), count, MAX_SUBSTREAMS),
  ]


def _read_numbers(octets, size_of_body):
  """Reads all varints at once: each byte knows its number and its place in it.

  Args:
    octets: int64 [V], the file from the first varint on, zeros after its end.
    size_of_body: int64 scalar, bytes of the file before the CRC.

  Returns:
    `_Numbers`.
  """
  index = tf.range(_VARINTS * _VARINT_BYTES, dtype=tf.int64)  # [V]
  is_last = octets < 128
  owner = tf.cumsum(tf.cast(is_last, tf.int64), exclusive=True)  # [V], which varint a byte is of
  sizes = tf.math.unsorted_segment_sum(tf.ones_like(index), owner, octets.shape[0])
  place = index - tf.gather(tf.cumsum(sizes, exclusive=True), owner)
  bits = tf.bitwise.left_shift(octets & 127, 7 * tf.minimum(place, _VARINT_BYTES - 1))
  values = tf.math.unsorted_segment_sum(bits, owner, octets.shape[0])

  count = values[2]
  is_count = (count >= 1) & (count <= MAX_SUBSTREAMS)
  used = tf.where(is_count, 2 + count, 3)  # varints
  padded = is_last & (octets == 0) & (place > 0)
  outside = index + _FIXED_BYTES >= size_of_body
  wrong = (owner < used) & ((place >= _VARINT_BYTES) | padded | outside)
  wrong_at = tf.where(tf.reduce_any(wrong), _FIXED_BYTES + _first_true(wrong), -1)
  return _Numbers(
    height=values[0],
    width=values[1],
    count=count,
    lengths=tf.where(index[3:_VARINTS] < used, values[3:_VARINTS], 0),
    end=_FIXED_BYTES + tf.reduce_sum(tf.where(index < used, sizes, 0)),
    wrong_at=wrong_at,
  )


def _first_true(flags):
  """Index, int64 scalar, of the first that is true of bool [n]; n where none is."""
  count = tf.size(flags, tf.int64)
  return tf.reduce_min(tf.where(flags, tf.range(count), count))


def _to_varints(values):
  """Bytes, int64 [...], of the varints of int64 [n] below 2^35, one after the other."""
  place = tf.range(_VARINT_BYTES, dtype=tf.int64)
  rest = tf.bitwise.right_shift(values[:, None], 7 * place)  # [n, 5]
  more = tf.pad(rest[:, 1:] > 0, [[0, 0], [0, 1]])  # whether a byte follows
  octets = (rest & 127) + 128 * tf.cast(more, tf.int64)
  return tf.boolean_mask(octets, (rest > 0) | (place == 0))


def _octets(string, count):
  """The first bytes of a string as int64 [count], zeros after its end."""
  octets = tf.io.decode_raw(tf.strings.substr(string, 0, count), tf.uint8, fixed_length=count)
  return tf.cast(tf.ensure_shape(octets, [count]), tf.int64)


def _bytes_string(octets):
  """The scalar string of int64 [n] in 0..255."""
  return tf.strings.reduce_join(tf.gather([bytes([octet]) for octet in range(256)], octets))


def _little_endian(octets):
  """The number that int64 [4] in 0..255 spell, the lowest first."""
  return tf.reduce_sum(octets * tf.constant([1, 1 << 8, 1 << 16, 1 << 24], tf.int64))
