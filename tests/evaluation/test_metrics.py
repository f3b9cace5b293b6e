"""The metrics against closed forms, scikit-image, OpenCV, TensorFlow and plain slow loops."""

import io
import itertools
import math

import cv2
import hypothesis
import numpy as np
import pytest
import skimage.color
import skimage.data
import skimage.metrics
import tensorflow as tf
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from scipy import signal

from khuvcm_tf import errors
from khuvcm_tf.evaluation import metrics

_OF_IMAGES = [
  metrics.mse,
  metrics.psnr,
  metrics.psnr_ycbcr,
  metrics.psnr_hvs,
  metrics.psnr_hvs_m,
  metrics.ssim,
  metrics.ms_ssim,
]


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


def test_identical_images_have_infinite_psnr():
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
  for measure in _OF_IMAGES:
    assert measure(tf.constant(image), tf.constant(decoded, tf.float32)) == measure(image, decoded)


@pytest.mark.parametrize("height", [100, 257])
def test_psnr_ycbcr_equals_scikit_image(height):
  # scikit-image has the limited range, and matrix entries of six digits.
  image = _photo(height, 120)
  decoded = _noisy(image, 20)
  scale = 255 / np.array([219, 224, 224])
  x, y = (skimage.color.rgb2ycbcr(image) * scale for image in (image, decoded))
  expected = 10 * np.log10(255**2 / np.mean((x - y) ** 2, axis=(0, 1)))
  assert metrics.psnr_ycbcr(image, decoded)[:3] == pytest.approx(expected, abs=1e-4)


def test_a_step_of_blue_is_a_part_of_a_step_in_each_of_y_cb_and_cr():
  # In steps: Y 0.114, Cb 0.5, Cr -0.114 / 1.402; rounding them would leave none.
  image = np.full((5, 7, 3), 100, np.uint8)
  psnr = metrics.psnr_ycbcr(image, image + np.uint8([0, 0, 1]))
  steps = [0.114, 0.5, 0.114 / 1.402]
  assert psnr[:3] == pytest.approx([20 * math.log10(255 / step) for step in steps], abs=1e-9)


def test_weights_are_those_of_the_mean_in_decibel():
  image = _photo(40, 40)
  y, cb, cr, weighted = metrics.psnr_ycbcr(image, _noisy(image, 5))
  assert weighted == pytest.approx((4 * y + cb + cr) / 6, abs=1e-12)
  weighted = metrics.psnr_ycbcr(image, _noisy(image, 5), weights=(6, 1, 1)).weighted
  assert weighted == pytest.approx((6 * y + cb + cr) / 8, abs=1e-12)


def test_an_identical_component_makes_the_mean_infinite_where_it_counts():
  # Adding the same to R, G and B moves no chroma, but by what rounding leaves of it.
  image = _photo(40, 40) // 2
  psnr = metrics.psnr_ycbcr(image, image + np.uint8(3))
  luma = 20 * math.log10(255 / 3)
  assert psnr == pytest.approx((luma, math.inf, math.inf, math.inf), abs=1e-9)
  psnr = metrics.psnr_ycbcr(image, image + np.uint8(3), weights=(1, 0, 0))
  assert psnr.weighted == pytest.approx(luma, abs=1e-9)
  assert metrics.psnr_ycbcr(image, image) == (math.inf,) * 4


def test_the_least_change_of_one_sample_of_many_is_not_taken_for_rounding():
  # 299, 587 and 114 thousandths of these steps of R, G and B are 0.001 of luma.
  image = np.full((2000, 1000, 3), 100, np.uint8)
  decoded = image.copy()
  decoded[700, 300] = 100 + np.array([9, -4, -3])
  psnr = metrics.psnr_ycbcr(image, decoded)
  assert psnr.y == pytest.approx(10 * math.log10(2e6 * (255 / 0.001) ** 2), abs=1e-6)


def test_grey_images_have_no_chroma():
  image = _photo(20, 20)[..., :1]
  decoded = _noisy(image, 9)
  psnr = metrics.psnr_ycbcr(image, decoded)
  assert psnr.y == metrics.psnr(image, decoded)
  assert np.isnan(psnr[1:]).all()


