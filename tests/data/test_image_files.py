"""Image files: what comes in is sRGB, upright and whole; what goes out is whole or absent."""

import io
import logging
import os
import re
import stat
import struct
import zlib

import cv2
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageCms, PngImagePlugin

from khuvcm_tf import atomic_files, errors
from khuvcm_tf.data import image_files
from khuvcm_tf.data.image_files import ImageError

_RNG = np.random.default_rng(0)
_COLOUR = _RNG.integers(0, 256, (13, 17, 3), dtype=np.uint8)
_GREY = _RNG.integers(0, 256, (13, 17, 1), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  return tmp_path


def _save(name, array, **settings):
  Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(name, **settings)


def _smooth(height=48, width=64):
  y, x = np.mgrid[:height, :width]
  return np.stack([2 * x + y, 3 * y + 20, 200 - x], axis=-1).astype(np.uint8)


# Reading.


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "ppm"])
@pytest.mark.parametrize("array", [_COLOUR, _GREY], ids=["colour", "grey"])
def test_lossless_formats_come_in_as_they_are(folder, suffix, array):
  _save(f"a.{suffix}", array)
  read = image_files.read_image(f"a.{suffix}")
  assert read.dtype == np.uint8
  np.testing.assert_array_equal(read, array)
  read[0, 0] = 0  # writable


def test_lossless_webp_comes_in_as_it_is(folder):
  _save("a.webp", _COLOUR, lossless=True)
  np.testing.assert_array_equal(image_files.read_image("a.webp"), _COLOUR)


def test_jpeg_comes_in_as_opencv_decodes_it(folder):
  _save("a.jpg", _smooth(), quality=95, subsampling=0)
  difference = image_files.read_image("a.jpg").astype(int) - cv2.imread("a.jpg")[..., ::-1]
  assert np.abs(difference).max() <= 1


def test_an_open_file_is_read_in_place_of_the_path_that_names_it():
  pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, "PNG")
  data = file.getvalue()
  read = image_files.read_image("set/7", file=io.BytesIO(data))
  np.testing.assert_array_equal(read, pixels)
  with pytest.raises(ImageError, match="set/7: damaged or cut short"):
    image_files.read_image("set/7", file=io.BytesIO(data[:-40]))


def test_palette_becomes_rgb(folder):
  Image.fromarray(_COLOUR).quantize(16).save("a.png")
  with Image.open("a.png") as image:
    assert image.mode == "P"
    expected = np.asarray(image.convert("RGB"))
  np.testing.assert_array_equal(image_files.read_image("a.png"), expected)


