"""Classic codecs at a number of bytes, against exhaustive search and stored measurements."""

import io
import json
import math
import os

import numpy as np
import pytest
import skimage.data
from PIL import Image

from khuvcm_tf import errors
from khuvcm_tf.data import images
from khuvcm_tf.evaluation import anchors, metrics

_IMAGE = skimage.data.astronaut()[40:136, 150:278]
_ENCODERS = pytest.mark.parametrize("encode", anchors.ENCODERS.values(), ids=anchors.ENCODERS)


@pytest.fixture(scope="module")
def files():
  """All files of each encoder: name -> list of bytes, by quality 1..100."""
  return {
    name: [encode(_IMAGE, quality) for quality in range(1, 101)]
    for name, encode in anchors.ENCODERS.items()
  }


@_ENCODERS
@pytest.mark.parametrize("channels", [1, 3])
def test_a_decoded_file_has_the_shape_of_its_source(encode, channels):
  image = _IMAGE[:33, :17, :channels]
  decoded = anchors.decode(encode(image, 90), channels)
  assert decoded.dtype == np.uint8 and decoded.shape == image.shape
  assert metrics.psnr(image, decoded) > 25


def test_jpeg_is_baseline_with_half_the_chroma_resolution():
  data = anchors.jpeg(_IMAGE, 50)
  start = data.index(b"\xff\xc0")  # start of frame, baseline; progressive has ff c2
  assert data[start + 9] == 3
  assert [data[start + 11 + 3 * c] for c in range(3)] == [0x22, 0x11, 0x11]
  standard = io.BytesIO()
  Image.fromarray(_IMAGE).save(standard, "JPEG", quality=50, subsampling="4:2:0")
  assert len(data) < len(standard.getvalue())


def test_webp_is_lossy():
  assert anchors.webp(_IMAGE, 100)[12:16] == b"VP8 "


@_ENCODERS
def test_a_file_fits_and_the_next_quality_does_not(encode, files):
  sizes = [len(data) for data in files[encode.__name__]]
  for num_bytes in (sizes[0], sizes[19] + 1, sizes[49] - 1, sizes[79], 10**6):
    anchored = anchors.at_bytes(encode, _IMAGE, num_bytes)
    assert len(anchored.data) <= num_bytes
    assert anchored.data == files[encode.__name__][anchored.quality - 1]
    assert anchored.quality == 100 or sizes[anchored.quality] > num_bytes
    np.testing.assert_array_equal(anchored.decoded, anchors.decode(anchored.data, 3))


def test_jpeg_is_the_highest_quality_that_fits(files):
  sizes = np.array([len(data) for data in files["jpeg"]])
  assert (np.diff(sizes) >= 0).all()  # so that bisection equals exhaustive search
  for num_bytes in range(sizes[0], sizes[-1] + 500, 977):
    expected = int(np.flatnonzero(sizes <= num_bytes)[-1]) + 1
    assert anchors.at_bytes(anchors.jpeg, _IMAGE, num_bytes).quality == expected


@_ENCODERS
def test_too_small_a_limit_shows_in_the_size(encode, files):
  anchored = anchors.at_bytes(encode, _IMAGE, 100)
  assert anchored.quality == 1
  assert len(anchored.data) == len(files[encode.__name__][0]) > 100


@_ENCODERS
def test_psnr_at_the_size_of_a_file_is_the_psnr_of_that_file(encode, files):
  for quality in (1, 30, 77):
    data = files[encode.__name__][quality - 1]
    expected = metrics.psnr(_IMAGE, anchors.decode(data, 3))
    # Two qualities may have one size; their PSNRs are then neighbours.
    assert anchors.psnr_at_bytes(encode, _IMAGE, len(data)) == pytest.approx(expected, abs=0.2)