def _planes420(height, width, step=1):
  half = ((height + 1) // 2, (width + 1) // 2)
  rng = np.random.default_rng(1)
  return [
    (step * rng.integers(20, 200, shape)).astype(np.uint16)
    for shape in ((height, width), half, half)
  ]


@pytest.mark.parametrize("height, width", [(1, 1), (17, 33), (16, 20)])
def test_psnr_of_420_planes_is_that_of_each_plane(height, width):
  planes = _planes420(height, width)
  decoded = [plane + np.uint16(offset) for plane, offset in zip(planes, (1, 2, 4))]
  expected = [20 * math.log10(255 / offset) for offset in (1, 2, 4)]
  psnr = metrics.psnr_ycbcr420(planes, decoded)
  assert psnr[:3] == pytest.approx(expected, abs=1e-9)
  assert psnr.weighted == pytest.approx((4 * psnr.y + psnr.cb + psnr.cr) / 6, abs=1e-12)
  psnr = metrics.psnr_ycbcr420(planes, decoded, weights=(6, 1, 1))
  assert psnr.weighted == pytest.approx((6 * psnr.y + psnr.cb + psnr.cr) / 8, abs=1e-12)


def test_psnr_of_420_planes_does_not_depend_on_bits_that_hold_nothing():
  planes, four = _planes420(6, 8), _planes420(6, 8, step=4)
  decoded, four_decoded = ([p[::-1] for p in planes], [p[::-1] for p in four])
  assert metrics.psnr_ycbcr420(four, four_decoded, bits=10) == pytest.approx(
    metrics.psnr_ycbcr420(planes, decoded), abs=1e-9
  )


def test_planes_that_are_not_420_are_refused():
  planes = _planes420(17, 33)
  with pytest.raises(metrics.MetricError, match=r"\(17, 33\).* are not 4:2:0; expected Y \[H, W\]"):
    metrics.psnr_ycbcr420([planes[0]] * 3, [planes[0]] * 3)
  with pytest.raises(
    metrics.MetricError, match=r"shapes \(9, 17\) and \(9, 16\) cannot be compared"
  ):
    metrics.psnr_ycbcr420(planes, [*planes[:2], planes[2][:, 1:]])
  with pytest.raises(metrics.MetricError, match="2 decoded planes; expected Y, Cb and Cr"):
    metrics.psnr_ycbcr420(planes, planes[:2])
  with pytest.raises(metrics.MetricError, match="up to 256 do not have 8 bits; give `bits`"):
    metrics.psnr_ycbcr420(planes, [np.full_like(plane, 256) for plane in planes])


@pytest.mark.parametrize("weights", [(4, 1), (4, -1, 1), (0, 0, 0)])
def test_weights_that_are_none_are_refused(weights):
  image, planes = _photo(8, 8), _planes420(8, 8)
  for measure, images in ((metrics.psnr_ycbcr, image), (metrics.psnr_ycbcr420, planes)):
    with pytest.raises(metrics.MetricError, match="`weights` are .* none negative, not all 0"):
      measure(images, images, weights)


# Of the package psnr_hvsm 0.3.0 (its NumPy and C++ backends agree to 13 digits), which reproduces
# the values that TID2013 publishes of the authors' program; of samples divided by 255.
_PHOTO_HVS = {
  "steps": (32.3217350496886, 34.7736742409083),
  "pattern": (28.872577314668874, 32.876923915155125),
  "shift": (19.782468323056253, 21.254763968897493),
}


@pytest.mark.parametrize("change", _PHOTO_HVS)
def test_psnr_hvs_and_hvs_m_equal_the_package_psnr_hvsm(change):
  plane = _photo(304, 200)[..., 1]
  rows, columns = np.indices(plane.shape)
  pattern = (7 * columns**2 + 13 * rows * columns + 5 * rows) % 31 - 15
  decoded = {
    "steps": plane // 16 * 16 + 8,
    "pattern": np.clip(plane + pattern, 0, 255),
    "shift": np.roll(plane, 1, axis=1),
  }[change]
  plane, decoded = plane[..., np.newaxis], decoded[..., np.newaxis]
  measured = metrics.psnr_hvs(plane, decoded), metrics.psnr_hvs_m(plane, decoded)
  assert measured == pytest.approx(_PHOTO_HVS[change], abs=1e-10)


def _plain_hvs(x_plane, y_plane):
  """PSNR-HVS and PSNR-HVS-M straight from the papers, a coefficient at a time."""

  def dct(block):
    cosines = np.cos(np.pi * np.outer(np.arange(8), 2 * np.arange(8) + 1) / 16) / 2
    cosines[0] /= math.sqrt(2)
    return cosines @ block @ cosines.T

  def spread(samples):
    return samples.size * np.var(samples, ddof=1)

  def energy(block):
    total = sum(
      masking[k, j] * dct(block)[k, j] ** 2 for k, j in itertools.product(range(8), repeat=2)
    )
    total -= masking[0, 0] * dct(block)[0, 0] ** 2
    quarters = sum(
      spread(part) for rows in np.split(block, 2) for part in np.split(rows, 2, axis=1)
    )
    return math.sqrt(total * quarters / spread(block) / 16 / 64)

  # libjpeg's table of luma at quality 50 is that of the standard, from which both tables follow.
  file = io.BytesIO()
  Image.new("L", (8, 8)).save(file, "JPEG", quality=50)
  steps = np.reshape(Image.open(file).quantization[0], (8, 8))
  sensitivity, masking = 25.73509 / steps, (10 / steps) ** 2
  seen, unmasked, count = 0.0, 0.0, 0
  for row in range(0, x_plane.shape[0] - 7, 8):
    for column in range(0, x_plane.shape[1] - 7, 8):
      x, y = (plane[row : row + 8, column : column + 8] for plane in (x_plane, y_plane))
      mask = max(energy(x), energy(y))
      for k, j in itertools.product(range(8), repeat=2):
        difference = abs(dct(x)[k, j] - dct(y)[k, j])
        seen += (sensitivity[k, j] * difference) ** 2
        if k or j:
          difference = max(difference - mask / masking[k, j], 0)
        unmasked += (sensitivity[k, j] * difference) ** 2
        count += 1
  return tuple(10 * math.log10(255**2 * count / total) for total in (seen, unmasked))


@pytest.mark.parametrize("height, width", [(8, 8), (23, 17), (264, 9)])
def test_psnr_hvs_and_hvs_m_equal_the_plain_definition(height, width):
  image = _photo(height, width).astype(float)
  decoded = image + np.random.default_rng(2).normal(0, 8, image.shape)
  luma, luma_decoded = (image @ [0.299, 0.587, 0.114] for image in (image, decoded))
  expected = pytest.approx(_plain_hvs(luma, luma_decoded), abs=1e-5)  # tables of six decimals
  assert (metrics.psnr_hvs(image, decoded), metrics.psnr_hvs_m(image, decoded)) == expected
  planes = luma[..., np.newaxis], luma_decoded[..., np.newaxis]
  assert (metrics.psnr_hvs(*planes), metrics.psnr_hvs_m(*planes)) == expected


def test_an_offset_weighs_as_the_mean_of_a_block_and_is_not_masked():
  image = _photo(48, 40) // 2
  expected = 20 * math.log10(255 / 3 / 1.608443)
  assert metrics.psnr_hvs(image, image + np.uint8(3)) == pytest.approx(expected, abs=1e-9)
  assert metrics.psnr_hvs_m(image, image + np.uint8(3)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("measure", [metrics.psnr_hvs, metrics.psnr_hvs_m])
def test_psnr_hvs_is_infinite_where_luma_is_identical(measure):
  image = _photo(40, 40)
  assert measure(image, image) == math.inf
  # Of more red and less green the luma is the same, but for rounding.
  assert measure(image.astype(float), image + [0.587, -0.299, 0]) == math.inf
  assert measure(np.full((8, 8, 1), 0.1), np.full((8, 8, 1), 0.1)) == math.inf


def test_differences_within_the_mask_are_not_seen():
  image = _photo(40, 40)[..., :1].astype(float)
  decoded = image + 0.5 * np.cos(np.arange(40) * np.pi * 0.9)[:, np.newaxis, np.newaxis]
  assert metrics.psnr_hvs(image, decoded) < 80
  assert metrics.psnr_hvs_m(image, decoded) > metrics.psnr_hvs(image, decoded) + 3


@pytest.mark.parametrize("measure", [metrics.psnr_hvs, metrics.psnr_hvs_m])
def test_psnr_hvs_takes_whole_blocks_only(measure):
  image = _photo(39, 31)
  decoded = _noisy(image, 20)
  assert measure(image, decoded) == measure(image[:32, :24], decoded[:32, :24])
  assert measure(image, decoded) == measure(decoded, image)
  assert math.isnan(measure(image[:7], decoded[:7]))
  assert math.isnan(measure(image[:, :7], decoded[:, :7]))


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


def test_identical_images_are_wholly_similar():
  image = _photo(170, 170)
  assert metrics.ssim(image, image) == pytest.approx(1, abs=1e-12)
  assert metrics.ms_ssim(image, image) == pytest.approx(1, abs=1e-12)


def test_a_negative_is_dissimilar_and_not_a_number_is_not_returned():
  image = _photo(170, 170)
  assert metrics.ssim(image, 255 - image) < 0
  assert metrics.ms_ssim(image, 255 - image) == 0


def test_similarity_in_decibel_is_that_of_what_is_missing_to_one():
  assert metrics.similarity_db(0.99) == pytest.approx(20, abs=1e-9)
  assert metrics.similarity_db(0) == 0
  image = _photo(170, 170)
  assert metrics.similarity_db(metrics.ms_ssim(image, image)) == math.inf
  assert metrics.similarity_db(1 - 1e-11) == pytest.approx(110, abs=1e-3)
  for rounded in (1 - 1e-13, 1 + 1e-15):
    assert metrics.similarity_db(rounded) == math.inf
  assert math.isnan(metrics.similarity_db(math.nan))


def test_small_images_have_no_similarity():
  assert metrics.MS_SSIM_SMALLEST_SIDE == 161
  image = _photo(160, 200)
  assert math.isnan(metrics.ms_ssim(image, image))
  assert math.isnan(metrics.ms_ssim(image.transpose(1, 0, 2), image.transpose(1, 0, 2)))
  assert math.isnan(metrics.ssim(image[:10], image[:10]))


@pytest.mark.parametrize("measure", _OF_IMAGES)
def test_different_shapes_are_refused(measure):
  # Broadcasting a grey image over a coloured one would measure something else silently.
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


@pytest.mark.parametrize("channels", [2, 4])
def test_images_without_luma_are_refused(channels):
  image = np.zeros((20, 20, channels))
  for measure in (metrics.psnr_ycbcr, metrics.psnr_hvs, metrics.psnr_hvs_m):
    with pytest.raises(metrics.MetricError, match=rf"20, {channels}\) have no luma; expected RGB"):
      measure(image, image)


def test_errors_are_for_people():
  assert issubclass(metrics.MetricError, errors.Error)


def test_all_metrics_are_those_of_the_functions_by_name():
  rng = np.random.default_rng(0)
  image = rng.integers(0, 255, (176, 180, 3), np.uint8)
  decoded = np.clip(image + rng.integers(-9, 9, image.shape), 0, 255).astype(np.uint8)
  ycbcr = metrics.psnr_ycbcr(image, decoded)
  assert metrics.measure(image, decoded) == {
    "psnr_rgb": metrics.psnr(image, decoded),
    "psnr_ycbcr": ycbcr.weighted,
    "psnr_y": ycbcr.y,
    **{
      name: getattr(metrics, name)(image, decoded)
      for name in ("ssim", "ms_ssim", "psnr_hvs", "psnr_hvs_m")
    },
  }


def test_metrics_that_need_colour_are_those_that_grey_images_lack():
  image = np.random.default_rng(0).integers(0, 255, (170, 170, 1), np.uint8)
  values = metrics.measure(image, image // 2)
  missing = {name for name, value in values.items() if math.isnan(value)}
  assert missing == {name for name, metric in metrics.METRICS.items() if metric.needs_colour}


def test_metrics_are_compared_in_decibels():
  for metric in metrics.METRICS.values():
    assert (metric.unit == "dB") != metric.is_similarity
    assert metric.comparable(0.99) == pytest.approx(20 if metric.is_similarity else 0.99)
