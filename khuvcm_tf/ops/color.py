"""Colour: RGB to YCbCr and back, chroma at half the resolution, levels of 8 to 16 bits.

Samples are floats on the 8-bit scale, whatever the depth of the file they came from: RGB 0..255;
full range Y 0..255 and C 0.5..255.5; limited range Y 16..235 and C 16..240; C is centred at 128.
Nothing is rounded before `levels`.

*Siting* is where a chroma sample of 4:2:0 lies among its luma samples. Vertically always midway
between two rows; horizontally

- "centre": midway between two columns (JPEG);
- "left": on the left column of the two (MPEG-2, the default of H.264 and H.265).

  H, W: sides of the image; h, w: half of them, rounded up.
"""

from __future__ import annotations

from typing import Callable

import numpy as np
import tensorflow as tf

# Kr, Kb: weights of red and blue in luma. Everything else follows from them.
STANDARDS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}
SITINGS = ("centre", "left")
CHROMA_ZERO = 128.0  # the level of no colour


def rgb_to_ycbcr(rgb: tf.Tensor, standard: str = "bt601", full_range: bool = True) -> tf.Tensor:
  """Returns luma and chroma of (non-linear) R, G, B.

      Y = Kr R + (1 - Kr - Kb) G + Kb B
      Cb = (B - Y) / (2 - 2 Kb) + 128
      Cr = (R - Y) / (2 - 2 Kr) + 128

  For limited range, Y is scaled by 219/255 and starts at 16, chroma is scaled by 224/255.

  Args:
    rgb: [..., 3], any float dtype, 0..255. Values outside are converted by the same formula.
    standard: one of `STANDARDS`.
    full_range: whether Y fills 0..255, as in JPEG, rather than 16..235, as in most video.

  Returns:
    [..., 3] of the same dtype: Y, Cb, Cr. The error of float32 is below 1e-4.

  Raises:
    ValueError: another dtype, shape or standard.

  Example:
    >>> np.round(rgb_to_ycbcr(tf.constant([255.0, 0.0, 0.0])).numpy(), 3)
    array([ 76.245,  84.972, 255.5  ], dtype=float32)

  Reference: ITU-T H.273, 8.3 (MatrixCoefficients); JFIF is BT.601 in full range.
  """
  rgb = _checked(rgb, "rgb", 3)
  matrix, offset = _forward(standard, full_range)
  return _affine(matrix, rgb, offset)


def ycbcr_to_rgb(ycbcr: tf.Tensor, standard: str = "bt601", full_range: bool = True) -> tf.Tensor:
  """Undoes `rgb_to_ycbcr`: [..., 3], floats, to [..., 3] of the same dtype, not clipped."""
  ycbcr = _checked(ycbcr, "ycbcr", 3)
  matrix, offset = _forward(standard, full_range)
  inverse = np.linalg.inv(matrix)
  return _affine(inverse, ycbcr, -inverse @ offset)


def to_depth(samples: tf.Tensor, bits: int, full_range: bool = True, zero=0.0) -> tf.Tensor:
  """Brings floats from the 8-bit scale to that of `bits`, without rounding.

  Limited range is scaled by 2^(bits - 8): 16..235 becomes 64..940 at 10 bits. Full range is scaled
  by (2^bits - 1) / 255, so that 255 becomes 1023, about `zero`, which becomes zero 2^(bits - 8):
  chroma is centred at 512 at 10 bits in both ranges.

  Args:
    samples: floats of any shape.
    bits: 8 to 16.
    full_range: whether `samples` are RGB or full-range YCbCr.
    zero: the level of no signal: 0 for luma and RGB, `CHROMA_ZERO` for chroma; a list of three for
      YCbCr. Of no effect in limited range.

  Returns:
    Floats of the shape and dtype of `samples`.

  Reference: ITU-T H.273, 8.3 (VideoFullRangeFlag).
  """
  samples = _checked(samples, "samples")
  scale, zero_of_depth = _depth(bits, full_range, zero)
  if full_range:
    return (samples - tf.cast(zero, samples.dtype)) * scale + tf.cast(zero_of_depth, samples.dtype)
  return samples * scale


def from_depth(samples: tf.Tensor, bits: int, full_range: bool = True, zero=0.0) -> tf.Tensor:
  """Undoes `to_depth`: floats of the scale of `bits` (cast integers first) to the 8-bit scale."""
  samples = _checked(samples, "samples")
  scale, zero_of_depth = _depth(bits, full_range, zero)
  if full_range:
    return (samples - tf.cast(zero_of_depth, samples.dtype)) / scale + tf.cast(zero, samples.dtype)
  return samples / scale


