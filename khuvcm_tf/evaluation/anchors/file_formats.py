"""Anchors that are image files, written by Pillow, pillow-heif and imagecodecs.

Their libraries convert colour themselves, to 8 bits. Not all of them can report what that alone
costs: `conversion_psnr` is the library's own figure unless the class describes a model of it.
"""

from __future__ import annotations

import importlib.metadata
import io
from typing import Any

import numpy as np
import PIL
import tensorflow as tf
from PIL import Image, features

from khuvcm_tf.evaluation import metrics
from khuvcm_tf.evaluation.anchors.anchor import Anchor, AnchorError, RatePoint, optional_module
from khuvcm_tf.ops import color

# What Pillow and its plugins raise where a library refuses an image or a file.
_REFUSALS = (OSError, RuntimeError, SyntaxError, SystemError, ValueError)


class _PillowFile(Anchor):
  """A format that Pillow writes and reads."""

  format: str  # Pillow's name of it
  feature: str  # Pillow's name of the library

  def missing(self) -> str | None:
    if features.check(self.feature):
      return None
    return (
      f"{self.name}: Pillow {PIL.__version__} was built without {self.format}; "
      "pip install 'pillow>=11.3'"
    )

  def version(self) -> str:
    self._check_installed()
    return f"{self._library()} by Pillow {PIL.__version__}"

  def options(self, rate_point: RatePoint) -> str:
    given = ", ".join(f"{key}={value!r}" for key, value in self._arguments(rate_point).items())
    return f"{self.format}: {given}"

  def _library(self) -> str:
    raise NotImplementedError

  def _arguments(self, rate_point: RatePoint) -> dict[str, Any]:
    """Arguments of Pillow's writer."""
    raise NotImplementedError

  def _encode(self, image: np.ndarray, rate_point: RatePoint) -> bytes:
    return self._save(image, self._arguments(rate_point))

  def _save(self, image: np.ndarray, arguments: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    samples = image[..., 0] if image.shape[2] == 1 else image
    try:
      Image.fromarray(samples).save(file, self.format, **arguments)
    except _REFUSALS as error:
      raise _refused(self.name, image, error) from error
    return file.getvalue()

  def _decode(self, data: bytes, height: int, width: int) -> np.ndarray:
    try:
      with Image.open(io.BytesIO(data), formats=[self.format]) as image:
        return np.array(image.convert("RGB"))
    except _REFUSALS as error:
      raise _damaged(self.name, data, error) from error


class Jpeg(_PillowFile):
  """Baseline JPEG with Huffman tables optimised for the image, without metadata.

  On Kodak images the standard's own tables cost 1-5 % more at quality 50 and up, and 25-57 % at
  quality 6; progressive JPEG costs 1-6 % less at high quality and more below 50.

  The conversion PSNR is that of a model of the library: BT.601 full range, rounded to 8 bits at
  each step, chroma by 2x2 means and bilinearly back. libjpeg-turbo rounds halves of its means up
  and down by turns instead.
  """

  format, feature, suffix, longest, codes_grey = "JPEG", "jpg", "jpg", 65500, True

  def __init__(self, name: str, subsampling: str, default_rate_points: tuple[int, ...]):
    by = "libjpeg-turbo: chroma by 2x2 means, bilinearly back" * (subsampling == "4:2:0")
    conversion = f"YCbCr {subsampling}, BT.601 full range, 8 bits, by {by or 'libjpeg-turbo'}"
    super().__init__(name, conversion, default_rate_points)
    self._subsampling = subsampling

  def conversion_psnr(self, rgb: np.ndarray) -> float:
    return _conversion_psnr_8bit(rgb, self._subsampling, full_range=True)

  def _library(self) -> str:
    turbo = features.version("libjpeg_turbo")
    return f"libjpeg-turbo {turbo}" if turbo else f"libjpeg {features.version('jpg')}"

  def _arguments(self, rate_point: RatePoint) -> dict[str, Any]:
    return {"quality": rate_point, "subsampling": self._subsampling, "optimize": True}


class Jpeg2000(_PillowFile):
  """JPEG 2000 with the 9/7 wavelet, one layer, no tiles, steered by its rate.

  `mct` is given because Pillow leaves the colour transform out by default: 4.6 dB at 1 bpp on
  kodim05. Colour stays in floats up to quantisation, which is why the conversion PSNR is infinite.
  """

  format, feature, suffix = "JPEG2000", "jpg_2000", "jp2"
  scale, unit, limits, whole = "bits per pixel", "bpp", (0.01, 24), False

  def __init__(self, name: str, default_rate_points: tuple[float, ...]):
    super().__init__(name, "YCbCr 4:4:4, BT.601, in floats, by OpenJPEG", default_rate_points)

  def conversion_psnr(self, rgb: np.ndarray) -> float:
    return float("inf")

  def _library(self) -> str:
    return f"OpenJPEG {features.version('jpg_2000')}"

  def _arguments(self, rate_point: RatePoint) -> dict[str, Any]:
    rates = {"quality_mode": "rates", "quality_layers": [24 / rate_point]}
    return {"irreversible": True, "mct": 1, **rates}


class Webp(_PillowFile):
  """Lossy WebP with the slowest search.

  The conversion PSNR is that of a model of the library: BT.601 limited range, rounded to 8 bits at
  each step, chroma by 2x2 means and bilinearly back. libwebp's means are of linear light.
  """

  format, feature, suffix, longest = "WEBP", "webp", "webp", 16383

  def __init__(self, name: str, default_rate_points: tuple[int, ...]):
    conversion = (
      "YCbCr 4:2:0, BT.601 limited range, 8 bits, by libwebp: chroma by 2x2 means of linear light, "
      "bilinearly back"
    )
    super().__init__(name, conversion, default_rate_points)

  def conversion_psnr(self, rgb: np.ndarray) -> float:
    return _conversion_psnr_8bit(rgb, "4:2:0", full_range=False)

  def _library(self) -> str:
    return f"libwebp {features.version('webp')}"

  def _arguments(self, rate_point: RatePoint) -> dict[str, Any]:
    return {"quality": rate_point, "method": 6}


class Avif(_PillowFile):
  """AVIF by libaom at speed 4, tuned for PSNR, on one thread.

  `tune` is given because libavif's default is a tuning for the eye. Quality 100 is lossless, which
  is how `conversion_psnr` asks the library for its own conversion.
  """

  format, feature, suffix, longest = "AVIF", "avif", "avif", 32768

  def __init__(self, name: str, subsampling: str, default_rate_points: tuple[int, ...]):
    conversion = f"YCbCr {subsampling}, BT.601 full range, 8 bits, by libavif"
    super().__init__(name, conversion, default_rate_points)
    self._subsampling = subsampling

  def conversion_psnr(self, rgb: np.ndarray) -> float:
    self._check_installed()
    data = self._save(rgb, {**self._arguments(100), "speed": 10})
    return metrics.psnr(rgb, self.decode(data, *rgb.shape[:2]))

  def _library(self) -> str:
    from PIL import AvifImagePlugin

    aom = AvifImagePlugin.get_codec_version("aom")
    return f"libaom {aom} by libavif {features.version('avif')}"

  def _arguments(self, rate_point: RatePoint) -> dict[str, Any]:
    return {
      "quality": rate_point,
      "subsampling": self._subsampling,
      "codec": "aom",
      "speed": 4,
      "advanced": {"tune": "psnr"},
      "max_threads": 1,
    }


class Heic(Anchor):
  """HEIC by x265, preset slow, tuned for PSNR.

  `tune` is given because libheif's default is SSIM: 2.5 dB less at 22 % fewer bytes on kodim05.
  pillow-heif's quality -1 is lossless, which is how `conversion_psnr` asks libheif for its own
  conversion.
  """

  suffix = "heic"

  def __init__(self, name: str, subsampling: str, default_rate_points: tuple[int, ...]):
    conversion = f"YCbCr {subsampling}, BT.601 full range, 8 bits, by libheif"
    super().__init__(name, conversion, default_rate_points)
    self._subsampling = subsampling

  def missing(self) -> str | None:
    heif = optional_module("pillow_heif")
    if heif is None:
      return f"{self.name} needs pillow-heif, which is not installed; pip install pillow-heif"
    if not _x265(heif):
      return (
        f"{self.name}: this build of pillow-heif has no x265; pip install --force-reinstall "
        "--only-binary=:all: pillow-heif"
      )
    return None

  def version(self) -> str:
    self._check_installed()
    heif = optional_module("pillow_heif")
    by = f"libheif {heif.libheif_version()}, pillow-heif {heif.__version__}"
    return f"{_x265(heif)} by {by}"

  def options(self, rate_point: RatePoint) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in self._arguments(rate_point).items())

  def conversion_psnr(self, rgb: np.ndarray) -> float:
    self._check_installed()
    return metrics.psnr(rgb, self.decode(self._encode(rgb, -1), *rgb.shape[:2]))

  def _arguments(self, rate_point: RatePoint) -> dict[str, Any]:
    # pillow-heif adds to the inner dictionary: a new one each time.
    return {
      "quality": rate_point,
      "subsampling": self._subsampling,
      "enc_params": {"preset": "slow", "tune": "psnr"},
    }

  def _encode(self, image: np.ndarray, rate_point: RatePoint) -> bytes:
    heif = optional_module("pillow_heif")
    file = io.BytesIO()
    try:
      heif.from_pillow(Image.fromarray(image)).save(file, **self._arguments(rate_point))
    except _REFUSALS as error:
      raise _refused(self.name, image, error) from error
    return file.getvalue()

  def _decode(self, data: bytes, height: int, width: int) -> np.ndarray:
    heif = optional_module("pillow_heif")
    try:
      return np.array(heif.open_heif(io.BytesIO(data)).to_pillow().convert("RGB"))
    except _REFUSALS as error:
      raise _damaged(self.name, data, error) from error


