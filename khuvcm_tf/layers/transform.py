"""The analysis and synthesis transforms: stacks of layers that large images pass in bands."""

from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf

from khuvcm_tf.layers import signal
from khuvcm_tf.layers.stack import Stack
from khuvcm_tf.ops import banding

# Bytes that a transform needs for each pixel and filter, as measured on 12 megapixels (peak memory
# over pixels and filters): 3.8 for an analysis, 10.4 for a synthesis.
_ANALYSIS_BYTES = 5
_SYNTHESIS_BYTES = 12


class Transform(Stack):
  """A stack whose stride and receptive field are known.

  `transform(x)` is the plain network, as training uses it. `transform.in_bands(x)` is the same
  within rounding, with memory bounded by `banding.BAND_BYTES` for each band.

  Args:
    layers: from samples to latents, or back.
    in_channels: channels of the input.
    name: of the transform.
    subsampling: pixels along the side of a sample.

  Attributes:
    stride: samples along the side of a latent.
    halo: input rows beyond its own that a row of the output depends on.
  """

  def __init__(
    self,
    layers: Sequence[tf.keras.layers.Layer],
    in_channels: int,
    name: str,
    subsampling: int = 1,
  ):
    super().__init__(layers, in_channels, name)
    self._pixels = subsampling**2
    self.filters = max(getattr(layer, "filters", 0) for layer in layers)
    steps = [step for layer in layers for step in signal.convolutions(layer)]
    kernels, down, up = zip(*steps)
    self.stride = math.prod((*down, *up))
    self.enlarges = max(up) > 1
    if self.enlarges:
      self.halo = banding.synthesis_halo(kernels, up)
    else:
      self.halo = banding.analysis_halo(kernels, down)

  def in_bands(self, x: tf.Tensor) -> tf.Tensor:
    """Applies the transform in horizontal bands.

    Args:
      x: [B, H, W, C]; for an analysis H and W are multiples of `stride`.
    """
    numerator, denominator = (self.stride, 1) if self.enlarges else (1, self.stride)
    rows = self._band_rows(tf.shape(x)[2])
    y = banding.in_bands(self, x, rows, self._halo, numerator, denominator)
    return tf.ensure_shape(y, (None, None, None, self.out_channels))

  def fits_a_band(self, height: int, width: int) -> bool:
    """Whether one band takes an input [B, height, width, C], so that `in_bands` cuts nothing."""
    return height <= int(self._band_rows(width))

  @property
  def _halo(self) -> int:
    # Cuts of an analysis fall on whole latent rows.
    return self.halo if self.enlarges else -(-self.halo // self.stride) * self.stride

  def _band_rows(self, width):
    """Returns the input rows of a band, scalar int32, for the width of the input."""
    scale = self.stride if self.enlarges else 1  # From input to output rows, if these are more.
    bytes_per_filter = _SYNTHESIS_BYTES if self.enlarges else _ANALYSIS_BYTES
    size = tf.as_dtype(self.compute_dtype).size
    bytes_per_sample = bytes_per_filter * self._pixels * self.filters * size / 4
    rows = banding.band_rows(width * scale, bytes_per_sample, self.stride, self._halo * scale)
    return rows // scale
