"""Picture files to uint8 arrays and back: one meaning of "the picture" for all programs.

An array is [H, W, 3] (sRGB) or [H, W, 1] (grey), uint8, 0..255, upright. What a file says beside
its samples (orientation, colour profile, transparency) is applied here or refused, never dropped
silently: two programs that read the same file must measure against the same pixels.
"""

from __future__ import annotations

import contextlib
import glob
import io
import os
import re
import secrets
import warnings

import numpy as np
from absl import logging
from PIL import Image, ImageCms, ImageColor, ImageOps, UnidentifiedImageError

from khuvcm_tf import errors

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
  """A file that cannot be read as a picture, or a result that cannot be written."""


def find_images(pattern: str) -> list[str]:
  """Lists picture files as `find_files` does, those that end in `SUFFIXES`."""
  return find_files(pattern, SUFFIXES, "pictures")


def find_files(pattern: str, suffixes: tuple[str, ...], what: str) -> list[str]:
  """Lists files, sorted by path.

  Args:
    pattern: one file (taken whatever its suffix), a folder (searched with its subfolders), or a
      glob in which `**` crosses folders. Folders and globs yield the suffixes given, in upper or
      lower case, and no hidden files.
    suffixes: in lower case, with their dots.
    what: is looked for, in the words of the error.

  Returns:
    At least one path.

  Raises:
    ImageError: nothing was found.
  """
  path = os.path.expanduser(pattern)
  if os.path.isfile(path):
    return [path]
  if os.path.isdir(path):
    path = os.path.join(glob.escape(path), "**", "*")
  found = glob.glob(path, recursive=True)
  found = sorted({p for p in found if p.lower().endswith(suffixes) and os.path.isfile(p)})
  if not found:
    raise ImageError(
      f"{pattern}: no {what} found; expected a file, a folder or a glob of files that end in "
      f"{', '.join(suffixes)}"
    )
  return found


def read_image(path: str, alpha: str = "refuse", max_pixels: int = MAX_PIXELS) -> np.ndarray:
  """Reads one picture as 8-bit sRGB or grey.

  The EXIF orientation is applied. With an ICC profile other than sRGB the colours are converted to
  sRGB (relative colorimetric, black point compensation); CMYK is converted too; both are logged as
  warnings. Palettes become RGB. An alpha channel that is opaque everywhere is dropped.

  Args:
    path: a PNG, JPEG, WebP, TIFF, BMP, PPM or GIF file with 8 bits per sample (or fewer).
    alpha: what to do with transparency: "refuse", or the background to put the picture on: "white",
      "black", "#rrggbb" (a grey picture on a coloured background becomes RGB).
    max_pixels: pictures of more pixels are refused before they are decoded.

  Returns:
    uint8 array [H, W, 3], or [H, W, 1] for a grey picture; writable.

  Raises:
    ImageError: the file is missing, damaged, animated, too large, transparent while `alpha` is
      "refuse", or has more than 8 bits per sample.
  """
  background = _background(alpha)
  with warnings.catch_warnings():
    # Pillow warns about odd EXIF data and about sizes that `max_pixels` has just allowed.
    warnings.simplefilter("ignore")
    picture = _decode(os.fspath(path), max_pixels)
    opacity = _opacity(picture)
    if opacity is not None and background is None:
      raise ImageError(
        f"{path}: has transparent pixels; expected an opaque picture; pass `--alpha=white` (or "
        "black, or #rrggbb) to put it on a background"
      )
    colour = _to_srgb(picture, path)
  if opacity is not None:
    logging.warning("%s: transparent picture is put on %s", path, alpha)
    colour = _compose(colour, opacity, background)
  array = np.array(colour)
  return array if array.ndim == 3 else array[..., np.newaxis]


def write_image(path: str, image: np.ndarray) -> None:
  """Writes a picture without loss, whole or not at all.

  Args:
    path: a file ending in one of `LOSSLESS`; formats with loss are refused, as they would change
      the very pixels that were decoded.
    image: uint8 array [H, W, 3] or [H, W, 1].

  Raises:
    ImageError: unknown suffix, or the file cannot be written.
    ValueError: `image` is of another dtype or shape.
  """
  suffix = os.path.splitext(path)[1].lower()
  if suffix not in LOSSLESS:
    raise ImageError(
      f"{path}: pictures are not written as {suffix or 'files without a suffix'!r}; expected a "
      f"lossless format, one of {', '.join(LOSSLESS)}; choose .png and convert it afterwards"
    )
  image = np.asarray(image)
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3) or not image.size:
    raise ValueError(
      f"`image` is {image.dtype} {image.shape}; expected uint8 [H, W, 3] or [H, W, 1]; round, "
      "clip and cast it first"
    )
  file = io.BytesIO()
  Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(file, LOSSLESS[suffix])
  write_bytes(path, file.getvalue())


