"""Classic codecs on feature maps: tiled into one grey plane, quantized, and coded as an image.

Each level is mapped by its least and greatest value to 0 .. 2^bits - 1 and rounded to nearest. Both
values, float32, are side information: 8 bytes for each level, which are counted. All levels share
one canvas (`ops.tiling`, with one plane).

  jpeg, webp    8 bits; WebP has no grey images and gets three equal channels
  hevc, vvc     8 or 10 bits as luma of 10 bits, chroma constant (`anchors.raw_streams`)
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from detection.feature_coding import FeatureCodingError
from detection.feature_coding.coders import Coded, FeatureCoder
from khuvcm_tf.evaluation import anchors
from khuvcm_tf.ops import pyramid, tiling
from khuvcm_tf.ops.pyramid import BOX_LEVELS

_SIDE_BYTES = 8  # of each level: two float32
_STREAMS = {"hevc": "hevc-420-10bit", "vvc": "vvc"}
_FILES = ("jpeg", "webp")
RATE_POINTS = {
  "jpeg": (5, 15, 30, 50, 70, 85, 95),
  "webp": (1, 10, 25, 45, 65, 80, 95),
  "hevc": (45, 39, 33, 27, 21),
  "vvc": (45, 39, 33, 27, 21),
}


def coders(names: tuple[str, ...], bits: tuple[int, ...]) -> list[FeatureCoder]:
  """Returns the coders of anchors at their rate points.

  Args:
    names: of `RATE_POINTS`.
    bits: 8 or 10, of streams; image files have 8.

  Raises:
    FeatureCodingError: an anchor's package is missing.
  """
  found = []
  for name in names:
    anchor = installed(_STREAMS.get(name, name))
    for depth in (8,) if name in _FILES else bits:
      found += [QuantizedCoder(name, anchor, point, depth) for point in RATE_POINTS[name]]
  return found


def installed(name: str) -> anchors.Anchor:
  """Returns an anchor, or raises FeatureCodingError where its package is missing."""
  anchor = anchors.create(name)
  missing = anchor.missing()
  if missing:
    raise FeatureCodingError(missing)
  return anchor


class QuantizedCoder(FeatureCoder):
  """A classic codec at one rate point.

  Args:
    name: of `RATE_POINTS`.
    anchor: that codes the plane.
    rate_point: of the anchor.
    bits: to which maps are quantized.
  """

  group = "Anchors"

  def __init__(self, name: str, anchor: anchors.Anchor, rate_point: float, bits: int):
    self._anchor, self._rate_point, self._bits, self._is_file = (
      anchor,
      rate_point,
      bits,
      name in _FILES,
    )
    self.curve = f"{name}, {bits} bits"
    self.label = anchor.label(rate_point)
    self.key = f"quantized maps {bits} {name} {anchor.options(rate_point)}"

  def code(self, image, features):
    del image
    channels = features.levels["p2"].shape[-1]
    planes, ranges = zip(*(quantize(features.levels[level], self._bits) for level in BOX_LEVELS))
    tiles = [tiling.tile(plane[np.newaxis].astype(np.int32), 1) for plane in planes]
    canvas = tiling.to_canvas(tiles)[0, ..., 0].numpy()
    size, decoded = self._coded(canvas)
    rows, columns = tiling.grid(channels, 1)
    sizes = [pyramid.level_sizes(features.image_size)[level] for level in BOX_LEVELS]
    sizes = [(rows * height, columns * width) for height, width in sizes]
    parts = tiling.from_canvas(decoded[np.newaxis, ..., np.newaxis], sizes)
    levels = {}
    for level, part, ends in zip(BOX_LEVELS, parts, ranges):
      maps = tiling.untile(tf.constant(part), channels)[0].numpy()
      levels[level] = dequantize(maps, *ends, self._bits)
    levels["p6"] = levels["p5"][::2, ::2]
    return Coded(size + _SIDE_BYTES * len(BOX_LEVELS), features._replace(levels=levels))

  def _coded(self, canvas: np.ndarray) -> tuple[int, np.ndarray]:
    """Returns the bytes of a file of int32 [H, W], and what it decodes to."""
    height, width = canvas.shape
    if self._is_file:
      channels = 1 if self._anchor.codes_grey else 3
      grey = np.repeat(canvas.astype(np.uint8)[..., np.newaxis], channels, -1)
      data = self._anchor.encode(grey, self._rate_point)
      return len(data), self._anchor.decode(data, height, width).astype(np.float32).mean(-1)
    shift = 10 - self._bits
    data = self._anchor.encode_luma((canvas << shift).astype(np.uint16), self._rate_point)
    luma = self._anchor.decode_luma(data, height, width)
    return len(data), luma.astype(np.float32) / (1 << shift)


def quantize(maps: np.ndarray, bits: int) -> tuple[np.ndarray, tuple[np.float32, np.float32]]:
  """Returns levels 0 .. 2^bits - 1, uint16, and the least and greatest value of maps."""
  low, high = np.float32(maps.min()), np.float32(maps.max())
  scale = (2**bits - 1) / max(float(high) - float(low), 1e-9)
  return np.rint((maps.astype(np.float64) - low) * scale).astype(np.uint16), (low, high)


def dequantize(levels: np.ndarray, low: float, high: float, bits: int) -> np.ndarray:
  """Undoes `quantize`, up to its rounding."""
  scale = (float(high) - float(low)) / (2**bits - 1)
  return (levels.astype(np.float64) * scale + low).astype(np.float32)
