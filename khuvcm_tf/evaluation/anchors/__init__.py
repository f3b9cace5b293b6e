"""Classic codecs to compare with: what their encoders write, byte for byte, and what comes back.

  anchor = anchors.create("avif-444")
  data = anchor.encode(rgb, anchor.default_rate_points[0])
  decoded = anchor.decode(data, *rgb.shape[:2])

  anchored = anchors.at_bytes(anchors.jpeg, image, len(kvc))

Pillow alone writes JPEG, JPEG 2000, WebP and AVIF. The others need packages of their own, which are
needed only where such an anchor is used: `missing()` names them.
"""

from __future__ import annotations

from khuvcm_tf.evaluation.anchors.anchor import Anchor, AnchorError, RatePoint
from khuvcm_tf.evaluation.anchors.equal_bytes import (
  HIGHEST_QUALITY,
  LOWEST_QUALITY,
  Anchored,
  at_bytes,
  psnr_at_bytes,
)
from khuvcm_tf.evaluation.anchors.file_formats import Avif, Heic, Jpeg, Jpeg2000, JpegXl, Webp
from khuvcm_tf.evaluation.anchors.raw_streams import Hevc, Vvc

__all__ = [
  "HIGHEST_QUALITY",
  "LOWEST_QUALITY",
  "Anchor",
  "AnchorError",
  "Anchored",
  "RatePoint",
  "at_bytes",
  "create",
  "jpeg",
  "names",
  "psnr_at_bytes",
  "webp",
]

# Default rate points: six rates from about 0.1 to 1.6 bpp on Kodak, the lowest first.
_ANCHORS: dict[str, Anchor] = {
  anchor.name: anchor
  for anchor in (
    Jpeg("jpeg", "4:2:0", (6, 12, 20, 32, 70, 84)),
    Jpeg("jpeg-444", "4:4:4", (6, 12, 20, 32, 50, 70)),
    Jpeg2000("jpeg2000", (0.1, 0.2, 0.35, 0.55, 0.8, 1.6)),
    Webp("webp", (2, 15, 35, 55, 75, 85)),
    Avif("avif", "4:2:0", (12, 25, 38, 50, 62, 75)),
    Avif("avif-444", "4:4:4", (12, 25, 38, 50, 62, 75)),
    Heic("heic", "4:2:0", (5, 15, 25, 35, 45, 55)),
    Heic("heic-444", "4:4:4", (5, 15, 25, 35, 45, 55)),
    # From distance 20 on, libjxl codes at half the resolution.
    JpegXl("jxl", (14, 9, 6, 4, 2.7, 1.7)),
    Hevc("hevc-420-10bit", "4:2:0", (42, 37, 32, 27, 22, 17)),
    Hevc("hevc-444-10bit", "4:4:4", (42, 37, 32, 27, 22, 17)),
    Vvc("vvc", "4:2:0", (42, 37, 32, 27, 22, 17)),
  )
}


def names() -> list[str]:
  """Returns the names of all anchors, those whose package is missing included."""
  return list(_ANCHORS)


def create(name: str) -> Anchor:
  """Returns an anchor; nothing is imported or run for it yet.

  Args:
    name: one of `names()`.

  Raises:
    AnchorError: there is no such anchor.
  """
  if name not in _ANCHORS:
    raise AnchorError(f"no anchor is called {name!r}; expected one of {', '.join(_ANCHORS)}")
  return _ANCHORS[name]


# The two that every installation has and that code grey images as well.
jpeg = create("jpeg")
webp = create("webp")
