"""Where the features of TFRecord files are, so that one is read without those before it.

    file     = record, record, ...
    record   = length (u64), CRC of it (u32), length bytes of an Example, CRC of them (u32)
    Example  = features { feature { key: "image", value { bytes_list { value: PNG, JPEG } } } ... }

Reference: "TFRecord and tf.train.Example" in TensorFlow's guides; "Encoding" in the documentation
of Protocol Buffers.
"""

from __future__ import annotations

import itertools
import mmap
import os
import struct
from collections.abc import Iterator, Sequence

from khuvcm_tf.data import DataError

_BYTES = 2  # wire type of Protocol Buffers
_BYTES_LIST = 1  # field of a Feature

Span = tuple[int, int]  # of bytes in a file: the first, and the one behind the last


def spans(
  path: str, names: Sequence[str], skip: int = 0, take: int | None = None
) -> Iterator[dict[str, Span]]:
  """Yields where each record has features of bytes.

  Args:
    path: of the file.
    names: of the features; a record has one of them at least.
    skip: number of records to pass over.
    take: number of records to yield; None: up to the file's end.

  Raises:
    DataError: the file is damaged, or a record has no such feature.
  """
  wanted, number = {name.encode(): name for name in names}, 0
  stop = None if take is None else skip + take
  try:
    if take == 0 or (take is None and not os.path.getsize(path)):
      return
    with (
      open(path, "rb") as file,
      mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
      start = 0
      for number in itertools.count():
        if number == stop or (take is None and start == len(data)):
          return
        (length,) = struct.unpack_from("<Q", data, start)
        start += 12
        if start + length + 4 > len(data):
          raise ValueError("it ends behind the file's end")
        if number >= skip:
          yield _find(data, start, start + length, wanted)
        start += length + 4
  except (OSError, ValueError, IndexError, struct.error) as error:
    reason = getattr(error, "strerror", None) or error
    raise DataError(f"{path}: record {number} cannot be read: {reason}; prepare it anew") from error


def _find(data, start: int, stop: int, wanted: dict[bytes, str]) -> dict[str, Span]:
  """Returns where the bytes of features start and stop within a serialized Example."""
  found = {}
  for features in _fields(data, start, stop):
    for feature in _fields(data, *features[1:]):
      (_, *key), (_, *value) = sorted(_fields(data, *feature[1:]))
      name = wanted.get(bytes(data[slice(*key)]))
      if name:
        ((kind, *values),) = _fields(data, *value)
        if kind != _BYTES_LIST:
          raise ValueError(f"its feature `{name}` is not of bytes")
        ((_, first, last),) = _fields(data, *values)
        found[name] = first, last
        if len(found) == len(wanted):
          return found
  if not found:
    raise ValueError(f"it has no feature `{'` or `'.join(wanted.values())}`")
  return found


def _fields(data, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
  """Yields number, start and stop of the fields of a serialized message, all of them of bytes."""
  while start < stop:
    tag, start = _varint(data, start)
    length, start = _varint(data, start)
    if tag & 7 != _BYTES or start + length > stop:
      raise ValueError("it is not an Example")
    yield tag >> 3, start, start + length
    start += length


def _varint(data, start: int) -> tuple[int, int]:
  """Returns a number of 7 bits a byte, lowest first, and where it stops."""
  value = shift = 0
  while True:
    byte = data[start]
    value, shift, start = value | (byte & 127) << shift, shift + 7, start + 1
    if byte < 128:
      return value, start
