"""Image files to uint8 arrays and back: one meaning of "the image" for all programs.

An array is [H, W, 3] (sRGB) or [H, W, 1] (grey), uint8, 0..255, upright. What a file says beside
its samples (orientation, colour profile, transparency) is applied here or refused, never dropped
silently: two programs that read the same file must measure against the same pixels.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
from absl import logging
from PIL import Image, ImageCms, ImageColor, ImageOps, UnidentifiedImageError

from khuvcm_tf import atomic_files, errors, paths
from khuvcm_tf.data import image_damage

# Pillow takes more formats than these, but for those nobody checked how it treats deep samples.
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM", "GIF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".pgm", ".gif")
LOSSLESS = {
  ".png": "PNG",
  ".tif": "TIFF",
  ".tiff": "TIFF",
  ".bmp": "BMP",
  ".ppm": "PPM",
  ".pgm": "PPM",
}
MAX_PIXELS = 2**27

_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_GREY_MODES = ("1", "L", "LA")
_PROFILE_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # ICC data colour space -> Pillow mode


class ImageError(errors.Error):
  """A file that cannot be read, or not be written, as an image."""


class Header(NamedTuple):
  """What an image file says before its samples are decoded.

  Attributes:
    width, height: in pixels, before the EXIF orientation is applied, which may exchange them.
    complete: whether the file ends where its format says that it ends, and has no transparency.
      Where False, only `read_image` shows whether the image can be read.
  """

  width: int
  height: int
  complete: bool


def find_images(pattern: str) -> list[str]:
  """Lists image files as `find_files` does, those that end in `SUFFIXES`."""
  return find_files(pattern, SUFFIXES, "images")


def find_files(pattern: str, suffixes: tuple[str, ...], what: str) -> list[str]:
  """Lists files as `paths.list_files` does, and says how many others there are, and why.

  Args:
    pattern, suffixes: as it takes them.
    what: is looked for, in the words of the error.

  Returns:
    At least one path.

  Raises:
    ImageError: nothing was found.
  """
  found, left_out = paths.list_files(pattern, suffixes)
  if left_out:
    reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
    logging.info("%s: left out beside %d %s: %s", pattern, len(found), what, reasons)
  if not found:
    raise ImageError(
      f"{pattern}: no {what} found; expected a file, a folder or a glob of files that end in "
      f"{', '.join(suffixes)}"
    )
  return found


def read_header(path: str, max_pixels: int = MAX_PIXELS, file: BinaryIO | None = None) -> Header:
  """Reads an image's size without decoding it, in about 0.2 ms of one CPU core.

  Args:
    path: as `read_image` takes it.
    max_pixels: images of more pixels are refused.
    file: is read in place of the file at `path`, which then only names it in errors.

  Raises:
    ImageError: the file is one that `read_image` refuses because of its header alone.
  """
  with _opened(path, max_pixels, file) as (image, file):
    complete = not image.has_transparency_data and _has_its_end(image, file)
    return Header(*image.size, complete)


def read_image(
  path: str,
  alpha: str | None = None,
  max_pixels: int = MAX_PIXELS,
  warn: Callable[..., None] = logging.warning,
  file: BinaryIO | None = None,
) -> np.ndarray:
  """Reads one image as 8-bit sRGB or grey. Several threads may read at once.

  The EXIF orientation is applied. With an ICC profile other than sRGB the colours are converted to
  sRGB (relative colorimetric, black point compensation); CMYK is converted too; both are reported
  through `warn`. Palettes become RGB. An alpha channel that is opaque everywhere is dropped.

  Args:
    path: a PNG, JPEG, WebP, TIFF, BMP, PPM or GIF file with 8 bits per sample (or fewer).
    alpha: what to do with transparency: the background to put the image on, "white", "black" or
      "#rrggbb" (a grey image on a coloured background becomes RGB); "refuse" of programs that have
      the flag --alpha, which is then named as the remedy; None to refuse without it.
    max_pixels: images of more pixels are refused before they are decoded.
    warn: called with a format and its arguments, as those of `logging.warning`, for each change
      of the colours.
    file: is read in place of the file at `path`, which then only names it in errors.

  Returns:
    uint8 array [H, W, 3], or [H, W, 1] for a grey image; writable.

  Raises:
    ImageError: the file is missing, damaged, animated, too large, transparent without a background,
      or has more than 8 bits per sample.
  """
  background = _background(alpha)
  with _opened(path, max_pixels, file) as (image, file):
    image.load()
    file.seek(0)
    image_damage.check(image, file.read())
    # The image keeps its mode and `info`.
    ImageOps.exif_transpose(image, in_place=True)
  with _pillow_is_quiet():
    opacity = _opacity(image)
    if opacity is not None and background is None:
      remedy = "pass `--alpha=white` (or black, or #rrggbb) to put it on a background"
      raise ImageError(
        f"{path}: has transparent pixels; expected an opaque image; "
        f"{remedy if alpha else 'put it on a background first'}"
      )
    colour = _to_srgb(image, path, warn)
  if opacity is not None:
    warn("%s: transparent image is put on %s", path, alpha)
    colour = _compose(colour, opacity, background)
  array = np.array(colour)
  return array if array.ndim == 3 else array[..., np.newaxis]


def write_image(path: str, image: np.ndarray) -> None:
  """Writes an image without loss, whole or not at all.

  Args:
    path: a file ending in one of `LOSSLESS`; formats with loss are refused, as they would change
      the very pixels that were decoded.
    image: uint8 array [H, W, 3] or [H, W, 1].

  Raises:
    ImageError: unknown suffix.
    atomic_files.FileError: the file cannot be written.
    ValueError: `image` is of another dtype or shape.
  """
  atomic_files.write_bytes(path, encode(path, image))


def encode(path: str, image: np.ndarray) -> bytes:
  """Returns what `write_image` writes."""
  check_lossless(path)
  image = np.asarray(image)
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3) or not image.size:
    raise ValueError(
      f"`image` is {image.dtype} {image.shape}; expected uint8 [H, W, 3] or [H, W, 1]; round, "
      "clip and cast it first"
    )
  file = io.BytesIO()
  kind = LOSSLESS[os.path.splitext(path)[1].lower()]
  Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(file, kind)
  return file.getvalue()


def check_lossless(path: str) -> None:
  """Raises ImageError unless a file's name ends in one of `LOSSLESS`."""
  suffix = os.path.splitext(path)[1].lower()
  if suffix not in LOSSLESS:
    raise ImageError(
      f"{path}: images are not written as {suffix or 'files without a suffix'!r}; expected a "
      f"lossless format, one of {', '.join(LOSSLESS)}; choose .png and convert it afterwards"
    )