def levels(samples: tf.Tensor, bits: int = 8) -> tf.Tensor:
  """Rounds to the nearest integer, ties to the even one, and clips to 0..2^bits - 1.

  Args:
    samples: floats of any shape on the scale of `bits`.
    bits: 8 to 16.

  Returns:
    uint8 for 8 bits, else uint16, of the same shape.
  """
  samples = _checked(samples, "samples")
  _check_bits(bits)
  samples = tf.round(tf.clip_by_value(samples, 0.0, 2.0**bits - 1))
  return tf.cast(samples, tf.uint8 if bits == 8 else tf.uint16)


def to_420(ycbcr: tf.Tensor, siting: str = "centre") -> tuple[tf.Tensor, tf.Tensor]:
  """Halves the resolution of chroma.

  Filters: vertically the mean of two rows; horizontally the mean of two columns for "centre", and
  [1, 2, 1] / 4 about the left one for "left". Beyond its edges the image repeats its last row or
  column, odd sides included.

  Args:
    ycbcr: [B, H, W, 3], floats.
    siting: one of `SITINGS`.

  Returns:
    y: [B, H, W, 1].
    uv: [B, h, w, 2]: Cb and Cr.
  """
  ycbcr = _checked(ycbcr, "ycbcr", 3, rank=4)
  _check_siting(siting)
  height, width = tf.shape(ycbcr)[1], tf.shape(ycbcr)[2]
  y, uv = ycbcr[..., :1], ycbcr[..., 1:]
  uv = _pad(uv, (0, height % 2), (0, 0))
  uv = (uv[:, 0::2] + uv[:, 1::2]) / 2
  if siting == "centre":
    uv = _pad(uv, (0, 0), (0, width % 2))
    return y, (uv[:, :, 0::2] + uv[:, :, 1::2]) / 2
  uv = _pad(uv, (0, 0), (1, 1))
  # Column 2j of the image is column 2j + 1 of the padded one.
  left, right = uv[:, :, :width:2], uv[:, :, 2::2]
  return y, (left + right) / 4 + uv[:, :, 1:-1:2] / 2


