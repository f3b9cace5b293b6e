"""What a .kvc file says of itself: header, model, sizes of its parts.

TensorFlow takes seconds to import, so a good file is read here in plain Python
(`docs/format.md`); what this finds odd goes to `khuvcm_tf.bitstream`, which has the checks in their
order and the words for them.
"""

from __future__ import annotations

import importlib.resources
import os
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import khuvcm_tf
from khuvcm_tf import errors

_PREFIX = b"KVC\x01\x00"  # magic, version, flags
_FORMAT_NAMES = ("RGB", "grey", "YCbCr 4:4:4", "YCbCr 4:2:0")
_DEPTHS = ((8,), (8,), (8, 10), (8, 10))  # bits per sample that each input format allows
_MAX_SIDE = 65535


class ProbeError(errors.Error):
  """Files that could not all be described."""


class Contents(NamedTuple):
  """A file, read and checked but not decoded."""

  fingerprint: bytes
  input_format: int
  bit_depth: int
  height: int  # luma pixels
  width: int  # luma pixels
  substream_bytes: list[int]


def describe(path: str) -> dict[str, object]:
  """Reads a file and says what it is.

  Args:
    path: a .kvc file of any picture's size: nothing is decoded.

  Returns:
    Names and values, as `--json` prints them. `model` is the shipped model that decodes the file,
    or None; `overhead_bytes` is all that is not substreams; `bpp` is 8 bytes / pixels.

  Raises:
    ProbeError: the file cannot be read, or is damaged or foreign.
  """
  try:
    with open(path, "rb") as file:
      data = file.read()
  except OSError as error:
    raise ProbeError(
      f"{path}: cannot be read: {error.strerror}; expected a .kvc file; check its name"
    ) from error
  contents = parse_plainly(data)
  if contents is None:
    contents = _parse(path, data)
  return {
    "file": path,
    "bytes": len(data),
    "format_version": data[3],
    "input_format": _FORMAT_NAMES[contents.input_format],
    "bit_depth": contents.bit_depth,
    "height": contents.height,
    "width": contents.width,
    "fingerprint": contents.fingerprint.hex(),
    "model": shipped_name(contents.fingerprint),
    "substream_bytes": contents.substream_bytes,
    "overhead_bytes": len(data) - sum(contents.substream_bytes),
    "bpp": 8 * len(data) / (contents.height * contents.width),
  }


def describe_all(paths: Sequence[str]) -> tuple[list[dict[str, object]], list[str]]:
  """Describes files; returns the descriptions, and one line for each file that has none."""
  descriptions, failures = [], []
  for path in paths:
    try:
      descriptions.append(describe(path))
    except ProbeError as error:
      failures.append(str(error))
  return descriptions, failures


def check_complete(paths: Sequence[str], failures: Sequence[str]) -> None:
  """Raises ProbeError with all that is in `failures`, on one line."""
  if failures:
    count = f"{len(failures)} of {len(paths)} files are not whole: " if len(paths) > 1 else ""
    raise ProbeError(count + "; ".join(failures))


def text(description: dict[str, object]) -> str:
  """Returns a description in words, over several lines."""
  d = description
  sizes = d["substream_bytes"]
  model = d["model"] or "none of the shipped ones"
  lines = {
    "format": f"KVC version {d['format_version']}",
    "picture": f"{d['width']}x{d['height']} pixels, {d['input_format']}, {d['bit_depth']} bits",
    "model": f"{model} (fingerprint {d['fingerprint']})",
    "size": f"{d['bytes']} bytes, {d['bpp']:.4f} bits per pixel",
    "substreams": f"{len(sizes)}, of {' + '.join(map(str, sizes))} bytes",
    "overhead": f"{d['overhead_bytes']} bytes: header, lengths, checksum",
  }
  return "\n".join([d["file"], *(f"  {name:<11} {value}" for name, value in lines.items())])


def parse_plainly(data: bytes) -> Contents | None:
  """Reads a file; returns None where anything at all is odd."""
  body = data[:-4]
  if len(data) < 22 or not data.startswith(_PREFIX):
    return None
  if zlib.crc32(body).to_bytes(4, "little") != data[-4:]:
    return None
  numbers, offset = _read_varints(body, 15, 3)
  if numbers is None or not 1 <= numbers[2] <= 16:
    return None
  height, width, count = numbers
  lengths, offset = _read_varints(body, offset, count - 1)
  if lengths is None or data[13] >= len(_FORMAT_NAMES) or data[14] not in _DEPTHS[data[13]]:
    return None
  last = len(body) - offset - sum(lengths)
  if last < 0 or not 1 <= height <= _MAX_SIDE or not 1 <= width <= _MAX_SIDE:
    return None
  return Contents(data[5:13], data[13], data[14], height, width, [*lengths, last])


def shipped_name(fingerprint: bytes) -> str | None:
  """`khuvcm_tf.model_files.find_by_fingerprint`, without the import of TensorFlow."""
  folders = {}
  for root in (os.environ.get("KHUVCM_MODELS", ""), _shipped_folder()):
    for name in sorted(os.listdir(root)) if os.path.isdir(root) else ():
      if os.path.isfile(os.path.join(root, name, "model.json")):
        folders.setdefault(name, os.path.join(root, name))  # the first hides others of its name
  for name, folder in folders.items():
    with open(os.path.join(folder, "fingerprint"), encoding="ascii") as file:
      if file.read().strip() == fingerprint.hex():
        return name
  return None


def _shipped_folder() -> str:
  try:
    return str(importlib.resources.files("khuvcm_tf.models"))
  except ModuleNotFoundError:  # a checkout that is not installed
    return os.path.join(os.path.dirname(khuvcm_tf.__path__[0]), "models")


def _parse(path: str, data: bytes) -> Contents:
  """Reads a file that looks odd, or says why not."""
  from khuvcm_tf import bitstream  # TensorFlow takes seconds to import

  try:
    header, substreams = bitstream.parse(data, max_pixels=_MAX_SIDE**2)
  except bitstream.BitstreamError as error:
    raise ProbeError(f"{path}: {error}") from error
  return Contents(*header, [len(substream) for substream in substreams])


def _read_varints(body: bytes, offset: int, count: int) -> tuple[list[int] | None, int]:
  """Returns numbers and the offset behind them; None for numbers that are not in order."""
  numbers = []
  for _ in range(count):
    end = offset
    while end < min(offset + 5, len(body)) and body[end] >= 128:
      end += 1
    octets = body[offset : end + 1]
    if not octets or len(octets) > 5 or octets[-1] >= 128 or (end > offset and octets[-1] == 0):
      return None, offset
    numbers.append(sum((octet & 127) << 7 * place for place, octet in enumerate(octets)))
    offset = end + 1
  return numbers, offset
