"""A stack of layers between pixels and latents, which large pictures pass in bands."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from khuvcm_tf.layers import signal
from khuvcm_tf.ops import banding

# Bytes that a transform needs for each pixel and filter, as measured on 12 Mpixel (peak memory over
# pixels and filters): 3.8 for an analysis, 10.4 for a synthesis.
_ANALYSIS_BYTES = 5
_SYNTHESIS_BYTES = 12


class Transform(tf.keras.Sequential):
  """Layers in sequence, with the reach of their kernels known.

  `transform(x)` is the plain network, as training uses it. `transform.in_bands(x)` is the same
  within rounding, with memory bounded by `banding.BAND_BYTES` for each band.

  Args:
    layers: from samples to latents, or back.
    name: of the transform.
    in_channels: of what it is given.
    side: pixels along the side of a sample.
  """

  def __init__(
    self, layers: Sequence[tf.keras.layers.Layer], name: str, in_channels: int, side: int = 1
  ):
    # Keras takes inputs for float32 where it is not told, and rounds them.
    inputs = tf.keras.Input((None, None, in_channels), dtype=layers[0].variable_dtype)
    super().__init__([inputs, *layers], name=name)
    self._pixels = side**2
    self.filters = max(getattr(layer, "filters", 0) for layer in layers)
    kernels, down, up = zip(*(step for layer in layers for step in signal.reach(layer)))
    self.stride = 1
    for factor in (*down, *up):
      self.stride *= factor
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
    if self.enlarges:
      width, halo = tf.shape(x)[2] * self.stride, self.halo * self.stride
      bytes_per_place = _SYNTHESIS_BYTES * self._pixels * self.filters * x.dtype.size / 4
      rows = banding.band_rows(width, bytes_per_place, self.stride, halo)
      y = banding.in_bands(self, x, rows // self.stride, self.halo, self.stride, 1)
    else:
      # Cuts of an analysis fall on whole latent rows.
      halo = -(-self.halo // self.stride) * self.stride
      bytes_per_place = _ANALYSIS_BYTES * self._pixels * self.filters * x.dtype.size / 4
      rows = banding.band_rows(tf.shape(x)[2], bytes_per_place, self.stride, halo)
      y = banding.in_bands(self, x, rows, halo, 1, self.stride)
    return tf.ensure_shape(y, (None, None, None, self.output_shape[-1]))