def test_one_bit_becomes_black_and_white_grey(folder):
  Image.fromarray(_GREY[..., 0] > 99).save("a.png")
  np.testing.assert_array_equal(image_files.read_image("a.png"), np.where(_GREY > 99, 255, 0))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(folder, suffix, orientation):
  # What a camera stores so that a viewer, by the EXIF standard, shows `upright`.
  upright = _smooth()
  stored = {
    1: upright,
    2: upright[:, ::-1],
    3: upright[::-1, ::-1],
    4: upright[::-1],
    5: upright.transpose(1, 0, 2),
    6: np.rot90(upright, 1),
    7: upright[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(upright, -1),
  }[orientation]
  exif = Image.Exif()
  exif[0x0112] = orientation
  settings = {"jpg": dict(quality=95, subsampling=0), "webp": dict(lossless=True)}
  Image.fromarray(stored).save(f"a.{suffix}", exif=exif, **settings.get(suffix, {}))
  read = image_files.read_image(f"a.{suffix}")
  assert read.shape == upright.shape
  assert np.abs(read.astype(int) - upright).max() <= (4 if suffix == "jpg" else 0)


def test_broken_exif_does_not_keep_an_image_out(folder):
  for seed in range(20):
    junk = np.random.default_rng(seed).bytes(60)
    _save("a.png", _COLOUR, exif=b"Exif\0\0MM\0*\0\0\0\x08" + junk)
    np.testing.assert_array_equal(image_files.read_image("a.png"), _COLOUR)


def test_phone_images_with_a_second_image_inside_are_the_first(folder):
  first, second = (Image.fromarray(np.full((16, 16, 3), v, np.uint8)) for v in (200, 10))
  first.save("a.jpg", format="MPO", save_all=True, append_images=[second])
  assert np.abs(image_files.read_image("a.jpg").astype(int) - 200).max() <= 1


# Transparency.


def _transparent(array, opacity):
  return np.dstack([array, np.broadcast_to(opacity, array.shape[:2]).astype(np.uint8)])


@pytest.mark.parametrize("array", [_COLOUR, _GREY], ids=["colour", "grey"])
def test_opaque_alpha_is_dropped_silently(folder, array, caplog):
  _save("a.png", _transparent(array, 255))
  np.testing.assert_array_equal(image_files.read_image("a.png"), array)
  assert not caplog.records


def test_transparency_is_refused_with_the_remedy(folder):
  _save("a.png", _transparent(_COLOUR, 254))
  with pytest.raises(ImageError, match=r"^a\.png: has transparent pixels; .*--alpha=white"):
    image_files.read_image("a.png", "refuse")
  # Of a program without that flag:
  with pytest.raises(ImageError, match=r"an opaque image; put it on a background first$"):
    image_files.read_image("a.png")


@pytest.mark.parametrize(
  "alpha, background",
  [("white", (255, 255, 255)), ("black", (0, 0, 0)), ("#0a64ff", (10, 100, 255))],
)
def test_transparent_pixels_take_the_background_in_proportion(folder, alpha, background, caplog):
  opacity = _RNG.integers(0, 256, (13, 17), dtype=np.uint8)
  _save("a.png", _transparent(_COLOUR, opacity))
  share = opacity[..., None] / 255
  expected = np.rint(share * _COLOUR + (1 - share) * np.array(background))
  assert np.abs(image_files.read_image("a.png", alpha=alpha) - expected).max() <= 1
  assert alpha in caplog.text


def test_transparent_grey_stays_grey_on_a_grey_background_only(folder):
  _save("a.png", _transparent(_GREY, 0))
  assert (image_files.read_image("a.png", alpha="white") == np.full_like(_GREY, 255)).all()
  coloured = image_files.read_image("a.png", alpha="#0a64ff")
  assert (coloured == (10, 100, 255)).all() and coloured.shape == _COLOUR.shape


def test_a_transparent_key_colour_counts_as_alpha(folder):
  Image.new("L", (4, 4), 7).save("a.png", transparency=7)
  with pytest.raises(ImageError, match="has transparent pixels"):
    image_files.read_image("a.png")
  Image.new("L", (4, 4), 7).save("b.png", transparency=8)
  assert (image_files.read_image("b.png") == np.full((4, 4, 1), 7)).all()


def test_an_unknown_background_is_named(folder):
  _save("a.png", _COLOUR)
  with pytest.raises(ImageError, match=r"alpha='wite' is not known; expected refuse, white"):
    image_files.read_image("a.png", alpha="wite")


# Colour.


def _srgb_profile():
  return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _red_green_profile():
  """sRGB with its red and green primaries exchanged in the tag table."""
  return (
    _srgb_profile().replace(b"rXYZ", b"?", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"?", b"gXYZ", 1)
  )


def _linear_grey_profile():
  """A grey profile whose samples are proportional to light: `curv` of no entries."""
  white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
  curve = b"curv" + bytes(8)
  offset = 128 + 4 + 2 * 12
  tags = struct.pack(
    ">I4sII4sII", 2, b"wtpt", offset, len(white), b"kTRC", offset + len(white), len(curve)
  )
  header = bytearray(128)
  header[8:12] = struct.pack(">I", 0x02100000)
  header[12:24], header[36:40] = b"mntrGRAYXYZ ", b"acsp"
  header[68:80] = struct.pack(">3i", 63190, 65536, 54061)
  profile = bytes(header) + tags + white + curve
  return struct.pack(">I", len(profile)) + profile[4:]


def test_srgb_profile_leaves_every_pixel_alone(folder, caplog):
  _save("a.png", _COLOUR, icc_profile=_srgb_profile())
  _save("b.png", _GREY, icc_profile=_srgb_profile())
  np.testing.assert_array_equal(image_files.read_image("a.png"), _COLOUR)
  np.testing.assert_array_equal(image_files.read_image("b.png"), _GREY)
  assert not caplog.records


def test_other_profile_is_converted_with_a_notice(folder, caplog):
  _save("a.png", _COLOUR, icc_profile=_red_green_profile())
  difference = image_files.read_image("a.png").astype(int) - _COLOUR[..., [1, 0, 2]]
  assert np.abs(difference).max() <= 1
  assert re.search(r"a\.png: colours are converted from ICC profile '.*' to sRGB", caplog.text)


def test_profile_is_applied_before_a_background_is_added(folder):
  _save("a.png", _transparent(_COLOUR, 255 * (np.arange(17) < 8)), icc_profile=_red_green_profile())
  read = image_files.read_image("a.png", alpha="#0a64ff")
  assert (read[:, 8:] == (10, 100, 255)).all()
  assert np.abs(read[:, :8].astype(int) - _COLOUR[:, :8, [1, 0, 2]]).max() <= 1


def test_grey_profile_is_converted_and_grey_stays_grey(folder):
  ramp = np.arange(256, dtype=np.uint8)[None, :, None]
  _save("a.png", ramp, icc_profile=_linear_grey_profile())
  light = ramp / 255
  srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
  read = image_files.read_image("a.png")
  assert read.shape == ramp.shape
  assert np.abs(read - 255 * srgb).max() <= 1.5


def test_unusable_profile_is_named_and_ignored(folder, caplog):
  for profile in (b"junk", _linear_grey_profile()):
    caplog.clear()
    _save("a.png", _COLOUR, icc_profile=profile)
    np.testing.assert_array_equal(image_files.read_image("a.png"), _COLOUR)
    assert "a.png: ICC profile cannot be used" in caplog.text


def test_cmyk_is_converted_with_a_notice(folder, caplog):
  Image.new("CMYK", (5, 4), (255, 0, 0, 0)).save("a.tif")
  np.testing.assert_array_equal(
    image_files.read_image("a.tif"), np.broadcast_to((0, 255, 255), (4, 5, 3))
  )
  assert caplog.records[0].levelno == logging.WARNING
  assert "a.tif: CMYK is converted to RGB" in caplog.text


# Refusals.


@pytest.mark.parametrize(
  "name, channels",
  [
    ("a.png", 1),
    ("a.png", 3),
    ("a.png", 4),
    ("a.tif", 1),
    ("a.tif", 3),
    ("a.pgm", 1),
    ("a.ppm", 3),
  ],
)
def test_sixteen_bits_are_refused(folder, name, channels):
  assert cv2.imwrite(name, np.full((4, 5, channels), 40000, np.uint16))
  with pytest.raises(
    ImageError, match=rf"^{name}: 16 bits per sample; expected 8; convert it first, .*8"
  ):
    image_files.read_image(name)


def test_sixteen_bits_behind_a_comment_are_refused(folder):
  with open("a.ppm", "wb") as file:
    file.write(b"P6\n# made by 8 hands\n1 1 # pixel\n1023\n" + bytes(6))
  with pytest.raises(ImageError, match="10 bits per sample; expected 8"):
    image_files.read_image("a.ppm")


def test_floats_are_refused(folder):
  Image.fromarray(np.ones((4, 5), np.float32)).save("a.tif")
  with open("a.pgm", "wb") as file:
    file.write(b"Pf\n1 1\n-1.0\n" + bytes(4))
  for name in ("a.tif", "a.pgm"):
    with pytest.raises(ImageError, match=f"^{name}: 32 bits per sample; expected 8"):
      image_files.read_image(name)


def test_other_colour_spaces_are_refused(folder):
  Image.new("LAB", (4, 4)).save("a.tif")
  with pytest.raises(ImageError, match="samples of kind LAB; expected 8-bit RGB"):
    image_files.read_image("a.tif")


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_animations_and_pages_are_refused(folder, suffix):
  frames = [Image.fromarray(np.full((8, 8, 3), v, np.uint8)) for v in (0, 99, 255)]
  frames[0].save(f"a.{suffix}", save_all=True, append_images=frames[1:])
  with pytest.raises(ImageError, match=r"animated or of several pages \(3 frames\); exp"):
    image_files.read_image(f"a.{suffix}")


def _declared_png(width, height):
  def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

  header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
  body = chunk(b"IDAT", zlib.compress(bytes(1000)))
  return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")


def test_too_many_pixels_are_refused_before_decoding(folder):
  _save("a.png", _COLOUR)
  assert image_files.read_image("a.png", max_pixels=13 * 17).shape == (13, 17, 3)
  with pytest.raises(
    ImageError, match=r"a\.png: 17x13 is 221 pixels; expected at most 220; cut it"
  ):
    image_files.read_image("a.png", max_pixels=220)


@pytest.mark.parametrize("side, text", [(12000, "144000000 pixels"), (60000, "more than")])
def test_a_decompression_bomb_is_refused(folder, side, text):
  with open("a.png", "wb") as file:
    file.write(_declared_png(side, side))
  with pytest.raises(ImageError, match=rf"a\.png: .*{text}.*; expected at most 134217728"):
    image_files.read_image("a.png")


def test_what_is_no_image_is_named(folder):
  for data in (b"", b"not an image", b"\x89PNG\r\n\x1a\n"):
    with open("a.png", "wb") as file:
      file.write(data)
    with pytest.raises(ImageError, match=r"^a\.png: not an image, or damaged; expected 8"):
      image_files.read_image("a.png")


def test_missing_file_and_folder_are_named(folder):
  with pytest.raises(ImageError, match=r"^gone\.png: cannot be read: No such file"):
    image_files.read_image("gone.png")
  with pytest.raises(ImageError, match=r"cannot be read: Is a directory; expected an im"):
    image_files.read_image(str(folder))


_FORMATS = [
  ("PNG", {}),
  ("JPEG", {}),
  ("WEBP", {}),
  ("TIFF", {}),
  ("BMP", {}),
  ("PPM", {}),
  ("GIF", {}),
  ("TIFF", {"compression": "tiff_lzw"}),
]


@pytest.mark.parametrize("name, settings", _FORMATS)
@pytest.mark.parametrize("share", [0.9, 0.5, 0.03])
def test_a_file_cut_short_is_refused(folder, name, settings, share):
  file = io.BytesIO()
  Image.fromarray(_RNG.integers(0, 256, (64, 80, 3), dtype=np.uint8)).save(file, name, **settings)
  data = file.getvalue()
  with open("cut", "wb") as cut:
    cut.write(data[: int(share * len(data))])
  with pytest.raises(ImageError, match=r"^cut: .*damaged.*; expected"):
    image_files.read_image("cut")


@pytest.mark.parametrize("name, settings", _FORMATS)
def test_damage_gives_an_image_or_an_error_of_one_line(folder, name, settings):
  file = io.BytesIO()
  Image.fromarray(_smooth()).save(file, name, **settings)
  data = np.frombuffer(file.getvalue(), np.uint8)
  rng = np.random.default_rng(1)
  for _ in range(60):
    damaged = data.copy()
    head = rng.integers(2)  # half of the damage in the header, where it does most
    places = rng.integers(0, min(64, len(data)) if head else len(data), rng.integers(1, 5))
    damaged[places] = rng.integers(0, 256, len(places))
    damaged.tofile("damaged")
    try:
      read = image_files.read_image("damaged", max_pixels=2**20)
    except ImageError as error:
      assert re.match(r"^damaged: .*; expected .*; [^\n]*$", str(error))
    else:
      assert read.dtype == np.uint8 and read.ndim == 3 and read.shape[2] in (1, 3)


# Finding.


def test_a_folder_is_searched_in_order_with_its_subfolders(folder):
  (folder / "b" / "c").mkdir(parents=True)
  (folder / ".hidden").mkdir()
  for name in ("z.PNG", "b/a.jpg", "b/c/d.tif", "README.md", "._z.png", ".hidden/a.png"):
    (folder / name).touch()
  found = [os.path.relpath(path) for path in image_files.find_images(str(folder))]
  assert found == ["b/a.jpg", "b/c/d.tif", "z.PNG"]


def test_a_glob_yields_images_only_and_a_file_itself(folder):
  (folder / "b[1]").mkdir()
  for name in ("2.png", "1.png", "list.txt", "b[1]/3.png"):
    (folder / name).touch()
  assert image_files.find_images("*") == ["1.png", "2.png"]
  assert image_files.find_images("**/*.png") == ["1.png", "2.png", "b[1]/3.png"]
  assert image_files.find_images("b[1]") == ["b[1]/3.png"]
  assert image_files.find_images("b[1]/3.png") == ["b[1]/3.png"]
  assert image_files.find_images("list.txt") == ["list.txt"]


def test_what_is_no_image_is_counted(folder, caplog):
  caplog.set_level("INFO", logger="absl")
  for name in ("a.png", "b.jpe", "clip.y4m", "notes"):
    (folder / name).touch()
  image_files.find_images(str(folder))
  assert caplog.messages == [
    f"{folder}: left out beside 1 images: 1 of .jpe, 1 of .y4m, 1 of no suffix"
  ]


def test_a_text_beyond_pillows_limit_is_not_told_as_damage(folder):
  texts = PngImagePlugin.PngInfo()
  texts.add_text("notes", "x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
  Image.new("L", (4, 4)).save("a.png", pnginfo=texts)
  message = r"^a\.png: Decompressed data too large .*: Pillow's own limit of texts and profiles; "
  with pytest.raises(ImageError, match=message):
    image_files.read_image("a.png")


@pytest.mark.parametrize("pattern", ["*.png", "none", "."])
def test_finding_nothing_names_the_pattern(folder, pattern):
  (folder / "list.txt").touch()
  with pytest.raises(
    ImageError, match=rf"^{re.escape(pattern)}: no images found; expected a file, a"
  ):
    image_files.find_images(pattern)


# Writing.


@hypothesis.settings(
  max_examples=40,
  deadline=None,
  suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
  array=hnp.arrays(
    np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]))
  ),
  suffix=st.sampled_from(sorted(image_files.LOSSLESS)),
)
def test_what_is_written_is_what_is_read(tmp_path, array, suffix):
  path = str(tmp_path / f"a{suffix}")
  image_files.write_image(path, array)
  np.testing.assert_array_equal(image_files.read_image(path), array)