def _background(alpha: str | None) -> tuple[int, int, int] | None:
  """Parses `alpha`: None where it refuses, else the background's red, green, blue, 0..255."""
  if alpha in (None, "refuse"):
    return None
  try:
    return ImageColor.getrgb(alpha)[:3]
  except ValueError as error:
    raise ImageError(
      f"alpha={alpha!r} is not known; expected refuse, white, black or #rrggbb"
    ) from error


class _PillowIsQuiet:
  """Within, Pillow's warnings about odd EXIF data and about large sizes are not shown.

  `warnings.catch_warnings` is not for several threads: the first thread that leaves would restore
  what the second has already replaced. Here the first to enter and the last to leave do the work.
  """

  def __init__(self):
    self._lock, self._inside, self._catcher = threading.Lock(), 0, None

  def __call__(self) -> _PillowIsQuiet:
    return self

  def __enter__(self) -> None:
    with self._lock:
      if not self._inside:
        self._catcher = warnings.catch_warnings()
        self._catcher.__enter__()
        warnings.filterwarnings("ignore", module=r"PIL\.")
      self._inside += 1

  def __exit__(self, *error) -> None:
    with self._lock:
      self._inside -= 1
      if not self._inside:
        self._catcher.__exit__(*error)


_pillow_is_quiet = _PillowIsQuiet()


