"""Transforms in horizontal bands, so that memory grows with an image's width, not with its area.

A band is cut with a halo of as many rows as the transform's kernels reach. At the image's own
top and bottom there is no halo, and the transform pads there as it would for the whole image; at
a cut its padding spoils halo rows alone, and these are dropped. So the bands joined equal the
transform of the whole within rounding.

The band's height follows from the image's width and the transform's width alone: all machines
cut alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable

import tensorflow as tf

# What one band may need, in bytes.
BAND_BYTES = 2**31


def analysis_halo(kernels: Sequence[int], strides: Sequence[int]) -> int:
  """Returns how many input rows beyond its own a stack of strided convolutions reads.

  Example:
    >>> analysis_halo([5, 5, 5, 5], [2, 2, 2, 2])
    30
  """
  halo, step = 0, 1
  for kernel, stride in zip(kernels, strides):
    halo += step * (kernel // 2)
    step *= stride
  return halo


def synthesis_halo(kernels: Sequence[int], strides: Sequence[int]) -> int:
  """Returns how many input rows beyond its own a stack of transposed convolutions reads.

  Example:
    >>> synthesis_halo([5, 5, 5, 5], [2, 2, 2, 2])
    2
  """
  halo = 0
  for kernel, stride in zip(reversed(kernels), reversed(strides)):
    halo = -(-(halo + kernel // 2) // stride)
  return halo


def band_rows(width, bytes_per_pixel: float, unit: int, halo: int):
  """Returns the height of a band in pixels: a multiple of `unit`, at least `unit`.

  Args:
    width: of the padded image in pixels, int or scalar int tensor.
    bytes_per_pixel: memory of the transform for an image's pixel, halo pixels included.
    unit: rows of pixels that are one row of latents.
    halo: rows of pixels on each side of a band.
  """
  rows = tf.cast(BAND_BYTES / bytes_per_pixel, tf.int32) // width - 2 * halo
  return tf.maximum(rows // unit, 1) * unit


def in_bands(
  transform: Callable[[tf.Tensor], tf.Tensor],
  x: tf.Tensor,
  rows,
  halo: int,
  numerator: int,
  denominator: int,
) -> tf.Tensor:
  """Applies `transform` to bands of `rows` input rows and joins the results.

  Args:
    transform: [B, h, W, C] -> [B, h * numerator / denominator, W', C'].
    x: [B, H, W, C].
    rows: input rows of a band, int or scalar int tensor, a multiple of `denominator`.
    halo: input rows that the transform reads beyond a band, a multiple of `denominator`.
    numerator, denominator: output rows for input rows.

  Returns:
    `transform(x)`, up to rounding.
  """
  height = tf.shape(x)[1]

  def band(start):
    """Transforms rows [start, start + rows) with their halo, and drops what the halo became."""
    stop = tf.minimum(start + rows, height)
    top, bottom = tf.maximum(start - halo, 0), tf.minimum(stop + halo, height)
    y = transform(x[:, top:bottom])
    return y[:, (start - top) * numerator // denominator : (stop - top) * numerator // denominator]

  def in_several():
    bands = (height + rows - 1) // rows
    # Concatenated along its first axis, hence the transpositions.
    joined = tf.TensorArray(x.dtype, size=bands, infer_shape=False, element_shape=None)
    _, joined = tf.while_loop(
      lambda i, _: i < bands,
      lambda i, array: (i + 1, array.write(i, tf.transpose(band(i * rows), (1, 0, 2, 3)))),
      (0, joined),
      parallel_iterations=1,
    )
    return tf.transpose(joined.concat(), (1, 0, 2, 3))

  return tf.cond(rows >= height, lambda: transform(x), in_several)
