"""Colour against OpenCV, Pillow, SciPy, plain loops and the numbers of the standards."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import scipy.ndimage
import skimage.data
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from khuvcm_tf.ops import color

_RNG = np.random.default_rng(0)
_PIXELS = _RNG.integers(0, 256, (40, 50, 3), np.uint8)
_STANDARDS = pytest.mark.parametrize("standard", ["bt601", "bt709"])
_RANGES = pytest.mark.parametrize("full_range", [True, False], ids=["full", "limited"])
_SITINGS = pytest.mark.parametrize("siting", ["centre", "left"])
_SIZES = pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (3, 5), (8, 6), (17, 33)])


def _floats(*shape):
  return np.random.default_rng(sum(shape)).uniform(0, 255, shape)


class TestRgbToYcbcr:
  def test_is_within_one_level_of_opencv_on_8_bits(self):
    ours = color.levels(color.rgb_to_ycbcr(_PIXELS.astype(np.float32))).numpy().astype(int)
    y, cr, cb = cv2.split(cv2.cvtColor(_PIXELS, cv2.COLOR_RGB2YCrCb).astype(int))
    assert np.abs(ours - np.stack([y, cb, cr], axis=-1)).max() <= 1

  def test_is_opencv_on_floats_but_for_its_three_digits_of_the_chroma_factors(self):
    ours = color.rgb_to_ycbcr(_PIXELS / 255).numpy() - [0, 128, 128]
    theirs = cv2.cvtColor((_PIXELS / 255).astype(np.float32), cv2.COLOR_RGB2YCrCb)
    # OpenCV has 0.713 and 0.564 for 0.5 / (1 - Kr) = 0.71327 and 0.5 / (1 - Kb) = 0.56433.
    theirs = (theirs[..., [0, 2, 1]] - [0, 0.5, 0.5]) / [1, 0.564, 0.713]
    np.testing.assert_allclose(ours / [1, 0.5 / 0.886, 0.5 / 0.701], theirs, atol=1e-6)

  def test_is_within_one_level_of_pillow(self):
    ours = color.levels(color.rgb_to_ycbcr(_PIXELS.astype(np.float32))).numpy().astype(int)
    assert np.abs(ours - np.asarray(Image.fromarray(_PIXELS).convert("YCbCr"))).max() <= 1

  def test_is_the_limited_range_bt601_of_opencv(self):
    ours = color.levels(color.rgb_to_ycbcr(_PIXELS.astype(np.float32), full_range=False))
    y = cv2.cvtColor(_PIXELS, cv2.COLOR_RGB2YUV_I420)[:40]
    assert np.abs(ours[..., 0].numpy().astype(int) - y).max() <= 1

  @_STANDARDS
  def test_of_full_range_follows_the_formula_of_luma_and_colour_differences(self, standard):
    kr, kb = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}[standard]
    r, g, b = np.moveaxis(_floats(5, 3), -1, 0)
    y = kr * r + (1 - kr - kb) * g + kb * b
    expected = np.stack([y, 128 + (b - y) / 2 / (1 - kb), 128 + (r - y) / 2 / (1 - kr)], axis=-1)
    np.testing.assert_allclose(color.rgb_to_ycbcr(_floats(5, 3), standard), expected, atol=1e-12)

  @_STANDARDS
  def test_gives_grey_no_colour(self, standard):
    grey = np.repeat(np.arange(256.0)[:, np.newaxis], 3, axis=-1)
    full = color.rgb_to_ycbcr(grey, standard).numpy()
    limited = color.rgb_to_ycbcr(grey, standard, full_range=False).numpy()
    np.testing.assert_allclose(full[:, 0], np.arange(256), atol=1e-12)
    np.testing.assert_allclose(limited[:, 0], np.linspace(16, 235, 256), atol=1e-12)
    np.testing.assert_allclose(full[:, 1:], 128, atol=1e-12)
    np.testing.assert_allclose(limited[:, 1:], 128, atol=1e-12)

  @pytest.mark.parametrize(
    "standard, rgb, expected",
    [
      # The 100 % colour bars in limited range, of BT.601 and of BT.709.
      ("bt601", (255, 0, 0), (81, 90, 240)),
      ("bt601", (0, 255, 0), (145, 54, 34)),
      ("bt601", (0, 0, 255), (41, 240, 110)),
      ("bt601", (255, 255, 0), (210, 16, 146)),
      ("bt709", (255, 0, 0), (63, 102, 240)),
      ("bt709", (0, 255, 0), (173, 42, 26)),
      ("bt709", (0, 0, 255), (32, 240, 118)),
      ("bt709", (255, 255, 0), (219, 16, 138)),
    ],
  )
  def test_gives_the_colour_bars_their_known_levels(self, standard, rgb, expected):
    ycbcr = color.rgb_to_ycbcr(np.array(rgb, np.float64), standard, full_range=False)
    np.testing.assert_array_equal(color.levels(ycbcr), expected)

  @_STANDARDS
  @_RANGES
  def test_fills_its_range_and_no_more(self, standard, full_range):
    corners = np.array(np.meshgrid(*[[0.0, 255.0]] * 3)).reshape(3, 8).T
    ycbcr = color.rgb_to_ycbcr(corners, standard, full_range).numpy()
    low, high = ([0, 0.5, 0.5], [255, 255.5, 255.5]) if full_range else ([16] * 3, [235, 240, 240])
    np.testing.assert_allclose(ycbcr.min(axis=0), low, atol=1e-12)
    np.testing.assert_allclose(ycbcr.max(axis=0), high, atol=1e-12)

  @_STANDARDS
  @_RANGES
  def test_is_undone_by_its_inverse(self, standard, full_range):
    rgb = _RNG.uniform(-100, 400, (2, 5, 7, 3))  # Outside 0..255 too.
    back = color.ycbcr_to_rgb(
      color.rgb_to_ycbcr(rgb, standard, full_range), standard, full_range
    ).numpy()
    assert back.dtype == np.float64
    np.testing.assert_allclose(back, rgb, atol=1e-9)

  def test_in_float32_is_off_by_less_than_1e_4(self):
    rgb = _PIXELS.astype(np.float64)
    exact = color.rgb_to_ycbcr(rgb)
    single = color.rgb_to_ycbcr(rgb.astype(np.float32))
    assert single.dtype == tf.float32
    assert np.abs(single - tf.cast(exact, tf.float32)).max() < 1e-4
    assert np.abs(color.ycbcr_to_rgb(single) - rgb.astype(np.float32)).max() < 1e-4

  @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
  def test_keeps_the_dtype(self, dtype):
    assert color.rgb_to_ycbcr(tf.ones([2, 3], dtype)).dtype == dtype
    assert color.ycbcr_to_rgb(tf.ones([2, 3], dtype)).dtype == dtype

  @pytest.mark.parametrize("function", [color.rgb_to_ycbcr, color.ycbcr_to_rgb])
  def test_refuses_integers_other_channels_and_unknown_standards(self, function):
    with pytest.raises(ValueError, match=r"is uint8 \(40, 50, 3\); expected floats.*cast"):
      function(_PIXELS)
    with pytest.raises(ValueError, match=r"is float64 \(3, 4\); expected floats, \[\.\.\., 3\]"):
      function(_floats(3, 4))
    with pytest.raises(ValueError, match=r"`standard` is 'bt2020'; expected one of bt601, bt709"):
      function(_floats(4, 3), "bt2020")


class TestYcbcrToRgb:
  def test_of_jpeg_is_within_one_level_of_pillow(self):
    ours = color.levels(color.ycbcr_to_rgb(_PIXELS.astype(np.float32))).numpy().astype(int)
    theirs = np.asarray(Image.fromarray(_PIXELS, "YCbCr").convert("RGB"))
    assert np.abs(ours - theirs).max() <= 1


class TestDepth:
  @pytest.mark.parametrize(
    "sample, full_range, zero, expected",
    [
      (16, False, 0, 64),
      (235, False, 0, 940),
      (240, False, 128, 960),
      (128, False, 128, 512),
      (0, True, 0, 0),
      (255, True, 0, 1023),
      (128, True, 128, 512),
      (255.5, True, 128, 1023.5),  # half a level beyond the last, as at 8 bits
    ],
  )
  def test_of_ten_bits_has_the_levels_of_the_standards(self, sample, full_range, zero, expected):
    sample = np.array(sample, np.float64)
    assert float(color.to_depth(sample, 10, full_range, zero)) == pytest.approx(expected, abs=1e-9)

  @given(st.integers(8, 16), st.booleans(), st.sampled_from([0.0, 128.0, [0.0, 128.0, 128.0]]))
  @settings(max_examples=30, deadline=None)
  def test_is_undone_by_from_depth(self, bits, full_range, zero):
    samples = _floats(4, 5, 3)
    there = color.to_depth(samples, bits, full_range, zero)
    np.testing.assert_allclose(color.from_depth(there, bits, full_range, zero), samples, atol=1e-9)

  @_RANGES
  def test_of_eight_bits_changes_nothing(self, full_range):
    samples = np.arange(0, 256, 0.25)
    for zero in (0.0, 128.0):
      np.testing.assert_array_equal(color.to_depth(samples, 8, full_range, zero), samples)

  @pytest.mark.parametrize("bits", [7, 17])
  def test_refuses_other_depths(self, bits):
    for function in (color.to_depth, color.from_depth, color.levels):
      with pytest.raises(ValueError, match=f"`bits` is {bits}; expected 8 to 16"):
        function(_floats(2), bits)


class TestLevels:
  @pytest.mark.parametrize("bits, dtype", [(8, "uint8"), (10, "uint16"), (16, "uint16")])
  def test_rounds_ties_to_even_and_clips(self, bits, dtype):
    top = 2**bits - 1
    samples = [-9.0, -0.5, 0.5, 1.5, 2.4, 2.6, top - 0.4, top + 0.4, top + 0.5, 1e6]
    rounded = color.levels(np.array(samples), bits)
    assert rounded.dtype == dtype
    np.testing.assert_array_equal(rounded, [0, 0, 0, 2, 2, 3, top, top, top, top])

  def test_refuses_integers(self):
    with pytest.raises(ValueError, match="`samples` is uint8 .*any shape; cast"):
      color.levels(_PIXELS)


def _at(plane, row, column):
  """A sample of [H, W], or the nearest one where that is outside."""
  height, width = plane.shape
  return plane[min(max(row, 0), height - 1), min(max(column, 0), width - 1)]


def _halved(plane, siting):
  """A plain loop over the samples of half the resolution."""
  height, width = plane.shape
  weights = {"centre": {0: 0.5, 1: 0.5}, "left": {-1: 0.25, 0: 0.5, 1: 0.25}}[siting]
  half = np.empty((-(-height // 2), -(-width // 2)))
  for i, j in np.ndindex(*half.shape):
    half[i, j] = sum(
      weight * _at(plane, 2 * i + row, 2 * j + column) / 2
      for row in (0, 1)
      for column, weight in weights.items()
    )
  return half


class TestTo420:
  @_SITINGS
  @_SIZES
  def test_is_the_plain_loop_over_its_filter(self, size, siting):
    ycbcr = _floats(2, *size, 3)
    y, uv = color.to_420(ycbcr, siting)
    np.testing.assert_array_equal(y[..., 0], ycbcr[..., 0])
    for image in range(2):
      for channel in range(2):
        expected = _halved(ycbcr[image, ..., 1 + channel], siting)
        np.testing.assert_allclose(uv[image, ..., channel], expected, atol=1e-12)

  def test_of_the_centre_is_the_area_mean_of_opencv(self):
    ycbcr = _floats(1, 12, 20, 3)
    expected = cv2.resize(ycbcr[0, ..., 1:], (10, 6), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(color.to_420(ycbcr)[1][0], expected, atol=1e-9)

  @_SIZES
  def test_of_the_centre_undoes_repeat_chroma_bit_for_bit(self, size):
    height, width = size
    uv = _floats(2, -(-height // 2), -(-width // 2), 2).astype(np.float32)
    repeated = color.repeat_chroma(uv)[:, :height, :width]
    ycbcr = tf.concat([tf.zeros_like(repeated[..., :1]), repeated], axis=-1)
    np.testing.assert_array_equal(color.to_420(ycbcr)[1], uv)

  def test_refuses_other_ranks_and_sitings(self):
    with pytest.raises(ValueError, match=r"`ycbcr` is .*expected floats, \[B, H, W, 3\]"):
      color.to_420(_floats(4, 4, 3))
    with pytest.raises(ValueError, match="`siting` is 'top'; expected one of centre, left"):
      color.to_420(_floats(1, 4, 4, 3), "top")


class TestTo444:
  @pytest.mark.parametrize("size", [(1, 1), (4, 6), (9, 17)])
  def test_of_the_centre_is_opencv_s_bilinear_resize(self, size):
    uv = _floats(1, *size, 2)
    double = (2 * size[1], 2 * size[0])
    expected = cv2.resize(uv[0], double, interpolation=cv2.INTER_LINEAR)
    y = _floats(1, *expected.shape[:2], 1)
    ycbcr = color.to_444(y, uv)[0]
    np.testing.assert_array_equal(ycbcr[..., :1], y[0])
    np.testing.assert_allclose(ycbcr[..., 1:], expected, atol=1e-9)

  @_SITINGS
  @_SIZES
  def test_is_scipy_s_interpolation_at_the_places_of_luma(self, size, siting):
    height, width = size
    uv = _floats(1, -(-height // 2), -(-width // 2), 2)
    # In chroma samples: luma column x lies at x / 2 for "left", a quarter before for "centre".
    rows = np.arange(height) / 2 - 0.25
    columns = np.arange(width) / 2 - (0.25 if siting == "centre" else 0)
    places = np.meshgrid(rows, columns, indexing="ij")
    ycbcr = color.to_444(np.zeros((1, height, width, 1)), uv, siting)[0]
    for channel in range(2):
      expected = scipy.ndimage.map_coordinates(uv[0, ..., channel], places, order=1, mode="nearest")
      np.testing.assert_allclose(ycbcr[..., 1 + channel], expected, atol=1e-9)

  @_SITINGS
  def test_of_to_420_gives_back_a_plane_of_even_slope_inside(self, siting):
    rows, columns = np.mgrid[:10.0, :14.0]
    plane = 3 * rows + 2 * columns + 40
    ycbcr = np.stack([plane] * 3, axis=-1)[np.newaxis]
    back = color.to_444(*color.to_420(ycbcr, siting), siting)
    np.testing.assert_allclose(back[:, 3:-3, 3:-3], ycbcr[:, 3:-3, 3:-3], atol=1e-12)
    # Taken for the other siting, colour is displaced by half a column, one unit of this slope.
    other = {"centre": "left", "left": "centre"}[siting]
    displaced = color.to_444(*color.to_420(ycbcr, siting), other) - ycbcr
    np.testing.assert_allclose(np.abs(displaced[:, 3:-3, 3:-3, 1:]), 1, atol=1e-12)

  def test_refuses_chroma_of_another_size(self):
    with pytest.raises(ValueError, match=r"`uv` is \(1, 2, 2, 2\) beside `y` \(1, 5, 4, 1\); .*up"):
      color.to_444(_floats(1, 5, 4, 1), _floats(1, 2, 2, 2))
    with pytest.raises(ValueError, match="`siting` is 'top'"):
      color.to_444(_floats(1, 4, 4, 1), _floats(1, 2, 2, 2), "top")


@_SIZES
def test_repeat_chroma_is_numpy_s_repeat(size):
  uv = _floats(2, *size, 2)
  np.testing.assert_array_equal(color.repeat_chroma(uv), uv.repeat(2, axis=1).repeat(2, axis=2))


def _there_and_back(rgb, siting="centre"):
  y, uv = color.to_420(color.rgb_to_ycbcr(rgb), siting)
  return color.ycbcr_to_rgb(color.to_444(y, uv, siting))


class TestInGraphs:
  @_SITINGS
  def test_sizes_may_be_unknown(self, siting):
    graph = tf.function(
      lambda rgb: _there_and_back(rgb, siting),
      input_signature=[tf.TensorSpec([None, None, None, 3], tf.float64)],
    )
    for size in [(1, 1), (17, 33), (8, 6)]:
      rgb = _floats(1, *size, 3)
      assert graph(rgb).shape == rgb.shape
      np.testing.assert_allclose(graph(rgb), _there_and_back(rgb, siting), atol=1e-12)

  @_SITINGS
  @pytest.mark.parametrize("size", [(2, 2), (3, 3)])
  def test_gradients_are_those_of_finite_differences(self, size, siting):
    rgb = tf.constant(_floats(1, *size, 3))
    theory, numeric = tf.test.compute_gradient(lambda rgb: _there_and_back(rgb, siting), [rgb])
    # The map is affine: differences are exact but for rounding.
    np.testing.assert_allclose(theory[0], numeric[0], atol=1e-6)


def _rounded(ycbcr):
  return tf.cast(color.levels(ycbcr), tf.float32)


def _rounded_444(rgb):
  return color.ycbcr_to_rgb(_rounded(color.rgb_to_ycbcr(rgb)))


class TestCeiling:
  def test_of_one_level_everywhere_is_48_13_db(self):
    grey = np.full((2, 4, 4, 3), 7, np.uint8)
    psnr = color.ceiling(grey, lambda rgb: rgb + tf.constant([1.0, 2.0])[:, None, None, None])
    expected = 10 * np.log10(255**2 / np.array([1, 4]))
    np.testing.assert_allclose(psnr, expected, atol=1e-12)

  def test_of_rounded_ycbcr_is_that_of_three_uniform_errors(self):
    # 1/12 per rounding of Y, Cb, Cr through the inverse, and once more for R, G, B: 53.0 dB.
    gains = 1 + np.array([1.402**2, 0.344136**2 + 0.714136**2, 1.772**2])
    theory = 10 * np.log10(255**2 * 12 / (gains.mean() + 1))
    assert theory == pytest.approx(53.0, abs=0.01)
    # Noise away from the ends of the range, where clipping would help.
    noise = np.random.default_rng(1).integers(8, 248, (1, 256, 256, 3), np.uint8)
    assert float(color.ceiling(noise, _rounded_444)) == pytest.approx(theory, abs=0.1)
    for photo in (skimage.data.astronaut(), skimage.data.coffee()):
      assert theory - 0.1 < float(color.ceiling(photo[np.newaxis], _rounded_444)) < theory + 0.6

  def test_of_limited_range_is_lower_by_its_coarser_steps(self):
    def limited(rgb):
      return color.ycbcr_to_rgb(
        _rounded(color.rgb_to_ycbcr(rgb, full_range=False)), full_range=False
      )

    noise = np.random.default_rng(1).integers(8, 248, (1, 256, 256, 3), np.uint8)
    luma, chroma = (255 / 219) ** 2, (255 / 224) ** 2
    gains = luma + chroma * np.array([1.402**2, 0.344136**2 + 0.714136**2, 1.772**2])
    theory = 10 * np.log10(255**2 * 12 / (gains.mean() + 1))
    assert float(color.ceiling(noise, limited)) == pytest.approx(theory, abs=0.1)

  @_SITINGS
  def test_of_420_on_photographs_is_far_below_that_of_444(self, siting):
    for name, low, high in [("astronaut", 40, 41), ("chelsea", 46, 47.5), ("coffee", 39, 40.5)]:
      photo = getattr(skimage.data, name)()[np.newaxis]
      psnr = float(color.ceiling(photo, lambda rgb: _there_and_back(rgb, siting)))
      assert low < psnr < high

  def test_refuses_floats_and_single_images(self):
    for images in (_PIXELS, _PIXELS[np.newaxis].astype(np.float32)):
      with pytest.raises(ValueError, match=r"expected uint8 \[B, H, W, 3\]"):
        color.ceiling(images, lambda rgb: rgb)