@pytest.mark.parametrize("name", ["a.jpg", "a.kvc", "a"])
def test_unknown_and_lossy_suffixes_are_refused(folder, name):
  with pytest.raises(ImageError, match=rf"^{name}: images are not .*one of \.png, \.tif"):
    image_files.write_image(name, _COLOUR)
  assert not list(folder.iterdir())


@pytest.mark.parametrize(
  "array", [_COLOUR.astype(np.float32), _COLOUR[..., 0], _COLOUR[..., :2], _COLOUR[:0]]
)
def test_only_uint8_images_are_written(folder, array):
  with pytest.raises(ValueError, match=r"`image` is .* expected uint8 \[H, W, 3\]"):
    image_files.write_image("a.png", array)


def test_bytes_and_text_are_written_as_given(folder):
  atomic_files.write_bytes("a.kvc", b"\x00KVC\n")
  atomic_files.write_text("a.txt", "Größe\n")
  assert (folder / "a.kvc").read_bytes() == b"\x00KVC\n"
  assert (folder / "a.txt").read_bytes() == b"Gr\xc3\xb6\xc3\x9fe\n"


def test_a_written_file_has_the_permissions_of_any_new_file(folder):
  atomic_files.write_bytes("a", b"")
  (folder / "b").touch()
  assert stat.S_IMODE(os.stat("a").st_mode) == stat.S_IMODE(os.stat("b").st_mode)


