"""Raw video against files laid out byte by byte: what goes in comes out, the rest is refused."""

from __future__ import annotations

import fractions
import os
import re
import struct
import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from khuvcm_tf import bitstream, errors
from khuvcm_tf.data import frames
from khuvcm_tf.ops import color

_SIZES = pytest.mark.parametrize("size", [(33, 17), (1, 1), (2, 1), (8, 6)], ids=str)
_DEPTHS = pytest.mark.parametrize("bits", [8, 10])
_SUFFIXES = pytest.mark.parametrize("suffix", [".yuv", ".y4m"])


@pytest.fixture
def folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  return tmp_path


def _frame(width=33, height=17, bits=8, seed=0):
  random = np.random.default_rng(seed)
  dtype = np.uint8 if bits == 8 else np.uint16
  shapes = [(height, width)] + [((height + 1) // 2, (width + 1) // 2)] * 2
  return frames.Frame(*(random.integers(0, 2**bits, s, dtype) for s in shapes), bits)


def _bytes_of(frame):
  """The frame sample by sample, as the formats lay it out."""
  samples = [int(v) for plane in frame[:3] for row in plane for v in row]
  return struct.pack(f"<{len(samples)}{'B' if frame.bits == 8 else 'H'}", *samples)


def _assert_equal(read, expected):
  assert read.bits == expected.bits
  for plane, other in zip(read[:3], expected[:3]):
    assert plane.dtype == other.dtype
    np.testing.assert_array_equal(plane, other)


def _y4m(header="W33 H17 F30:1", count=2, line="FRAME", **kind):
  """A file's bytes: a header, and frames of seeds 0, 1, ..."""
  body = b"".join(f"{line}\n".encode() + _bytes_of(_frame(seed=n, **kind)) for n in range(count))
  return f"YUV4MPEG2 {header}\n".encode() + body


def _opened(data, name="a.y4m", **given):
  with open(name, "wb") as file:
    file.write(data)
  return frames.open_frames(name, **given)


# Reading.


class TestReading:
  @_DEPTHS
  @_SIZES
  def test_yuv_is_planes_one_after_the_other(self, folder, size, bits):
    width, height = size
    expected = [_frame(*size, bits, seed) for seed in range(3)]
    data = b"".join(map(_bytes_of, expected))
    reader = _opened(data, "a.yuv", width=width, height=height, bits=bits)
    assert (reader.width, reader.height, reader.bits, reader.rate) == (width, height, bits, None)
    assert reader.count == len(reader) == 3
    for number in (2, 0, 1, -1):
      _assert_equal(reader[number], expected[number])
    for read, other in zip(reader, expected):
      _assert_equal(read, other)
    reader[0].y[0, 0] = 0  # writable

  @_SIZES
  @pytest.mark.parametrize(
    "colour, bits, siting",
    [
      ("", 8, "centre"),
      ("C420", 8, "centre"),
      ("C420jpeg", 8, "centre"),
      ("C420mpeg2", 8, "left"),
      ("C420paldv", 8, "left"),
      ("C420p10 XYSCSS=420P10", 10, "left"),
    ],
  )
  def test_y4m_is_a_header_and_a_line_before_each_frame(self, folder, size, colour, bits, siting):
    width, height = size
    kind = dict(width=width, height=height, bits=bits)
    reader = _opened(_y4m(f"W{width} H{height} F30000:1001 Ip A1:1 {colour}", 3, **kind))
    assert (reader.width, reader.height, reader.bits) == (width, height, bits)
    assert reader.rate == fractions.Fraction(30000, 1001)
    assert reader.siting == siting
    assert reader.count == 3
    for number in (2, 0, 1):
      _assert_equal(reader[number], _frame(seed=number, **kind))

  def test_lines_before_frames_may_have_parameters_of_any_length(self, folder):
    data = b"YUV4MPEG2 H17 W33\n"
    for seed, line in enumerate([b"FRAME", b"FRAME Ipp Xa=b", b"FRAME ", b"FRAME X" + b"-" * 900]):
      data += line + b"\n" + _bytes_of(_frame(seed=seed))
    reader = _opened(data)
    assert reader.count == 4
    for number in range(4):
      _assert_equal(reader[number], _frame(seed=number))

  @pytest.mark.parametrize(
    "words, full_range",
    [("", False), ("XCOLORRANGE=LIMITED", False), ("XCOLORRANGE=FULL", True), ("XFULL", False)],
  )
  def test_y4m_is_of_limited_range_unless_it_says_full(self, folder, words, full_range):
    assert _opened(_y4m(f"W33 H17 {words}")).full_range is full_range

  def test_rate_is_unknown_where_the_header_has_none_or_zero(self, folder):
    assert _opened(_y4m("W33 H17")).rate is None
    assert _opened(_y4m("W33 H17 F0:0")).rate is None

  def test_one_frame_is_read_by_itself(self, folder):
    # Of a file with a hole of 64 GiB, the last frame.
    one = _bytes_of(_frame(64, 32))
    with open("a.yuv", "wb") as file:
      file.seek(len(one) * 2**24)
      file.write(one)
    reader = frames.open_frames("a.yuv", 64, 32)
    assert reader.count == 2**24 + 1
    _assert_equal(reader[2**24], _frame(64, 32))

  def test_suffix_may_be_in_capitals(self, folder):
    assert _opened(_y4m(), "A.Y4M").count == 2

  @pytest.mark.parametrize("number", [2, -3])
  def test_a_frame_that_is_not_there_is_an_index_error(self, folder, number):
    with pytest.raises(IndexError, match=rf"^a\.y4m: has no frame {number}; it has 2$"):
      _opened(_y4m())[number]

  def test_a_file_cut_after_it_was_opened_is_told(self, folder):
    reader = _opened(_bytes_of(_frame()), "a.yuv", width=33, height=17)
    os.truncate("a.yuv", 100)
    with pytest.raises(frames.FrameError, match="100 bytes of frame 0; expected 867; .*cut short"):
      reader[0]


_REFUSED = {
  "another signature": (b"YUV4MPEG W33 H17\n", r"begins with b'YUV4MPEG W33 H17'; expected a line"),
  "nothing": (b"", r"begins with b''; expected a line 'YUV4MPEG2"),
  "an image": (b"\x89PNG\r\n\x1a\n" + bytes(99), r"begins with b'\\x89PNG.*is it a \.y4m file"),
  "a header without an end": (b"YUV4MPEG2 W33 H17" + b" " * 9999, r"of at most 1024 bytes"),
  "no width": (_y4m("H17"), r"its header has W''; expected W and a number"),
  "no number": (_y4m("W33 H-17"), r"its header has H'-17'; expected H and a number"),
  "no side": (_y4m("W0 H17"), r"frames of 0x17; expected sides of 1 to 65535"),
  "a huge side": (_y4m("W999999999 H17"), r"frames of 999999999x17; expected sides of 1 to 65535"),
  "huge sides": (
    _y4m("W65535 H65535"),
    r"frames of 65535x65535; expected at most 134217728 pixels",
  ),
  "a rate without a second": (_y4m("W33 H17 F30:0"), r"has F'30:0'; expected .*F30:1"),
  "a rate in words": (_y4m("W33 H17 Ffast"), r"has F'fast'; expected frames per second"),
  "top field first": (_y4m("W33 H17 It"), r"interlaced \(It\); expected progressive frames, Ip"),
  "mixed fields": (_y4m("W33 H17 Im"), r"interlaced \(Im\); .*deinterlace"),
  "4:4:4": (_y4m("W33 H17 C444"), r"colour space 'C444'; expected C420, C420jpeg, .*C420p10"),
  "grey": (_y4m("W33 H17 Cmono"), r"colour space 'Cmono'; expected C420"),
  "12 bits": (_y4m("W33 H17 C420p12"), r"colour space 'C420p12'; expected C420"),
  "no frame": (_y4m(count=0), r"holds no frame; expected at least one"),
  "less than a frame": (_y4m()[:-1], r"866 bytes of frame 1; expected 867; the file is cut short"),
  "a line alone": (_y4m() + b"FRAME\n", r"0 bytes of frame 2; expected 867; the file is cut"),
  "more than frames": (_y4m() + b"more", r"frame 2, at byte 1770, begins with b'more'; expected"),
  "a line without an end": (_y4m() + b"FRAME", r"frame 2, at byte 1770, begins with b'FRAME'"),
  "another line": (_y4m(line="FRAMES"), r"frame 0, at byte 24, begins with b'FRAMES\\n"),
  "frames of another size": (_y4m("W33 H15 F30:1"), r"frame 1, at byte \d+, begins with b'.*siz"),
}


class TestRefusing:
  @pytest.mark.parametrize("what", _REFUSED)
  def test_y4m_with(self, folder, what):
    data, message = _REFUSED[what]
    with pytest.raises(frames.FrameError, match=r"^a\.y4m: .*" + message):
      _opened(data)

  @pytest.mark.parametrize(
    "length, message",
    [
      (0, "0 bytes are 0 frames of 33x17 of 8 bits and 0 bytes; expected a multiple of 867, not 0"),
      (866, "866 bytes are 0 frames .* and 866 bytes; expected a multiple of 867"),
      (868, "868 bytes are 1 frames .* and 1 bytes; .*check width, height and bits"),
    ],
  )
  def test_yuv_that_is_not_whole_frames(self, folder, length, message):
    with pytest.raises(frames.FrameError, match=r"^a\.yuv: " + message):
      _opened(bytes(length), "a.yuv", width=33, height=17)

  @pytest.mark.parametrize(
    "given, message",
    [
      ({}, "does not say its size; expected a width and a height"),
      ({"width": 33}, "does not say its size"),
      ({"width": 0, "height": 17}, "frames of 0x17; expected sides of 1 to 65535"),
      ({"width": 33, "height": -1}, "frames of 33x-1; expected sides"),
      ({"width": 33, "height": 65536}, "frames of 33x65536; expected sides"),
      ({"width": 33, "height": 17, "bits": 12}, "samples of 12 bits; expected 8 or 10"),
      ({"width": 65535, "height": 65535}, "65535x65535; expected at most 134217728 pixels"),
    ],
  )
  def test_yuv_without_a_size_that_fits(self, folder, given, message):
    with pytest.raises(frames.FrameError, match=r"^a\.yuv: .*" + message):
      _opened(bytes(867), "a.yuv", **given)

  @pytest.mark.parametrize("name, found", [("width", 33), ("height", 17), ("bits", 8)])
  def test_y4m_that_contradicts_what_is_given(self, folder, name, found):
    assert _opened(_y4m(), **{name: found}).count == 2
    with pytest.raises(frames.FrameError, match=f"{name} is {found} by its header; expected 10"):
      _opened(_y4m(), **{name: 10})

  @pytest.mark.parametrize(
    "header, given",
    [(b"YUV4MPEG2 W8192 H16384 C420p10\nFRAME\n", {}), (b"", dict(width=8192, height=16384))],
  )
  def test_huge_frames_takes_no_memory(self, folder, header, given):
    name = "a.y4m" if header else "a.yuv"
    tracemalloc.start()
    try:
      with pytest.raises(frames.FrameError, match="expected .*[0-9]{9}"):
        _opened(header + bytes(1000), name, **given)
      assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
      tracemalloc.stop()

  @pytest.mark.parametrize("plane", [0, 1, 2])
  def test_ten_bit_words_above_1023_with_their_place(self, folder, plane):
    frame = _frame(33, 17, 10)
    frame[plane][5, 3] = 1024
    frame[plane][7, 1] = 65535
    place = f"{('Y', 'Cb', 'Cr')[plane]} is 1024 in row 5, column 3; expected at most 1023"
    data = _bytes_of(_frame(33, 17, 10)) + _bytes_of(frame)
    reader = _opened(data, "a.yuv", width=33, height=17, bits=10)
    assert reader[0].y.max() <= 1023
    with pytest.raises(frames.FrameError, match=rf"^a\.yuv: frame 1: {place}"):
      reader[1]
    with pytest.raises(frames.FrameError, match=rf"^`frames`\[0\]: {place}"):
      frames.write_frames("b.yuv", [frame])

  @pytest.mark.parametrize("name", ["a.mp4", "a", "a.yuv.gz"])
  def test_names_without_a_suffix_of_raw_frames(self, folder, name):
    for function in (frames.open_frames, lambda name: frames.write_frames(name, [_frame()])):
      with pytest.raises(frames.FrameError, match=rf"^{name}: .*expected .*\.yuv or \.y4m"):
        function(name)
    assert not os.listdir()

  def test_what_is_not_a_file(self, folder):
    with pytest.raises(frames.FrameError, match=r"^a\.yuv: cannot be read: No such file"):
      frames.open_frames("a.yuv", 1, 1)
    os.mkfifo("b.yuv")
    os.mkdir("c.yuv")
    for name in ("b.yuv", "c.yuv"):
      with pytest.raises(frames.FrameError, match="is not a regular file; expected"):
        frames.open_frames(name, 1, 1)
      with pytest.raises(frames.FrameError, match="is not a regular file and cannot be replaced"):
        frames.write_frames(name, [_frame()])

  @settings(max_examples=150, deadline=None)
  @given(st.data())
  def test_damaged_y4m_gives_frames_or_an_error_of_ours(self, tmp_path_factory, data):
    damaged = bytearray(_y4m("W6 H4 F30:1 Ip C420p10", width=6, height=4, bits=10))
    for _ in range(data.draw(st.integers(1, 3))):
      damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(0, len(damaged)))]
    path = str(tmp_path_factory.getbasetemp() / "damaged.y4m")
    try:
      reader = _opened(bytes(damaged), path)
      assert all(frame.y.shape == (reader.height, reader.width) for frame in reader)
    except errors.Error as error:
      assert str(error).startswith(path)