@contextlib.contextmanager
def _opened(
  path: str, max_pixels: int, file: BinaryIO | None = None
) -> Iterator[tuple[Image.Image, BinaryIO]]:
  """Opens an image and checks its header; what fails within the block is reported as damage."""
  path = os.fspath(path)
  try:
    file = file or open(path, "rb")
  except OSError as error:
    raise ImageError(f"{path}: cannot be read: {error.strerror}; expected an image file") from error
  try:
    with file, _pillow_is_quiet():
      header = file.read(4096)
      file.seek(0)
      with Image.open(file, formats=FORMATS) as image:
        _check_header(image, header, path, max_pixels)
        yield image, file
  except ImageError:
    raise
  except UnidentifiedImageError as error:
    raise ImageError(
      f"{path}: not an image, or damaged; expected 8-bit PNG, JPEG, WebP, TIFF, BMP, PPM or "
      "GIF; open it in another program to see whether it is whole"
    ) from error
  except ValueError as error:
    if "MAX_TEXT" not in str(error):
      raise _damaged(path, error) from error
    raise ImageError(
      f"{path}: {' '.join(str(error).split())}: Pillow's own limit of texts and profiles; expected "
      "smaller ones; save the image without them"
    ) from error
  except Image.DecompressionBombError as error:
    raise ImageError(
      f"{path}: has more than {2 * Image.MAX_IMAGE_PIXELS} pixels, Pillow's own limit; expected "
      f"at most {max_pixels}; cut it into parts"
    ) from error
  except Exception as error:  # Pillow's readers raise whatever damage leads them to.
    raise _damaged(path, error) from error


def _damaged(path: str, error: Exception) -> ImageError:
  reason = " ".join(str(error).split()) or type(error).__name__
  return ImageError(
    f"{path}: damaged or cut short: {reason}; expected a whole image file; fetch it again"
  )