def test_a_link_stays_a_link(folder):
  (folder / "old").write_bytes(b"old")
  os.symlink("old", "link")
  atomic_files.write_bytes("link", b"new")
  assert os.path.islink("link") and (folder / "old").read_bytes() == b"new"


def test_a_failure_leaves_the_old_file_and_nothing_else(folder, monkeypatch):
  def full(*unused):
    raise OSError(28, "No space left on device")

  (folder / "a.png").write_bytes(b"old")
  monkeypatch.setattr(os, "replace", full)
  with pytest.raises(
    atomic_files.FileError, match=r"^a\.png: cannot be written: No space left on device; expected"
  ):
    image_files.write_image("a.png", _COLOUR)
  assert [path.name for path in folder.iterdir()] == ["a.png"]
  assert (folder / "a.png").read_bytes() == b"old"


def test_an_interrupt_leaves_nothing_behind(folder, monkeypatch):
  def interrupt(*unused):
    raise KeyboardInterrupt

  monkeypatch.setattr(os, "replace", interrupt)
  with pytest.raises(KeyboardInterrupt):
    atomic_files.write_bytes("a.kvc", b"data")
  assert not list(folder.iterdir())


def test_missing_folders_and_places_that_are_no_files_are_named(folder):
  (folder / "file").touch()
  for path in ("gone/a.png", "file/a.png"):
    with pytest.raises(
      atomic_files.FileError, match=f"^{path}: cannot be written: N.*; expected an ex"
    ):
      image_files.write_image(path, _COLOUR)
  os.mkfifo("pipe.png")
  for path in (".", "pipe.png", "/dev/null"):
    with pytest.raises(
      atomic_files.FileError, match="is not a regular file and cannot be replaced"
    ):
      atomic_files.write_bytes(path, b"data")


def test_errors_are_for_people():
  assert issubclass(ImageError, errors.Error)