def test_the_largest_side_is_that_of_coded_files():
  assert frames.MAX_SIDE == bitstream.MAX_SIDE


@_DEPTHS
@_SIZES
def test_check_frame_returns_width_height_and_bits(size, bits):
  assert frames.check_frame(_frame(*size, bits), "it") == (*size, bits)


class TestParseRange:
  @pytest.mark.parametrize("text", ["0:10", ":", "2:5", "9:10", "3:", ":4", "0:1", "007:8"])
  def test_names_what_a_slice_names(self, text):
    first, stop = (int(number) if number else None for number in text.split(":"))
    assert list(frames.parse_range(text, 10)) == list(range(10))[first:stop]

  @pytest.mark.parametrize(
    "text, message",
    [
      ("5:5", "'5:5' are none; there are 10; expected a < b"),
      ("6:5", "'6:5' are none"),
      ("10:", "'10:' are none; there are 10"),
      (":0", "':0' are none"),
      ("0:11", "'0:11' end behind the last; expected at most :10"),
      ("99:999", "'99:999' end behind the last"),
      ("-1:3", "'-1:3' are not a range; expected a:b"),
      ("1:2:3", "'1:2:3' are not a range"),
      ("5", "'5' are not a range"),
      ("", "'' are not a range"),
      ("1 :2", "'1 :2' are not a range"),
      ("٣:5", "are not a range"),
      ("0:" + "9" * 5000, "are not a range"),
    ],
  )
  def test_refuses_the_rest(self, text, message):
    with pytest.raises(frames.FrameError, match=f"^frames .*{re.escape(message)}"):
      frames.parse_range(text, 10)


