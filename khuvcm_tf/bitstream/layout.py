"""The layout of a .kvc file, a table for each version, and the checks of what it holds.

Every version has this frame; its table lists the fields in the middle:

| offset | bytes  | content                                                                    |
| ------ | ------ | -------------------------------------------------------------------------- |
| 0      | 3      | `KVC`                                                                      |
| 3      | 1      | version                                                                    |
| 4      | 1      | flags, 0                                                                   |
| 5      |        | the fields of `LAYOUTS[version]`, those that are varints at the end        |
|        | varint | n, the number of substreams, 1..16                                         |
|        | varint | length in bytes of each substream but the last, n - 1 numbers              |
|        |        | the substreams; the last one takes what is left                            |
| -4     | 4      | CRC-32 (that of zlib) of all bytes before it, little-endian                |

A varint is unsigned LEB128, at most 5 bytes, in its shortest form.

To add a version: add its fields to the end of `Header` with defaults, which readers give for
versions without the field; add a table to `LAYOUTS`; and add a text to `TEXTS` for each new range.
`plain` and `ops` then read and write both versions.

The checks serve `plain` with Python integers and `ops` with int64 scalars, so they use only
operators that both have: `|` and `&` rather than `or` and `and`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from khuvcm_tf import errors

RGB, GREY, YCBCR444, YCBCR420, FEATURES = range(5)  # input formats
DEFAULT_MAX_PIXELS = 2**27
MAX_SIDE = 65535
MAX_SUBSTREAMS = 16
QUALITY_STEPS = 255  # of files, from the lowest to the highest quality
MAX_QUALITY = 100  # as users give it, from 0

MAGIC = b"KVC"
FLAGS = 0
FRAME_BYTES = 5  # magic, version, flags
CRC_BYTES = 4
VARINT_BYTES = 5

BYTES, BYTE, VARINT = "bytes", "byte", "varint"  # kinds of fields


class BitstreamError(errors.Error):
  """A file that cannot be read, or a header that cannot be written."""


class Header(NamedTuple):
  """What a file says about its image before the substreams are decoded.

  Attributes:
    fingerprint: 8 bytes that identify the model; a string tensor in `ops`.
    input_format: RGB, GREY, YCBCR444, YCBCR420 or, in version 3 alone, FEATURES. This and all that
      follow are integers; int32 scalars in `ops`.
    bit_depth: bits per sample, 8 or 10; 32 of features.
    height, width: luma pixels, 1..65535; of features those of the resized image that the detector
      saw, which give the sizes of all levels.
    quality: of models of several rates, 0..255 for the lowest to the highest; else 0. Not in
      version 1.
    levels: of features, which levels are in the file: bit 0 is P2, bit 3 is P5.
    original_height, original_width: of features, pixels of the image itself.
  """

  fingerprint: bytes
  input_format: int
  bit_depth: int
  height: int
  width: int
  quality: int = 0
  levels: int = 0
  original_height: int = 0
  original_width: int = 0


class Field(NamedTuple):
  """A field of the header in a file.

  Attributes:
    name: of the attribute of `Header`. In capitals, it is the key in `TEXTS` of the error that the
      value is out of range.
    kind: BYTES, BYTE or VARINT.
    low, high: smallest and largest value of a number.
    size: number of bytes where the kind is BYTES.
  """

  name: str
  kind: str
  low: int = 0
  high: int = 255
  size: int = 1


class Layout(NamedTuple):
  """The header of one version.

  Attributes:
    version: the fourth byte of the file.
    fields: in the order of the file; varints behind the others.
  """

  version: int
  fields: tuple[Field, ...]

  @property
  def fixed(self) -> list[Field]:
    """The fields with a fixed number of bytes."""
    return [field for field in self.fields if field.kind != VARINT]

  @property
  def varints(self) -> list[Field]:
    return [field for field in self.fields if field.kind == VARINT]

  @property
  def fixed_bytes(self) -> int:
    """The bytes before the first varint."""
    return FRAME_BYTES + sum(field.size for field in self.fixed)

  @property
  def absent(self) -> dict[str, Any]:
    """The fields of `Header` that the version lacks, with their defaults."""
    present = {field.name for field in self.fields}
    return {name: Header._field_defaults[name] for name in Header._fields if name not in present}


_FINGERPRINT = Field("fingerprint", BYTES, size=8)
_BIT_DEPTH = Field("bit_depth", BYTE)  # Its values depend on the input format: `_value_checks`.
_QUALITY = Field("quality", BYTE, high=QUALITY_STEPS)
_FIXED = (_FINGERPRINT, Field("input_format", BYTE, high=YCBCR420), _BIT_DEPTH)
_SIDES = (
  Field("height", VARINT, low=1, high=MAX_SIDE),
  Field("width", VARINT, low=1, high=MAX_SIDE),
)
LAYOUTS = {
  1: Layout(1, (*_FIXED, *_SIDES)),
  2: Layout(2, (*_FIXED, _QUALITY, *_SIDES)),
  3: Layout(
    3,
    (
      _FINGERPRINT,
      Field("input_format", BYTE, low=FEATURES, high=FEATURES),
      _BIT_DEPTH,
      _QUALITY,
      Field("levels", BYTE, low=1, high=15),
      *_SIDES,
      Field("original_height", VARINT, low=1, high=MAX_SIDE),
      Field("original_width", VARINT, low=1, high=MAX_SIDE),
    ),
  ),
}

# Shorter files are refused before their version is looked at: a header whose varints have one byte
# each, with a single empty substream.
MIN_BYTES = LAYOUTS[1].fixed_bytes + len(LAYOUTS[1].varints) + 1 + CRC_BYTES

# The errors: what was found, what was expected, what to do. `docs/format.md` lists them in the
# order in which they are checked.
TEXTS = {
  "GOOD": "the file is good",
  "EMPTY": "the file is empty: found {found} bytes, expected at least {expected}; "
  "compress the image again",
  "TOO_SHORT": "the file is too short: found {found} bytes, expected at least {expected}; "
  "copy it again from its source",
  "MAGIC": "not a .kvc file: its first bytes are 0x{found:08x}, expected 0x{expected:08x} (KVC and "
  "the version); check the name of the file",
  "VERSION": "the file has format version {found}, expected 1 to {expected}; "
  "read it with the program that wrote it or a newer one",
  "FLAGS": "the file has unknown flags: found {found}, expected {expected}; "
  "read it with the program that wrote it or a newer one",
  "CUT": "the file is cut short or damaged: found {found} bytes, expected at least {expected} by "
  "its header; copy it again from its source",
  "CRC": "the file is damaged, cut short or extended: its CRC-32 is 0x{found:08x}, expected "
  "0x{expected:08x} as stored at its end; copy it again from its source",
  "INPUT_FORMAT": "unsupported input format: found {found}, expected 0 to {expected} (RGB, grey, "
  "YCbCr 4:4:4, YCbCr 4:2:0; feature maps in version 3); use one of these or a newer program",
  "BIT_DEPTH": "unsupported bit depth: found {found}, expected 8 (10 only for YCbCr, 32 for "
  "features), at most {expected} for this input format; convert the image",
  "LEVELS": "levels of features out of range: found {found}, expected 1 to {expected}, a bit for "
  "each of P2 to P5; compress the features again",
  "VARINT": "a number in the header is overlong, not in its shortest form or unfinished: found at "
  "byte {found}, expected at most {expected} bytes a number; compress the image again",
  "HEIGHT": "height out of range: found {found}, expected 1 to {expected} pixels; "
  "compress the image in parts",
  "WIDTH": "width out of range: found {found}, expected 1 to {expected} pixels; "
  "compress the image in parts",
  "ORIGINAL_HEIGHT": "height of the image out of range: found {found}, expected 1 to {expected} "
  "pixels; compress the features again",
  "ORIGINAL_WIDTH": "width of the image out of range: found {found}, expected 1 to {expected} "
  "pixels; compress the features again",
  "PIXELS": "the image is larger than allowed: found {found} pixels, expected at most "
  "{expected}; raise max_pixels if you trust the file",
  "SUBSTREAMS": "number of substreams out of range: found {found}, expected 1 to {expected}; "
  "compress the image again",
  "LENGTHS": "the substreams exceed the file: found lengths that need {found} bytes, expected at "
  "most {expected}; compress the image again",
  # Of writers only.
  "FINGERPRINT": "wrong fingerprint of the model: found {found} bytes, expected {expected}; "
  "take it from the model",
  "QUALITY": "quality out of range: found {found}, expected 0 to {expected}; "
  "take it from the model",
  "ABSENT": "the version of the file lacks a field of the header: found the value {found}, "
  "expected the default {expected}; write a newer version",
}


class Check(NamedTuple):
  """A check of a file or a header.

  Attributes:
    name: a key of `TEXTS`.
    failed: whether the check fails.
    found, expected: the numbers of the text.
  """

  name: str
  failed: Any
  found: Any
  expected: Any


class Reading(NamedTuple):
  """What a reader takes from a file before any check.

  Numbers are read as if zeros followed the end of the file. Where `wrong_at` is not -1, the varints
  may have any value.

  Attributes:
    size: bytes of the file.
    start: the first four bytes as a big-endian number: magic and version.
    flags: the fifth byte.
    crc: CRC-32 of all but the last four bytes.
    stored_crc: the last four bytes.
    header: `Header`.
    count: n, the number of substreams.
    end: offset at which the last substream begins; where n is out of range, that behind n.
    wrong_at: offset of the first byte that breaks the form of a varint, or -1.
  """

  size: Any
  start: Any
  flags: Any
  crc: Any
  stored_crc: Any
  header: Header
  count: Any
  end: Any
  wrong_at: Any


def layout_of(version: int) -> Layout:
  """Returns the layout of a version; for an unknown one the first, whose VERSION check fails."""
  return LAYOUTS.get(version, next(iter(LAYOUTS.values())))


def reading_checks(layout: Layout, reading: Reading, max_pixels: Any) -> list[Check]:
  """Returns all checks of a file, in their order: the first that fails is the error to report.

  Args:
    layout: by which the file was read.
    reading: what was read.
    max_pixels: the largest height * width to accept.
  """
  header, newest = reading.header, max(LAYOUTS)
  is_damaged = reading.crc != reading.stored_crc
  exceeds = reading.end + CRC_BYTES > reading.size
  # A damaged file whose lengths exceed it was probably cut short, and the error says so. This is
  # the only use of numbers that the CRC has not confirmed.
  is_cut = is_damaged & (reading.wrong_at < 0) & exceeds
  pixels = header.height * header.width
  return [
    Check("EMPTY", reading.size == 0, reading.size, MIN_BYTES),
    Check("TOO_SHORT", reading.size < MIN_BYTES, reading.size, MIN_BYTES),
    Check(
      "MAGIC",
      reading.start // 256 != int.from_bytes(MAGIC, "big"),
      reading.start,
      int.from_bytes(MAGIC, "big") * 256 + newest,
    ),
    Check("VERSION", reading.start % 256 != layout.version, reading.start % 256, newest),
    Check("FLAGS", reading.flags != FLAGS, reading.flags, FLAGS),
    Check("CUT", is_cut, reading.size, reading.end + CRC_BYTES),
    Check("CRC", is_damaged, reading.crc, reading.stored_crc),
    *_value_checks(layout.fixed, header),
    Check("VARINT", reading.wrong_at >= 0, reading.wrong_at, VARINT_BYTES),
    *_value_checks(layout.varints, header),
    Check("PIXELS", pixels > max_pixels, pixels, max_pixels),
    _count_check(reading.count),
    Check("LENGTHS", exceeds, reading.end + CRC_BYTES, reading.size),
  ]


def writing_checks(
  layout: Layout, header: Header, sizes: dict[str, Any], count: Any
) -> list[Check]:
  """Returns all checks of a header that is to be written, in their order.

  Args:
    layout: of the version to write.
    header: what to write.
    sizes: name of each field of kind BYTES: number of its bytes.
    count: number of substreams.
  """
  strings = [field for field in layout.fields if field.kind == BYTES]
  return [
    *(
      Check(field.name.upper(), sizes[field.name] != field.size, sizes[field.name], field.size)
      for field in strings
    ),
    *_value_checks(layout.fields, header),
    _count_check(count),
    *(
      Check("ABSENT", getattr(header, name) != default, getattr(header, name), default)
      for name, default in layout.absent.items()
    ),
  ]


def _value_checks(fields, header: Header) -> list[Check]:
  """Returns the checks of numbers, field by field."""
  checks = []
  for field in fields:
    value = getattr(header, field.name)
    if field.name == "bit_depth":
      is_rgb_or_grey = header.input_format < YCBCR444
      is_features = header.input_format == FEATURES
      is_ycbcr = (header.input_format >= YCBCR444) & (header.input_format < FEATURES)
      checks += [
        Check("BIT_DEPTH", is_rgb_or_grey & (value != 8), value, 8),
        Check("BIT_DEPTH", is_features & (value != 32), value, 32),
        Check("BIT_DEPTH", is_ycbcr & (value != 8) & (value != 10), value, 10),
      ]
    elif field.kind != BYTES:
      is_outside = (value < field.low) | (value > field.high)
      checks.append(Check(field.name.upper(), is_outside, value, field.high))
  return checks


def _count_check(count: Any) -> Check:
  return Check("SUBSTREAMS", (count < 1) | (count > MAX_SUBSTREAMS), count, MAX_SUBSTREAMS)
