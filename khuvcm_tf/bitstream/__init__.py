"""The container of a compressed image, a .kvc file: one file, one image.

  header = bitstream.Header(fingerprint, bitstream.RGB, 8, height, width)
  file = bitstream.pack(header, substreams)
  header, substreams = bitstream.parse(file)

`pack` and `parse` are plain Python, and nothing here imports TensorFlow. `khuvcm_tf.bitstream.ops`
has the same pair as TensorFlow ops, for SavedModels. Both follow the tables and the checks of
`khuvcm_tf.bitstream.layout`. The format is described in `docs/format.md`.
"""

from khuvcm_tf.bitstream.layout import (
  DEFAULT_MAX_PIXELS,
  FEATURES,
  GREY,
  MAX_QUALITY,
  MAX_SIDE,
  MAX_SUBSTREAMS,
  QUALITY_STEPS,
  RGB,
  YCBCR420,
  YCBCR444,
  BitstreamError,
  Header,
)
from khuvcm_tf.bitstream.plain import pack, parse, quality_of, source_pixels, version_of

__all__ = [
  "DEFAULT_MAX_PIXELS",
  "FEATURES",
  "GREY",
  "MAX_QUALITY",
  "MAX_SIDE",
  "MAX_SUBSTREAMS",
  "QUALITY_STEPS",
  "RGB",
  "YCBCR420",
  "YCBCR444",
  "BitstreamError",
  "Header",
  "pack",
  "parse",
  "quality_of",
  "source_pixels",
  "version_of",
]
