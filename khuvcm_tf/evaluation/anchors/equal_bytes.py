"""Anchors with qualities 1..100, at a given number of bytes."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from khuvcm_tf.evaluation import metrics
from khuvcm_tf.evaluation.anchors.anchor import Anchor, AnchorError

LOWEST_QUALITY = 1
HIGHEST_QUALITY = 100


class Anchored(NamedTuple):
  """An image as a classic codec codes it."""

  data: bytes  # the whole file
  decoded: np.ndarray  # uint8, the source's shape
  quality: int  # the encoder's own scale


def at_bytes(anchor: Anchor, image: np.ndarray, num_bytes: int) -> Anchored:
  """Codes an image into at most `num_bytes`, as well as the encoder's integer qualities allow.

  Found by bisection: the file fits and that of the next quality does not. (Where sizes do not grow
  with quality at every step, a higher quality may fit again; such steps differ by a few bytes.)

  Args:
    anchor: one with qualities: JPEG, WebP, AVIF or HEIC.
    image: uint8 [H, W, 3] or [H, W, 1].
    num_bytes: the limit, for the whole file.

  Returns:
    The coded image. Where even the lowest quality is larger, that one: compare `len(data)` with
    the limit before drawing conclusions.

  Raises:
    AnchorError: the anchor has no qualities or cannot code the image.
  """
  below, above = _bracket(anchor, image, num_bytes)
  quality, data = below or above
  return Anchored(data, _decoded(anchor, data, image.shape), quality)


def psnr_at_bytes(anchor: Anchor, image: np.ndarray, num_bytes: int) -> float:
  """PSNR_RGB that an encoder would reach with exactly `num_bytes`, for a comparison at equal rate.

  `at_bytes` stays below the limit, by up to a quarter where JPEG's sizes jump from one quality to
  the next (measured at its lowest), which favours the codec it is compared with. Here PSNR is
  interpolated between two neighbouring qualities, linearly in log(bytes).

  Args:
    anchor: one with qualities: JPEG, WebP, AVIF or HEIC.
    image: uint8 [H, W, 3] or [H, W, 1].
    num_bytes: size of the whole file.

  Returns:
    dB; `nan` where `num_bytes` is below the lowest or above the highest quality's size.

  Raises:
    AnchorError: the anchor has no qualities or cannot code the image.
  """
  below, above = _bracket(anchor, image, num_bytes)
  if below is None:
    return math.nan
  size_low, psnr_low = len(below[1]), _psnr(anchor, image, below[1])
  if size_low == num_bytes:
    return psnr_low
  if above is None:
    return math.nan
  size_high, psnr_high = len(above[1]), _psnr(anchor, image, above[1])
  share = math.log(num_bytes / size_low) / math.log(size_high / size_low)
  return (1 - share) * psnr_low + share * psnr_high


Coded = tuple[int, bytes]  # quality, file


def _bracket(
  anchor: Anchor, image: np.ndarray, num_bytes: int
) -> tuple[Coded | None, Coded | None]:
  """Finds neighbouring qualities of which the first fits and the second does not.

  Either is None where the limit lies outside what the encoder can reach.
  """
  if anchor.scale != "quality":
    raise AnchorError(
      f"{anchor.name} has no qualities {LOWEST_QUALITY}..{HIGHEST_QUALITY}, it is steered by "
      f"{anchor.scale}; take another anchor for a comparison at equal bytes"
    )
  low = LOWEST_QUALITY, anchor.encode(image, LOWEST_QUALITY)
  if len(low[1]) > num_bytes:
    return None, low
  high = HIGHEST_QUALITY, anchor.encode(image, HIGHEST_QUALITY)
  if len(high[1]) <= num_bytes:
    return high, None
  while high[0] - low[0] > 1:
    quality = (low[0] + high[0]) // 2
    data = anchor.encode(image, quality)
    if len(data) <= num_bytes:
      low = quality, data
    else:
      high = quality, data
  return low, high


def _decoded(anchor: Anchor, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
  """Decodes to the source's shape: for a grey one, to the luma of what came back."""
  decoded = anchor.decode(data, *shape[:2])
  if shape[2] == 3:
    return decoded
  return np.array(Image.fromarray(decoded).convert("L"))[..., np.newaxis]


def _psnr(anchor: Anchor, image: np.ndarray, data: bytes) -> float:
  return metrics.psnr(image, _decoded(anchor, data, image.shape))
