"""Planes and samples against numpy, plain loops and what the conversion alone costs."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
import tensorflow as tf

from khuvcm_tf.codecs import input_format

_FORMATS = {
  "rgb": input_format.Rgb(),
  "ycbcr444": input_format.Ycbcr444(),
  "ycbcr420": input_format.Ycbcr420(),
}
_SIZES = pytest.mark.parametrize("height,width", [(1, 1), (17, 33), (64, 64)])


@pytest.fixture(params=_FORMATS)
def form(request):
  return _FORMATS[request.param]


def _planes(form, height, width, dtype=np.float32):
  """Returns random planes of two images."""
  rng = np.random.default_rng(height)
  shapes = [(2, height, width, 3)]
  if form.has_frames:
    shapes = [(2, height, width, 1), (2, (height + 1) // 2, (width + 1) // 2, 2)]
  return tuple(tf.constant(rng.uniform(0, 255, shape), dtype) for shape in shapes)


def _psnr(a, b):
  return 10 * np.log10(255**2 / np.mean((np.asarray(a, float) - np.asarray(b, float)) ** 2))


class TestSamples:
  @_SIZES
  def test_give_back_the_planes_that_they_were_made_of(self, form, height, width):
    for dtype, tolerance in ((tf.float32, 1e-4), (tf.float64, 1e-12)):
      planes = _planes(form, height, width, dtype.as_numpy_dtype)
      samples = form.to_samples(planes, 64, dtype)
      assert samples.dtype == dtype
      found = form.from_samples(samples, height, width)
      assert len(found) == len(planes)
      for one, other in zip(found, planes):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)

  @_SIZES
  @pytest.mark.parametrize("name", ["rgb", "ycbcr444"])
  def test_are_pixels_over_255_with_their_last_row_and_column_repeated(self, name, height, width):
    form = _FORMATS[name]
    (plane,) = _planes(form, height, width)
    samples = form.to_samples((plane,), 16, tf.float32)
    below, right = -height % 16, -width % 16
    padded = np.pad(plane, ((0, 0), (0, below), (0, right), (0, 0)), "edge")
    np.testing.assert_allclose(samples, padded / 255, rtol=1e-6)

  @_SIZES
  def test_of_420_are_four_pixels_of_luma_row_by_row_then_cb_and_cr(self, height, width):
    y, uv = _planes(_FORMATS["ycbcr420"], height, width)
    samples = _FORMATS["ycbcr420"].to_samples((y, uv), 16, tf.float32).numpy()
    y, uv = y.numpy() / 255, uv.numpy() / 255
    rows, columns = -(-height // 16) * 8, -(-width // 16) * 8
    assert samples.shape == (2, rows, columns, 6)
    for row, column, i, j in np.ndindex(rows, columns, 2, 2):
      pixel = y[:, min(2 * row + i, height - 1), min(2 * column + j, width - 1), 0]
      np.testing.assert_allclose(samples[:, row, column, 2 * i + j], pixel, rtol=1e-6)
    for row, column in np.ndindex(rows, columns):
      pixel = uv[:, min(row, uv.shape[1] - 1), min(column, uv.shape[2] - 1)]
      np.testing.assert_allclose(samples[:, row, column, 4:], pixel, rtol=1e-6)

  def test_of_420_give_luma_alone_from_its_four_channels_alone(self):
    form, planes = _FORMATS["ycbcr420"], _planes(_FORMATS["ycbcr420"], 17, 33)
    samples = form.to_samples(planes, 64, tf.float32)
    y, uv = form.from_samples(samples[..., :4], 17, 33)
    np.testing.assert_allclose(y, planes[0], rtol=0, atol=1e-4)
    assert uv.shape == (2, 9, 17, 0)


class TestToRgb:
  @_SIZES
  def test_of_rgb_planes_is_the_image_exactly(self, height, width):
    form = _FORMATS["rgb"]
    image = np.random.default_rng(1).integers(0, 256, (2, height, width, 3), np.uint8)
    planes = form.from_rgb(tf.constant(image))
    assert planes[0].dtype == tf.float32
    np.testing.assert_array_equal(form.to_rgb(planes), image)

  @_SIZES
  def test_of_444_planes_is_the_image_within_the_rounding_of_floats(self, height, width):
    form = _FORMATS["ycbcr444"]
    image = np.random.default_rng(1).integers(0, 256, (2, height, width, 3), np.uint8)
    for dtype, tolerance in ((tf.float32, 1e-3), (tf.float64, 1e-10)):
      planes = form.from_rgb(tf.constant(image), dtype)
      assert planes[0].dtype == dtype
      np.testing.assert_allclose(form.to_rgb(planes), image, rtol=0, atol=tolerance)

  @_SIZES
  def test_of_420_planes_has_the_images_luma_and_means_of_four_of_its_chroma(self, height, width):
    form = _FORMATS["ycbcr420"]
    image = np.random.default_rng(1).integers(0, 256, (1, height, width, 3)).astype(float)
    y, uv = form.from_rgb(tf.constant(image), tf.float64)
    r, g, b = np.moveaxis(np.pad(image[0], ((0, 1), (0, 1), (0, 0)), "edge"), -1, 0)
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    np.testing.assert_allclose(y[0, ..., 0], luma[:height, :width], atol=1e-9)
    for k, chroma in enumerate(((b - luma) / 1.772 + 128, (r - luma) / 1.402 + 128)):
      for row, column in np.ndindex((height + 1) // 2, (width + 1) // 2):
        cell = chroma[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert float(uv[0, row, column, k]) == pytest.approx(cell.mean(), abs=1e-9)
    back = form.to_rgb((y, uv)).numpy()[0] @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(back, luma[:height, :width], atol=1e-9)

  def test_of_420_planes_of_one_colour_is_that_colour(self):
    image = np.broadcast_to(np.array([200, 30, 90], np.uint8), (1, 5, 7, 3))
    form = _FORMATS["ycbcr420"]
    np.testing.assert_allclose(form.to_rgb(form.from_rgb(tf.constant(image))), image, atol=1e-3)

  def test_of_420_planes_of_a_photo_is_as_near_as_chroma_at_half_resolution_can_be(self):
    photo, form = skimage.data.astronaut()[np.newaxis], _FORMATS["ycbcr420"]
    back = np.clip(np.rint(form.to_rgb(form.from_rgb(tf.constant(photo)))), 0, 255)
    assert _psnr(photo, back) == pytest.approx(40.5, abs=0.1)


class TestToGrey:
  def test_of_a_grey_image_is_its_grey(self, form):
    grey = np.random.default_rng(2).integers(0, 256, (2, 5, 7, 1), np.uint8)
    planes = form.from_rgb(tf.constant(np.repeat(grey, 3, axis=-1)))
    found = form.to_grey(planes)
    assert found.shape == grey.shape
    np.testing.assert_allclose(found, grey, rtol=0, atol=1e-4)

  @pytest.mark.parametrize("name", ["ycbcr444", "ycbcr420"])
  def test_of_an_image_in_colour_is_its_luma(self, name):
    image = np.random.default_rng(2).integers(0, 256, (2, 5, 7, 3), np.uint8)
    found = _FORMATS[name].to_grey(_FORMATS[name].from_rgb(tf.constant(image)))
    np.testing.assert_allclose(found[..., 0], image @ [0.299, 0.587, 0.114], rtol=0, atol=1e-3)


class TestSquaredErrors:
  @_SIZES
  def test_are_means_over_each_components_own_samples(self, form, height, width):
    originals = _planes(form, height, width, np.float64)
    decoded = tuple(
      plane + np.random.default_rng(3).normal(size=plane.shape) for plane in originals
    )
    expected = np.concatenate(
      [np.mean(np.subtract(a, b) ** 2, axis=(1, 2)) for a, b in zip(originals, decoded)], axis=-1
    )
    found = form.squared_errors(originals, decoded)
    assert found.shape == (2, 3) == (2, len(form.components))
    np.testing.assert_allclose(found, expected, rtol=1e-12)

  def test_of_one_sample_count_four_times_as_much_in_subsampled_chroma(self):
    for name, share in (("ycbcr444", 64), ("ycbcr420", 16)):
      form = _FORMATS[name]
      originals = _planes(form, 8, 8, np.float64)
      decoded = [plane.numpy() for plane in originals]
      decoded[0][:, 0, 0, 0] += 8
      decoded[-1][:, 0, 0, -1] += 8
      errors = form.squared_errors(originals, decoded)
      np.testing.assert_allclose(errors, [[1, 0, 64 / share]] * 2, rtol=1e-9, atol=1e-12)