class JpegXl(Anchor):
  """JPEG XL by libjxl at effort 7, on one thread, steered by Butteraugli distance.

  It is tuned to that distance, not to PSNR, which undersells it. Colour (XYB) stays in floats up to
  quantisation, which is why the conversion PSNR is infinite.
  """

  suffix = "jxl"
  scale, unit, limits, whole = "distance", "d", (0.1, 25), False

  def __init__(self, name: str, default_rate_points: tuple[float, ...]):
    super().__init__(name, "XYB 4:4:4 in floats, by libjxl", default_rate_points)

  def missing(self) -> str | None:
    codecs = optional_module("imagecodecs")
    if codecs is None:
      return f"{self.name} needs imagecodecs, which is not installed; pip install imagecodecs"
    if not codecs.JPEGXL.available:
      return (
        f"{self.name}: this build of imagecodecs has no libjxl; pip install --force-reinstall "
        "--only-binary=:all: imagecodecs"
      )
    return None

  def version(self) -> str:
    self._check_installed()
    by = f"imagecodecs {importlib.metadata.version('imagecodecs')}"
    return f"{optional_module('imagecodecs').jpegxl_version()} by {by}"

  def options(self, rate_point: RatePoint) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in self._arguments(rate_point).items())

  def conversion_psnr(self, rgb: np.ndarray) -> float:
    return float("inf")

  def _arguments(self, rate_point: RatePoint) -> dict[str, Any]:
    return {"distance": rate_point, "effort": 7, "numthreads": 1}

  def _encode(self, image: np.ndarray, rate_point: RatePoint) -> bytes:
    codecs = optional_module("imagecodecs")
    try:
      return bytes(codecs.jpegxl_encode(image, **self._arguments(rate_point)))
    except _REFUSALS as error:
      raise _refused(self.name, image, error) from error

  def _decode(self, data: bytes, height: int, width: int) -> np.ndarray:
    codecs = optional_module("imagecodecs")
    try:
      return codecs.jpegxl_decode(data, numthreads=1)
    except _REFUSALS as error:
      raise _damaged(self.name, data, error) from error