def test_psnr_between_two_files_lies_on_the_line_in_log_bytes(files):
  low, high = files["jpeg"][39:41]
  psnr_low, psnr_high = (metrics.psnr(_IMAGE, anchors.decode(data, 3)) for data in (low, high))
  for num_bytes in range(len(low), len(high)):
    expected = np.interp(math.log(num_bytes), np.log([len(low), len(high)]), [psnr_low, psnr_high])
    assert anchors.psnr_at_bytes(anchors.jpeg, _IMAGE, num_bytes) == pytest.approx(expected)


@_ENCODERS
def test_psnr_outside_of_what_an_encoder_reaches_is_not_a_number(encode, files):
  sizes = [len(data) for data in files[encode.__name__]]
  assert math.isnan(anchors.psnr_at_bytes(encode, _IMAGE, sizes[0] - 1))
  assert math.isnan(anchors.psnr_at_bytes(encode, _IMAGE, sizes[-1] + 1))
  assert not math.isnan(anchors.psnr_at_bytes(encode, _IMAGE, sizes[-1]))


def test_a_flat_picture_is_infinitely_good_where_it_is_coded_exactly():
  flat = np.full((16, 16, 1), 128, np.uint8)
  size = len(anchors.jpeg(flat, 100))
  assert anchors.psnr_at_bytes(anchors.jpeg, flat, size) == math.inf


def test_pictures_that_a_format_cannot_hold_are_refused():
  with pytest.raises(
    anchors.AnchorError, match=r"WEBP holds sides up to 16383; found 16384x1; leave this anchor"
  ):
    anchors.webp(np.zeros((1, 16384, 3), np.uint8), 50)
  with pytest.raises(anchors.AnchorError, match=r"JPEG holds sides up to 65500; found 1x65501"):
    anchors.jpeg(np.zeros((65501, 1, 3), np.uint8), 50)
  assert anchors.decode(anchors.jpeg(np.zeros((65500, 1, 3), np.uint8), 1), 3).shape[0] == 65500
  assert anchors.decode(anchors.webp(np.zeros((1, 16383, 3), np.uint8), 1), 3).shape[1] == 16383


@pytest.mark.parametrize("image", [_IMAGE / 255, _IMAGE[..., 0], _IMAGE[..., :2]])
def test_only_uint8_pictures_are_coded(image):
  with pytest.raises(ValueError, match=r"`image` is .* expected uint8 \[H, W, 3\] or \[H, W, 1\]"):
    anchors.jpeg(image, 50)


def test_errors_are_for_people():
  assert issubclass(anchors.AnchorError, errors.Error)


@pytest.mark.skipif(
  "KHUVCM_REFERENCE" not in os.environ,
  reason="KHUVCM_REFERENCE names no folder with data/classic_rd_kodak.json and data/kodak",
)
def test_kodak_anchors_equal_the_stored_measurements():
  # With Pillow 13.0.0 (libjpeg-turbo 3.2.0, libwebp 1.6.0), which made the file, bytes are equal
  # and the rest is within its rounding; other versions may differ a little in size.
  folder = os.path.join(os.environ["KHUVCM_REFERENCE"], "data")
  with open(os.path.join(folder, "classic_rd_kodak.json"), encoding="utf-8") as file:
    rows = json.load(file)["rows"]
  image = images.read_image(os.path.join(folder, "kodak", "kodim15.png"))
  encoders = {"jpeg-420": anchors.jpeg, "webp": anchors.webp}
  rows = [row for row in rows if row["image"] == "kodim15" and row["codec"] in encoders]
  assert len(rows) == 16
  for row in rows:
    data = encoders[row["codec"]](image, int(row["setting"][1:]))
    decoded = anchors.decode(data, 3)
    assert len(data) == pytest.approx(row["bytes"], rel=0.002)
    assert metrics.psnr(image, decoded) == pytest.approx(row["psnr_rgb"], abs=0.01)
    assert metrics.ms_ssim(image, decoded) == pytest.approx(row["ms_ssim"], abs=1e-4)