# Writing.


class TestWriting:
  @_DEPTHS
  @_SIZES
  def test_yuv_is_laid_out_sample_by_sample(self, folder, size, bits):
    expected = [_frame(*size, bits, seed) for seed in range(2)]
    assert frames.write_frames("a.yuv", iter(expected)) == 2
    with open("a.yuv", "rb") as file:
      assert file.read() == b"".join(map(_bytes_of, expected))

  @pytest.mark.parametrize(
    "bits, settings, header",
    [
      (8, {}, b"F0:0 Ip A0:0 C420"),
      (8, {"rate": 25, "siting": "centre"}, b"F25:1 Ip A0:0 C420jpeg"),
      (8, {"siting": "left", "full_range": False}, b"F0:0 Ip A0:0 C420mpeg2 XCOLORRANGE=LIMITED"),
      (8, {"full_range": True}, b"F0:0 Ip A0:0 C420 XCOLORRANGE=FULL"),
      (
        10,
        {"rate": fractions.Fraction(60000, 1001)},
        b"F60000:1001 Ip A0:0 C420p10",
      ),
    ],
  )
  def test_y4m_is_laid_out_by_its_format(self, folder, bits, settings, header):
    frame = _frame(33, 17, bits)
    frames.write_frames("a.y4m", [frame, frame], **settings)
    expected = b"YUV4MPEG2 W33 H17 " + header + b"\n" + (b"FRAME\n" + _bytes_of(frame)) * 2
    with open("a.y4m", "rb") as file:
      assert file.read() == expected

  @_DEPTHS
  @_SIZES
  def test_y4m_comes_back_with_all_that_its_header_says(self, folder, size, bits):
    rate = fractions.Fraction(24000, 1001)
    siting = "centre" if bits == 8 else "left"
    expected = [_frame(*size, bits, seed) for seed in range(3)]
    frames.write_frames("a.y4m", expected, rate, siting, full_range=True)
    reader = frames.open_frames("a.y4m")
    assert (reader.width, reader.height, reader.bits) == (*size, bits)
    assert (reader.rate, reader.siting, reader.full_range) == (rate, siting, True)
    for read, other in zip(reader, expected):
      _assert_equal(read, other)

  def test_opencv_reads_the_y4m_that_we_write(self, folder):
    # Flat chroma, as OpenCV enlarges it by filters of its own.
    written = [
      frames.Frame(
        np.random.default_rng(level).integers(16, 236, (48, 64), np.uint8),
        np.full((24, 32), level, np.uint8),
        np.full((24, 32), 230 - level, np.uint8),
      )
      for level in (110, 120)
    ]
    frames.write_frames("a.y4m", written, rate=30)
    video = cv2.VideoCapture("a.y4m", cv2.CAP_FFMPEG)
    if not video.isOpened():
      pytest.skip("this OpenCV has no reader of .y4m")
    assert video.get(cv2.CAP_PROP_FPS) == 30
    for frame in written:
      there, image = video.read()
      assert there
      ours = frames.to_rgb(frame, "bt601").astype(int)
      assert np.abs(image[..., ::-1] - ours).max() <= 3
    assert not video.read()[0]

  def test_files_may_be_copied_frame_by_frame_over_themselves(self, folder):
    expected = [_frame(seed=seed) for seed in range(3)]
    frames.write_frames("a.y4m", expected)
    frames.write_frames("a.y4m", frames.open_frames("a.y4m"))
    for read, other in zip(frames.open_frames("a.y4m"), expected):
      _assert_equal(read, other)

  @_SUFFIXES
  def test_has_each_frame_in_the_file_before_it_asks_for_the_next(self, folder, suffix):
    sizes = []

    def one_by_one():
      for number in range(4):
        sizes.append(sum(os.path.getsize(name) for name in os.listdir()))
        yield _frame(seed=number)

    frames.write_frames(f"a{suffix}", one_by_one())
    line = len("FRAME\n") if suffix == ".y4m" else 0
    header = os.path.getsize(f"a{suffix}") - 4 * (line + 867)
    assert sizes == [0] + [header + number * (line + 867) for number in (1, 2, 3)]

  @_SUFFIXES
  @pytest.mark.parametrize("error", [OSError("no camera"), KeyboardInterrupt(), ValueError("bad")])
  def test_leaves_the_old_file_where_frames_raise_in_the_middle(self, folder, suffix, error):
    def broken():
      yield _frame()
      raise error

    path = folder / f"a{suffix}"
    with pytest.raises(type(error)) as raised:
      frames.write_frames(str(path), broken())
    assert raised.value is error
    assert not os.listdir()
    path.write_bytes(b"old")
    with pytest.raises(type(error)):
      frames.write_frames(str(path), broken())
    assert path.read_bytes() == b"old"
    assert os.listdir() == [path.name]

  def test_leaves_nothing_where_the_disk_is_full(self, folder, monkeypatch):
    def full(*_):
      raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(frames.FrameError, match=r"^a\.yuv: cannot be written: No space left"):
      frames.write_frames("a.yuv", [_frame()])
    assert not os.listdir()

  def test_in_a_folder_that_is_not_there_is_refused(self, folder):
    with pytest.raises(frames.FrameError, match=r"^no/a\.yuv: cannot be written: No such file"):
      frames.write_frames("no/a.yuv", [_frame()])

  def test_through_a_link_replaces_what_it_points_to(self, folder):
    (folder / "target.yuv").write_bytes(b"old")
    os.symlink("target.yuv", "a.yuv")
    frames.write_frames("a.yuv", [_frame()])
    assert os.path.islink("a.yuv")
    assert (folder / "target.yuv").read_bytes() == _bytes_of(_frame())

  @_SUFFIXES
  @pytest.mark.parametrize("other", [(33, 16, 8), (31, 17, 8), (33, 17, 10)])
  def test_refuses_frames_that_differ(self, folder, suffix, other):
    message = rf"frame 2 is {other[0]}x{other[1]} of {other[2]} bits, frame 0 is 33x17 of 8 bits"
    with pytest.raises(frames.FrameError, match=message):
      frames.write_frames(f"a{suffix}", [_frame(), _frame(), _frame(*other)])
    assert not os.listdir()

  @_SUFFIXES
  def test_refuses_no_frames(self, folder, suffix):
    with pytest.raises(frames.FrameError, match="there are no frames to write; expected at least"):
      frames.write_frames(f"a{suffix}", [])
    assert not os.listdir()

  @pytest.mark.parametrize(
    "frame, message",
    [
      (_frame()._replace(bits=10), r"a plane uint8 \(17, 33\); expected uint16 \(17, 33\)"),
      (_frame()._replace(bits=9), r"9 bits, luma \(17, 33\); expected 8 or 10 bits"),
      (_frame()._replace(cb=_frame().y), r"a plane uint8 \(17, 33\); expected uint8 \(9, 17\)"),
      (_frame()._replace(cr=_frame().cr[:-1]), r"a plane uint8 \(8, 17\); expected uint8 \(9, 17"),
      (_frame()._replace(y=_frame().y[0]), r"luma \(33,\); expected .*luma \[H, W\]"),
      (_frame()._replace(y=_frame().y.astype(float)), r"a plane float64 \(17, 33\); expected"),
    ],
  )
  def test_refuses_planes_that_do_not_fit(self, folder, frame, message):
    with pytest.raises(frames.FrameError, match=r"^`frames`\[1\] has .*" + message):
      frames.write_frames("a.yuv", [_frame(), frame])
    with pytest.raises(frames.FrameError, match="^`frame` has .*" + message):
      frames.to_rgb(frame)
    with pytest.raises(frames.FrameError, match="^image 7 has .*" + message):
      frames.check_frame(frame, "image 7")
    assert not os.listdir()

  def test_refuses_an_unknown_siting(self, folder):
    with pytest.raises(ValueError, match="`siting` is 'top'; expected one of centre, left"):
      frames.write_frames("a.y4m", [_frame()], siting="top")


