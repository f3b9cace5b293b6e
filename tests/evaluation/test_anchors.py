"""Classic codecs: files against their formats' headers, conversions against plain arithmetic."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import skimage.data
from PIL import Image, features

from khuvcm_tf import errors
from khuvcm_tf.data import image_files
from khuvcm_tf.evaluation import anchors, metrics
from khuvcm_tf.evaluation.anchors import file_formats, raw_streams

_PHOTO = skimage.data.coffee()[110:206, 250:378]
_SMALL = skimage.data.coffee()[110:143, 250:267]  # 33x17
_RAW = ["hevc-420-10bit", "hevc-444-10bit", "vvc"]
_EACH = pytest.mark.parametrize("name", anchors.names())
_REFERENCE = "KHUVCM_REFERENCE"
_STORED = {  # names in the stored measurements, where they are others
  "jpeg": "jpeg-420",
  "avif": "avif-420",
  "heic": "heic-420",
  "hevc-420-10bit": "hevc-x265-420-10bit",
  "hevc-444-10bit": "hevc-x265-444-10bit",
  "vvc": "vvc-vvenc-420-10bit-medium",
}


def _available(name):
  anchor = anchors.create(name)
  if anchor.missing():
    pytest.skip(anchor.missing())
  return anchor


@pytest.fixture(scope="module")
def coded():
  """The photo by name: [(rate point, data, decoded)] at three of the default rate points."""
  cache = {}

  def code(name):
    anchor = _available(name)
    if name not in cache:
      files = [(s, anchor.encode(_PHOTO, s)) for s in anchor.default_rate_points[::2]]
      cache[name] = [(s, data, anchor.decode(data, 96, 128)) for s, data in files]
    return cache[name]

  return code


@pytest.fixture
def without_coding(monkeypatch):
  """Makes ffmpeg return what it is given: raw streams are then the converted samples."""

  def run(command, data=b""):
    return subprocess.CompletedProcess(command, 0, data, b"")

  monkeypatch.setattr(raw_streams, "_run", run)
  monkeypatch.setattr(raw_streams, "_ffmpeg", lambda: "ffmpeg")
  monkeypatch.setattr(raw_streams._RawStream, "missing", lambda self: None)


def _fake_ffmpeg(tmp_path, monkeypatch, does):
  """Puts a shell script in the place of ffmpeg that lists x265 and otherwise `does`."""
  program = tmp_path / "ffmpeg"
  program.write_text(
    "#!/bin/sh\ncase \"$*\" in\n*-encoders*) echo ' V....D libx265 one' ;;\n"
    f"*-decoders*) echo ' VFS..D hevc one' ;;\n*) {does} ;;\nesac\n"
  )
  program.chmod(0o755)
  monkeypatch.setattr(raw_streams, "_ffmpeg", lambda: str(program))
  return anchors.create("hevc-420-10bit")


def test_an_unknown_anchor_is_an_error_that_lists_all():
  with pytest.raises(
    anchors.AnchorError,
    match=r"no anchor is called 'gif'; expected one of jpeg, jpeg-444, jpeg2000, webp, avif, ",
  ):
    anchors.create("gif")
  assert issubclass(anchors.AnchorError, errors.Error)


@_EACH
def test_lower_rates_give_fewer_bytes_and_less_quality(name, coded):
  sizes = [len(data) for _, data, _ in coded(name)]
  quality = [metrics.psnr(_PHOTO, decoded) for _, _, decoded in coded(name)]
  assert (np.diff(sizes) > 0).all() and (np.diff(quality) > 0).all()
  if name == "jpeg2000":  # 0.1 bpp is less than the headers of so small an image
    sizes, quality = sizes[1:], quality[1:]
  assert 24 < quality[0] and quality[-1] < anchors.create(name).conversion_psnr(_PHOTO)


@_EACH
def test_sizes_are_bytes_on_disk_and_decoding_needs_nothing_else(name, coded, tmp_path):
  anchor = anchors.create(name)
  for rate_point, data, decoded in coded(name):
    path = tmp_path / f"{anchor.label(rate_point)}.{anchor.suffix}"
    path.write_bytes(data)
    assert os.path.getsize(path) == len(data)
    np.testing.assert_array_equal(anchor.decode(path.read_bytes(), 96, 128), decoded)


@_EACH
def test_the_same_image_gives_the_same_bytes(name, coded):
  rate_point, data, _ = coded(name)[0]
  assert anchors.create(name).encode(_PHOTO.copy(), rate_point) == data


@_EACH
@pytest.mark.parametrize("image", [_SMALL, _SMALL[:1, :1], _SMALL[:, :1]])
def test_odd_sides_come_back_whole(name, image):
  anchor = _available(name)
  decoded = anchor.decode(anchor.encode(image, anchor.default_rate_points[-1]), *image.shape[:2])
  assert decoded.dtype == np.uint8 and decoded.shape == image.shape
  if name != "jpeg2000":  # its headers alone are more than the rate
    assert metrics.psnr(image, decoded) > 30


@_EACH
def test_grey_comes_back_grey(name):
  anchor = _available(name)
  grey = np.ascontiguousarray(_PHOTO[..., :1])
  decoded = anchor.decode(anchor.encode(grey, anchor.default_rate_points[-1]), 96, 128)
  assert metrics.psnr(np.repeat(grey, 3, axis=2), decoded) > 33
  spread = decoded.max(axis=2).astype(int) - decoded.min(axis=2)
  assert spread.mean() < 2


@_EACH
def test_versions_and_options_name_the_library_and_the_rate_point(name):
  anchor = _available(name)
  library = {"jpeg": "libjpeg", "jpeg2000": "OpenJPEG", "webp": "libwebp", "avif": "libaom"}
  library.update(heic="x265", jxl="libjxl", hevc="x265", vvc="vvenc")
  assert re.match(rf"{library[name.split('-')[0]]}[^ ]* \d+\.\d.* by \S+", anchor.version())
  first, last = (anchor.options(anchor.default_rate_points[i]) for i in (0, -1))
  assert first != last and "\n" not in first


def test_jpeg_2000_transforms_colour():
  data = anchors.create("jpeg2000").encode(_PHOTO, 1.6)
  style = data.index(b"\xff\x52")  # COD: length 2, style 1, progression 1, layers 2, transform 1
  assert data[style + 8] == 1
  assert data[style + 13] == 0, "the irreversible wavelet"


@pytest.mark.parametrize("name, expected", [("jpeg", [0x22, 0x11, 0x11]), ("jpeg-444", [0x11] * 3)])
def test_jpeg_has_the_subsampling_of_its_name(name, expected):
  data = anchors.create(name).encode(_PHOTO, 50)
  start = data.index(b"\xff\xc0")
  assert [data[start + 11 + 3 * c] for c in range(3)] == expected


@pytest.mark.parametrize("name, expected", [("avif", 0b1100), ("avif-444", 0)])
def test_avif_has_the_subsampling_of_its_name(name, expected, coded):
  for _, data, _ in coded(name):
    # av1C: high_bitdepth 0x40, chroma_subsampling_x 8, _y 4
    assert data[data.index(b"av1C") + 6] & 0b1101100 == expected


@pytest.mark.parametrize("name, expected", [("heic", 1), ("heic-444", 3)])
def test_heic_has_the_subsampling_of_its_name(name, expected, coded):
  for _, data, _ in coded(name):
    assert data[data.index(b"hvcC") + 20] & 3 == expected


@pytest.mark.parametrize("name, expected", zip(_RAW, ["yuv420p10le", "yuv444p10le", "yuv420p10le"]))
def test_raw_streams_are_one_image_of_10_bits_without_text(name, expected, coded):
  for _, data, _ in coded(name):
    command = [raw_streams._ffmpeg(), "-i", "pipe:0", "-f", "null", "-"]
    printed = subprocess.run(command, input=data, capture_output=True).stderr.decode()
    assert re.search(rf"Video: \w+ .*{expected}.* 128x96", printed)
    assert re.findall(r"frame= *(\d+)", printed)[-1] == "1"
    assert b"x265" not in data and b"vvenc" not in data.lower()


@pytest.mark.parametrize("name", _RAW)
def test_headers_of_raw_streams_are_about_100_bytes(name):
  flat = np.full((64, 64, 3), 128, np.uint8)
  # x265's text about its settings would be 2,300 more, vvenc's headers of a video 110.
  assert len(_available(name).encode(flat, 42)) < 130


def _words(rgb):
  """10-bit samples before rounding, by the equations of JFIF; chroma about 512."""
  r, g, b = np.moveaxis(rgb.astype(np.float64), -1, 0)
  y = 0.299 * r + 0.587 * g + 0.114 * b
  scale = 1023 / 255
  return [y * scale, (b - y) / 1.772 * scale + 512, (r - y) / 1.402 * scale + 512]


def test_444_of_10_bits_is_the_equations_rounded_and_loses_nothing(without_coding):
  anchor = anchors.create("hevc-444-10bit")
  levels = np.r_[np.arange(0, 256, 5), 1, 2, 127, 128, 253, 254]
  colours = np.stack(np.meshgrid(levels, levels, levels), -1).astype(np.uint8)
  rgb = colours.reshape(58, -1, 3)
  data = anchor.encode(rgb, 22)
  found = np.frombuffer(data, "<u2").reshape(3, 64, rgb.shape[1])
  for plane, expected in zip(found, _words(rgb)):
    # A tie may fall to either side in float32.
    assert np.abs(plane[:58] - np.clip(expected, 0, 1023)).max() < 0.501
  np.testing.assert_array_equal(anchor.decode(data, *rgb.shape[:2]), rgb)
  assert anchor.conversion_psnr(rgb) == math.inf


@pytest.mark.parametrize("name", ["hevc-420-10bit", "vvc"])
def test_420_of_10_bits_averages_before_it_rounds(name, without_coding):
  anchor = anchors.create(name)
  found = np.frombuffer(anchor.encode(_PHOTO, 22), "<u2")
  y, u, v = _words(_PHOTO)
  u, v = (plane.reshape(48, 2, 64, 2).mean(axis=(1, 3)) for plane in (u, v))
  expected = np.concatenate([plane.ravel() for plane in (y, u, v)])
  assert np.abs(found - expected).max() < 0.501
  back = anchor.decode(found.tobytes(), 96, 128)
  assert metrics.psnr(_PHOTO, back) == anchor.conversion_psnr(_PHOTO)


def test_420_of_10_bits_keeps_greys(without_coding):
  grey = np.repeat(np.arange(256, dtype=np.uint8), 64 * 3).reshape(64, 256, 3)
  anchor = anchors.create("vvc")
  np.testing.assert_array_equal(anchor.decode(anchor.encode(grey, 22), 64, 256), grey)


def test_raw_streams_pad_with_the_last_row_and_column(without_coding):
  found = np.frombuffer(anchors.create("hevc-444-10bit").encode(_SMALL, 22), "<u2")
  y = found.reshape(3, 64, 64)[0]
  np.testing.assert_array_equal(y[32:, :17], np.tile(y[32, :17], (32, 1)))
  np.testing.assert_array_equal(y[:, 16:], np.tile(y[:, 16:17], (1, 48)))
  wide = np.zeros((65, 70, 3), np.uint8)
  assert len(anchors.create("vvc").encode(wide, 22)) == 66 * 70 * 3


@pytest.mark.parametrize("name", ["avif", "avif-444"])
def test_the_conversion_psnr_of_avif_is_its_lossless_quality_at_any_speed(name):
  anchor = _available(name)
  decoded = anchor.decode(anchor.encode(_SMALL, 100), 33, 17)
  assert anchor.conversion_psnr(_SMALL) == metrics.psnr(_SMALL, decoded)


@pytest.mark.parametrize("name", ["jpeg", "jpeg-444", "webp", "heic", "heic-444"])
def test_the_highest_quality_stays_a_little_below_the_conversion_psnr(name):
  anchor = _available(name)
  best = metrics.psnr(_PHOTO, anchor.decode(anchor.encode(_PHOTO, 100), 96, 128))
  # Rounded DCT coefficients cost up to 3 dB of 53, and less of the 41 of 4:2:0.
  assert anchor.conversion_psnr(_PHOTO) - 3.1 < best < anchor.conversion_psnr(_PHOTO) + 0.01


def test_conversion_psnrs_of_grey_are_those_of_rounding():
  grey = np.repeat(_PHOTO[..., :1], 3, axis=2)
  assert anchors.jpeg.conversion_psnr(grey) == math.inf
  # Limited range has 219 steps for 255 levels: 36 of them move by one.
  steps = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(1, 256, 3)
  moved = np.rint(np.rint(np.arange(256) * 219 / 255) * 255 / 219) != np.arange(256)
  expected = 10 * math.log10(255**2 / moved.mean())
  assert anchors.webp.conversion_psnr(steps) == pytest.approx(expected)
  assert anchors.create("jpeg2000").conversion_psnr(_PHOTO) == math.inf


@pytest.mark.parametrize(
  "name, package",
  [("heic", "pillow-heif"), ("jxl", "imagecodecs"), *((name, "imageio-ffmpeg") for name in _RAW)],
)
def test_a_missing_package_is_named_and_nothing_else_fails(name, package, monkeypatch):
  monkeypatch.setitem(sys.modules, package.replace("-", "_"), None)
  anchor = anchors.create(name)
  expected = f"{name} needs {package}, which is not installed; pip install {package}"
  assert anchor.missing() == expected
  calls = [
    lambda: anchor.encode(_SMALL, 22),
    lambda: anchor.decode(b"", 33, 17),
    anchor.version,
  ]
  for call in calls:
    with pytest.raises(anchors.AnchorError, match=re.escape(expected)):
      call()


@pytest.mark.parametrize("module", [file_formats, raw_streams])
def test_modules_import_without_the_packages_of_single_anchors(module, monkeypatch):
  for package in ("pillow_heif", "imagecodecs", "imageio_ffmpeg"):
    monkeypatch.setitem(sys.modules, package, None)
  spec = importlib.util.spec_from_file_location("copy_of_module", module.__file__)
  spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.mark.parametrize("name", ["jpeg", "jpeg2000", "webp", "avif"])
def test_a_pillow_without_a_format_is_told(name, monkeypatch):
  monkeypatch.setattr(features, "check", lambda feature: False)
  anchor = anchors.create(name)
  assert re.match(rf"{name}: Pillow [\d.]+ was built without \w+; pip install", anchor.missing())
  with pytest.raises(anchors.AnchorError, match="was built without"):
    anchor.encode(_SMALL, 1)


def test_an_ffmpeg_without_vvc_is_told(tmp_path, monkeypatch):
  hevc = _fake_ffmpeg(tmp_path, monkeypatch, "exit 0")
  assert hevc.missing() is None
  assert re.match(
    r"vvc: .*/ffmpeg has no encoder libvvenc; pip install 'imageio-ffmpeg>=0\.8' .*"
    "or name another ffmpeg in IMAGEIO_FFMPEG_EXE",
    anchors.create("vvc").missing(),
  )


def test_an_ffmpeg_that_cannot_be_run_is_told(tmp_path, monkeypatch):
  monkeypatch.setattr(raw_streams, "_ffmpeg", lambda: str(tmp_path / "absent"))
  assert re.match(r"vvc: .*/absent: cannot be run: No such file", anchors.create("vvc").missing())


def test_an_ffmpeg_that_fails_is_told_with_its_last_line(tmp_path, monkeypatch):
  anchor = _fake_ffmpeg(tmp_path, monkeypatch, "echo first >&2; echo 'last line' >&2; exit 3")
  with pytest.raises(
    anchors.AnchorError,
    match=r"hevc-420-10bit: the ffmpeg that encodes ended with 3 and 0 bytes.*printed: last line$",
  ):
    anchor.encode(_SMALL, 22)
  with pytest.raises(anchors.AnchorError, match=r"the ffmpeg that decodes .* printed: last line$"):
    anchor.decode(b"data", 33, 17)


def test_an_ffmpeg_that_says_nothing_is_told(tmp_path, monkeypatch):
  anchor = _fake_ffmpeg(tmp_path, monkeypatch, "exit 0")
  with pytest.raises(anchors.AnchorError, match=r"ended with 0 and 0 bytes.* it printed: nothing"):
    anchor.encode(_SMALL, 22)


def test_an_ffmpeg_that_does_not_end_is_stopped(tmp_path, monkeypatch):
  anchor = _fake_ffmpeg(tmp_path, monkeypatch, "exec sleep 60")
  assert anchor.missing() is None
  monkeypatch.setattr(raw_streams, "TIME_LIMIT", 0.2)
  with pytest.raises(anchors.AnchorError, match=r"ffmpeg took more than 0\.2 s, .* it was run as"):
    anchor.encode(_SMALL, 22)


@pytest.mark.parametrize(
  "name, rate_point, expected",
  [
    ("jpeg", 0, r"jpeg: quality 0; expected a whole number from 1 to 100"),
    ("webp", 50.5, r"webp: quality 50\.5; expected a whole number"),
    ("jpeg2000", 0, r"jpeg2000: bits per pixel 0; expected a number from 0\.01 to 24"),
    ("jpeg2000", math.nan, r"bits per pixel nan"),
    ("hevc-444-10bit", 52, r"QP 52; expected a whole number from 0 to 51"),
  ],
)
def test_rate_points_off_the_scale_are_refused(name, rate_point, expected, without_coding):
  with pytest.raises(anchors.AnchorError, match=expected):
    anchors.create(name).encode(_SMALL, rate_point)


def test_a_rate_point_may_be_a_number_of_numpy():
  rate_point = np.array([50], np.int32)[0]
  assert anchors.jpeg.encode(_PHOTO, rate_point) == anchors.jpeg.encode(_PHOTO, 50)


@pytest.mark.parametrize("image", [_PHOTO / 255, _PHOTO[..., 0], _PHOTO[..., :2]])
def test_only_uint8_images_are_coded(image):
  with pytest.raises(ValueError, match=r"`image` is .* expected uint8 \[H, W, 3\] or \[H, W, 1\]"):
    anchors.jpeg.encode(image, 50)


@_EACH
def test_what_is_no_file_of_the_format_is_refused(name):
  anchor = _available(name)
  for data in (b"", b"no image at all"):
    with pytest.raises(
      anchors.AnchorError, match=rf"^{name}: .*(cannot be decoded|ended with)"
    ) as e:
      anchor.decode(data, 96, 128)
    assert " at 0x" not in str(e.value).partition("it printed")[0]


@_EACH
def test_another_size_than_that_of_the_image_is_refused(name, coded):
  with pytest.raises(anchors.AnchorError, match=r"decoded .* expected .*give the size of the imag"):
    anchors.create(name).decode(coded(name)[0][1], 192, 128)


def test_what_pillow_cannot_write_is_an_error_with_the_size(monkeypatch):
  def refuse(*args, **kwargs):
    raise OSError("first\nencoder error -2")

  monkeypatch.setattr(Image.Image, "save", refuse)
  with pytest.raises(
    anchors.AnchorError, match=r"^jpeg: the encoder refused an image of 17x33: encoder error -2$"
  ):
    anchors.jpeg.encode(_SMALL, 50)


@pytest.mark.skipif(
  _REFERENCE not in os.environ,
  reason=f"{_REFERENCE} names no folder with data/classic_rd_kodak.json and data/kodak",
)
@_EACH
def test_kodak_equals_the_stored_measurements(name):
  # With the versions that made the file, bytes are equal and the rest is within its rounding.
  anchor = _available(name)
  folder = os.path.join(os.environ[_REFERENCE], "data")
  with open(os.path.join(folder, "classic_rd_kodak.json"), encoding="utf-8") as file:
    rows = json.load(file)["rows"]
  codec = _STORED.get(name, name)
  rows = {row["setting"]: row for row in rows if (row["codec"], row["image"]) == (codec, "kodim15")}
  image = image_files.read_image(os.path.join(folder, "kodak", "kodim15.png"))
  for rate_point in (anchor.default_rate_points[0], anchor.default_rate_points[3]):
    data = anchor.encode(image, rate_point)
    row = rows[anchor.label(rate_point)]
    assert len(data) == pytest.approx(row["bytes"], rel=0.01)
    psnr = metrics.psnr(image, anchor.decode(data, *image.shape[:2]))
    assert psnr == pytest.approx(row["psnr_rgb"], abs=0.1)