def _x265(heif) -> str | None:
  """Returns the name and version of the x265 inside pillow-heif, such as "x265 4.3+1"."""
  for name, text in heif.libheif_info()["encoders"].items():
    if "x265" in name:
      return f"x265 {text.rpartition('(')[2].rstrip(')')}"
  return None


def _conversion_psnr_8bit(rgb: np.ndarray, subsampling: str, full_range: bool) -> float:
  def rounded(samples):
    return tf.cast(color.levels(samples), tf.float32)

  def there_and_back(images):
    ycbcr = rounded(color.rgb_to_ycbcr(images, full_range=full_range))
    if subsampling == "4:2:0":
      y, uv = color.to_420(ycbcr)
      ycbcr = rounded(color.to_444(y, rounded(uv)))
    return color.ycbcr_to_rgb(ycbcr, full_range=full_range)

  return float(color.ceiling(rgb[np.newaxis], there_and_back)[0])


def _refused(name: str, image: np.ndarray, error: Exception) -> AnchorError:
  size = f"{image.shape[1]}x{image.shape[0]}"
  return AnchorError(f"{name}: the encoder refused an image of {size}: {_last_line(error)}")


def _damaged(name: str, data: bytes, error: Exception) -> AnchorError:
  return AnchorError(
    f"{name}: {len(data)} bytes cannot be decoded: {_last_line(error)}; expected a whole file as "
    "`encode` returns it"
  )


def _last_line(error: Exception) -> str:
  if isinstance(error, PIL.UnidentifiedImageError):
    return "it is no such file"  # Pillow names an object in memory
  return (str(error).strip().splitlines() or [type(error).__name__])[-1]
