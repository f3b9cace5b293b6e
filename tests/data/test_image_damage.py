"""Files that Pillow fills up in silence, made of whole ones; and odd files that are whole."""

from __future__ import annotations

import io
import pathlib
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from khuvcm_tf.data import image_damage, image_files

PHOTO = Image.open(pathlib.Path(__file__).parents[1] / "photos" / "chelsea.jpg").convert("RGB")
SIZES = [(1, 1), (2, 5), (17, 16), (200, 131)]


def _file(image, kind, **options) -> bytes:
  file = io.BytesIO()
  image.save(file, kind, **options)
  return file.getvalue()


def _jpeg(size=(200, 131), **options) -> bytes:
  return _file(PHOTO.resize(size), "JPEG", **options)


def _check(data: bytes) -> None:
  image = Image.open(io.BytesIO(data))
  image.load()
  image_damage.check(image, data)


def _png(colour: int, bits: int, rows: bytes, size: tuple[int, int], interlace: int = 0) -> bytes:
  def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

  header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, interlace))
  return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_whole_pngs_pass(size, mode):
  for image in (PHOTO.resize(size).convert(mode), Image.new(mode, size)):
    _check(_file(image, "PNG"))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("quality", [5, 95])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_whole_jpegs_pass(size, progressive, quality, mode):
  for image in (
    PHOTO.resize(size).convert(mode),
    Image.new(mode, size, "grey"),
    *_flat(mode, size),
  ):
    _check(_file(image, "JPEG", quality=quality, progressive=progressive))


def _flat(mode, size):
  return [] if mode == "CMYK" else [Image.new(mode, size, each) for each in ("black", "white")]


def test_whole_jpegs_with_thumbnails_and_restart_markers_and_what_follows_their_end_pass():
  exif = Image.Exif()
  exif[0x010E] = "\xff\xd9"
  for options in ({"exif": exif, "comment": b"\xff\xda\xff\xd9"}, {"restart_marker_blocks": 3}):
    _check(_jpeg(**options) + b"\0" * 100)


@pytest.mark.parametrize("rows", [1, 30, 64])
def test_a_png_of_fewer_rows_is_refused(rows):
  samples = (b"\0" + b"\x11" * 97 * 3) * rows
  message = f"^{rows * 292} bytes of samples, expected 18980"
  with pytest.raises(image_damage.DamageError, match=message):
    _check(_png(2, 8, samples, (97, 65)))


def test_an_interlaced_png_is_measured_pass_by_pass():
  # Of 20 x 18 pixels of 4 bits, in the order of the passes: rows, and pixels of a row.
  passes = [(3, 3), (3, 2), (2, 5), (5, 5), (4, 10), (9, 10), (9, 20)]
  rows = [b"\0" + b"\x11" * -(-pixels // 2) for count, pixels in passes for _ in range(count)]
  whole = b"".join(rows)
  _check(_png(0, 4, whole, (20, 18), interlace=1))
  message = f"^{len(whole) - 33} bytes of samples, expected {len(whole)}$"
  with pytest.raises(image_damage.DamageError, match=message):
    _check(_png(0, 4, whole[:-33], (20, 18), interlace=1))


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_a_jpeg_that_is_cut_and_given_an_end_is_refused(progressive, share):
  data = _jpeg(progressive=progressive)
  with pytest.raises(image_damage.DamageError):
    _check(data[: int(share * len(data))] + b"\xff\xd9")


def test_a_jpeg_with_bytes_lost_in_its_middle_is_refused():
  data = _jpeg()
  middle = len(data) // 2
  for hole in (b"", b"\xff" * 1500, b"\0" * 1500):
    with pytest.raises((image_damage.DamageError, OSError)):
      _check(data[:middle] + hole + data[middle + 1500 :])


def test_readers_name_the_file_and_the_damage(tmp_path):
  path = tmp_path / "half.jpg"
  path.write_bytes(_jpeg()[:3000] + b"\xff\xd9")
  with pytest.raises(
    image_files.ImageError, match=r"half\.jpg: damaged or cut short: the data ends"
  ):
    image_files.read_image(str(path))
  whole = _jpeg()
  path.write_bytes(whole)
  read = image_files.read_image(str(path))
  np.testing.assert_array_equal(read, np.asarray(Image.open(io.BytesIO(whole))))
