"""Classic codecs at a number of bytes, against exhaustive search."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import skimage.data
from PIL import Image

from khuvcm_tf.evaluation import anchors, metrics

_IMAGE = skimage.data.astronaut()[40:136, 150:278]
_ANCHORS = [anchors.jpeg, anchors.webp]
_EACH = pytest.mark.parametrize("anchor", _ANCHORS, ids=["jpeg", "webp"])


@pytest.fixture(scope="module")
def files():
  """All files of each anchor: name -> list of bytes, by quality 1..100."""
  return {
    anchor.name: [anchor.encode(_IMAGE, quality) for quality in range(1, 101)]
    for anchor in _ANCHORS
  }


def _decode(anchor, data):
  return anchor.decode(data, *_IMAGE.shape[:2])


@_EACH
@pytest.mark.parametrize("channels", [1, 3])
def test_a_decoded_image_has_the_shape_of_its_source(anchor, channels):
  image = _IMAGE[:33, :17, :channels]
  decoded = anchors.at_bytes(anchor, image, 10**6).decoded
  assert decoded.dtype == np.uint8 and decoded.shape == image.shape
  assert metrics.psnr(image, decoded) > 35


def test_grey_jpeg_has_one_component_and_comes_back_as_pillow_reads_it():
  grey = _IMAGE[..., :1]
  anchored = anchors.at_bytes(anchors.jpeg, grey, 2000)
  assert anchored.data[anchored.data.index(b"\xff\xc0") + 9] == 1
  with Image.open(io.BytesIO(anchored.data)) as image:
    np.testing.assert_array_equal(anchored.decoded[..., 0], np.array(image))


def test_jpeg_is_baseline_with_half_the_chroma_resolution():
  data = anchors.jpeg.encode(_IMAGE, 50)
  start = data.index(b"\xff\xc0")  # start of frame, baseline; progressive has ff c2
  assert data[start + 9] == 3
  assert [data[start + 11 + 3 * c] for c in range(3)] == [0x22, 0x11, 0x11]
  standard = io.BytesIO()
  Image.fromarray(_IMAGE).save(standard, "JPEG", quality=50, subsampling="4:2:0")
  assert len(data) < len(standard.getvalue())


def test_webp_is_lossy():
  assert anchors.webp.encode(_IMAGE, 100)[12:16] == b"VP8 "


@_EACH
def test_a_file_fits_and_the_next_quality_does_not(anchor, files):
  sizes = [len(data) for data in files[anchor.name]]
  for num_bytes in (sizes[0], sizes[19] + 1, sizes[49] - 1, sizes[79], 10**6):
    anchored = anchors.at_bytes(anchor, _IMAGE, num_bytes)
    assert len(anchored.data) <= num_bytes
    assert anchored.data == files[anchor.name][anchored.quality - 1]
    assert anchored.quality == 100 or sizes[anchored.quality] > num_bytes
    np.testing.assert_array_equal(anchored.decoded, _decode(anchor, anchored.data))


def test_jpeg_is_the_highest_quality_that_fits(files):
  sizes = np.array([len(data) for data in files["jpeg"]])
  assert (np.diff(sizes) >= 0).all()  # so that bisection equals exhaustive search
  for num_bytes in range(sizes[0], sizes[-1] + 500, 977):
    expected = int(np.flatnonzero(sizes <= num_bytes)[-1]) + 1
    assert anchors.at_bytes(anchors.jpeg, _IMAGE, num_bytes).quality == expected


@_EACH
def test_too_small_a_limit_shows_in_the_size(anchor, files):
  anchored = anchors.at_bytes(anchor, _IMAGE, 100)
  assert anchored.quality == 1
  assert len(anchored.data) == len(files[anchor.name][0]) > 100


@_EACH
def test_psnr_at_the_size_of_a_file_is_the_psnr_of_that_file(anchor, files):
  for quality in (1, 30, 77):
    data = files[anchor.name][quality - 1]
    expected = metrics.psnr(_IMAGE, _decode(anchor, data))
    # Two qualities may have one size; their PSNRs are then neighbours.
    assert anchors.psnr_at_bytes(anchor, _IMAGE, len(data)) == pytest.approx(expected, abs=0.2)


def test_psnr_between_two_files_lies_on_the_line_in_log_bytes(files):
  low, high = files["jpeg"][39:41]
  psnr_low, psnr_high = (metrics.psnr(_IMAGE, _decode(anchors.jpeg, data)) for data in (low, high))
  for num_bytes in range(len(low), len(high)):
    expected = np.interp(math.log(num_bytes), np.log([len(low), len(high)]), [psnr_low, psnr_high])
    assert anchors.psnr_at_bytes(anchors.jpeg, _IMAGE, num_bytes) == pytest.approx(expected)


@_EACH
def test_psnr_outside_of_what_an_encoder_reaches_is_not_a_number(anchor, files):
  sizes = [len(data) for data in files[anchor.name]]
  assert math.isnan(anchors.psnr_at_bytes(anchor, _IMAGE, sizes[0] - 1))
  assert math.isnan(anchors.psnr_at_bytes(anchor, _IMAGE, sizes[-1] + 1))
  assert not math.isnan(anchors.psnr_at_bytes(anchor, _IMAGE, sizes[-1]))


def test_a_flat_image_is_infinitely_good_where_it_is_coded_exactly():
  flat = np.full((16, 16, 1), 128, np.uint8)
  size = len(anchors.jpeg.encode(flat, 100))
  assert anchors.psnr_at_bytes(anchors.jpeg, flat, size) == math.inf


def test_images_that_a_format_cannot_hold_are_refused():
  with pytest.raises(
    anchors.AnchorError, match=r"webp holds sides up to 16383; found 16384x1; leave this anchor"
  ):
    anchors.webp.encode(np.zeros((1, 16384, 3), np.uint8), 50)
  with pytest.raises(anchors.AnchorError, match=r"jpeg holds sides up to 65500; found 1x65501"):
    anchors.jpeg.encode(np.zeros((65501, 1, 3), np.uint8), 50)
  for anchor, shape in ((anchors.jpeg, (65500, 1, 3)), (anchors.webp, (1, 16383, 3))):
    data = anchor.encode(np.zeros(shape, np.uint8), 1)
    assert anchor.decode(data, *shape[:2]).shape == shape


@pytest.mark.parametrize("image", [_IMAGE / 255, _IMAGE[..., 0], _IMAGE[..., :2]])
def test_only_uint8_images_are_coded(image):
  with pytest.raises(ValueError, match=r"`image` is .* expected uint8 \[H, W, 3\] or \[H, W, 1\]"):
    anchors.jpeg.encode(image, 50)


def test_an_anchor_without_qualities_is_refused():
  with pytest.raises(
    anchors.AnchorError,
    match=r"jpeg2000 has no qualities 1\.\.100, it is steered by bits per pixel",
  ):
    anchors.at_bytes(anchors.create("jpeg2000"), _IMAGE, 1000)
