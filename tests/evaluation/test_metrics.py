"""The measures against closed forms, scikit-image, OpenCV, TensorFlow and plain slow loops."""

import math

import cv2
import hypothesis
import numpy as np
import pytest
import skimage.data
import skimage.metrics
import tensorflow as tf
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import signal

from khuvcm_tf import errors
from khuvcm_tf.evaluation import metrics


def _photo(height, width):
  return skimage.data.astronaut()[40 : 40 + height, 100 : 100 + width]


def _noisy(image, amplitude, seed=0):
  noise = np.random.default_rng(seed).integers(-amplitude, amplitude + 1, image.shape)
  return np.clip(image + noise, 0, 255).astype(np.uint8)


_SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, max_side=12)
_PAIRS = _SHAPES.flatmap(
  lambda shape: st.tuples(hnp.arrays(np.uint8, shape), hnp.arrays(np.uint8, shape))
)


@hypothesis.given(_PAIRS)
def test_mse_is_the_integer_sum_over_the_count(pair):
  total = sum((int(x) - int(y)) ** 2 for x, y in zip(pair[0].ravel(), pair[1].ravel()))
  assert metrics.mse(*pair) == total / pair[0].size


def test_mse_does_not_depend_on_where_bands_are_cut():
  image = _photo(300, 200)
  decoded = _noisy(image, 9)
  for height in (255, 256, 257, 300):
    expected = np.mean((image[:height].astype(float) - decoded[:height]) ** 2)
    assert metrics.mse(image[:height], decoded[:height]) == pytest.approx(expected, rel=1e-12)


def test_floats_are_not_rounded():
  assert metrics.mse(np.zeros((2, 2, 3)), np.full((2, 2, 3), 0.25, np.float32)) == 0.0625


def test_mse_of_one_is_48_13_decibel():
  image = np.full((5, 7, 3), 100, np.uint8)
  assert metrics.psnr(image, image + 1) == pytest.approx(48.1308, abs=5e-5)
  assert metrics.psnr(image, image - 1) == pytest.approx(20 * math.log10(255), abs=1e-12)


def test_black_against_white_is_0_decibel():
  assert metrics.psnr(np.zeros((3, 3, 3), np.uint8), np.full((3, 3, 3), 255, np.uint8)) == 0


def test_identical_pictures_have_infinite_psnr():
  assert metrics.psnr(_photo(20, 20), _photo(20, 20)) == math.inf


def test_components_share_one_mse():
  # One MSE of 4 / 3, not the mean of three PSNRs.
  image = np.full((4, 4, 3), 100, np.uint8)
  assert metrics.psnr(image, image + np.uint8([2, 0, 0])) == pytest.approx(
    10 * math.log10(255**2 * 3 / 4), abs=1e-12
  )


def test_psnr_equals_scikit_image_and_opencv():
  image = _photo(100, 120)
  decoded = _noisy(image, 20)
  ours = metrics.psnr(image, decoded)
  assert ours == pytest.approx(skimage.metrics.peak_signal_noise_ratio(image, decoded), abs=1e-10)
  assert ours == pytest.approx(cv2.PSNR(image, decoded), abs=1e-10)


def test_tensors_are_measured_like_arrays():
  image, decoded = _photo(200, 180), _noisy(_photo(200, 180), 20)
  for measure in (metrics.psnr, metrics.ssim, metrics.ms_ssim):
    assert measure(tf.constant(image), tf.constant(decoded, tf.float32)) == measure(image, decoded)


@pytest.mark.parametrize("height, width, channels", [(11, 11, 3), (64, 50, 1), (300, 120, 3)])
def test_ssim_equals_scikit_image(height, width, channels):
  image = _photo(height, width)[..., :channels]
  decoded = _noisy(image, 20)
  _, expected = skimage.metrics.structural_similarity(
    image,
    decoded,
    win_size=11,
    gaussian_weights=True,
    sigma=1.5,
    use_sample_covariance=False,
    data_range=255,
    channel_axis=-1,
    full=True,
  )
  inside = expected[5 : height - 5, 5 : width - 5]
  assert metrics.ssim(image, decoded) == pytest.approx(inside.mean(), abs=1e-9)


def test_ssim_equals_tensorflow_within_float32():
  image, decoded = _photo(300, 200), _noisy(_photo(300, 200), 20)
  expected = float(tf.image.ssim(image, decoded, 255))
  assert metrics.ssim(image, decoded) == pytest.approx(expected, abs=1e-4)


