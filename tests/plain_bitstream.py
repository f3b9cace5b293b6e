"""The container, written from docs/format.md alone: slow, plain, and the oracle of the tests."""

from __future__ import annotations

import zlib


class Refused(Exception):
  """The name of the check in docs/format.md that failed."""


def write(fingerprint, input_format, bit_depth, height, width, substreams):
  """Writes a file, valid or not: fields may have any value, of a fingerprint of any length."""
  lengths = [len(substream) for substream in substreams]
  return write_numbers(
    fingerprint,
    input_format,
    bit_depth,
    [varint(number) for number in (height, width, len(substreams), *lengths[:-1])],
    b"".join(substreams),
  )


def write_numbers(fingerprint, input_format, bit_depth, varints, payload):
  """Writes a file from varints as bytes, which may be wrong in form or in meaning."""
  return seal(
    b"KVC\x01\x00" + fingerprint + bytes([input_format, bit_depth]) + b"".join(varints) + payload
  )


def seal(body):
  """Appends the right checksum."""
  return body + zlib.crc32(body).to_bytes(4, "little")


def varint(number):
  octets = bytearray()
  while number >= 128:
    octets.append(number % 128 + 128)
    number //= 128
  octets.append(number)
  return bytes(octets)


def parse(data, max_pixels=2**27):
  """Reads a file.

  Returns:
    ((fingerprint, input format, bit depth, height, width), list of bytes).

  Raises:
    Refused: with the name of the first check that fails.
  """
  _refuse_if(len(data) == 0, "EMPTY")
  _refuse_if(len(data) < 22, "TOO_SHORT")
  _refuse_if(data[0:3] != b"KVC", "MAGIC")
  _refuse_if(data[3] != 1, "VERSION")
  _refuse_if(data[4] != 0, "FLAGS")
  body = data[:-4]
  if zlib.crc32(body) != int.from_bytes(data[-4:], "little"):
    raise Refused("CUT" if _leads_too_far(body) else "CRC")

  input_format, bit_depth = data[13], data[14]
  _refuse_if(input_format > 3, "INPUT_FORMAT")
  _refuse_if(bit_depth not in ((8, 10) if input_format >= 2 else (8,)), "BIT_DEPTH")
  (height, width, count), lengths, start = _read_numbers(body)
  _refuse_if(not 1 <= height <= 65535, "HEIGHT")
  _refuse_if(not 1 <= width <= 65535, "WIDTH")
  _refuse_if(height * width > max_pixels, "PIXELS")
  _refuse_if(not 1 <= count <= 16, "SUBSTREAMS")
  _refuse_if(start + sum(lengths) > len(body), "LENGTHS")

  substreams = []
  for length in lengths:
    substreams.append(body[start : start + length])
    start += length
  substreams.append(body[start:])
  return (data[5:13], input_format, bit_depth, height, width), substreams


def _refuse_if(fails, name):
  if fails:
    raise Refused(name)


def _leads_too_far(body):
  try:
    _, lengths, start = _read_numbers(body)
  except Refused:
    return False
  return start + sum(lengths) > len(body)


def _read_numbers(body):
  """[height, width, n], the lengths, and the offset of the first substream."""
  numbers, offset = [], 15
  for _ in range(3):
    number, offset = _read_varint(body, offset)
    numbers.append(number)
  lengths = []
  if 1 <= numbers[2] <= 16:
    for _ in range(numbers[2] - 1):
      length, offset = _read_varint(body, offset)
      lengths.append(length)
  return numbers, lengths, offset


def _read_varint(body, offset):
  number = 0
  for place in range(5):
    _refuse_if(offset >= len(body), "VARINT")
    octet = body[offset]
    offset += 1
    number += octet % 128 * 128**place
    if octet < 128:
      _refuse_if(place > 0 and octet == 0, "VARINT")
      return number, offset
  raise Refused("VARINT")
