"""Distortions between an image and its reconstruction, on the 0..255 scale.

A distortion of training is a function: (image format, planes, decoded planes) -> [B].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable

import tensorflow as tf

from khuvcm_tf.codecs import input_format as input_format_lib

Distortion = Callable[
  [input_format_lib.Rgb, input_format_lib.Planes, input_format_lib.Planes], tf.Tensor
]

_MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # finest scale first
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_WINDOW, _SIGMA = 11, 1.5
# Factors below are raised to it: the power of a fraction has no gradient at 0, no value below.
_MIN_FACTOR = 1e-4


def create(
  kind: str, factors: Sequence[float] | None = None, threshold: float | None = None
) -> Distortion:
  """Returns a distortion.

  Args:
    kind: "mse": sum_c f_c MSE_c, each component over its own samples; "ms_ssim": 1 - MS-SSIM of the
      RGB images.
    factors: f, one for each component; None: the image format's weights divided by their sum.
    threshold: of "mse" of features: the mean of max(0, e^2 - threshold) over all elements takes
      the place of their MSE, in the features' own units.
  """
  if kind == "ms_ssim":
    return lambda form, original, decoded: ms_ssim(form.to_rgb(original), form.to_rgb(decoded))

  if threshold is not None:
    return lambda form, original, decoded: _beyond(original[0], decoded[0], 255.0**2 * threshold)

  def weighted_mse(form, original, decoded):
    used = factors or [each / sum(form.component_weights) for each in form.component_weights]
    errors = tf.cast(form.squared_errors(original, decoded), tf.float32)
    return tf.linalg.matvec(errors, tf.constant(used, tf.float32))

  return weighted_mse


def _beyond(original: tf.Tensor, decoded: tf.Tensor, threshold: float) -> tf.Tensor:
  """Mean over each example of by how much its elements' squared errors exceed a threshold."""
  squared = tf.math.squared_difference(original, decoded)
  return tf.reduce_mean(tf.maximum(tf.cast(squared, tf.float32) - threshold, 0.0), axis=(1, 2, 3))


def mse(original: tf.Tensor, decoded: tf.Tensor) -> tf.Tensor:
  """Mean squared error of each image: [B, H, W, C] twice, 0..255 -> [B]."""
  difference = tf.cast(original, tf.float32) - tf.cast(decoded, tf.float32)
  return tf.reduce_mean(tf.square(difference), axis=(1, 2, 3))


def ms_ssim(original: tf.Tensor, decoded: tf.Tensor) -> tf.Tensor:
  """1 - MS-SSIM of each image, as `evaluation.metrics.ms_ssim` defines it, to 1e-5.

  The gradient of `tf.image.ssim_multiscale` is NaN where a scale is negatively correlated, as an
  untrained codec's are; here such a factor counts as 1e-4.

  Args:
    original: [B, H, W, C], 0..255, sides of at least 176.
    decoded: likewise.

  Returns:
    float32 [B], 0..1.
  """
  # Around grey: variances are differences of squares, which cost float32 its digits.
  x, y = tf.cast(original, tf.float32) - 128.0, tf.cast(decoded, tf.float32) - 128.0
  product = 1.0
  for weight in _MS_SSIM_WEIGHTS[:-1]:
    _, contrast_structure = _similarities(x, y)
    product *= tf.maximum(contrast_structure, _MIN_FACTOR) ** weight
    x, y = _halve(x), _halve(y)
  similarity, _ = _similarities(x, y)
  product *= tf.maximum(similarity, _MIN_FACTOR) ** _MS_SSIM_WEIGHTS[-1]
  return 1.0 - tf.reduce_mean(product, axis=1)


def _similarities(x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """SSIM and its contrast-structure factor, [B, C]; x and y are samples less 128."""
  mu_x, mu_y = _window_means(x), _window_means(y)
  mu_xx, mu_yy, mu_xy = mu_x * mu_x, mu_y * mu_y, mu_x * mu_y
  covariance = _window_means(x * y) - mu_xy
  variances = _window_means(x * x + y * y) - mu_xx - mu_yy
  contrast_structure = (2.0 * covariance + _C2) / (variances + _C2)
  mu_x, mu_y = mu_x + 128.0, mu_y + 128.0
  luminance = (2.0 * mu_x * mu_y + _C1) / (mu_x * mu_x + mu_y * mu_y + _C1)
  return (
    tf.reduce_mean(luminance * contrast_structure, axis=(1, 2)),
    tf.reduce_mean(contrast_structure, axis=(1, 2)),
  )


def _window_means(x: tf.Tensor) -> tf.Tensor:
  """Gaussian means of the windows inside x: [B, H, W, C] -> [B, H - 10, W - 10, C]."""
  taps = tf.exp(-0.5 * tf.square((tf.range(_WINDOW, dtype=tf.float32) - _WINDOW // 2) / _SIGMA))
  taps /= tf.reduce_sum(taps)
  channels = x.shape[-1]
  for shape in ((_WINDOW, 1, 1, 1), (1, _WINDOW, 1, 1)):
    kernel = tf.tile(tf.reshape(taps, shape), (1, 1, channels, 1))
    x = tf.nn.depthwise_conv2d(x, kernel, (1, 1, 1, 1), "VALID")
  return x


def _halve(x: tf.Tensor) -> tf.Tensor:
  """Means of 2x2 samples, an odd side repeating its last: [B, H, W, C] -> [B, H/2, W/2, C]."""
  x = tf.pad(x, ((0, 0), (0, tf.shape(x)[1] % 2), (0, tf.shape(x)[2] % 2), (0, 0)), "SYMMETRIC")
  return tf.nn.avg_pool2d(x, 2, 2, "VALID")
