"""Options of bin/compress.py, bin/decompress.py and bin/export.py, without TensorFlow."""

from __future__ import annotations

import contextlib
import dataclasses
import fractions
import os

from khuvcm_tf import bitstream, model_folders
from khuvcm_tf.options import OptionsError, option, refuse_given

_RAW = (".yuv", ".y4m")
_PRECISIONS = ("float32", "float64")


def is_raw(path: str) -> bool:
  """Returns whether a path names raw frames, by its suffix."""
  return os.path.splitext(path)[1].lower() in _RAW


@dataclasses.dataclass(frozen=True)
class CompressOptions:
  """What to compress, with which model, and where to write it.

  Raises:
    OptionsError: an option of raw frames is given for images, or the other way round.
  """

  model: str = option(
    model_folders.DEFAULT,
    "A shipped model's name, a training workdir, a model's folder or an exported model.",
    path="input",
  )
  input: str = option(
    None,
    "Image, folder or glob, .yuv or .y4m file, or features (.npz) for a model of feature maps; or "
    "TFRecord files of encoded images, or tfds:NAME:SPLIT, a data set of TensorFlow Datasets.",
    required=True,
    path="input",
  )
  output: str = option(None, "The .kvc file, or a folder.", required=True, path="output")
  quality: float | None = option(
    None,
    "0 (least bytes) to 100, of a model of several rates. Without it and the next three, the "
    "model's default.",
    low=0,
    high=100,
  )
  target_bytes: int | None = option(
    None,
    "In place of --quality: the greatest at which a file has at most so many bytes.",
    low=1,
  )
  target_bpp: float | None = option(
    None,
    "In place of --quality: the greatest at which a file has at most so many bits per pixel.",
    above=0,
  )
  target_psnr: float | None = option(
    None,
    "In place of --quality: the least at which a decoded image has at least so many dB (PSNR over "
    "all its samples).",
    above=0,
  )
  frames: str | None = option(
    None, "Of a .yuv or .y4m file: a:b, from frame a (from 0) to before b; default: all."
  )
  width: int | None = option(None, "Of a .yuv file's frames, in pixels.", low=1)
  height: int | None = option(None, "Of a .yuv file's frames, in pixels.", low=1)
  bit_depth: int | None = option(
    None, "Of a .yuv file: 8 (default), or 10 in words of 16 bits, low byte first."
  )
  alpha: str = option(
    "refuse",
    "Transparent images: 'refuse' them, or compose them over 'white', 'black' or '#rrggbb'.",
  )
  shards: int | None = option(
    None,
    "Write so many TFRecord files into the folder OUTPUT, in place of a file for each image.",
    low=1,
  )
  overwrite: bool = option(False, "Replace files that exist.")
  precision: str | None = option(
    None,
    "Of the transforms; default: float32. float64 takes twice the time and gives the same bytes on "
    "every machine; files of either decode to the same symbols everywhere. An exported model keeps "
    "its own.",
    choices=_PRECISIONS,
  )

  def __post_init__(self):
    rates = ("quality", "target_bytes", "target_bpp", "target_psnr")
    given = [f"--{name}" for name in rates if getattr(self, name) is not None]
    if len(given) > 1:
      raise OptionsError(f"found {' and '.join(given)}, expected one of them at most")
    if is_raw(self.input):
      refuse_given(self, ("alpha", "target_psnr"), f"for {self.input}, expected it for images")
    else:
      names = ("frames", "width", "height", "bit_depth")
      refuse_given(self, names, f"for {self.input}, expected it for .yuv and .y4m files")


@dataclasses.dataclass(frozen=True)
class DecompressOptions:
  """What to decompress, with which model, and where to write it.

  Raises:
    OptionsError: an option of .y4m files is given for another output, or is not a frame rate.
  """

  input: str = option(
    None,
    ".kvc file, folder or glob to decompress, or TFRecord files of compress --shards.",
    required=True,
    path="input",
  )
  output: str = option(
    None,
    "The image (.png, .tif, .bmp, .ppm), the file of raw frames (.yuv, .y4m), the features (.npz), "
    "or a folder.",
    required=True,
    path="output",
  )
  model: str | None = option(
    None,
    "The model that wrote the files: a training workdir, a model's folder, an exported model or a "
    "shipped model's name. By default the shipped model whose fingerprint is in the file.",
    path="input",
  )
  luma_only: bool = option(
    False, "Decode a grey preview from luma alone, of files of cross_component."
  )
  allow_gaps: bool = option(
    False, "Join raw frames even where some between the first and the last are missing."
  )
  frame_rate: str | None = option(
    None, "For a .y4m header, as in 25 or 30000/1001; a .kvc file does not keep it."
  )
  siting: str | None = option(
    None,
    "Of chroma, for a .y4m header of 8 bits; by default the header does not say it.",
    choices=("left", "centre"),
  )
  full_range: bool | None = option(
    None,
    "For a .y4m header: whether black is 0, not 16; by default the header does not say it.",
  )
  shards: int | None = option(
    None,
    "Write so many TFRecord files into the folder OUTPUT, in place of a file for each image.",
    low=1,
  )
  overwrite: bool = option(False, "Replace files that exist.")
  precision: str | None = option(
    None,
    "Of the synthesis; default: float32. float64 takes twice the time and gives the same pixels on "
    "every machine; with float32 a few pixels in a million differ by one level between machines. "
    "An exported model keeps its own.",
    choices=_PRECISIONS,
  )
  max_pixels: int = option(bitstream.DEFAULT_MAX_PIXELS, "Refuse files of larger images.", low=1)
  allow_other_synthesis: bool = option(
    False,
    "Decode files of a model with the same entropy coder but another synthesis, to other pixels.",
  )

  def __post_init__(self):
    if not self.output.lower().endswith(".y4m"):
      names = ("frame_rate", "siting", "full_range")
      refuse_given(self, names, f"for {self.output}, expected it for a .y4m file")
    if not is_raw(self.output):
      why = f"for {self.output}, expected it for a .yuv or .y4m file"
      refuse_given(self, ("allow_gaps",), why)
    if self.frame_rate is not None and self.rate is None:
      raise OptionsError(
        f"--frame_rate is {self.frame_rate!r}, expected frames per second as in 25 or 30000/1001"
      )

  @property
  def rate(self) -> fractions.Fraction | None:
    """`frame_rate` as a positive number; None where it is not given or is not one."""
    with contextlib.suppress(ValueError, ZeroDivisionError):
      rate = fractions.Fraction(self.frame_rate or "")
      return rate if rate > 0 else None
    return None


@dataclasses.dataclass(frozen=True)
class ExportOptions:
  """The model to export, and where to."""

  model: str = option(
    None,
    "A shipped model's name, a training workdir or a model's folder.",
    required=True,
    path="input",
  )
  output: str = option(None, "Folder to write; new or empty.", required=True, path="output")
  precision: str = option(
    "float32",
    "Of the transforms. float64 takes twice the time and gives the same bytes and pixels "
    "everywhere.",
    choices=_PRECISIONS,
  )