def _plain_ms_ssim(image, decoded):
  """MS-SSIM of a plane straight from the paper, with whole 2-D windows."""

  def mean(plane):
    return signal.convolve2d(plane, window, "valid")

  distance = np.arange(-5, 6) ** 2
  window = np.exp(-(distance[:, None] + distance) / (2 * 1.5**2))
  window /= window.sum()
  weights = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
  x, y = image.astype(float), decoded.astype(float)
  factors = []
  for scale in range(5):
    variance_x, variance_y = mean(x * x) - mean(x) ** 2, mean(y * y) - mean(y) ** 2
    covariance = mean(x * y) - mean(x) * mean(y)
    factor = (2 * covariance + 58.5225) / (variance_x + variance_y + 58.5225)
    if scale == 4:
      factor = factor * (2 * mean(x) * mean(y) + 6.5025) / (mean(x) ** 2 + mean(y) ** 2 + 6.5025)
    factors.append(factor.mean())
    if x.shape[0] % 2:
      x, y = np.vstack([x, x[-1:]]), np.vstack([y, y[-1:]])
    if x.shape[1] % 2:
      x, y = np.hstack([x, x[:, -1:]]), np.hstack([y, y[:, -1:]])
    x, y = (signal.convolve2d(p, np.full((2, 2), 0.25), "valid")[::2, ::2] for p in (x, y))
  return np.prod(np.maximum(factors, 0) ** weights)


@pytest.mark.parametrize("height, width", [(161, 161), (176, 208), (301, 163)])
def test_ms_ssim_equals_the_plain_definition(height, width):
  image = _photo(height, width)
  decoded = _noisy(image, 25)
  expected = np.mean([_plain_ms_ssim(image[..., c], decoded[..., c]) for c in range(3)])
  assert metrics.ms_ssim(image, decoded) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("height, width", [(161, 161), (301, 163)])
def test_ms_ssim_equals_tensorflow_within_float32(height, width):
  image = _photo(height, width)
  decoded = _noisy(image, 25)
  expected = float(tf.image.ssim_multiscale(image, decoded, 255))
  assert metrics.ms_ssim(image, decoded) == pytest.approx(expected, abs=2e-4)


def test_identical_pictures_are_wholly_similar():
  image = _photo(170, 170)
  assert metrics.ssim(image, image) == pytest.approx(1, abs=1e-12)
  assert metrics.ms_ssim(image, image) == pytest.approx(1, abs=1e-12)


def test_a_negative_is_dissimilar_and_not_a_number_is_not_returned():
  image = _photo(170, 170)
  assert metrics.ssim(image, 255 - image) < 0
  assert metrics.ms_ssim(image, 255 - image) == 0


def test_small_pictures_have_no_similarity():
  assert metrics.MS_SSIM_SMALLEST_SIDE == 161
  image = _photo(160, 200)
  assert math.isnan(metrics.ms_ssim(image, image))
  assert math.isnan(metrics.ms_ssim(image.transpose(1, 0, 2), image.transpose(1, 0, 2)))
  assert math.isnan(metrics.ssim(image[:10], image[:10]))


@pytest.mark.parametrize("measure", [metrics.mse, metrics.psnr, metrics.ssim, metrics.ms_ssim])
def test_different_shapes_are_refused(measure):
  # Broadcasting a grey picture over a coloured one would measure something else silently.
  with pytest.raises(
    metrics.MetricError,
    match=r"shapes \(20, 20, 3\) and \(20, 20, 1\) cannot be compared; expected equal shapes",
  ):
    measure(_photo(20, 20), _photo(20, 20)[..., :1])


def test_nothing_and_planes_without_components_are_refused():
  with pytest.raises(metrics.MetricError, match=r"shape \(0, 5, 3\) cannot be measured; expected"):
    metrics.psnr(np.zeros((0, 5, 3)), np.zeros((0, 5, 3)))
  with pytest.raises(metrics.MetricError, match=r"shape \(20, 20\) .*\[H, W, C\]; add a last axis"):
    metrics.ssim(np.zeros((20, 20)), np.zeros((20, 20)))


def test_errors_are_for_people():
  assert issubclass(metrics.MetricError, errors.Error)
