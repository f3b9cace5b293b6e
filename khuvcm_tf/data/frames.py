"""Frames of raw video: .yuv and .y4m files, planar 4:2:0, 8 or 10 bits, read and written.

Samples come in as they are in the file: nothing is converted, scaled or rounded. In both formats a
frame is its luma, then its Cb, then its Cr, row by row; 10 bits lie in the low bits of 16-bit
little-endian words. A .yuv file is frames and nothing else. A .y4m file (YUV4MPEG2) has a header
that says the size, and a line before each frame.

  H, W: sides of the frame; h, w: half of them, rounded up.
"""

from __future__ import annotations

import array
import contextlib
import dataclasses
import fractions
import operator
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np
import tensorflow as tf

from khuvcm_tf import errors
from khuvcm_tf.ops import color

SUFFIXES = (".yuv", ".y4m")
MAX_SIDE = 65535  # what .kvc files can hold
MAX_PIXELS = 2**27  # what is decoded again without being asked to
_BITS = {8: np.dtype("u1"), 10: np.dtype("<u2")}  # depth -> samples in the file
_SIGNATURE = "YUV4MPEG2"
_MAX_LINE = 1024  # bytes of a .y4m file's header, or of the line before a frame

# Parameter C of a .y4m header -> bits, siting. PAL DV has Cb and Cr on rows of their own, which
# `color` does not know; the difference is a quarter of a chroma row.
_COLOURS = {
  "420": (8, "centre"),
  "420jpeg": (8, "centre"),
  "420mpeg2": (8, "left"),
  "420paldv": (8, "left"),
  "420p10": (10, "left"),
}


class FrameError(errors.Error):
  """A file that cannot be read as raw frames, or frames that cannot be written."""


class Frame(NamedTuple):
  """One image of a video in YCbCr 4:2:0.

  Attributes:
    y: [H, W], uint8 for 8 bits, uint16 for 10.
    cb: [h, w], of the same dtype.
    cr: [h, w], of the same dtype.
    bits: 8 or 10.
  """

  y: np.ndarray
  cb: np.ndarray
  cr: np.ndarray
  bits: int = 8


@dataclasses.dataclass(frozen=True)
class FrameReader:
  """The frames of a file, each read when it is asked for: `reader[3]`, `for frame in reader`.

  Attributes:
    path: of the file.
    width, height: W and H.
    bits: 8 or 10.
    rate: frames per second; None where the file does not say.
    siting: of chroma, one of `color.SITINGS`; "left" where the file does not say.
    full_range: whether a .y4m file says so (XCOLORRANGE=FULL).
  """

  path: str
  width: int
  height: int
  bits: int
  rate: fractions.Fraction | None = None
  siting: str = "left"
  full_range: bool = False
  _offsets: Sequence[int] = dataclasses.field(default=(), repr=False)

  @property
  def count(self) -> int:
    """How many frames the file holds."""
    return len(self._offsets)

  def __len__(self) -> int:
    return self.count

  def __iter__(self) -> Iterator[Frame]:
    return (self[number] for number in range(self.count))

  def __getitem__(self, number: int) -> Frame:
    """Reads frame `number`, from 0, or from the end where negative; the arrays are writable.

    Raises:
      FrameError: the file cannot be read, or a 10-bit sample is above 1023.
      IndexError: there is no such frame.
    """
    try:
      offset = self._offsets[operator.index(number)]
    except IndexError as error:
      raise IndexError(f"{self.path}: has no frame {number}; it has {self.count}") from error
    shapes = _shapes(self.width, self.height)
    data = bytearray(_frame_bytes(self.width, self.height, self.bits))
    with _system_errors(self.path, "read"), open(self.path, "rb") as file:
      file.seek(offset)
      found = file.readinto(data)
    if found != len(data):
      raise FrameError(
        f"{self.path}: {found} bytes of frame {number}; expected {len(data)}; the file was cut "
        "short after it was opened"
      )
    samples = np.frombuffer(data, _BITS[self.bits])
    samples = samples.astype(samples.dtype.newbyteorder("="), copy=False)
    ends = np.cumsum([rows * columns for rows, columns in shapes])
    y, cb, cr = (plane.reshape(shape) for plane, shape in zip(np.split(samples, ends[:-1]), shapes))
    frame = Frame(y, cb, cr, self.bits)
    _check_levels(frame, f"{self.path}: frame {number}")
    return frame


