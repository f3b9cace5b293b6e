"""Damage that Pillow passes over in silence: files with too little or too much data for their size.

Where a PNG's data ends early, Pillow leaves the other rows black; where a JPEG's does, libjpeg
fills the rest with grey and warns nobody. A whole PNG costs a look at its last row. A JPEG is
decoded a second time, from other data, which shows whether each pixel has its data and the last
bytes their pixels; damage that leaves as much data as is needed is not found. Readers of other
formats complain by themselves, but for TIFFs that hold a JPEG.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from typing import NamedTuple

from PIL import Image

# Data that no whole file lacks or has left over: encoders pad by a few bytes at most.
_PADDING = 64
# Of any meaning to a decoder that still waits for data; no 255, which begins a marker.
_OTHER_DATA = bytes(range(1, _PADDING + 1))
_STRIP = 64
_END = b"\xff\xd9"
_SEQUENTIAL, _PROGRESSIVE, _SCAN = (0xC0, 0xC1), 0xC2, 0xDA
# Of Adam7: first column and row, and steps, of each pass.
_PASSES = (
  *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
  *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by a PNG's colour type


class DamageError(ValueError):
  """An image file that does not hold what its header says."""


def check(image: Image.Image, data: bytes) -> None:
  """Raises DamageError where a file does not hold all of its image.

  Args:
    image: decoded, as it is in the file.
    data: the file.
  """
  if image.format == "PNG":
    _check_png(image, data)
  elif image.format in ("JPEG", "MPO"):
    _check_jpeg(image, data)


def _check_png(image: Image.Image, data: bytes) -> None:
  is_interlaced = data[28] == 1
  bottom = (0, image.height - 1, image.width, image.height)
  if is_interlaced or image.crop(bottom).getbbox() is None:
    found, expected = _inflated_size(data), _png_size(data, is_interlaced)
    if found < expected:
      raise DamageError(f"{found} bytes of samples, expected {expected}")


def _inflated_size(data: bytes) -> int:
  """Returns how many bytes a PNG's data chunks hold."""
  inflate, size, position = zlib.decompressobj(), 0, 8
  while position + 8 <= len(data):
    length, kind = struct.unpack_from(">I4s", data, position)
    if kind == b"IDAT":
      size += len(inflate.decompress(data[position + 8 : position + 8 + length]))
    position += 12 + length
  return size


def _png_size(data: bytes, is_interlaced: bool) -> int:
  """Returns how many bytes the samples of a PNG take, with a byte for each row's filter."""
  width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
  size = 0
  for left, top, right, down in _PASSES if is_interlaced else ((0, 0, 1, 1),):
    columns, rows = -(-(width - left) // right), -(-(height - top) // down)
    if columns > 0 and rows > 0:
      size += rows * (1 + -(-columns * bits * _SAMPLES[colour] // 8))
  return size


class _Jpeg(NamedTuple):
  """Where the scans of a JPEG are."""

  frame: int  # marker of the frame, which says how it is coded
  components: tuple[int, ...]
  scans: list[tuple[tuple[int, ...], int, int, int]]  # components, first and last coefficient, bit
  start: int  # of the last scan's data
  stop: int


def _parse_jpeg(data: bytes) -> _Jpeg:
  position, frame, components, scans, start = 2, 0, (), [], 0
  marker = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
  while match := marker.search(data, position):
    code, stop = match[0][-1], match.end() - 2
    if code == _END[1]:
      return _Jpeg(frame, components, scans, start, stop)
    length = int.from_bytes(data[stop + 2 : stop + 4], "big")
    body = data[stop + 4 : stop + 2 + length]
    position = stop + 2 + length
    if code == _SCAN:
      last, bit = body[-2], body[-1] & 15
      scans.append((tuple(body[1:-3:2]), body[-3], last, bit))
      start = position
    elif code in (*_SEQUENTIAL, _PROGRESSIVE):
      frame, components = code, tuple(body[6::3])
  return _Jpeg(frame, components, scans, start, len(data))


def _check_jpeg(image: Image.Image, data: bytes) -> None:
  jpeg = _parse_jpeg(data)
  if jpeg.frame in _SEQUENTIAL and len(jpeg.scans) == 1:
    if not _ends_in_grey(image):
      # Without its last data the image must be another one; grey would be grey without data, too.
      has_data = jpeg.stop - jpeg.start >= 2 * _PADDING
      less = data[: jpeg.stop - _PADDING] + _END
      if has_data and _are_equal(_decoded(less), image):
        raise DamageError("data that belongs to no pixel is left over")
      return
  elif jpeg.frame in (*_SEQUENTIAL, _PROGRESSIVE):
    _check_scans(jpeg)
  else:
    return  # Arithmetic coding leaves out data at its end.
  # More data must not change what is whole.
  more = _decoded(data[: jpeg.stop] + _OTHER_DATA + _END)
  if not _are_equal(more, image):
    raise DamageError("the data ends before the last pixel")


def _check_scans(jpeg: _Jpeg) -> None:
  """Checks that the scans give each coefficient of each component to its last bit."""
  whole = {
    (component, each)
    for components, first, last, bit in jpeg.scans
    for component in components
    for each in range(first, last + 1)
    if bit == 0
  }
  if len(whole) < 64 * len(jpeg.components):
    raise DamageError("scans are missing at its end")


def _decoded(data: bytes) -> Image.Image:
  image = Image.open(io.BytesIO(data), formats=("JPEG",))
  image.load()
  return image


def _are_equal(one: Image.Image, other: Image.Image) -> bool:
  """Compares images of one mode and size strip by strip, as copies of the whole take memory."""
  strips = ((0, top, one.width, top + _STRIP) for top in range(0, one.height, _STRIP))
  return all(one.crop(strip).tobytes() == other.crop(strip).tobytes() for strip in strips)


def _ends_in_grey(image: Image.Image) -> bool:
  """Returns whether the last pixel is what libjpeg gives without data, or near it."""
  last = image.getpixel((image.width - 1, image.height - 1))
  return all(abs(each - 128) <= 1 for each in (last if isinstance(last, tuple) else (last,)))
