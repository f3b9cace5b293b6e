"""Reads and writes .kvc files in plain Python.

This is what programs use; `khuvcm_tf.bitstream.ops` does the same in TensorFlow.
"""

from __future__ import annotations

import contextlib
import operator
import zlib
from collections.abc import Iterable, Sequence

from khuvcm_tf.bitstream import layout as layout_lib
from khuvcm_tf.bitstream.layout import (
  BYTES,
  CRC_BYTES,
  DEFAULT_MAX_PIXELS,
  FLAGS,
  FRAME_BYTES,
  MAGIC,
  MAX_QUALITY,
  MAX_SUBSTREAMS,
  QUALITY_STEPS,
  VARINT_BYTES,
  BitstreamError,
  Check,
  Header,
  Layout,
  Reading,
)


class _WrongVarint(Exception):
  """A varint whose form is wrong; `at` is the offset of the first wrong byte."""

  def __init__(self, at: int):
    super().__init__(at)
    self.at = at


def pack(header: Header, substreams: Sequence[bytes], version: int = 1) -> bytes:
  """Writes a file.

  Args:
    header: the fields of the file; numbers of NumPy's types, too.
    substreams: 1 to 16 strings of bytes, empty ones allowed.
    version: of the format, a key of `layout.LAYOUTS`.

  Returns:
    The file: at most 32 bytes more than the substreams for an RGB image with two.

  Raises:
    TypeError: a field or a substream has another type.
    BitstreamError: a field or the number of substreams is out of range.

  Example:
    >>> file = pack(Header(b"modelABC", 0, 8, height=512, width=768), [b"side", b"main"])
    >>> len(file), parse(file)[1]
    (33, [b'side', b'main'])
  """
  if isinstance(substreams, (bytes, str)):
    kind = type(substreams).__name__
    raise TypeError(f"`substreams` is {kind}, expected a list of bytes; put it into a list")
  layout = layout_lib.LAYOUTS[version]
  strings = [field.name for field in layout.fields if field.kind == BYTES]
  header = header._replace(
    **{name: _typed(name, value, name in strings) for name, value in header._asdict().items()}
  )
  sizes = {name: len(getattr(header, name)) for name in strings}
  _raise_first_failure(layout_lib.writing_checks(layout, header, sizes, len(substreams)))
  numbers = [getattr(header, field.name) for field in layout.varints]
  numbers += [len(substreams), *map(len, substreams[:-1])]
  body = b"".join(
    [
      MAGIC,
      bytes([version, FLAGS]),
      *(_fixed(getattr(header, field.name)) for field in layout.fixed),
      *map(_varint, numbers),
      *substreams,
    ]
  )
  return body + zlib.crc32(body).to_bytes(CRC_BYTES, "little")


