"""Raw 4:2:0 frames from file to file, against floats; and luma alone, without a byte of chroma."""

from __future__ import annotations

import os
import pathlib
import shutil
import struct

import numpy as np
import pytest
import tensorflow as tf

from khuvcm_tf import (
  atomic_files,
  batch_coding,
  bitstream,
  coding,
  errors,
  model_files,
  saved_model,
)
from khuvcm_tf.codecs import codec
from khuvcm_tf.data import frames, image_files

GOLDEN = pathlib.Path(__file__).parent / "golden"
_SIZES = [(33, 17), (1, 1), (66, 2)]  # width, height
_DEPTHS = pytest.mark.parametrize("bits", [8, 10])


def _golden(name: str) -> coding.Model:
  # In float64, so that floats computed in another order round to the same levels.
  return model_files.load(str(GOLDEN / name / "model"), "float64")


@pytest.fixture(scope="module")
def cross_component():
  return _golden("cross_component")


@pytest.fixture(scope="module", params=["cross_component", "luma_chroma420"])
def model(request):
  if request.param == "cross_component":
    return request.getfixturevalue("cross_component")
  return _golden(request.param)


@pytest.fixture(scope="module")
def of_rgb():
  """A model of RGB images, whose codec has no frames."""
  return _golden("ycbcr444")


@pytest.fixture
def here(tmp_path, monkeypatch):
  """The current folder, empty."""
  monkeypatch.chdir(tmp_path)
  return tmp_path


def _frame(width=33, height=17, bits=8, seed=0) -> frames.Frame:
  rng = np.random.default_rng(seed)
  dtype = np.uint8 if bits == 8 else np.uint16
  half = (height + 1) // 2, (width + 1) // 2
  shapes = (height, width), half, half
  return frames.Frame(*(rng.integers(0, 2**bits, shape, dtype) for shape in shapes), bits)


def _assert_equal(found: frames.Frame, expected: frames.Frame):
  assert isinstance(found, frames.Frame) and found.bits == expected.bits
  for plane, other in zip(found[:3], expected[:3]):
    assert plane.dtype == other.dtype
    np.testing.assert_array_equal(plane, other)


def _samples(frame: frames.Frame) -> bytes:
  """The frame sample by sample, as both formats lay it out."""
  values = [int(value) for plane in frame[:3] for row in plane for value in row]
  return struct.pack(f"<{len(values)}{'B' if frame.bits == 8 else 'H'}", *values)


def _clip(suffix: str, images: list[frames.Frame], header: str | None = None) -> bytes:
  """A file's content, byte by byte."""
  if suffix == ".yuv":
    return b"".join(map(_samples, images))
  height, width = images[0].y.shape
  colour = {8: "C420mpeg2", 10: "C420p10"}[images[0].bits]
  first = header or f"YUV4MPEG2 W{width} H{height} F25:1 {colour}"
  return b"".join([f"{first}\n".encode(), *(b"FRAME\n" + _samples(each) for each in images)])


def _tree(folder) -> list[str]:
  """All files and folders below a folder, hidden ones too."""
  root = pathlib.Path(folder)
  return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def _y_hats_of_frame(model: coding.Model, frame: frames.Frame) -> list[tf.Tensor]:
  """What the integer coders round the latents of a frame to."""
  scale = 2.0 ** (frame.bits - 8)
  planes = frame.y[..., np.newaxis], np.stack([frame.cb, frame.cr], axis=-1)
  x = model.codec.samples([tf.constant(plane[np.newaxis] / scale, tf.float64) for plane in planes])
  context, found = codec.Context(codec.in_bands), []
  for branch, coder in zip(model.codec.branches, model.entropy_models):
    y = branch.analyze(x, context)
    found.append(coder.y_hat(y, branch.entropy_model.side_information(y)))
    context = context.after(branch, found[-1])
  return found


