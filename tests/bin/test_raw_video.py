"""bin/compress.py and bin/decompress.py on .yuv and .y4m files, all of them in one process.

A process takes seconds to start: tests that need none are in tests/test_raw_frames.py.
"""

from __future__ import annotations

import pathlib
import re
from typing import NamedTuple

import numpy as np
import pytest

from khuvcm_tf import bitstream, model_files
from khuvcm_tf.data import frames, image_files

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"


@pytest.fixture(scope="module")
def here(tmp_path_factory):
  """A folder with clip.y4m (4 frames of 10 bits), clip.yuv (2 of 8), shipped models in shipped/."""
  folder = tmp_path_factory.mktemp("here")
  (folder / "shipped").mkdir()
  for name in ("cross_component", "luma_chroma420", "ycbcr444"):
    (folder / "shipped" / name).symlink_to(GOLDEN / name / "model")
  for name, bits, count in (("clip.y4m", 10, 4), ("clip.yuv", 8, 2)):
    frames.write_frames(str(folder / name), [_frame(bits, seed) for seed in range(count)], 25)
  (folder / "short.y4m").write_bytes((folder / "clip.y4m").read_bytes()[:-1])
  return folder


def _frame(bits, seed):
  """33x17."""
  rng = np.random.default_rng(seed)
  dtype = np.uint8 if bits == 8 else np.uint16
  shapes = (17, 33), (9, 17), (9, 17)
  return frames.Frame(*(rng.integers(0, 2**bits, shape, dtype) for shape in shapes), bits)


@pytest.fixture(scope="module")
def model():
  # In float64 the bytes and planes of all processes are equal.
  return model_files.load(str(GOLDEN / "cross_component" / "model"), "float64")


def _tree(folder) -> list[str]:
  return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def _assert_equal(found, expected):
  assert found.bits == expected.bits
  for plane, other in zip(found[:3], expected[:3]):
    np.testing.assert_array_equal(plane, other)


_REFUSED = [
  (
    "compress.py",
    ["--model=ycbcr444", "--input=clip.y4m", "--frames=:1", "--output=x"],
    r"clip\.y4m: codec ycbcr444 is not one of 4:2:0, expected one for raw frames \(.*",
  ),
  (
    "compress.py",
    ["--model=cross_component", "--input=short.y4m", "--output=x"],
    r"short\.y4m: \d+ bytes of frame 3; expected 1734; the file is cut short",
  ),
  (
    "decompress.py",
    [f"--input={GOLDEN}/luma_chroma420/frame.kvc", "--luma_only", "--output=x.png"],
    r"\S+frame\.kvc: a model of codec luma_chroma420 codes luma and chroma together, expected .*",
  ),
  (
    "decompress.py",
    [f"--input={GOLDEN}/luma_chroma420/frame.kvc", "--output=clip.yuv"],
    r"clip\.yuv exists; give another --output, or --overwrite to replace it",
  ),
]


class _Ends(NamedTuple):
  """Exit code, stdout and stderr of programs that share a process, and the folder around them.

  Attributes:
    coded, joined: of a range of a .y4m file to files, and of these to a .y4m file.
    there, back: of .yuv to files and of these to .yuv.
    luma: of a file to luma alone.
    refused: of each of _REFUSED.
    before, after: the files of the folder and their bytes, before and after all of them.
  """

  coded: tuple[int, str, str]
  joined: tuple[int, str, str]
  there: tuple[int, str, str]
  back: tuple[int, str, str]
  luma: tuple[int, str, str]
  refused: list[tuple[int, str, str]]
  before: dict[str, bytes]
  after: dict[str, bytes]


