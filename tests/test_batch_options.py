"""Options of bin/compress.py and bin/decompress.py: which of them exclude each other."""

from __future__ import annotations

import fractions

import pytest

from khuvcm_tf import batch_options, bitstream
from khuvcm_tf.batch_options import CompressOptions, DecompressOptions
from khuvcm_tf.options import OptionsError, check


@pytest.mark.parametrize(
  "name, value", [("frames", "0:1"), ("width", 4), ("height", 4), ("bit_depth", 8)]
)
def test_options_of_raw_frames_are_refused_for_images(name, value):
  CompressOptions("m", "clip.YUV", "out", **{name: value})
  with pytest.raises(
    OptionsError,
    match=rf"found --{name} for a\.png, expected it for \.yuv and \.y4m files; leave it out",
  ):
    CompressOptions("m", "a.png", "out", **{name: value})


def test_alpha_is_refused_for_raw_frames():
  CompressOptions("m", "a.png", "out", alpha="white")
  with pytest.raises(
    OptionsError, match=r"found --alpha for clip\.y4m, expected it for images; leave it out"
  ):
    CompressOptions("m", "clip.y4m", "out", alpha="white")


@pytest.mark.parametrize(
  "name, value", [("frame_rate", "25"), ("siting", "left"), ("full_range", False)]
)
def test_options_of_a_y4m_header_are_refused_for_other_files(name, value):
  DecompressOptions("kvc", "out.Y4M", **{name: value})
  for output in ("out.yuv", "out.png"):
    with pytest.raises(
      OptionsError,
      match=rf"found --{name} for {output}, expected it for a \.y4m file; leave it out",
    ):
      DecompressOptions("kvc", output, **{name: value})


@pytest.mark.parametrize("text", ["25", "30000/1001", "23.976"])
def test_a_frame_rate_is_a_fraction(text):
  assert DecompressOptions("kvc", "o.y4m", frame_rate=text).rate == fractions.Fraction(text)


@pytest.mark.parametrize("text", ["", "fast", "0", "-25", "25/0"])
def test_other_frame_rates_are_refused(text):
  with pytest.raises(OptionsError, match=rf"--frame_rate is '{text}', expected frames per second"):
    DecompressOptions("kvc", "o.y4m", frame_rate=text)


def test_defaults_are_valid():
  check(CompressOptions("m", "a.png", "out"))
  options = check(DecompressOptions("kvc", "out"))
  assert options.max_pixels == bitstream.DEFAULT_MAX_PIXELS and options.rate is None
  assert not batch_options.is_raw("out")


@pytest.mark.parametrize(
  "given",
  [
    {"quality": 30, "target_bytes": 9},
    {"target_bpp": 1.0, "target_psnr": 30.0},
    {"quality": 0, "target_psnr": 30.0},
  ],
)
def test_one_of_quality_and_targets_is_given(given):
  first, second = (f"--{name}" for name in given)
  with pytest.raises(
    OptionsError, match=rf"^found {first} and {second}, expected one of them at mo"
  ):
    CompressOptions("m", "a.png", "out", **given)


def test_a_psnr_of_raw_frames_is_refused():
  CompressOptions("m", "clip.y4m", "out", target_bytes=9)
  with pytest.raises(
    OptionsError, match=r"^found --target_psnr for clip.y4m, expected it for imag"
  ):
    CompressOptions("m", "clip.y4m", "out", target_psnr=30.0)


@pytest.mark.parametrize(
  "given", [{"quality": -1}, {"quality": 100.5}, {"target_bytes": 0}, {"target_bpp": 0.0}]
)
def test_qualities_and_targets_out_of_range_are_refused(given):
  with pytest.raises(OptionsError, match="is out of range, expected"):
    check(CompressOptions("m", "a.png", "out", **given))


def test_gaps_are_of_raw_frames_alone():
  DecompressOptions("kvc", "out.yuv", allow_gaps=True)
  with pytest.raises(
    OptionsError, match=r"^found --allow_gaps for out, expected it for a \.yuv or "
  ):
    DecompressOptions("kvc", "out", allow_gaps=True)