def parse(data: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> tuple[Header, list[bytes]]:
  """Reads a file and checks all of it that is not inside the substreams.

  Args:
    data: the file.
    max_pixels: the largest height * width to accept.

  Returns:
    (`Header`, substreams).

  Raises:
    TypeError: `data` is not bytes, or `max_pixels` is not an integer.
    BitstreamError: the file is not valid, or its image is larger than `max_pixels`.
  """
  if not isinstance(data, bytes):
    raise TypeError(f"`data` is {type(data).__name__}, expected bytes; read the file in mode 'rb'")
  max_pixels = operator.index(max_pixels)
  reading, lengths = _read(data)
  layout = layout_lib.layout_of(reading.start % 256)
  _raise_first_failure(layout_lib.reading_checks(layout, reading, max_pixels))
  substreams, last = [], len(data) - CRC_BYTES
  start = reading.end - sum(lengths)
  for length in lengths:
    substreams.append(data[start : start + length])
    start += length
  return reading.header, [*substreams, data[start:last]]


def version_of(data: bytes) -> int:
  """Returns the format version of a file that is valid."""
  return data[FRAME_BYTES - 2]


def source_pixels(header: Header) -> int:
  """Returns the pixels of the image that a file is of, which bits per pixel are counted by."""
  if header.input_format == layout_lib.FEATURES:
    return header.original_height * header.original_width
  return header.height * header.width


def quality_of(data: bytes) -> float | None:
  """Returns the quality of a file, 0 .. 100; None of version 1, which models of one rate write.

  Raises:
    BitstreamError: the file is not valid.
  """
  header, _ = parse(data, layout_lib.MAX_SIDE**2)
  return None if version_of(data) == 1 else header.quality * MAX_QUALITY / QUALITY_STEPS


def _typed(name: str, value: object, is_string: bool) -> bytes | int:
  """Returns a field's value as bytes or as a Python integer, or raises TypeError."""
  with contextlib.suppress(TypeError):
    return memoryview(value).tobytes() if is_string else operator.index(value)
  kind, expected = type(value).__name__, "bytes" if is_string else "an integer"
  raise TypeError(f"`{name}` of the header is {kind}, expected {expected}")


def _raise_first_failure(checks: Iterable[Check]) -> None:
  for name, failed, found, expected in checks:
    if failed:
      raise BitstreamError(layout_lib.TEXTS[name].format(found=found, expected=expected))


def _read(data: bytes) -> tuple[Reading, list[int]]:
  """Returns a file's numbers, unchecked, and the lengths of all substreams but the last."""
  body = data[:-CRC_BYTES]
  start = body[:4].ljust(4, b"\0")
  layout = layout_lib.layout_of(start[3])
  octets = body[: layout.fixed_bytes].ljust(layout.fixed_bytes, b"\0")
  values, offset = dict(layout.absent), FRAME_BYTES
  for field in layout.fixed:
    octets_of_field = octets[offset : offset + field.size]
    values[field.name] = octets_of_field if field.kind == BYTES else octets_of_field[0]
    offset += field.size
  numbers, lengths, end, wrong_at = _read_numbers(body, layout)
  values.update(zip((field.name for field in layout.varints), numbers))
  reading = Reading(
    size=len(data),
    start=int.from_bytes(start, "big"),
    flags=octets[4],
    crc=zlib.crc32(body),
    stored_crc=int.from_bytes(data[-CRC_BYTES:], "little"),
    header=layout_lib.Header(**values),
    count=numbers[-1],
    end=end + sum(lengths),
    wrong_at=wrong_at,
  )
  return reading, lengths


def _read_numbers(body: bytes, layout: Layout) -> tuple[list[int], list[int], int, int]:
  """Reads all varints.

  Returns:
    Those of the header and the number of substreams; the lengths; the offset behind them; and the
    offset of the first wrong byte, or -1. Where there is one, all others are zeros or empty.
  """
  count = len(layout.varints) + 1
  try:
    numbers, end = _read_varints(body, layout.fixed_bytes, count)
    has_lengths = 1 <= numbers[-1] <= MAX_SUBSTREAMS
    lengths, end = _read_varints(body, end, numbers[-1] - 1 if has_lengths else 0)
    return numbers, lengths, end, -1
  except _WrongVarint as error:
    return [0] * count, [], 0, error.at


def _read_varints(body: bytes, offset: int, count: int) -> tuple[list[int], int]:
  """Returns that many varints and the offset behind them."""
  values = []
  for _ in range(count):
    value, offset = _read_varint(body, offset)
    values.append(value)
  return values, offset


def _read_varint(body: bytes, offset: int) -> tuple[int, int]:
  """Returns a varint and the offset behind it."""
  value = 0
  for position in range(VARINT_BYTES):
    if offset + position >= len(body):
      raise _WrongVarint(offset + position)
    octet = body[offset + position]
    if octet == 0 and position > 0:
      raise _WrongVarint(offset + position)
    value |= (octet & 127) << 7 * position
    if octet < 128:
      return value, offset + position + 1
  raise _WrongVarint(offset + VARINT_BYTES)


def _fixed(value: bytes | int) -> bytes:
  return value if isinstance(value, bytes) else bytes([value])


def _varint(value: int) -> bytes:
  octets = bytearray()
  while value > 127:
    octets.append(value & 127 | 128)
    value >>= 7
  return bytes([*octets, value])