def write_text(path: str, text: str) -> None:
  """Writes text as UTF-8 with the guarantees of `write_bytes`."""
  write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str, data: bytes) -> None:
  """Writes a file under a temporary name beside it and renames: whole or not at all.

  A killed program, a full disk or a reader at the wrong moment never see half a file, and a file
  that was there before stays until the new one is complete.

  Raises:
    ImageError: the file cannot be written; nothing is left behind.
  """
  target = os.path.realpath(path)  # so that a link stays a link to the new contents
  if os.path.exists(target) and not os.path.isfile(target):
    raise ImageError(f"{path}: is not a regular file and cannot be replaced; give a file's name")
  # Opened by name rather than by `tempfile`, whose files only their owner may read.
  temporary = os.path.join(os.path.dirname(target), f".{secrets.token_hex(8)}.tmp")
  try:
    try:
      with open(temporary, "xb") as file:
        file.write(data)
      os.replace(temporary, target)
    finally:
      with contextlib.suppress(OSError):
        os.unlink(temporary)
  except OSError as error:
    raise ImageError(
      f"{path}: cannot be written: {error.strerror}; expected an existing, writable folder with "
      f"space for {len(data)} bytes"
    ) from error


def _background(alpha: str) -> tuple[int, int, int] | None:
  """Parses `alpha`: None for "refuse", else the background's red, green, blue, 0..255."""
  if alpha == "refuse":
    return None
  try:
    return ImageColor.getrgb(alpha)[:3]
  except ValueError as error:
    raise ImageError(
      f"alpha={alpha!r} is not known; expected refuse, white, black or #rrggbb"
    ) from error


def _decode(path: str, max_pixels: int) -> Image.Image:
  """Opens, checks and decodes one file; the result is upright and keeps its mode and `info`."""
  try:
    file = open(path, "rb")
  except OSError as error:
    raise ImageError(
      f"{path}: cannot be read: {error.strerror}; expected a picture file"
    ) from error
  try:
    with file:
      header = file.read(4096)
      file.seek(0)
      with Image.open(file, formats=FORMATS) as picture:
        _check_header(picture, header, path, max_pixels)
        return ImageOps.exif_transpose(picture)
  except ImageError:
    raise
  except UnidentifiedImageError as error:
    raise ImageError(
      f"{path}: not a picture, or damaged; expected 8-bit PNG, JPEG, WebP, TIFF, BMP, PPM or "
      "GIF; open it in another program to see whether it is whole"
    ) from error
  except Image.DecompressionBombError as error:
    raise ImageError(
      f"{path}: has more than {2 * Image.MAX_IMAGE_PIXELS} pixels, Pillow's own limit; expected "
      f"at most {max_pixels}; cut it into parts"
    ) from error
  except Exception as error:  # Pillow's readers raise whatever damage leads them to.
    reason = " ".join(str(error).split()) or type(error).__name__
    raise ImageError(
      f"{path}: damaged or cut short: {reason}; expected a whole picture file; fetch it again"
    ) from error


def _check_header(picture: Image.Image, header: bytes, path: str, max_pixels: int) -> None:
  """Refuses what would be too large, or be changed silently, before anything is decoded."""
  width, height = picture.size
  if width * height > max_pixels:
    raise ImageError(
      f"{path}: {width}x{height} is {width * height} pixels; expected at most {max_pixels}; cut "
      "it into parts or raise `max_pixels`"
    )
  # The further pictures of an MPO (a phone's JPEG) are gain maps and previews, not an animation.
  frames = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
  if frames > 1:
    raise ImageError(
      f"{path}: animated or of several pages ({frames} frames); expected a single picture; save "
      "the frames as files"
    )
  bits = _bits_per_sample(picture, header)
  if bits > 8:
    raise ImageError(
      f"{path}: {bits} bits per sample; expected 8; convert it first, for instance `convert "
      "IN -depth 8 OUT.png`"
    )
  if picture.mode not in _MODES:
    raise ImageError(
      f"{path}: samples of kind {picture.mode}; expected 8-bit RGB, grey, palette or CMYK; "
      "convert it first, for instance `convert IN -colorspace sRGB -depth 8 OUT.png`"
    )