def open_frames(
  path: str, width: int | None = None, height: int | None = None, bits: int | None = None
) -> FrameReader:
  """Opens a file of raw frames; takes no memory for one before the file's size has proved right.

  Args:
    path: ends in .yuv or .y4m.
    width, height: of a frame; must be given for .yuv, may be for .y4m and must agree then.
    bits: 8 or 10; likewise, but 8 unless given for .yuv.

  Raises:
    FrameError: the file is missing, of another kind (interlaced, not 4:2:0, another depth),
      damaged, or not a whole number of frames long.
  """
  path = os.fspath(path)
  suffix = _suffix(path)
  if os.path.exists(path) and not os.path.isfile(path):
    raise FrameError(f"{path}: is not a regular file; expected a .yuv or .y4m file")
  with _system_errors(path, "read"), open(path, "rb") as file:
    size = os.fstat(file.fileno()).st_size
    if suffix == ".yuv":
      return _open_yuv(path, size, width, height, 8 if bits is None else bits)
    reader = _open_y4m(path, file, size)
  for name, given in (("width", width), ("height", height), ("bits", bits)):
    found = getattr(reader, name)
    if given not in (None, found):
      raise FrameError(
        f"{path}: {name} is {found} by its header; expected {given}, as given; leave it out for "
        ".y4m files"
      )
  return reader


def parse_range(text: str, count: int) -> range:
  """Returns the numbers of the frames that `a:b` names: from a, 0 if left out, to before b.

  Unlike a slice of Python, it refuses what is empty or ends behind the last frame.

  Args:
    text: "a:b", "a:", ":b" or ":".
    count: of the frames there are.

  Raises:
    FrameError: another form, an empty range, or one beyond the end.

  Example:
    >>> parse_range("2:5", 10), parse_range(":", 10)
    (range(2, 5), range(0, 10))
  """
  match = re.fullmatch(r"([0-9]{0,18}):([0-9]{0,18})", text)
  if not match:
    raise FrameError(
      f"frames {text!r} are not a range; expected a:b, the numbers of the first frame (from 0) and "
      "of the one after the last"
    )
  first, stop = int(match[1] or 0), int(match[2] or count)
  if stop > count:
    raise FrameError(f"frames {text!r} end behind the last; expected at most :{count}")
  if first >= stop:
    raise FrameError(f"frames {text!r} are none; there are {count}; expected a < b in a:b")
  return range(first, stop)


def write_frames(
  path: str,
  frames: Iterable[Frame],
  rate: fractions.Fraction | int | None = None,
  siting: str | None = None,
  full_range: bool | None = None,
) -> int:
  """Writes frames as they come, one in memory at a time; the file is there whole or not at all.

  It grows under a temporary name beside `path` and is renamed when all is written: a file that was
  there before stays until then, also if `frames` raises.

  Args:
    path: ends in .yuv or .y4m.
    frames: all of one size and depth, at least one.
    rate: frames per second for a .y4m header, above 0; None for "unknown".
    siting: of chroma, for a .y4m header of 8 bits: 420jpeg for "centre", 420mpeg2 for "left", 420
      where None.
    full_range: for a .y4m header, which does not tell it where None.

  Returns:
    The number of frames written.

  Raises:
    FrameError: no frames, frames that differ in size or depth, a frame that `check_frame` refuses,
      or the file cannot be written.
  """
  path = os.fspath(path)
  suffix = _suffix(path)
  count = 0
  with _whole_or_absent(path) as file:
    for frame in frames:
      kind = check_frame(frame, f"`frames`[{count}]")
      if not count:
        first = kind
        if suffix == ".y4m":
          _write(path, file, _y4m_header(*kind, rate, siting, full_range))
      if kind != first:
        raise FrameError(
          f"{path}: frame {count} is {_words(*kind)}, frame 0 is {_words(*first)}; expected frames "
          "of one kind; write one file for each"
        )
      if suffix == ".y4m":
        _write(path, file, b"FRAME\n")
      for plane in frame[:3]:
        _write(path, file, plane.astype(_BITS[frame.bits], copy=False).tobytes())
      count += 1
    if not count:
      raise FrameError(f"{path}: there are no frames to write; expected at least one")
  return count


