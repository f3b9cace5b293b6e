"""How far a decoded picture is from its source. `docs/conventions.md` has the reasons.

All measures take one picture at a time, samples on 0..255 (uint8, or float without rounding), as
NumPy arrays or anything that becomes one, compute in float64 and return a Python float. Over a set
of pictures the mean of the values is reported, in dB where the value is in dB.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from khuvcm_tf import errors

# Rows taken at a time: bounds memory to a few planes whatever the size of the picture.
_BAND = 256

_SSIM_SIZE = 11
_SSIM_SIGMA = 1.5
_C1 = (0.01 * 255) ** 2
_C2 = (0.03 * 255) ** 2
_MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # finest scale first

# The coarsest of 5 scales must still hold one 11x11 window: ceil(161 / 16) = 11.
MS_SSIM_SMALLEST_SIDE = 161


class MetricError(errors.Error):
  """Two pictures that cannot be compared."""


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
  """Peak signal-to-noise ratio in dB: 10 log10(255^2 / MSE), one MSE over the whole picture.

  Args:
    reference: the source, any shape, 0..255; for PSNR_RGB [H, W, 3].
    decoded: the same shape.

  Returns:
    dB; `inf` for identical pictures. MSE 1 is 48.13 dB.

  Raises:
    MetricError: the shapes differ, or there is nothing to compare.
  """
  error = mse(reference, decoded)
  return 10 * math.log10(255**2 / error) if error else math.inf


def ssim(reference, decoded) -> float:
  """Structural similarity, mean over windows that lie inside the picture, then over components.

      SSIM = l cs,    l = (2 mu_x mu_y + C1) / (mu_x^2 + mu_y^2 + C1),
      cs = (2 sigma_xy + C2) / (sigma_x^2 + sigma_y^2 + C2)

  with 11x11 Gaussian windows of sigma 1.5, C1 = (0.01 255)^2, C2 = (0.03 255)^2 (C3 = C2 / 2,
  exponents 1).

  Args:
    reference: the source, [H, W, C].
    decoded: the same shape.

  Returns:
    -1..1, 1 for identical pictures; `nan` where a side is below 11.

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
  smooth pictures, and by 2e-3 where it averages three components of 12 megapixels; float64 is used
  here instead. 12 megapixels take 0.3 GiB beside the pictures.

  Args:
    reference: the source, [H, W, C].
    decoded: the same shape.

  Returns:
    0..1, 1 for identical pictures; `nan` where a side is below 161.

  Raises:
    MetricError: the shapes differ or are not of rank 3.

  Reference: Wang, Simoncelli, Bovik, "Multi-scale structural similarity for image quality
    assessment", Asilomar 2003, equation 7.
  """
  reference, decoded = _pair(reference, decoded, rank=3)
  if min(reference.shape[:2]) < MS_SSIM_SMALLEST_SIDE:
    return math.nan
  return float(np.mean([_ms_ssim_plane(x, y) for x, y in _planes(reference, decoded)]))


def _pair(reference, decoded, rank=None) -> tuple[np.ndarray, np.ndarray]:
  reference, decoded = np.asarray(reference), np.asarray(decoded)
  if reference.shape != decoded.shape:
    raise MetricError(
      f"pictures of shapes {reference.shape} and {decoded.shape} cannot be compared; expected "
      "equal shapes; compare a decoded picture with its own source"
    )
  if not reference.size or rank not in (None, reference.ndim):
    raise MetricError(
      f"pictures of shape {reference.shape} cannot be measured; expected samples of shape "
      "[H, W, C]; add a last axis to a single plane"
    )
  return reference, decoded


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
