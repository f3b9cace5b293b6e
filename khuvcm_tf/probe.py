"""Describes .kvc files: header, model, sizes of the parts.

Nothing is decoded, and TensorFlow, whose import takes seconds, is not imported.
"""

from __future__ import annotations

from collections.abc import Sequence

from khuvcm_tf import bitstream, errors, model_folders

_FORMAT_NAMES = {
  bitstream.RGB: "RGB",
  bitstream.GREY: "grey",
  bitstream.YCBCR444: "YCbCr 4:4:4",
  bitstream.YCBCR420: "YCbCr 4:2:0",
  bitstream.FEATURES: "feature maps",
}


class ProbeError(errors.Error):
  """Files that could not all be described."""


def describe(path: str) -> dict[str, object]:
  """Reads a file and describes it.

  Args:
    path: a .kvc file, whatever the size of its image.

  Returns:
    Names and values, as `--json` prints them. `model` is the shipped model that decodes the file,
    or None; `quality` is 0 .. 100, None of a model of one rate; `overhead_bytes` counts all bytes
    outside the substreams; `bpp` is 8 bytes / pixels.

  Raises:
    ProbeError: the file cannot be read, or is damaged or of another format.
  """
  try:
    with open(path, "rb") as file:
      data = file.read()
    header, substreams = bitstream.parse(data, max_pixels=bitstream.MAX_SIDE**2)
  except OSError as error:
    raise ProbeError(
      f"{path}: cannot be read: {error.strerror}; expected a .kvc file; check its name"
    ) from error
  except bitstream.BitstreamError as error:
    raise ProbeError(f"{path}: {error}") from error
  sizes = [len(substream) for substream in substreams]
  return {
    "file": path,
    "bytes": len(data),
    "format_version": bitstream.version_of(data),
    "input_format": _FORMAT_NAMES[header.input_format],
    "bit_depth": header.bit_depth,
    "quality": bitstream.quality_of(data),
    "height": header.height,
    "width": header.width,
    "fingerprint": header.fingerprint.hex(),
    "model": model_folders.find_by_fingerprint(header.fingerprint),
    "substream_bytes": sizes,
    "overhead_bytes": len(data) - sum(sizes),
    "bpp": 8 * len(data) / bitstream.source_pixels(header),
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
  """Raises ProbeError with all lines of `failures` on one line."""
  if failures:
    count = f"{len(failures)} of {len(paths)} files are not whole: " if len(paths) > 1 else ""
    raise ProbeError(count + "; ".join(failures))


def text(description: dict[str, object]) -> str:
  """Returns a description as text of several lines."""
  d = description
  sizes = d["substream_bytes"]
  model = d["model"] or "none of the shipped ones"
  lines = {
    "format": f"KVC version {d['format_version']}",
    "image": f"{d['width']}x{d['height']} pixels, {d['input_format']}, {d['bit_depth']} bits",
    "model": f"{model} (fingerprint {d['fingerprint']})",
    "size": f"{d['bytes']} bytes, {d['bpp']:.4f} bits per pixel",
    "substreams": f"{len(sizes)}, of {' + '.join(map(str, sizes))} bytes",
    "overhead": f"{d['overhead_bytes']} bytes: header, lengths, checksum",
  }
  if d["quality"] is not None:
    lines["model"] += f", quality {d['quality']:.1f}"
  return "\n".join([d["file"], *(f"  {name:<11} {value}" for name, value in lines.items())])