def to_rgb(
  frame: Frame, standard: str = "bt709", full_range: bool = False, siting: str = "left"
) -> np.ndarray:
  """Returns the image to look at, as 8-bit RGB.

  Files seldom say which colours they mean. The defaults are those of high-definition video;
  standard definition is "bt601", what was made from JPEG images "bt601", True, "centre".

  Args:
    frame: of 8 or 10 bits.
    standard: one of `color.STANDARDS`.
    full_range: whether luma fills 0..255 rather than 16..235, or 0..1023 rather than 64..940.
    siting: one of `color.SITINGS`.

  Returns:
    uint8 [H, W, 3]; chroma is interpolated bilinearly (`color.to_444`).
  """
  check_frame(frame, "`frame`")
  y = tf.cast(frame.y, tf.float32)[tf.newaxis, ..., tf.newaxis]
  uv = tf.cast(np.stack([frame.cb, frame.cr], axis=-1), tf.float32)[tf.newaxis]
  y = color.from_depth(y, frame.bits, full_range)
  uv = color.from_depth(uv, frame.bits, full_range, color.CHROMA_ZERO)
  rgb = color.ycbcr_to_rgb(color.to_444(y, uv, siting), standard, full_range)
  return color.levels(rgb)[0].numpy()


def check_frame(frame: Frame, name: str) -> tuple[int, int, int]:
  """Returns width, height and bits of a frame that is well made.

  Args:
    frame: as `Frame` describes it.
    name: of the frame, in the words of the error.

  Raises:
    FrameError: another depth, planes whose dtypes or shapes do not fit it or each other, or a
      10-bit sample above 1023.
  """
  height, width = frame.y.shape if frame.y.ndim == 2 else (0, 0)
  if frame.bits not in _BITS or not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
    raise FrameError(
      f"{name} has {frame.bits} bits, luma {frame.y.shape}; expected "
      f"{' or '.join(map(str, _BITS))} bits, luma [H, W] of 1 to {MAX_SIDE}"
    )
  dtype = _BITS[frame.bits].newbyteorder("=")
  for plane, shape in zip(frame[:3], _shapes(width, height)):
    if plane.dtype != dtype or plane.shape != shape:
      raise FrameError(
        f"{name} has a plane {plane.dtype} {plane.shape}; expected {dtype} {shape} beside luma "
        f"{frame.y.shape} of {frame.bits} bits"
      )
  _check_levels(frame, name)
  return width, height, frame.bits


def _suffix(path: str) -> str:
  suffix = os.path.splitext(path)[1].lower()
  if suffix not in SUFFIXES:
    raise FrameError(
      f"{path}: raw frames do not end in {suffix or 'a name without a suffix'!r}; expected a "
      f"file that ends in {' or '.join(SUFFIXES)}"
    )
  return suffix