def to_444(y: tf.Tensor, uv: tf.Tensor, siting: str = "centre") -> tf.Tensor:
  """Brings chroma to the resolution of luma, bilinearly.

  Filters: vertically, and horizontally for "centre", an output takes 3/4 of the nearer sample and
  1/4 of the next; horizontally for "left", the sample itself or the mean of two neighbours. Beyond
  its edges chroma repeats its last row or column.

  Args:
    y: [B, H, W, 1], floats.
    uv: [B, h, w, 2].
    siting: one of `SITINGS`.

  Returns:
    [B, H, W, 3]: Y, Cb, Cr.

  Raises:
    ValueError: a dtype, shape or siting is another.
  """
  y, uv = _checked(y, "y", 1, rank=4), _checked(uv, "uv", 2, rank=4)
  _check_siting(siting)
  for full, half in zip(y.shape[1:3], uv.shape[1:3]):
    if None not in (full, half) and half != -(-full // 2):
      raise ValueError(
        f"`uv` is {uv.shape} beside `y` {y.shape}; expected half the sides of `y`, rounded up"
      )
  uv = _pad(uv, (1, 1), (0, 0))
  above, rows, below = uv[:, :-2], uv[:, 1:-1], uv[:, 2:]
  uv = _interleaved((above + 3 * rows) / 4, (3 * rows + below) / 4, axis=1)
  uv = _pad(uv, (0, 0), (1, 1))
  left, columns, right = uv[:, :, :-2], uv[:, :, 1:-1], uv[:, :, 2:]
  if siting == "centre":
    uv = _interleaved((left + 3 * columns) / 4, (3 * columns + right) / 4, axis=2)
  else:
    uv = _interleaved(columns, (columns + right) / 2, axis=2)
  return tf.concat([y, uv[:, : tf.shape(y)[1], : tf.shape(y)[2]]], axis=-1)


def repeat_chroma(uv: tf.Tensor) -> tf.Tensor:
  """Repeats each sample 2x2: [B, h, w, 2] to [B, 2h, 2w, 2]; `to_420` (centre) undoes it."""
  uv = _checked(uv, "uv", 2, rank=4)
  uv = _interleaved(uv, uv, axis=1)
  return _interleaved(uv, uv, axis=2)


def ceiling(images: tf.Tensor, there_and_back: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
  """Returns the PSNR_RGB that a conversion alone leaves: no codec behind it can exceed it by much.

  On photographs, BT.601 full range rounded to 8 bits leaves 53 dB (theory: the variance 1/12 of
  three roundings, carried through the inverse and rounded again, is an MSE of 0.33), or more where
  the photograph came from a JPEG file and so was YCbCr before; 4:2:0 with the filters of this
  module leaves 35 to 47 dB on those of scikit-image, by how sharp and colourful they are.

  Args:
    images: uint8 [B, H, W, 3], RGB.
    there_and_back: from float32 RGB to float RGB, [B, H, W, 3]; its result is rounded by `levels`.

  Returns:
    float64 [B], dB, of one MSE over the three components; `inf` where nothing is lost.

  Example:
    >>> grey = tf.fill([1, 8, 8, 3], tf.constant(77, tf.uint8))
    >>> ceiling(grey, lambda rgb: ycbcr_to_rgb(rgb_to_ycbcr(rgb))).numpy()
    array([inf])
  """
  images = tf.convert_to_tensor(images)
  if images.dtype != tf.uint8 or images.shape.rank != 4 or images.shape[-1] != 3:
    raise ValueError(
      f"`images` are {images.dtype.name} {images.shape}; expected uint8 [B, H, W, 3]; put "
      "an image into a batch of one"
    )
  back = levels(there_and_back(tf.cast(images, tf.float32)))
  difference = tf.cast(back, tf.float64) - tf.cast(images, tf.float64)
  mse = tf.reduce_mean(difference**2, axis=(1, 2, 3))
  return 10 * tf.math.log(255**2 / mse) / np.log(10)


def _forward(standard: str, full_range: bool) -> tuple[np.ndarray, np.ndarray]:
  """Returns the matrix [3, 3] and the offset [3] from RGB to YCbCr, float64."""
  if standard not in STANDARDS:
    raise ValueError(f"`standard` is {standard!r}; expected one of {', '.join(STANDARDS)}")
  kr, kb = STANDARDS[standard]
  luma = np.array([kr, 1 - kr - kb, kb])
  red, _, blue = np.eye(3)
  matrix = np.stack([luma, (blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr)])
  if full_range:
    return matrix, np.array([0.0, CHROMA_ZERO, CHROMA_ZERO])
  scale = np.array([219.0, 224.0, 224.0]) / 255
  return scale[:, np.newaxis] * matrix, np.array([16.0, CHROMA_ZERO, CHROMA_ZERO])


def _affine(matrix: np.ndarray, x: tf.Tensor, offset: np.ndarray) -> tf.Tensor:
  """Returns matrix x + offset over the last axis."""
  # By sums: a matrix product is rounded to TensorFloat-32 on GPUs, which is off by 0.1 of a level.
  a, b, c = tf.unstack(x, num=3, axis=-1)
  return tf.stack(
    [float(p) * a + float(q) * b + float(r) * c + float(o) for (p, q, r), o in zip(matrix, offset)],
    axis=-1,
  )


def _depth(bits: int, full_range: bool, zero) -> tuple[float, np.ndarray]:
  """Returns the scale from 8 bits to `bits`, and what `zero` becomes."""
  _check_bits(bits)
  step = 2.0 ** (bits - 8)
  return (2.0**bits - 1) / 255 if full_range else step, np.multiply(zero, step)


def _pad(x: tf.Tensor, rows, columns) -> tf.Tensor:
  """Repeats the first and last rows and columns of [B, H, W, C], each at most once."""
  return tf.pad(x, [(0, 0), rows, columns, (0, 0)], "SYMMETRIC")


def _interleaved(even: tf.Tensor, odd: tf.Tensor, axis: int) -> tf.Tensor:
  """Returns [B, H, W, C] with twice the rows (axis 1) or columns (axis 2), in turn of each."""
  shape = tf.unstack(tf.shape(even))
  shape[axis] *= 2
  return tf.reshape(tf.stack([even, odd], axis=axis + 1), shape)


def _checked(x, name: str, channels: int | None = None, rank: int | None = None) -> tf.Tensor:
  """Returns `x` as a tensor, if its dtype, rank and channels are as expected."""
  x = tf.convert_to_tensor(x)
  fits = x.dtype.is_floating and rank in (None, x.shape.rank)
  if not fits or (channels is not None and (x.shape.rank == 0 or x.shape[-1] != channels)):
    axes = "[B, H, W, {}]" if rank == 4 else "[..., {}]"
    expected = "any shape" if channels is None else axes.format(channels)
    raise ValueError(
      f"`{name}` is {x.dtype.name} {x.shape}; expected floats, {expected}; cast integers first"
    )
  return x


def _check_bits(bits: int) -> None:
  if not 8 <= bits <= 16:
    raise ValueError(f"`bits` is {bits}; expected 8 to 16")


def _check_siting(siting: str) -> None:
  if siting not in SITINGS:
    raise ValueError(f"`siting` is {siting!r}; expected one of {', '.join(SITINGS)}")
