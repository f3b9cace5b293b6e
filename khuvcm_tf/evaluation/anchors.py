"""Classic codecs to compare with, at a given number of bytes: JPEG and WebP, as Pillow writes them.

An encoder is a function (image, quality) -> bytes of the whole file, quality 1..100. Both code at
half the chroma resolution (4:2:0), which bounds their PSNR_RGB: about 46 dB as the mean over
photographs, 40 dB on some.

  data = anchors.at_bytes(anchors.jpeg, image, len(kvc))
"""

from __future__ import annotations

import io
import math
from typing import Callable, NamedTuple

import numpy as np
from PIL import Image

from khuvcm_tf import errors
from khuvcm_tf.evaluation import metrics

LOWEST_QUALITY = 1
HIGHEST_QUALITY = 100

Encoder = Callable[[np.ndarray, int], bytes]


class AnchorError(errors.Error):
  """A picture that an anchor's format cannot hold."""


class Anchored(NamedTuple):
  """A picture as a classic codec codes it."""

  data: bytes  # the whole file
  decoded: np.ndarray  # uint8, the source's shape
  quality: int  # the encoder's own scale


def jpeg(image: np.ndarray, quality: int) -> bytes:
  """Codes a picture as baseline JPEG, 4:2:0, with Huffman tables optimised for the picture.

  That is Pillow's writer (libjpeg-turbo) with `optimize=True`, without metadata. On Kodak
  pictures the standard's own tables cost 1-5 % more at quality 50 and up, and 25-57 % at quality 6;
  progressive JPEG costs 1-6 % less at high quality and more below 50.

  Args:
    image: uint8 [H, W, 3] or [H, W, 1], sides up to 65,500.
    quality: 1..100.

  Returns:
    The whole file.

  Raises:
    AnchorError: a side is too long.
  """
  return _save(image, 65500, "JPEG", quality=quality, subsampling="4:2:0", optimize=True)


def webp(image: np.ndarray, quality: int) -> bytes:
  """Codes a picture as lossy WebP with the slowest search, `method=6`.

  Args:
    image: uint8 [H, W, 3] or [H, W, 1] (coded as RGB: the format has no grey), sides up to 16,383.
    quality: 1..100.

  Returns:
    The whole file.

  Raises:
    AnchorError: a side is too long.
  """
  return _save(image, 16383, "WEBP", quality=quality, method=6)


ENCODERS = {"jpeg": jpeg, "webp": webp}


def decode(data: bytes, channels: int) -> np.ndarray:
  """Decodes an anchor's file with Pillow's defaults (JPEG: smooth chroma upsampling).

  Args:
    data: what an encoder returned.
    channels: 3, or 1 for the luma alone.

  Returns:
    uint8 [H, W, channels].
  """
  with Image.open(io.BytesIO(data)) as picture:
    decoded = np.array(picture.convert("L" if channels == 1 else "RGB"))
  return decoded.reshape(decoded.shape[:2] + (channels,))


def at_bytes(encode: Encoder, image: np.ndarray, num_bytes: int) -> Anchored:
  """Codes a picture into at most `num_bytes`, as well as the encoder's integer qualities allow.

  Found by bisection: the file fits and that of the next quality does not. (Where sizes do not grow
  with quality at every step, a higher quality may fit again; such steps differ by a few bytes.)

  Args:
    encode: `jpeg`, `webp`, or another function (image, quality) -> bytes.
    image: uint8 [H, W, 3] or [H, W, 1].
    num_bytes: the limit, for the whole file.

  Returns:
    The coded picture. Where even the lowest quality is larger, that one: compare `len(data)` with
    the limit before drawing conclusions.
  """
  below, above = _bracket(encode, image, num_bytes)
  quality, data = below or above
  return Anchored(data, decode(data, image.shape[-1]), quality)


def psnr_at_bytes(encode: Encoder, image: np.ndarray, num_bytes: int) -> float:
  """PSNR_RGB that an encoder would reach with exactly `num_bytes`, for a comparison at equal rate.

  `at_bytes` stays below the limit, by up to a quarter where JPEG's sizes jump from one quality to
  the next (measured at its lowest), which favours the codec it is compared with. Here PSNR is
  interpolated between two neighbouring qualities, linearly in log(bytes).

  Args:
    encode: `jpeg`, `webp`, or another function (image, quality) -> bytes.
    image: uint8 [H, W, 3] or [H, W, 1].
    num_bytes: size of the whole file.

  Returns:
    dB; `nan` where `num_bytes` is below the lowest or above the highest quality's size.
  """
  below, above = _bracket(encode, image, num_bytes)
  if below is None:
    return math.nan
  size_low, psnr_low = len(below[1]), _psnr(image, below[1])
  if size_low == num_bytes:
    return psnr_low
  if above is None:
    return math.nan
  size_high, psnr_high = len(above[1]), _psnr(image, above[1])
  share = math.log(num_bytes / size_low) / math.log(size_high / size_low)
  return (1 - share) * psnr_low + share * psnr_high


Coded = tuple[int, bytes]  # quality, file


def _bracket(
  encode: Encoder, image: np.ndarray, num_bytes: int
) -> tuple[Coded | None, Coded | None]:
  """Finds neighbouring qualities of which the first fits and the second does not.

  Either is None where the limit lies outside what the encoder can reach.
  """
  low = LOWEST_QUALITY, encode(image, LOWEST_QUALITY)
  if len(low[1]) > num_bytes:
    return None, low
  high = HIGHEST_QUALITY, encode(image, HIGHEST_QUALITY)
  if len(high[1]) <= num_bytes:
    return high, None
  while high[0] - low[0] > 1:
    quality = (low[0] + high[0]) // 2
    data = encode(image, quality)
    if len(data) <= num_bytes:
      low = quality, data
    else:
      high = quality, data
  return low, high


def _psnr(image: np.ndarray, data: bytes) -> float:
  return metrics.psnr(image, decode(data, image.shape[-1]))


def _save(image: np.ndarray, longest: int, name: str, **settings) -> bytes:
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
    raise ValueError(
      f"`image` is {image.dtype} {image.shape}; expected uint8 [H, W, 3] or [H, W, 1]; round, "
      "clip and cast it first"
    )
  if max(image.shape) > longest:
    raise AnchorError(
      f"{name} holds sides up to {longest}; found {image.shape[1]}x{image.shape[0]}; leave this "
      "anchor out or cut the picture into parts"
    )
  file = io.BytesIO()
  Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(file, name, **settings)
  return file.getvalue()