class TestToRgb:
  def test_of_limited_bt601_is_within_two_levels_of_opencv_where_chroma_is_flat(self):
    # OpenCV repeats chroma, so that only flat chroma makes the same image.
    random = np.random.default_rng(3)
    for _ in range(20):
      y = random.integers(16, 236, (8, 12), np.uint8)
      cb, cr = (np.full((4, 6), level, np.uint8) for level in random.integers(90, 166, 2))
      planar = np.concatenate([y.ravel(), cb.ravel(), cr.ravel()]).reshape(12, 12)
      expected = cv2.cvtColor(planar, cv2.COLOR_YUV2RGB_I420).astype(int)
      rgb = frames.to_rgb(frames.Frame(y, cb, cr), "bt601")
      assert rgb.dtype == np.uint8
      assert np.abs(rgb - expected).max() <= 2

  @_DEPTHS
  @pytest.mark.parametrize("standard", ["bt601", "bt709"])
  @pytest.mark.parametrize("full_range", [True, False], ids=["full", "limited"])
  @pytest.mark.parametrize("siting", ["centre", "left"])
  def test_undoes_the_way_from_an_image_of_one_colour(self, bits, standard, full_range, siting):
    for rgb in [(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0), (255, 255, 255), (200, 90, 13)]:
      rgb = np.broadcast_to(np.array(rgb, np.float64), (1, 5, 7, 3))
      y, uv = color.to_420(color.rgb_to_ycbcr(rgb, standard, full_range), siting)
      y = color.levels(color.to_depth(y, bits, full_range), bits)[0, ..., 0].numpy()
      uv = color.levels(color.to_depth(uv, bits, full_range, 128.0), bits)[0].numpy()
      frame = frames.Frame(y, uv[..., 0], uv[..., 1], bits)
      image = frames.to_rgb(frame, standard, full_range, siting)
      assert image.shape == (5, 7, 3)
      assert np.abs(image - rgb[0]).max() <= (2 if bits == 8 else 1)

  def test_of_black_and_white_follows_range_and_depth(self):
    for bits, full_range, black, white in [
      (8, False, 16, 235),
      (8, True, 0, 255),
      (10, False, 64, 940),
      (10, True, 0, 1023),
    ]:
      dtype = np.uint8 if bits == 8 else np.uint16
      grey = np.full((1, 1), 2 ** (bits - 1), dtype)
      frame = frames.Frame(np.array([[black, white]], dtype), grey, grey, bits)
      np.testing.assert_array_equal(
        frames.to_rgb(frame, full_range=full_range), [[[0] * 3, [255] * 3]]
      )

  def test_sites_chroma_where_it_is_told_to(self):
    y = np.full((2, 4), 128, np.uint8)
    grey, red = np.full((1, 2), 128, np.uint8), np.array([[128, 192]], np.uint8)
    left = frames.to_rgb(frames.Frame(y, grey, red), siting="left")[0, :, 0].astype(int)
    centre = frames.to_rgb(frames.Frame(y, grey, red), siting="centre")[0, :, 0].astype(int)
    # Shares of the second chroma sample: 0, 1/2, 1, 1 and 0, 1/4, 3/4, 1.
    assert abs(left[1] - (left[0] + left[2]) / 2) <= 1 and left[2] == left[3]
    assert abs(centre[1] - (3 * centre[0] + centre[3]) / 4) <= 1
    assert abs(centre[2] - (centre[0] + 3 * centre[3]) / 4) <= 1