@pytest.fixture(scope="module")
def ends(run_together, here, model):
  """_Ends of all programs."""
  header, substreams = bitstream.parse(model.compress(_frame(8, 0)))
  luma = [*substreams[:2], b"", b"\xff" * 90]
  (here / "luma.kvc").write_bytes(bitstream.pack(header, luma))
  named = ["--model=shipped/cross_component", "--precision=float64"]
  size = ["--width=33", "--height=17"]
  before = _contents(here)
  clip = ["--input=clip.y4m", "--frames=1:3", "--output=kvc", "--precision=float64"]
  coded, joined, there, back, luma, *refused = run_together(
    ["compress.py", "--model=cross_component", *clip],
    ["decompress.py", "--input=kvc/clip_*.kvc", "--output=out.y4m", "--precision=float64"],
    ["compress.py", *named, *size, "--input=clip.yuv", "--output=of_yuv/8", "--frames=1:"],
    ["decompress.py", *named, "--input=of_yuv", "--output=out.yuv"],
    ["decompress.py", "--luma_only", "--input=luma.kvc", "--output=luma.png", named[1]],
    *([name, *arguments] for name, arguments, _ in _REFUSED),
    cwd=here,
    KHUVCM_MODELS=str(here / "shipped"),
  )
  return _Ends(coded, joined, there, back, luma, refused, before, _contents(here))


def _contents(folder) -> dict[str, bytes]:
  return {
    str(path.relative_to(folder)): _bytes(path) for path in folder.rglob("*") if path.is_file()
  }


def test_compress_codes_a_range_of_a_y4m_file_to_a_file_for_each_frame(ends, here, model):
  code, out, err = ends.coded
  assert (code, err) == (0, "")
  assert _tree(here / "kvc") == ["clip_00001.kvc", "clip_00002.kvc"]
  total = 0
  for number in (1, 2):
    data = (here / "kvc" / f"clip_{number:05}.kvc").read_bytes()
    assert data == model.compress(_frame(10, number))
    total += len(data)
  assert out == f"2 frames of clip.y4m -> {total} bytes in kvc\n"


def test_decompress_finds_the_shipped_model_and_joins_frames_of_10_bits(ends, here, model):
  assert ends.joined == (0, "2 files decompressed to out.y4m\n", "")
  assert re.match(rb"YUV4MPEG2 W33 H17 [^\n]*C420p10[^\n]*\nFRAME\n", _bytes(here / "out.y4m"))
  reader = frames.open_frames(str(here / "out.y4m"))
  assert reader.count == 2
  for found, number in zip(reader, (1, 2)):
    _assert_equal(found, model.decompress(_bytes(here / "kvc" / f"clip_{number:05}.kvc")))
    assert set(np.unique(found.y % 4)) == {0, 1, 2, 3}


def test_yuv_of_8_bits_goes_there_and_back_through_a_model_that_is_named(ends, here, model):
  code, out, err = ends.there
  assert (code, err) == (0, "")
  assert _tree(here / "of_yuv") == ["8", "8/clip_00001.kvc"]
  data = _bytes(here / "of_yuv" / "8" / "clip_00001.kvc")
  assert out == f"1 frame of clip.yuv -> {len(data)} bytes in of_yuv/8/clip_00001.kvc\n"
  assert ends.back == (0, "1 file decompressed to out.yuv\n", "")

  assert data == model.compress(_frame(8, 1))
  (found,) = frames.open_frames(str(here / "out.yuv"), 33, 17)
  _assert_equal(found, model.decompress(data))


def test_decompress_of_luma_only_needs_no_byte_of_chroma(ends, here, model):
  assert ends.luma == (0, "1 file decompressed to luma.png\n", "")
  found = image_files.read_image(str(here / "luma.png"))
  expected = model.decompress(model.compress(_frame(8, 0))).y
  np.testing.assert_array_equal(found[..., 0], expected)


@pytest.mark.parametrize("case", range(len(_REFUSED)))
def test_what_is_refused_ends_in_one_line(ends, case):
  name, _, text = _REFUSED[case]
  code, out, err = ends.refused[case]
  assert (code, out) == (1, "")
  assert re.fullmatch(rf"{re.escape(name)}: error: {text}\n", err)


def test_what_is_refused_leaves_no_file_and_changes_none(ends):
  made = {"kvc/clip_00001.kvc", "kvc/clip_00002.kvc", "out.y4m"}
  made |= {"of_yuv/8/clip_00001.kvc", "out.yuv", "luma.png"}
  assert ends.after.keys() - ends.before.keys() == made
  assert ends.before == {name: ends.after[name] for name in ends.before}


def _bytes(path: pathlib.Path) -> bytes:
  return path.read_bytes()