def _has_its_end(image: Image.Image, file: BinaryIO) -> bool:
  """Returns whether a file of PNG, JPEG or WebP ends as its format says; False for the others."""
  if image.format == "WEBP":  # "RIFF", then the number of bytes that follow
    file.seek(4)
    length = int.from_bytes(file.read(4), "little")
    return file.seek(0, os.SEEK_END) >= 8 + length
  end = {"PNG": b"\0\0\0\0IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}.get(image.format)
  if end is None:
    return False
  file.seek(-len(end), os.SEEK_END)
  return file.read() == end


def _check_header(image: Image.Image, header: bytes, path: str, max_pixels: int) -> None:
  """Refuses what would be too large, or be changed silently, before anything is decoded."""
  width, height = image.size
  if width * height > max_pixels:
    raise ImageError(
      f"{path}: {width}x{height} is {width * height} pixels; expected at most {max_pixels}; cut "
      "it into parts or raise `max_pixels`"
    )
  # The further images of an MPO (a phone's JPEG) are gain maps and previews, not an animation.
  frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
  if frames > 1:
    raise ImageError(
      f"{path}: animated or of several pages ({frames} frames); expected a single image; save "
      "the frames as files"
    )
  bits = _bits_per_sample(image, header)
  if bits > 8:
    raise ImageError(
      f"{path}: {bits} bits per sample; expected 8; convert it first, for instance `convert "
      "IN -depth 8 OUT.png`"
    )
  if image.mode not in _MODES:
    raise ImageError(
      f"{path}: samples of kind {image.mode}; expected 8-bit RGB, grey, palette or CMYK; "
      "convert it first, for instance `convert IN -colorspace sRGB -depth 8 OUT.png`"
    )


def _bits_per_sample(image: Image.Image, header: bytes) -> int:
  """The bits per sample in the file: Pillow reduces 16-bit RGB to 8 without a warning."""
  if image.format == "PNG":
    return header[24]  # signature 8, chunk length 4, "IHDR" 4, width 4, height 4, bit depth
  if image.format == "TIFF":
    return max(image.tag_v2.get(258, (1,)))
  if image.format == "PPM" and header[:2] in (b"P2", b"P3", b"P5", b"P6"):
    maximum = re.sub(rb"#[^\r\n]*", b"", header).split()[3]
    return int(maximum).bit_length()
  if image.mode in ("I", "F") or image.mode.startswith("I;"):
    return 32 if image.mode in ("I", "F") else 16
  return 8


def _opacity(image: Image.Image) -> Image.Image | None:
  """The alpha channel, mode L; None where every pixel is opaque."""
  if not image.has_transparency_data:
    return None
  opacity = image.convert("RGBA").getchannel("A")
  return None if opacity.getextrema() == (255, 255) else opacity


def _compose(colour: Image.Image, opacity: Image.Image, background: tuple[int, int, int]):
  """Puts `colour` (mode L or RGB) on a background, in 8-bit sRGB as browsers do."""
  if colour.mode == "L" and len(set(background)) == 1:
    canvas = Image.new("L", colour.size, background[0])
  else:
    canvas = Image.new("RGB", colour.size, background)
  canvas.paste(colour.convert(canvas.mode), mask=opacity)
  return canvas


def _to_srgb(image: Image.Image, path: str, warn: Callable[..., None]) -> Image.Image:
  """Drops alpha and brings the colours to sRGB: mode L for grey images, else RGB."""
  mode = "L" if image.mode in _GREY_MODES else "RGB"
  profile = image.info.get("icc_profile")
  converted = _apply_profile(image, profile, path, warn) if profile else None
  if converted is not None:
    # A grey image stays grey: the neutral axis of a profile maps to equal R, G and B.
    return converted.getchannel("G") if mode == "L" else converted
  if image.mode == "CMYK":
    warn("%s: CMYK is converted to RGB without a profile: colours are a guess", path)
  return image if image.mode == mode else image.convert(mode)


def _apply_profile(
  image: Image.Image, data: bytes, path: str, warn: Callable[..., None]
) -> Image.Image | None:
  """Converts to sRGB by an ICC profile; None where nothing is to be converted."""
  try:
    profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
    mode = _PROFILE_MODES[profile.profile.xcolor_space.strip()]
    grey = image.mode in _GREY_MODES
    if (mode == "CMYK") != (image.mode == "CMYK") or (mode == "L" and not grey):
      raise ValueError(f"it is for {mode}, the image is {image.mode}")
    if _counts_as_srgb(data, mode):
      return None
    transform = _transform(profile, mode)
  except (ImageCms.PyCMSError, OSError, KeyError, ValueError) as error:
    warn("%s: ICC profile cannot be used (%s): taken as sRGB", path, error)
    return None
  name = ImageCms.getProfileDescription(profile).strip() or "unnamed"
  warn("%s: colours are converted from ICC profile '%s' to sRGB", path, name)
  return transform.apply(image.convert(mode))


def _transform(profile: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
  """Returns the conversion from a profile to sRGB, for images of `mode`."""
  # Little CMS's precomputed table for grey is off by up to 10 levels in the darks.
  exact = ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE
  return ImageCms.buildTransform(
    profile,
    ImageCms.createProfile("sRGB"),
    mode,
    "RGB",
    ImageCms.Intent.RELATIVE_COLORIMETRIC,
    ImageCms.Flags.BLACKPOINTCOMPENSATION | exact,
  )


@functools.lru_cache(maxsize=64)  # building a transform takes as long as decoding an image
def _counts_as_srgb(data: bytes, mode: str) -> bool:
  """Returns whether an ICC profile moves no colour of a grid by more than one level.

  Names of profiles differ between makers, and pixels that are sRGB already must stay as they are.
  """
  if mode == "CMYK":
    return False
  levels = np.arange(0, 256, 15, dtype=np.uint8)
  grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
  grid = Image.fromarray(grid).convert(mode)
  transform = _transform(ImageCms.ImageCmsProfile(io.BytesIO(data)), mode)
  moved = np.asarray(transform.apply(grid), np.int16) - np.asarray(grid.convert("RGB"), np.int16)
  return bool(np.abs(moved).max() <= 1)