def _y_hats_of_file(model: coding.Model, data: bytes) -> list[tf.Tensor]:
  """What the substreams of a file decode to; all branches have two."""
  header, substreams = bitstream.parse(data)
  rows, columns = (-(-side // 64) * 4 for side in (header.height, header.width))
  return [
    coder.decode(tf.constant(substreams[2 * i : 2 * i + 2]), rows, columns).y_hat
    for i, coder in enumerate(model.entropy_models)
  ]


def _levels(floats, bits: int) -> np.ndarray:
  """Floats of the 8-bit scale as levels."""
  return np.clip(np.rint(np.asarray(floats) * 2 ** (bits - 8)), 0, 2**bits - 1)


def _substreams(data: bytes) -> list[bytes]:
  return bitstream.parse(data)[1]


def _with_substreams(data: bytes, substreams: list[bytes]) -> bytes:
  """The file with other substreams, behind a checksum that is right."""
  header, _ = bitstream.parse(data)
  return bitstream.pack(header, substreams)


class TestFrames:
  @_DEPTHS
  @pytest.mark.parametrize("size", _SIZES, ids=str)
  def test_are_decoded_to_the_rounded_planes_that_floats_make_of_their_latents(
    self, model, size, bits
  ):
    """And not to planes that have been RGB."""
    frame = _frame(*size, bits)
    data = model.compress(frame)
    header, substreams = bitstream.parse(data)
    size = frame.y.shape
    assert header == bitstream.Header(model.fingerprint, bitstream.YCBCR420, bits, *size)
    assert len(substreams) == len(model.codec.substreams)
    y_hats = _y_hats_of_frame(model, frame)
    for one, other in zip(y_hats, _y_hats_of_file(model, data)):
      np.testing.assert_array_equal(one, other)
    planes = model.codec.decode(y_hats, *frame.y.shape)
    y, uv = (_levels(plane[0], bits).astype(frame.y.dtype) for plane in planes)
    decoded = model.decompress(data)
    _assert_equal(decoded, frames.Frame(y[..., 0], uv[..., 0], uv[..., 1], bits))
    assert [plane.shape for plane in decoded[:3]] == [plane.shape for plane in frame[:3]]

    form = model.codec.input_format
    rgb = tf.clip_by_value(form.to_rgb(planes), 0, 255)
    through_rgb = [_levels(plane[0], bits) for plane in form.from_rgb(rgb, tf.float64)]
    assert size == (1, 1) or np.any(through_rgb[1] != uv)

  def test_of_10_bits_are_decoded_to_levels_between_those_of_8(self, model):
    ten = model.decompress(model.compress(_frame(bits=10)))
    for plane in ten[:3]:
      assert plane.dtype == np.uint16 and plane.max() > 255
      assert set(np.unique(plane % 4)) == {0, 1, 2, 3}

  def test_of_10_bits_with_four_times_the_levels_are_the_same_image(self, model):
    frame = _frame()
    wide = frames.Frame(*(4 * plane.astype(np.uint16) for plane in frame[:3]), 10)
    data, of_wide = model.compress(frame), model.compress(wide)
    assert _substreams(data) == _substreams(of_wide)
    for plane, other in zip(model.decompress(data)[:3], model.decompress(of_wide)[:3]):
      # A half of a level of 8 bits, and a half of one of 10.
      assert np.abs(plane - other / 4).max() <= 0.625

  def test_of_10_bits_are_coded_with_their_lowest_bits(self, model):
    high = frames.Frame(*(plane // 4 * 4 for plane in _frame(bits=10)[:3]), 10)
    low = frames.Frame(*(plane + 3 for plane in high[:3]), 10)
    assert _substreams(model.compress(high)) != _substreams(model.compress(low))

  def test_that_are_not_well_made_are_refused(self, model):
    frame = _frame()
    for odd in (
      frame._replace(bits=9),
      frame._replace(bits=10),
      frame._replace(cr=frame.cr[:-1]),
      frame._replace(y=frame.y.astype(np.uint16)),
      frame._replace(y=frame.y[..., np.newaxis]),
      _frame(bits=10)._replace(cb=np.full((9, 17), 1024, np.uint16)),
    ):
      with pytest.raises(frames.FrameError, match=r"^the frame.*; expected ") as caught:
        model.compress(odd)
      assert "\n" not in str(caught.value)

  def test_are_refused_by_a_codec_of_rgb_in_one_line(self, of_rgb):
    text = (
      r"^codec ycbcr444 is not one of 4:2:0, expected one for raw frames \(luma_chroma420 "
      r"or cross_component\); convert the frame to RGB, or use such a model$"
    )
    with pytest.raises(coding.ModelError, match=text):
      of_rgb.compress(_frame())

  def test_in_files_are_refused_by_a_codec_of_rgb_as_other_formats_are_by_one_of_frames(
    self, of_rgb, model
  ):
    for each, kind, expected in (
      (of_rgb, bitstream.YCBCR420, r"0 \(RGB\), 1 \(grey\) for"),
      (model, bitstream.YCBCR444, r"0 \(RGB\), 1 \(grey\), 3 \(YCbCr 4:2:0\) for"),
    ):
      header = bitstream.Header(each.fingerprint, kind, 8, 17, 33)
      data = bitstream.pack(header, [b""] * len(each.codec.substreams))
      text = rf"input format is {kind}, expected one of {expected} this model; use the model that"
      with pytest.raises(bitstream.BitstreamError, match=text):
        each.decompress(data)


class TestLumaOnly:
  @pytest.fixture(scope="class")
  def model(self, cross_component):
    return cross_component

  @pytest.mark.parametrize("name", ["smallest", "grey", "photo", "frame"])
  def test_is_the_luma_of_the_whole_decoding_in_8_bits(self, model, name):
    data = (GOLDEN / "cross_component" / f"{name}.kvc").read_bytes()
    header, _ = bitstream.parse(data)
    luma, chroma = model.codec.decode(_y_hats_of_file(model, data), header.height, header.width)
    assert chroma.shape[-1] == 2
    preview = model.decompress(data, luma_only=True)
    assert preview.dtype == np.uint8 and preview.shape == (header.height, header.width, 1)
    np.testing.assert_array_equal(preview, _levels(luma[0], 8))
    assert name == "smallest" or np.std(preview) > 1

  def test_of_a_frame_of_8_bits_is_its_decoded_luma_to_the_last_bit(self, model):
    data = model.compress(_frame())
    preview = model.decompress(data, luma_only=True)
    np.testing.assert_array_equal(preview[..., 0], model.decompress(data).y)

  def test_of_a_grey_image_is_the_image(self, model):
    data = (GOLDEN / "cross_component" / "grey.kvc").read_bytes()
    np.testing.assert_array_equal(model.decompress(data, luma_only=True), model.decompress(data))

  @pytest.mark.parametrize("name", ["grey", "photo", "frame"])
  def test_needs_no_substream_of_chroma(self, model, name):
    data = (GOLDEN / "cross_component" / f"{name}.kvc").read_bytes()
    preview = model.decompress(data, luma_only=True)
    for chroma in ([b"", b""], [b"\x00", b"\xff" * 90], [bytes(9), b"\x01" * 2000]):
      damaged = _with_substreams(data, [*_substreams(data)[:2], *chroma])
      np.testing.assert_array_equal(model.decompress(damaged, luma_only=True), preview)
      with pytest.raises(bitstream.BitstreamError, match=r"other bytes than their symbols encode"):
        model.decompress(damaged)

  def test_is_the_luma_of_any_chroma(self, model):
    """Bytes that happen to be what their symbols encode to are chroma too."""
    data = (GOLDEN / "cross_component" / "frame.kvc").read_bytes()
    other = _with_substreams(data, [*_substreams(data)[:2], b"any", b"thing"])
    one, two = model.decompress(data), model.decompress(other)
    assert np.any(one.cb != two.cb) and np.any(one.cr != two.cr)
    np.testing.assert_array_equal(one.y, two.y)
    previews = (model.decompress(each, luma_only=True) for each in (data, other))
    np.testing.assert_array_equal(*previews)

  def test_refuses_damage_of_luma(self, model):
    data = (GOLDEN / "cross_component" / "photo.kvc").read_bytes()
    z, y, *chroma = _substreams(data)
    for substreams, text in (
      ([z + b"\x00", y, *chroma], r"hold other bytes than their symbols encode to"),
      ([z, b"\xff" * 90, *chroma], r"hold other bytes than their symbols encode to"),
      ([z, y], r"the file has 2 substreams, expected 4 for this model"),
    ):
      with pytest.raises(bitstream.BitstreamError, match=text):
        model.decompress(_with_substreams(data, substreams), luma_only=True)

  @pytest.mark.parametrize("name", ["luma_chroma420", "ycbcr444"])
  def test_of_a_codec_without_luma_apart_is_refused_in_one_line(self, name):
    text = (
      rf"^a model of codec {name} codes luma and chroma together, expected one of cross_component "
      r"for luma alone; decode the whole image$"
    )
    model = _golden(name)
    with pytest.raises(coding.ModelError, match=text):
      model.decompress((GOLDEN / name / "photo.kvc").read_bytes(), luma_only=True)


class _Lossless:
  """Stands for a model: the samples are the whole file, and one frame cannot be coded."""

  fingerprint, default_quality = b"lossless", None

  def check_frames(self):
    pass

  def compress(self, frame, quality=None):
    if frame.y[0, 0] == 13:
      raise coding.ModelError("a latent lies too far")
    return struct.pack("<3i", *frame.y.shape, frame.bits) + _samples(frame)

  def decompress(self, data, **options):
    self.options = options
    if len(data) < 13:
      raise bitstream.BitstreamError("the file is damaged; copy it again")
    height, width, bits = struct.unpack("<3i", data[:12])
    if bits == 0:
      return np.zeros((height, width, 3), np.uint8)
    half = (height + 1) // 2, (width + 1) // 2
    planes, rest = [], np.frombuffer(data[12:], np.uint8 if bits == 8 else "<u2")
    for shape in ((height, width), half, half):
      planes.append(rest[: shape[0] * shape[1]].reshape(shape))
      rest = rest[shape[0] * shape[1] :]
    return frames.Frame(*planes, bits)


@pytest.fixture
def lossless():
  return _Lossless()


def _compress(model, name, output="kvc", **arguments) -> list[str]:
  """As `batch_coding.compress_frames`; returns the files that were written."""
  return [job.target for job in batch_coding.compress_frames(model, name, output, **arguments)]


class TestFromFileToFile:
  @pytest.mark.parametrize("name", ["a.yuv", "a.y4m", "b/A.YUV", "a.kvc.y4m"])
  def test_is_told_by_the_suffix(self, name):
    assert batch_coding.is_raw(name)
    assert not batch_coding.is_raw(name + ".kvc") and not batch_coding.is_raw(name[:-4])

  @_DEPTHS
  @pytest.mark.parametrize("size", _SIZES, ids=str)
  @pytest.mark.parametrize("suffix", [".yuv", ".y4m"])
  def test_frames_come_through_sample_by_sample(self, lossless, here, suffix, size, bits):
    images = [_frame(*size, bits, seed) for seed in range(3)]
    (here / f"clip{suffix}").write_bytes(_clip(suffix, images))
    given = {"width": size[0], "height": size[1], "bits": bits} if suffix == ".yuv" else {}
    written = _compress(lossless, f"clip{suffix}", **given)
    assert written == [f"kvc/clip_{number:05}.kvc" for number in range(3)]
    for name, image in zip(written, images):
      assert (here / name).read_bytes() == lossless.compress(image)
    for pattern, output in (("kvc", "out.yuv"), ("kvc/clip_*.kvc", "out.y4m")):
      assert batch_coding.decompress_frames(lambda data: lossless, pattern, output) == written
    assert (here / "out.yuv").read_bytes() == _clip(".yuv", images)
    reader = frames.open_frames("out.y4m")
    assert (reader.width, reader.height, reader.bits, reader.count) == (*size, bits, 3)
    for found, image in zip(reader, images):
      _assert_equal(found, image)

  @pytest.mark.parametrize(
    "numbers, expected", [(":", range(5)), ("1:3", [1, 2]), ("4:", [4]), (":2", [0, 1])]
  )
  def test_ranges_keep_the_numbers_of_their_frames(self, lossless, here, numbers, expected):
    images = [_frame(seed=seed) for seed in range(5)]
    (here / "clip.y4m").write_bytes(_clip(".y4m", images))
    written = _compress(lossless, "clip.y4m", numbers=numbers)
    assert written == [f"kvc/clip_{number:05}.kvc" for number in expected]
    for name, number in zip(written, expected):
      assert (here / name).read_bytes() == lossless.compress(images[number])

  @pytest.mark.parametrize("suffix, bits", [(".yuv", 8), (".y4m", 10)])
  def test_frames_become_what_the_model_makes_of_each(self, model, here, suffix, bits):
    images = [_frame(bits=bits, seed=seed) for seed in range(3)]
    (here / f"clip{suffix}").write_bytes(_clip(suffix, images))
    given = {"width": 33, "height": 17} if suffix == ".yuv" else {}
    written = _compress(model, f"clip{suffix}", numbers="1:3", **given)
    decoded = []
    for name, image in zip(written, images[1:]):
      data = (here / name).read_bytes()
      assert data == model.compress(image)
      decoded.append(model.decompress(data))
    assert len(decoded) == 2 and np.any(decoded[0].cb != decoded[1].cb)
    for output in ("out.yuv", "out.y4m"):
      batch_coding.decompress_frames(lambda data: model, "kvc", output)
    assert (here / "out.yuv").read_bytes() == _clip(".yuv", decoded)
    for found, expected in zip(frames.open_frames("out.y4m"), decoded):
      _assert_equal(found, expected)

  def test_into_a_folder_in_use_leaves_what_else_it_holds(self, lossless, here):
    (here / "kvc").mkdir()
    (here / "kvc" / "notes.txt").write_text("mine")
    (here / "clip.y4m").write_bytes(_clip(".y4m", [_frame()]))
    _compress(lossless, "clip.y4m")
    assert _tree("kvc") == ["clip_00000.kvc", "notes.txt"]
    assert (here / "kvc" / "notes.txt").read_text() == "mine"

  def test_options_and_files_reach_the_model(self, lossless, here):
    (here / "clip.y4m").write_bytes(_clip(".y4m", [_frame(seed=1), _frame(seed=2)]))
    written = _compress(lossless, "clip.y4m")
    seen = []
    batch_coding.decompress_frames(
      lambda data: seen.append(data) or lossless, "kvc", "out.yuv", max_pixels=999
    )
    assert seen == [(here / name).read_bytes() for name in written]
    assert lossless.options == {"max_pixels": 999}


_GOOD_Y4M = _clip(".y4m", [_frame(seed=0), _frame(seed=1)])


class TestCompressRefuses:
  """In one line, and before anything is written."""

  def _refused(self, here, text, name="clip.y4m", kind=frames.FrameError, **arguments):
    before = _tree(here)
    with pytest.raises(kind, match=text) as caught:
      batch_coding.compress_frames(_Lossless(), name, "kvc", **arguments)
    assert isinstance(caught.value, errors.Error) and "\n" not in str(caught.value)
    assert _tree(here) == before

  @pytest.mark.parametrize(
    "given, text",
    [
      ({}, r"^clip\.yuv: a \.yuv file does not say its size; expected a width and a height; give"),
      ({"width": 33}, r"does not say its size; expected a width and a height"),
      ({"height": 17}, r"does not say its size; expected a width and a height"),
      ({"width": 32, "height": 17}, r"2601 bytes are 3 frames of 32x17 of 8 bits and 105 bytes; e"),
      ({"width": 33, "height": 17, "bits": 10}, r"are 1 frames of 33x17 of 10 bits and 867 byte"),
      ({"width": 33, "height": 17, "bits": 9}, r"clip\.yuv: samples of 9 bits; expected 8 or 10"),
      ({"width": 70000, "height": 17}, r"clip\.yuv: frames of 70000x17; expected sides of 1 to 65"),
    ],
  )
  def test_yuv_whose_size_is_not_given_or_does_not_divide_the_file(self, here, given, text):
    (here / "clip.yuv").write_bytes(_clip(".yuv", [_frame(seed=seed) for seed in range(3)]))
    self._refused(here, text, "clip.yuv", **given)

  @pytest.mark.parametrize(
    "data, text",
    [
      (_GOOD_Y4M[:-1], r"^clip\.y4m: 866 bytes of frame 1; expected 867; the file is cut short$"),
      (_GOOD_Y4M[:-870], r"clip\.y4m: frame 1, at byte \d+, begins with b'FRA'; expected a line"),
      (_GOOD_Y4M[:20], r"clip\.y4m: begins with b'YUV4MPEG2 W33 H1'; expected a line"),
      (b"", r"clip\.y4m: begins with b''; expected a line"),
      (_GOOD_Y4M.split(b"\n")[0] + b"\n", r"clip\.y4m: holds no frame; expected at least one"),
    ],
  )
  def test_y4m_that_is_cut_short(self, here, data, text):
    (here / "clip.y4m").write_bytes(data)
    self._refused(here, text)

  @pytest.mark.parametrize("colour", ["444", "422", "mono", "420p12", "411", "nonsense"])
  def test_y4m_of_another_colour_space(self, here, colour):
    header = f"YUV4MPEG2 W33 H17 F25:1 C{colour}"
    (here / "clip.y4m").write_bytes(_clip(".y4m", [_frame()], header))
    self._refused(
      here, rf"^clip\.y4m: colour space 'C{colour}'; expected C420, .*; convert the vid"
    )

  @pytest.mark.parametrize(
    "numbers, text",
    [
      ("0:3", r"frames '0:3' end behind the last; expected at most :2"),
      ("2:", r"frames '2:' are none; there are 2; expected a < b in a:b"),
      ("1:1", r"frames '1:1' are none"),
      ("1", r"frames '1' are not a range; expected a:b"),
      ("-1:", r"frames '-1:' are not a range; expected a:b"),
    ],
  )
  def test_frames_that_are_not_there(self, here, numbers, text):
    (here / "clip.y4m").write_bytes(_GOOD_Y4M)
    self._refused(here, text, numbers=numbers)

  def test_what_contradicts_the_header(self, here):
    (here / "clip.y4m").write_bytes(_GOOD_Y4M)
    self._refused(here, r"clip\.y4m: bits is 8 by its header; expected 10, as given", bits=10)

  def test_a_file_that_is_not_there_and_a_folder(self, here):
    self._refused(here, r"clip\.y4m: cannot be read: No such file")
    (here / "clip.y4m").mkdir()
    self._refused(here, r"clip\.y4m: is not a regular file; expected a \.yuv or \.y4m file")

  def test_a_file_in_the_place_of_the_folder(self, here):
    (here / "clip.y4m").write_bytes(_GOOD_Y4M)
    (here / "kvc").write_bytes(b"mine")
    text = r"^kvc is a file's name, expected a folder for the frames of clip\.y4m$"
    self._refused(here, text, kind=batch_coding.FilesError, overwrite=True)
    assert (here / "kvc").read_bytes() == b"mine"

  def test_to_replace_files_unless_it_is_told_to(self, lossless, here):
    (here / "clip.y4m").write_bytes(_GOOD_Y4M)
    (here / "kvc").mkdir()
    (here / "kvc" / "clip_00001.kvc").write_bytes(b"old")
    text = r"^kvc/clip_00001\.kvc exists; give another --output, or --overwrite to replace it$"
    self._refused(here, text, kind=atomic_files.FileError)
    assert (here / "kvc" / "clip_00001.kvc").read_bytes() == b"old"
    assert len(_compress(lossless, "clip.y4m", overwrite=True)) == 2
    assert (here / "kvc" / "clip_00001.kvc").read_bytes() == lossless.compress(_frame(seed=1))


class TestCompressOfFramesThatCannotBeCoded:
  def test_says_so_of_the_only_one_with_the_files_name(self, of_rgb, lossless, here):
    frame = _frame()
    frame.y[0, 0] = 13
    (here / "clip.y4m").write_bytes(_clip(".y4m", [frame]))
    for model, text in (
      (of_rgb, r"^clip\.y4m: codec ycbcr444 is not one of 4:2:0, expected one for raw fra"),
      (lossless, r"^clip\.y4m: frame 0: a latent lies too far$"),
    ):
      with pytest.raises(coding.ModelError, match=text):
        _compress(model, "clip.y4m")
    assert not list(here.rglob("*.kvc"))

  def test_of_10_bits_names_the_frame_and_the_sample_above_1023(self, lossless, here):
    frame = _frame(bits=10)
    frame.cr[3, 5] = 1024
    (here / "clip.yuv").write_bytes(_clip(".yuv", [_frame(bits=10, seed=1), frame]))
    text = r"^clip\.yuv: frame 1: Cr is 1024 in row 3, column 5; expected at most 1023"
    with pytest.raises(frames.FrameError, match=text):
      _compress(lossless, "clip.yuv", numbers="1:2", width=33, height=17, bits=10)
    assert not list(here.rglob("*.kvc"))

  def test_does_the_others_and_counts(self, lossless, here, capsys):
    images = [_frame(seed=seed) for seed in range(3)]
    images[0].y[0, 0] = images[2].y[0, 0] = 14
    images[1].y[0, 0] = 13
    (here / "clip.y4m").write_bytes(_clip(".y4m", images))
    with pytest.raises(
      batch_coding.FilesError, match=r"^1 of 3 files were not coded, for the reasons ab"
    ):
      _compress(lossless, "clip.y4m")
    assert _tree("kvc") == ["clip_00000.kvc", "clip_00002.kvc"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("failed: clip.y4m: ") and line.endswith("a latent lies too far")

  def test_names_the_frame_among_several(self, lossless, here, capsys):
    images = [_frame(seed=seed) for seed in range(3)]
    images[1].y[0, 0] = 13
    (here / "clip.y4m").write_bytes(_clip(".y4m", images))
    with pytest.raises(batch_coding.FilesError):
      _compress(lossless, "clip.y4m")
    assert "frame 1" in capsys.readouterr().err

  def test_as_the_codec_has_none_is_told_once_and_makes_no_folder(self, of_rgb, here, capsys):
    (here / "clip.y4m").write_bytes(_GOOD_Y4M)
    with pytest.raises(errors.Error, match=r"codec ycbcr444 is not one of 4:2:0"):
      _compress(of_rgb, "clip.y4m")
    assert capsys.readouterr().err == ""
    assert _tree(here) == ["clip.y4m"]


class TestDecompressRefuses:
  @pytest.fixture
  def coded(self, lossless, here):
    """Frames in kvc/, an image in image.kvc."""
    (here / "clip.y4m").write_bytes(_GOOD_Y4M)
    _compress(lossless, "clip.y4m")
    (here / "image.kvc").write_bytes(struct.pack("<3i", 4, 6, 0) + bytes(1))
    return here

  def _refused(self, coded, kind, text, pattern="kvc", output="out.y4m", **arguments):
    before = {name: _content(coded / name) for name in _tree(coded)}
    with pytest.raises(kind, match=text) as caught:
      batch_coding.decompress_frames(lambda data: _Lossless(), pattern, output, **arguments)
    assert isinstance(caught.value, errors.Error) and "\n" not in str(caught.value)
    assert {name: _content(coded / name) for name in _tree(coded)} == before

  def test_a_gap_unless_it_is_told_to(self, lossless, coded):
    for number in (3, 5, 7):
      shutil.copy("kvc/clip_00001.kvc", f"kvc/clip_0000{number}.kvc")
    text = (
      r"^kvc/clip_00002\.kvc is missing, and 2 more frames, expected all frames between the first "
      r"and the last; give them, or --allow_gaps to join the others$"
    )
    self._refused(coded, batch_coding.FilesError, text)
    batch_coding.decompress_frames(lambda data: lossless, "kvc", "out.y4m", allow_gaps=True)
    assert frames.open_frames("out.y4m").count == 5
    os.remove("kvc/clip_00007.kvc")
    os.remove("kvc/clip_00005.kvc")
    text = r"^kvc/clip_00002\.kvc is missing, expected all frames"
    self._refused(coded, batch_coding.FilesError, text, output="b.yuv")

  def test_files_of_other_names_are_no_gap(self, lossless, coded):
    for name in ("clip_3.kvc", "clip_5.kvc", "b_00004.kvc", "9.kvc"):
      shutil.copy("kvc/clip_00001.kvc", f"kvc/{name}")
    batch_coding.decompress_frames(lambda data: lossless, "kvc", "out.y4m")
    assert frames.open_frames("out.y4m").count == 6

  def test_to_replace_a_file_unless_it_is_told_to(self, lossless, coded):
    (coded / "out.y4m").write_bytes(b"old")
    text = r"^out\.y4m exists; give another --output, or --overwrite to replace it$"
    self._refused(coded, atomic_files.FileError, text)
    batch_coding.decompress_frames(lambda data: lossless, "kvc", "out.y4m", overwrite=True)
    assert frames.open_frames("out.y4m").count == 2

  @pytest.mark.parametrize("output", ["out.y4m", "out.yuv"])
  @pytest.mark.parametrize("there", [False, True])
  def test_an_image_or_a_damaged_file_behind_frames_and_leaves_no_half(self, coded, output, there):
    """What was there before stays, even where it may be replaced."""
    if there:
      (coded / output).write_bytes(b"old")
    last = coded / "kvc" / "clip_00002.kvc"
    last.write_bytes((coded / "image.kvc").read_bytes())
    text = rf"^kvc/clip_00002\.kvc holds an RGB or grey image, expected a raw frame for {output};"
    self._refused(coded, batch_coding.FilesError, text, output=output, overwrite=there)
    last.write_bytes(b"")
    text = r"the file is damaged; copy it again"
    self._refused(coded, bitstream.BitstreamError, text, output=output, overwrite=there)
    last.write_bytes(_Lossless().compress(_frame(35)))
    text = rf"{output}: frame 2 is 35x17 of 8 bits, frame 0 is 33x17 of 8 bits; expected frames of"
    self._refused(coded, frames.FrameError, text, output=output, overwrite=there)
    last.write_bytes(_Lossless().compress(_frame(bits=10)))
    text = rf"{output}: frame 2 is 33x17 of 10 bits, frame 0 is 33x17 of 8 bits"
    self._refused(coded, frames.FrameError, text, output=output, overwrite=there)

  def test_a_folder_without_files_and_an_output_in_none(self, coded):
    (coded / "empty").mkdir()
    self._refused(coded, image_files.ImageError, r"^empty: no \.kvc files found; expected", "empty")
    text = r"^missing/out\.y4m: cannot be written: No such file or directory; expected an existing"
    self._refused(coded, frames.FrameError, text, output="missing/out.y4m")

  @pytest.mark.parametrize("output", ["out.png", "out.bmp"])
  def test_a_frame_for_an_image_as_its_colours_are_not_known(self, lossless, coded, output):
    text = (
      r"^kvc/clip_00000\.kvc holds a raw 4:2:0 frame, expected an RGB or grey image for "
      rf"{output}; give an --output that ends in \.y4m or \.yuv$"
    )
    with pytest.raises(batch_coding.FilesError, match=text):
      batch_coding.decompress(lambda data: lossless, "kvc/clip_00000.kvc", output)
    assert not (coded / output).exists()

  def test_a_damaged_file_by_its_name(self, coded):
    (coded / "kvc" / "clip_00001.kvc").write_bytes(b"")
    text = r"^kvc/clip_00001\.kvc: the file is damaged; copy it again$"
    self._refused(coded, bitstream.BitstreamError, text)

  def test_a_preview_of_luma_for_a_file_of_frames(self, cross_component, coded):
    (coded / "frame.kvc").write_bytes(cross_component.compress(_frame()))
    with pytest.raises(errors.Error, match=r"luma_only|preview") as caught:
      batch_coding.decompress_frames(
        lambda data: cross_component, "frame.kvc", "o.yuv", luma_only=True
      )
    assert "frame.kvc holds an RGB or grey image" not in str(caught.value)
    assert not (coded / "o.yuv").exists()


def _content(path: pathlib.Path) -> bytes | None:
  return path.read_bytes() if path.is_file() else None


def test_luma_only_of_a_frame_is_written_as_a_grey_image(cross_component, here):
  data = cross_component.compress(_frame())
  damaged = _with_substreams(data, [*_substreams(data)[:2], b"", b""])
  (here / "frame.kvc").write_bytes(damaged)
  batch_coding.decompress(lambda data: cross_component, "frame.kvc", "luma.png", luma_only=True)
  found = image_files.read_image("luma.png")
  np.testing.assert_array_equal(found[..., 0], cross_component.decompress(data).y)
  assert found.shape == (17, 33, 1) and np.std(found) > 1


class TestExportOfFrames:
  @pytest.fixture(scope="class")
  def exported(self, model, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("exported") / "export")
    saved_model.export(model, folder)
    return batch_coding.open_model(folder)

  def test_gives_the_bytes_and_planes_of_the_model(self, model, exported):
    signatures = exported._signatures
    for bits, size in ((8, (33, 17)), (10, (66, 2))):
      frame = _frame(*size, bits, seed=bits)
      y = tf.constant(frame.y[..., np.newaxis], tf.uint16)
      uv = tf.constant(np.stack([frame.cb, frame.cr], axis=-1), tf.uint16)
      data = signatures["compress_frame"](y=y, uv=uv, bits=tf.constant(bits))["data"].numpy()
      assert data == model.compress(frame) == exported.compress(frame)
      expected = model.decompress(data)
      found = signatures["decompress_frame"](data=tf.constant(data))
      assert set(found) == {"y", "uv", "bits"} and found["bits"] == bits
      assert found["y"].dtype == found["uv"].dtype == tf.uint16
      np.testing.assert_array_equal(found["y"][..., 0], expected.y)
      np.testing.assert_array_equal(found["uv"][..., 0], expected.cb)
      np.testing.assert_array_equal(found["uv"][..., 1], expected.cr)
      _assert_equal(exported.decompress(data), expected)

  def test_refuses_in_the_words_of_the_model(self, model, exported):
    data = model.compress(_frame())
    *others, last = _substreams(data)
    left_over = _with_substreams(data, [*others, last + bytes(9)])
    for damaged in (b"", data[:30], data[:-1] + b"\x00", left_over):
      with pytest.raises(bitstream.BitstreamError) as expected:
        model.decompress(damaged)
      with pytest.raises(bitstream.BitstreamError) as caught:
        exported.decompress(damaged)
      assert str(caught.value) == str(expected.value)
    with pytest.raises(
      frames.FrameError, match=r"^the frame has 9 bits, luma \(17, 33\); expected"
    ):
      exported.compress(_frame()._replace(bits=9))

  def test_has_no_preview_of_luma(self, model, exported):
    text = r"decodes its own files alone, to whole images; drop --allow_other_synthesis and --lum"
    with pytest.raises(coding.ModelError, match=text):
      exported.decompress(model.compress(_frame()), luma_only=True)

  def test_refuses_the_file_of_an_image_as_a_frame(self, model, exported):
    decompress = exported._signatures["decompress_frame"]
    name = model.description["codec"]
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"holds another kind of image; use"):
      decompress(data=tf.constant((GOLDEN / name / "photo.kvc").read_bytes()))

  def test_of_a_codec_of_rgb_has_no_signature_for_frames(self, of_rgb, tmp_path):
    saved_model.export(of_rgb, str(tmp_path / "export"))
    exported = batch_coding.open_model(str(tmp_path / "export"))
    header = bitstream.Header(of_rgb.fingerprint, bitstream.YCBCR420, 8, 17, 33)
    data = bitstream.pack(header, [b"z", b"y"])
    for name, call in (
      ("compress_frame", lambda: exported.compress(_frame())),
      ("decompress_frame", lambda: exported.decompress(data)),
    ):
      text = rf"the exported model has no signature {name}, expected one of a 4:2:0 codec for raw f"
      with pytest.raises(coding.ModelError, match=text):
        call()