def _bits_per_sample(picture: Image.Image, header: bytes) -> int:
  """The bits per sample in the file: Pillow reduces 16-bit RGB to 8 without a word."""
  if picture.format == "PNG":
    return header[24]  # signature 8, chunk length 4, "IHDR" 4, width 4, height 4, bit depth
  if picture.format == "TIFF":
    return max(picture.tag_v2.get(258, (1,)))
  if picture.format == "PPM" and header[:2] in (b"P2", b"P3", b"P5", b"P6"):
    maximum = re.sub(rb"#[^\r\n]*", b"", header).split()[3]
    return int(maximum).bit_length()
  if picture.mode in ("I", "F") or picture.mode.startswith("I;"):
    return 32 if picture.mode in ("I", "F") else 16
  return 8


def _opacity(picture: Image.Image) -> Image.Image | None:
  """The alpha channel, mode L; None where every pixel is opaque."""
  if not picture.has_transparency_data:
    return None
  opacity = picture.convert("RGBA").getchannel("A")
  return None if opacity.getextrema() == (255, 255) else opacity


def _compose(colour: Image.Image, opacity: Image.Image, background: tuple[int, int, int]):
  """Puts `colour` (mode L or RGB) on a background, in 8-bit sRGB as browsers do."""
  if colour.mode == "L" and len(set(background)) == 1:
    canvas = Image.new("L", colour.size, background[0])
  else:
    canvas = Image.new("RGB", colour.size, background)
  canvas.paste(colour.convert(canvas.mode), mask=opacity)
  return canvas


def _to_srgb(picture: Image.Image, path: str) -> Image.Image:
  """Drops alpha and brings the colours to sRGB: mode L for grey pictures, else RGB."""
  mode = "L" if picture.mode in _GREY_MODES else "RGB"
  profile = picture.info.get("icc_profile")
  converted = _apply_profile(picture, profile, path) if profile else None
  if converted is not None:
    # A grey picture stays grey: the neutral axis of a profile maps to equal R, G and B.
    return converted.getchannel("G") if mode == "L" else converted
  if picture.mode == "CMYK":
    logging.warning("%s: CMYK is converted to RGB without a profile: colours are a guess", path)
  return picture.convert(mode)


def _apply_profile(picture: Image.Image, data: bytes, path: str) -> Image.Image | None:
  """Converts to sRGB by an ICC profile; None where nothing is to be converted.

  A profile counts as sRGB if it moves no colour of a grid by more than one level: names differ
  between makers, and pixels that are sRGB already must come through untouched.
  """
  srgb = ImageCms.createProfile("sRGB")
  try:
    profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
    mode = _PROFILE_MODES[profile.profile.xcolor_space.strip()]
    grey = picture.mode in _GREY_MODES
    if (mode == "CMYK") != (picture.mode == "CMYK") or (mode == "L" and not grey):
      raise ValueError(f"it is for {mode}, the picture is {picture.mode}")
    # Little CMS's precomputed table for grey is off by up to 10 levels in the darks.
    exact = ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE
    transform = ImageCms.buildTransform(
      profile,
      srgb,
      mode,
      "RGB",
      ImageCms.Intent.RELATIVE_COLORIMETRIC,
      ImageCms.Flags.BLACKPOINTCOMPENSATION | exact,
    )
  except (ImageCms.PyCMSError, OSError, KeyError, ValueError) as error:
    logging.warning("%s: ICC profile cannot be used (%s): taken as sRGB", path, error)
    return None
  if mode != "CMYK":
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    grid = Image.fromarray(grid).convert(mode)
    moved = np.asarray(transform.apply(grid), np.int16) - np.asarray(grid.convert("RGB"), np.int16)
    if np.abs(moved).max() <= 1:
      return None
  name = ImageCms.getProfileDescription(profile).strip() or "unnamed"
  logging.warning("%s: colours are converted from ICC profile '%s' to sRGB", path, name)
  return transform.apply(picture.convert(mode))
