"""How far a decoded image is from its source. `docs/conventions.md` has the reasons.

`METRICS` lists them with their names, units and decimals. All metrics take one image at a time,
samples on 0..255 (uint8, or float without rounding), as NumPy arrays or anything that becomes one,
compute in float64 and return a Python float. Over a set of
images the mean of the values is reported, in dB where the value is in dB.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Callable, NamedTuple

import cv2
import numpy as np
from scipy import fft

from khuvcm_tf import errors
from khuvcm_tf.ops import color

# Rows taken at a time, of whole blocks: bounds memory to a few planes whatever the image's size.
_BAND = 256

# An MSE below this is what float64 leaves of equal samples turned to YCbCr (1e-28). The least that
# one sample of 8 bits can change, 0.0006 of chroma, is more than 1e-14 of 12 megapixels.
_ROUNDING = 1e-18

_SSIM_SIZE = 11
_SSIM_SIGMA = 1.5
_C1 = (0.01 * 255) ** 2
_C2 = (0.03 * 255) ** 2
_MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # finest scale first

# The coarsest of 5 scales must still hold one 11x11 window: ceil(161 / 16) = 11.
MS_SSIM_SMALLEST_SIDE = 161

_BLOCK = 8
# Quantisation steps of luma in ITU-T T.81, table K.1. The two tables of the authors of PSNR-HVS-M
# (`CSFCof`, `MaskCof`) follow from it to each of their digits.
_JPEG_STEPS = np.array(
  [
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
  ]
)
_SENSITIVITY = np.round(25.73509 / _JPEG_STEPS, 6)
_MASKING = np.round((10 / _JPEG_STEPS) ** 2, 6)
_MASKED = 1 / _MASKING
_MASKING[0, 0] = _MASKED[0, 0] = 0  # the mean of a block neither masks nor is masked


class MetricError(errors.Error):
  """Two images that cannot be compared."""


class YcbcrPsnr(NamedTuple):
  """PSNR of luma and chroma, dB; `inf` where a component is identical."""

  y: float
  cb: float
  cr: float
  weighted: float  # weighted mean of the three; `inf` where one that counts is


def measure(reference, decoded) -> dict[str, float]:
  """Returns all `METRICS` of an image by name.

  Args:
    reference: the source, [H, W, 3] or [H, W, 1].
    decoded: the same shape.

  Returns:
    Values as the metrics' functions return them; `nan` for those that need colour on grey images.

  Raises:
    MetricError: the shapes differ or are not those of images.
  """
  return {name: metric.function(reference, decoded) for name, metric in METRICS.items()}


def mse(reference, decoded) -> float:
  """Mean squared error per sample, one mean over all samples of all components.

  Args:
    reference: the source, any shape.
    decoded: the same shape.

  Returns:
    The error on the 0..255 scale squared; exact for uint8.

  Raises:
    MetricError: the shapes differ, or there is nothing to compare.
  """
  reference, decoded = _pair(reference, decoded)
  total = 0.0
  for row in range(0, len(reference), _BAND):
    band = slice(row, row + _BAND)
    difference = np.subtract(reference[band], decoded[band], dtype=np.float64)
    total += float(np.vdot(difference, difference))
  return total / reference.size


def psnr(reference, decoded) -> float:
  """Peak signal-to-noise ratio in dB: 10 log10(255^2 / MSE), one MSE over the whole image.

  Args:
    reference: the source, any shape, 0..255; for PSNR_RGB [H, W, 3].
    decoded: the same shape.

  Returns:
    dB; `inf` for identical images. MSE 1 is 48.13 dB.

  Raises:
    MetricError: the shapes differ, or there is nothing to compare.
  """
  return _decibel(mse(reference, decoded))


def psnr_ycbcr(reference, decoded, weights: Sequence[float] = (4, 1, 1)) -> YcbcrPsnr:
  """PSNR of Y, Cb and Cr of RGB images, and their weighted mean.

      PSNR_YCbCr = (4 PSNR_Y + PSNR_Cb + PSNR_Cr) / 6

  Both images are turned to YCbCr 4:4:4, BT.601 full range, in float64, and nothing is rounded
  there. Not to be put into one curve with `psnr_ycbcr420`, which does not see what halving the
  resolution of chroma costs.

  Args:
    reference: the source, [H, W, 3], R, G, B on 0..255.
    decoded: the same shape.
    weights: of Y, Cb and Cr; (6, 1, 1) is the other usual choice.

  Returns:
    dB. Components that agree to 1e-9 are identical. Grey images, [H, W, 1], have no chroma: `y`
    is their PSNR, the others are `nan`.

  Raises:
    MetricError: the shapes differ or are not those of images, or the weights are no weights.

  Example:
    >>> black = np.zeros([4, 4, 3])
    >>> psnr_ycbcr(black, black + 1)
    YcbcrPsnr(y=48.13..., cb=inf, cr=inf, weighted=inf)
  """
  reference, decoded = _pair(reference, decoded, rank=3)
  weights = _checked_weights(weights)
  if _is_grey(reference):
    return YcbcrPsnr(psnr(reference, decoded), math.nan, math.nan, math.nan)
  totals = np.zeros(3)
  for x, y in _bands(reference, decoded):
    totals += np.sum((_ycbcr(x) - _ycbcr(y)) ** 2, axis=(0, 1))
  height, width, _ = reference.shape
  return _weighted([_decibel(_unrounded(total / (height * width))) for total in totals], weights)


def psnr_ycbcr420(
  reference: Sequence, decoded: Sequence, weights: Sequence[float] = (4, 1, 1), bits: int = 8
) -> YcbcrPsnr:
  """PSNR of the three planes of images whose source is YCbCr 4:2:0, and their weighted mean.

  The peak is 255 2^(bits - 8), 1020 for 10 bits, as in the reference software of HEVC and VVC: the
  same images stored with more bits, all samples times 2^(bits - 8), have the same PSNR.

  Args:
    reference: the source's Y [H, W], Cb and Cr [ceil(H / 2), ceil(W / 2)], integers of `bits`; of a
      `frames.Frame` the first three, `frame[:3]`.
    decoded: the same.
    weights: of Y, Cb and Cr.
    bits: of a sample, 8 to 16.

  Returns:
    dB.

  Raises:
    MetricError: planes differ in shape, are not those of 4:2:0 or have samples of more bits, or
      the weights are no weights.
  """
  weights = _checked_weights(weights)
  shapes = [np.shape(plane) for plane in reference]
  if len(shapes) != 3 or len(shapes[0]) != 2 or shapes[1:] != [_half(shapes[0])] * 2:
    raise MetricError(
      f"planes of shapes {', '.join(map(str, shapes))} are not 4:2:0; expected Y [H, W], then Cb "
      "and Cr [ceil(H / 2), ceil(W / 2)]; measure 4:4:4 images by `psnr_ycbcr`"
    )
  if len(decoded) != 3:
    raise MetricError(f"{len(decoded)} decoded planes; expected Y, Cb and Cr")
  errors_squared = [mse(x, y) for x, y in zip(reference, decoded)]
  largest = max(np.max(plane) for plane in (*reference, *decoded))
  if not (8 <= bits <= 16 and largest < 2**bits):
    raise MetricError(
      f"samples up to {largest} do not have {bits} bits; give `bits`, as the file does"
    )
  peak = 255 * 2.0 ** (bits - 8)
  return _weighted([_decibel(error, peak) for error in errors_squared], weights)


def psnr_hvs(reference, decoded) -> float:
  """PSNR-HVS: PSNR of the 8x8 DCT of luma, each coefficient weighted by how well it is seen.

      10 log10(255^2 / mean((csf_kl (X_kl - Y_kl))^2))

  over whole blocks that do not overlap, from the upper left; the up to 7 rows and columns beyond
  the last whole block do not count. X, Y: orthonormal DCT-II; csf: contrast sensitivity, 1.6 for
  the mean of a block, 2.6 where it is highest, 0.2 where it is lowest. A constant offset of 1 is
  44.00 dB.

  Args:
    reference: the source, [H, W, 3], of which luma is measured (BT.601 full range, in float64), or
      a plane [H, W, 1].
    decoded: the same shape.

  Returns:
    dB; `inf` for identical blocks; `nan` where a side is below 8.

  Raises:
    MetricError: the shapes differ or are not those of images.

  Reference: Egiazarian, Astola, Ponomarenko, Lukin, Battisti, Carli, "New full-reference quality
    metrics based on HVS", VPQM 2006; tables and blocks as in the authors' psnrhvsm.m.
  """
  return _psnr_of_blocks(reference, decoded, lambda x, y: _dct(x) - _dct(y))


def psnr_hvs_m(reference, decoded) -> float:
  """PSNR-HVS-M: PSNR-HVS of what is left of each difference when masked by its block's contrast.

      max(|X_kl - Y_kl| - E / m_kl, 0)  in place of  X_kl - Y_kl,  but for the mean of a block
      E = sqrt(r sum_kl m_kl X_kl^2) / 32, without the mean of the block,
      r = mean of the variances (over n - 1) of the block's quarters / variance of the block

  with m = (10 / JPEG's luma step)^2, and E the larger one of the two blocks. At least PSNR-HVS.

  Args:
    reference: the source, [H, W, 3], of which luma is measured, or a plane [H, W, 1].
    decoded: the same shape.

  Returns:
    dB; `inf` where no difference can be seen; `nan` where a side is below 8.

  Raises:
    MetricError: the shapes differ or are not those of images.

  Reference: Ponomarenko, Silvestri, Egiazarian, Carli, Astola, Lukin, "On between-coefficient
    contrast masking of DCT basis functions", VPQM 2007, equations 2 to 4.
  """
  return _psnr_of_blocks(reference, decoded, _unmasked)


def ssim(reference, decoded) -> float:
  """Structural similarity, mean over windows that lie inside the image, then over components.

      SSIM = l cs,    l = (2 mu_x mu_y + C1) / (mu_x^2 + mu_y^2 + C1),
      cs = (2 sigma_xy + C2) / (sigma_x^2 + sigma_y^2 + C2)

  with 11x11 Gaussian windows of sigma 1.5, C1 = (0.01 255)^2, C2 = (0.03 255)^2 (C3 = C2 / 2,
  exponents 1).

  Args:
    reference: the source, [H, W, C].
    decoded: the same shape.

  Returns:
    -1..1, 1 for identical images; `nan` where a side is below 11.

  Raises:
    MetricError: the shapes differ or are not of rank 3.

  Reference: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to
    structural similarity", IEEE TIP 2004, equation 13.
  """
  reference, decoded = _pair(reference, decoded, rank=3)
  if min(reference.shape[:2]) < _SSIM_SIZE:
    return math.nan
  return float(np.mean([_similarities(x, y)[0] for x, y in _planes(reference, decoded)]))


def ms_ssim(reference, decoded) -> float:
  """Multi-scale SSIM: contrast and structure at 5 scales, luminance at the coarsest.

      MS-SSIM = l_5^w_5 prod_j cs_j^w_j,    w = 0.0448, 0.2856, 0.3001, 0.2363, 0.1333

  of each component, then the mean over components. Scales are halved by means of 2x2 samples, an
  odd side repeating its last row or column; a negative factor counts as 0. The definition is that
  of `tf.image.ssim_multiscale`. That function's float32 variances are off by up to 1e-4 on bright
  smooth images, and by 2e-3 where it averages three components of 12 megapixels; float64 is used
  here instead. 12 megapixels take 0.3 GiB beside the images.

  Args:
    reference: the source, [H, W, C].
    decoded: the same shape.

  Returns:
    0..1, 1 for identical images; `nan` where a side is below 161.

  Raises:
    MetricError: the shapes differ or are not of rank 3.

  Reference: Wang, Simoncelli, Bovik, "Multi-scale structural similarity for image quality
    assessment", Asilomar 2003, equation 7.
  """
  reference, decoded = _pair(reference, decoded, rank=3)
  if min(reference.shape[:2]) < MS_SSIM_SMALLEST_SIDE:
    return math.nan
  return float(np.mean([_ms_ssim_plane(x, y) for x, y in _planes(reference, decoded)]))


def similarity_db(similarity: float) -> float:
  """Returns -10 log10(1 - similarity), the scale in which similarities are compared.

  Args:
    similarity: what `ms_ssim` or `ssim` returned.

  Returns:
    dB; `inf` from 120 dB on, where float64 cannot distinguish images from identical ones; `nan` of
    `nan`.

  Example:
    >>> round(similarity_db(0.99), 6), similarity_db(1.0)
    (20.0, inf)
  """
  return math.inf if 1 - similarity < 1e-12 else -10 * math.log10(1 - similarity)


class Metric(NamedTuple):
  """A metric, and how it is shown and compared."""

  name: str  # its column in results
  label: str  # its name for people
  unit: str  # "dB", or "" for similarities
  decimals: int
  function: Callable[..., float]  # of (reference, decoded)
  needs_colour: bool = False  # whether it is undefined for grey images
  is_similarity: bool = False  # whether BD-rates compare -10 log10(1 - value)
  is_drawn_in_db: bool = False  # whether curves show -10 log10(1 - value), too

  def comparable(self, value: float) -> float:
    """Returns a value in dB, as averages over images and BD-rates take it."""
    return similarity_db(value) if self.is_similarity else value


METRICS: dict[str, Metric] = {
  metric.name: metric
  for metric in (
    Metric("psnr_rgb", "PSNR RGB", "dB", 2, psnr),
    Metric("psnr_ycbcr", "PSNR YCbCr", "dB", 2, lambda x, y: psnr_ycbcr(x, y).weighted, True),
    Metric("psnr_y", "PSNR Y", "dB", 2, lambda x, y: psnr_ycbcr(x, y).y),
    Metric("ssim", "SSIM", "", 4, ssim, is_similarity=True),
    Metric("ms_ssim", "MS-SSIM", "", 4, ms_ssim, is_similarity=True, is_drawn_in_db=True),
    Metric("psnr_hvs", "PSNR-HVS", "dB", 2, psnr_hvs),
    Metric("psnr_hvs_m", "PSNR-HVS-M", "dB", 2, psnr_hvs_m),
  )
}


def _decibel(error: float, peak: float = 255) -> float:
  return 10 * math.log10(peak**2 / error) if error else math.inf


def _unrounded(error: float) -> float:
  return 0.0 if error < _ROUNDING else float(error)


def _weighted(values: Sequence[float], weights: Sequence[float]) -> YcbcrPsnr:
  # Without weight an infinite value would give nan.
  total = sum(weight * value for weight, value in zip(weights, values) if weight)
  return YcbcrPsnr(*values, total / sum(weights))


def _checked_weights(weights: Sequence[float]) -> Sequence[float]:
  if len(weights) != 3 or not all(0 <= each < math.inf for each in weights) or not sum(weights):
    raise MetricError(
      f"`weights` are {tuple(weights)}; expected those of Y, Cb and Cr, none negative, not all 0"
    )
  return weights


def _half(shape: tuple[int, int]) -> tuple[int, int]:
  return (shape[0] + 1) // 2, (shape[1] + 1) // 2


def _pair(reference, decoded, rank=None) -> tuple[np.ndarray, np.ndarray]:
  reference, decoded = np.asarray(reference), np.asarray(decoded)
  if reference.shape != decoded.shape:
    raise MetricError(
      f"images of shapes {reference.shape} and {decoded.shape} cannot be compared; expected "
      "equal shapes; compare a decoded image with its own source"
    )
  if not reference.size or rank not in (None, reference.ndim):
    raise MetricError(
      f"images of shape {reference.shape} cannot be measured; expected samples of shape "
      "[H, W, C]; add a last axis to a single plane"
    )
  return reference, decoded


def _is_grey(image: np.ndarray) -> bool:
  if image.shape[-1] not in (1, 3):
    raise MetricError(
      f"images of shape {image.shape} have no luma; expected RGB [H, W, 3] or a plane [H, W, 1]"
    )
  return image.shape[-1] == 1


def _bands(reference: np.ndarray, decoded: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields pairs of float64 bands of up to `_BAND` rows."""
  for row in range(0, len(reference), _BAND):
    band = slice(row, row + _BAND)
    yield reference[band].astype(np.float64), decoded[band].astype(np.float64)


def _ycbcr(rgb: np.ndarray) -> np.ndarray:
  return color.rgb_to_ycbcr(rgb).numpy()


def _psnr_of_blocks(
  reference, decoded, differences: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> float:
  """PSNR of what `differences` makes of two arrays of blocks of luma, [N, 8, 8]."""
  reference, decoded = _pair(reference, decoded, rank=3)
  grey = _is_grey(reference)
  rows, columns = (side // _BLOCK for side in reference.shape[:2])
  if not rows * columns:
    return math.nan
  reference, decoded = (x[: rows * _BLOCK, : columns * _BLOCK] for x in (reference, decoded))
  total = 0.0
  for bands in _bands(reference, decoded):
    x, y = (_blocks((band if grey else _ycbcr(band))[..., 0]) for band in bands)
    total += float(np.sum((_SENSITIVITY * differences(x, y)) ** 2))
  return _decibel(_unrounded(total / (rows * columns * _BLOCK**2)))


def _blocks(plane: np.ndarray) -> np.ndarray:
  """Cuts [8 R, 8 C] into blocks [R C, 8, 8]."""
  height, width = plane.shape
  blocks = plane.reshape(height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK)
  return blocks.swapaxes(1, 2).reshape(-1, _BLOCK, _BLOCK)


def _dct(blocks: np.ndarray) -> np.ndarray:
  return fft.dctn(blocks, axes=(-2, -1), norm="ortho")


def _unmasked(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """What is seen of the differences of the DCT coefficients of blocks [N, 8, 8]."""
  x_dct, y_dct = _dct(x), _dct(y)
  mask = np.maximum(_mask(x, x_dct), _mask(y, y_dct))
  return np.maximum(np.abs(x_dct - y_dct) - mask[:, np.newaxis, np.newaxis] * _MASKED, 0)


def _mask(blocks: np.ndarray, dct: np.ndarray) -> np.ndarray:
  """How much blocks [N, 8, 8] mask: [N]. Little where one edge makes up all their contrast."""
  half = _BLOCK // 2
  variance = np.var(blocks, axis=(1, 2), ddof=1)
  quarters = np.var(blocks.reshape(-1, 2, half, 2, half), axis=(2, 4), ddof=1).sum(axis=(1, 2))
  evenness = np.divide(quarters, 4 * variance, out=np.zeros_like(variance), where=variance > 0)
  return np.sqrt(np.sum(_MASKING * dct**2, axis=(1, 2)) * evenness) / 32


def _planes(reference: np.ndarray, decoded: np.ndarray):
  """Yields the components as pairs of float64 planes [H, W], one pair in memory at a time."""
  for c in range(reference.shape[-1]):
    yield reference[..., c].astype(np.float64), decoded[..., c].astype(np.float64)


def _ms_ssim_plane(x: np.ndarray, y: np.ndarray) -> float:
  product = 1.0
  for weight in _MS_SSIM_WEIGHTS[:-1]:
    product *= max(_similarities(x, y)[1], 0.0) ** weight
    x, y = _halve(x), _halve(y)
  return product * max(_similarities(x, y)[0], 0.0) ** _MS_SSIM_WEIGHTS[-1]


def _similarities(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
  """Means over all windows of SSIM and of its contrast-structure factor."""
  rows, columns = (side - _SSIM_SIZE + 1 for side in x.shape)
  totals = np.zeros(2)
  for row in range(0, rows, _BAND):
    band = slice(row, row + _BAND + _SSIM_SIZE - 1)
    totals += _band_similarities(x[band], y[band])
  return tuple(totals / (rows * columns))


def _band_similarities(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
  mu_x, mu_y = _window_means(x), _window_means(y)
  mu_xx, mu_xy, mu_yy = mu_x * mu_x, mu_x * mu_y, mu_y * mu_y
  sigma_xy = _window_means(x * y) - mu_xy
  sigma_xx_yy = _window_means(x * x + y * y) - mu_xx - mu_yy
  contrast_structure = (2 * sigma_xy + _C2) / (sigma_xx_yy + _C2)
  luminance = (2 * mu_xy + _C1) / (mu_xx + mu_yy + _C1)
  return float(np.sum(luminance * contrast_structure)), float(np.sum(contrast_structure))


def _window_means(x: np.ndarray) -> np.ndarray:
  """Gaussian means of the 11x11 windows inside x: [H, W] -> [H - 10, W - 10]."""
  window = cv2.getGaussianKernel(_SSIM_SIZE, _SSIM_SIGMA, cv2.CV_64F)
  margin = _SSIM_SIZE // 2
  return cv2.sepFilter2D(x, cv2.CV_64F, window, window)[margin:-margin, margin:-margin]


def _halve(x: np.ndarray) -> np.ndarray:
  """Means of 2x2 samples: [H, W] -> [ceil(H / 2), ceil(W / 2)]."""
  x = np.pad(x, [(0, side % 2) for side in x.shape], "edge")
  return (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4