def _shapes(width: int, height: int) -> list[tuple[int, int]]:
  """Returns the shapes of luma, Cb and Cr."""
  half = (-(-height // 2), -(-width // 2))
  return [(height, width), half, half]


def _frame_bytes(width: int, height: int, bits: int) -> int:
  return sum(h * w for h, w in _shapes(width, height)) * _BITS[bits].itemsize


def _words(width: int, height: int, bits: int) -> str:
  return f"{width}x{height} of {bits} bits"


def _check_kind(path: str, width: int, height: int, bits: int) -> None:
  if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
    raise FrameError(f"{path}: frames of {width}x{height}; expected sides of 1 to {MAX_SIDE}")
  if width * height > MAX_PIXELS:
    raise FrameError(f"{path}: frames of {width}x{height}; expected at most {MAX_PIXELS} pixels")
  if bits not in _BITS:
    raise FrameError(f"{path}: samples of {bits} bits; expected {' or '.join(map(str, _BITS))}")


def _open_yuv(path: str, size: int, width: int | None, height: int | None, bits: int):
  if width is None or height is None:
    raise FrameError(
      f"{path}: a .yuv file does not say its size; expected a width and a height; give both, and "
      "the bits where they are not 8"
    )
  _check_kind(path, width, height, bits)
  one = _frame_bytes(width, height, bits)
  if size % one or not size:
    raise FrameError(
      f"{path}: {size} bytes are {size // one} frames of {_words(width, height, bits)} and "
      f"{size % one} bytes; expected a multiple of {one}, not 0; check width, height and bits, and "
      "that the file is whole"
    )
  return FrameReader(path, width, height, bits, _offsets=range(0, size, one))


def _open_y4m(path: str, file: BinaryIO, size: int) -> FrameReader:
  line = file.readline(_MAX_LINE)
  parameters = _parameters(path, line)
  sides = [_side(path, parameters, name) for name in "WH"]
  if parameters.get("I", "p") not in ("p", "?"):
    raise FrameError(
      f"{path}: interlaced (I{parameters['I']}); expected progressive frames, Ip; deinterlace the "
      "video first"
    )
  colour = parameters.get("C", "420")
  if colour not in _COLOURS:
    raise FrameError(
      f"{path}: colour space {'C' + colour!r}; expected C{', C'.join(_COLOURS)}; convert the video "
      "first"
    )
  bits, siting = _COLOURS[colour]
  _check_kind(path, *sides, bits)
  offsets = _find_frames(path, file, len(line), size, _frame_bytes(*sides, bits))
  full_range = parameters.get("XCOLORRANGE", "LIMITED").upper() == "FULL"
  return FrameReader(path, *sides, bits, _rate(path, parameters), siting, full_range, offsets)


def _parameters(path: str, line: bytes) -> dict[str, str]:
  """Splits a header into letter -> value; the extensions XNAME=VALUE have their name for letter."""
  signature, *words = line.decode("latin-1").rstrip("\n").split(" ")
  if signature != _SIGNATURE or not line.endswith(b"\n"):
    raise FrameError(
      f"{path}: begins with {line[:16]!r}; expected a line '{_SIGNATURE} W... H...' of at most "
      f"{_MAX_LINE} bytes; is it a .y4m file?"
    )
  parameters = {}
  for word in filter(None, words):
    name, _, value = word.partition("=") if word[0] == "X" else (word[0], "", word[1:])
    parameters[name] = value
  return parameters


def _side(path: str, parameters: dict[str, str], name: str) -> int:
  value = parameters.get(name, "")
  if not re.fullmatch("[0-9]{1,9}", value):
    raise FrameError(f"{path}: its header has {name}{value!r}; expected {name} and a number")
  return int(value)


def _rate(path: str, parameters: dict[str, str]) -> fractions.Fraction | None:
  value = parameters.get("F", "0:0")
  match = re.fullmatch("([0-9]{1,9}):([0-9]{1,9})", value)
  if not match or (int(match[1]) > 0) != (int(match[2]) > 0):
    raise FrameError(f"{path}: its header has F{value!r}; expected frames per second as in F30:1")
  return fractions.Fraction(int(match[1]), int(match[2])) if int(match[2]) else None


def _find_frames(path: str, file: BinaryIO, place: int, size: int, one: int) -> array.array:
  """Returns where the samples of each frame begin; the lines before them vary in length."""
  offsets = array.array("Q")
  while place < size:
    file.seek(place)
    line = file.readline(_MAX_LINE)
    if not re.fullmatch(rb"FRAME( [^\n]*)?\n", line):
      raise FrameError(
        f"{path}: frame {len(offsets)}, at byte {place}, begins with {line[:16]!r}; expected a "
        "line 'FRAME'; the file is damaged or its header has another size"
      )
    place += len(line)
    if size - place < one:
      raise FrameError(
        f"{path}: {size - place} bytes of frame {len(offsets)}; expected {one}; the file is cut "
        "short"
      )
    offsets.append(place)
    place += one
  if not offsets:
    raise FrameError(f"{path}: holds no frame; expected at least one")
  return offsets


def _check_levels(frame: Frame, name: str) -> None:
  """Refuses what the bits cannot hold; only words of 16 bits can exceed them."""
  if frame.bits == 8:
    return
  top = 2**frame.bits - 1
  for plane, samples in zip(("Y", "Cb", "Cr"), frame[:3]):
    if samples.max() > top:
      row, column = np.argwhere(samples > top)[0]
      raise FrameError(
        f"{name}: {plane} is {samples[row, column]} in row {row}, column {column}; expected at "
        f"most {top}, in the low {frame.bits} bits of little-endian words; check bits, width and "
        "height"
      )


def _y4m_header(width: int, height: int, bits: int, rate, siting, full_range) -> bytes:
  if siting is not None and siting not in color.SITINGS:
    raise ValueError(f"`siting` is {siting!r}; expected one of {', '.join(color.SITINGS)}")
  if rate is not None and not rate > 0:
    raise ValueError(f"`rate` is {rate}; expected frames per second above 0")
  colour = "420p10" if bits == 10 else {"centre": "420jpeg", "left": "420mpeg2"}.get(siting, "420")
  per_second = "0:0" if rate is None else f"{rate.numerator}:{rate.denominator}"
  limits = "" if full_range is None else f" XCOLORRANGE={'FULL' if full_range else 'LIMITED'}"
  header = f"{_SIGNATURE} W{width} H{height} F{per_second} Ip A0:0 C{colour}{limits}\n"
  return header.encode("ascii")


@contextlib.contextmanager
def _whole_or_absent(path: str) -> Iterator[BinaryIO]:
  """Yields a file that takes the place of `path` when the block ends, and is gone if it raises."""
  target = os.path.realpath(path)  # so that a link stays a link to the new contents
  if os.path.exists(target) and not os.path.isfile(target):
    raise FrameError(f"{path}: is not a regular file and cannot be replaced; give a file's name")
  temporary = os.path.join(os.path.dirname(target), f".{secrets.token_hex(8)}.tmp")
  try:
    with _system_errors(path, "written"):
      file = open(temporary, "xb", buffering=0)
    with file:
      yield file
    with _system_errors(path, "written"):
      os.replace(temporary, target)
  finally:
    with contextlib.suppress(OSError):
      os.unlink(temporary)


def _write(path: str, file: BinaryIO, data: bytes) -> None:
  """Writes all of `data` to a file without a buffer, which may take a part at a time."""
  rest = memoryview(data)
  with _system_errors(path, "written"):
    while rest:
      rest = rest[file.write(rest) :]


@contextlib.contextmanager
def _system_errors(path: str, done: str) -> Iterator[None]:
  """Turns what the system refuses into an error that names the file."""
  try:
    yield
  except OSError as error:
    what = "a .yuv or .y4m file" if done == "read" else "an existing, writable folder with space"
    raise FrameError(f"{path}: cannot be {done}: {error.strerror}; expected {what}") from error
