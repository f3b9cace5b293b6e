"""Files of a quality, a size or a PSNR, and what is said where there is none."""

from __future__ import annotations

import math
import pathlib

import numpy as np
import pytest
import skimage.data

from khuvcm_tf import bitstream, coding, model_files, model_folders, rate_control
from khuvcm_tf.rate_control import Rate

GOLDEN = pathlib.Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def model():
  """The shipped model: only of trained ones do bits and PSNR rise with the quality."""
  return model_files.load("mbt2018_variable")


@pytest.fixture(scope="module")
def photo():
  """uint8 [96, 128, 3]."""
  return skimage.data.astronaut()[60:156, 180:308]


@pytest.fixture(scope="module")
def files(model, photo):
  """The file of each fifth step of quality, and of those beside them."""
  prepared = model.prepare(photo)
  return {step: model.file(prepared, step) for step in range(0, 256, 5)}


def _step(data: bytes) -> int:
  return bitstream.parse(data)[0].quality


def _psnr(image, decoded) -> float:
  mse = np.mean(np.square(image.astype(np.float64) - decoded))
  return 10 * math.log10(255**2 / mse)


class TestQuality:
  def test_is_in_the_file_and_changes_it(self, model, photo, files):
    sizes = [len(data) for data in files.values()]
    assert sizes[0] < sizes[len(sizes) // 2] < sizes[-1]
    assert [_step(data) for data in files.values()] == list(files)
    assert len(set(files.values())) == len(files)

  @pytest.mark.parametrize("quality, step", [(0, 0), (100, 255), (50, 128), (39.2157, 100)])
  def test_of_users_is_the_step_of_files(self, model, photo, quality, step):
    data = rate_control.compress(model, photo, Rate(quality=quality))
    assert _step(data) == step
    assert data == model.compress(photo, quality)
    assert bitstream.quality_of(data) == pytest.approx(quality, abs=0.2)

  def test_is_the_models_default_where_none_is_given(self, model, photo, monkeypatch):
    assert _step(model.compress(photo)) == 128
    monkeypatch.setattr(model, "default_quality", 100)
    assert _step(rate_control.compress(model, photo, rate_control.DEFAULT)) == 255

  def test_gives_the_same_file_twice_and_neighbours_differ(self, model, photo):
    assert model.compress(photo, 40) == model.compress(photo, 40)
    assert model.compress(photo, 40) != model.compress(photo, 40.4)

  @pytest.mark.parametrize("quality", [-1, 100.1, math.nan])
  def test_out_of_range_is_refused(self, model, photo, quality):
    with pytest.raises(coding.ModelError, match=r"^quality is .*, expected 0 to 100$"):
      model.compress(photo, quality)

  def test_is_decoded_as_the_encoder_foresees(self, model, photo, files):
    prepared = model.prepare(photo)
    for step in (0, 100, 255):
      np.testing.assert_array_equal(model.decompress(files[step]), model.decoded(prepared, step))

  def test_changes_estimates_as_files(self, model, photo, files):
    for step in (0, 100, 255):
      estimate = sum(model.bits(model.prepare(photo), step).values()) / 8
      assert estimate <= len(files[step]) <= 1.01 * estimate + 64


class TestBytes:
  @pytest.mark.parametrize("step", [0, 5, 100, 200])
  def test_the_file_is_the_largest_that_is_not_larger(self, model, photo, files, step):
    for most in (len(files[step]), len(files[step]) + 3):
      data = rate_control.compress(model, photo, Rate(bytes=most))
      assert len(data) <= most
      following = model.file(model.prepare(photo), _step(data) + 1)
      assert len(following) > most

  def test_the_best_file_is_given_where_all_are_smaller(self, model, photo, files):
    assert rate_control.compress(model, photo, Rate(bytes=10**6)) == files[255]

  def test_bits_per_pixel_are_those_of_the_whole_file(self, model, photo, files):
    bpp = 8 * len(files[100]) / (96 * 128)
    data = rate_control.compress(model, photo, Rate(bpp=bpp))
    assert data == rate_control.compress(model, photo, Rate(bytes=len(files[100])))

  def test_too_few_are_refused_with_the_range(self, model, photo, files):
    text = (
      rf"^no quality gives at most 99 bytes: found {len(files[0])} bytes at quality 0, "
      rf"{len(files[255])} at 100; ask for more, or make the image smaller$"
    )
    with pytest.raises(coding.ModelError, match=text):
      rate_control.compress(model, photo, Rate(bytes=99))
    with pytest.raises(coding.ModelError, match=r"^no quality gives at most 0.01 bits per pixel: "):
      rate_control.compress(model, photo, Rate(bpp=0.01))


class TestPsnr:
  def test_is_reached_and_not_one_step_below(self, model, photo, files):
    low, high = (_psnr(photo, model.decompress(files[step])) for step in (0, 255))
    assert high > low
    least = (low + high) / 2
    data = rate_control.compress(model, photo, Rate(psnr=least))
    assert _psnr(photo, model.decompress(data)) >= least
    prepared = model.prepare(photo)
    assert _psnr(photo, model.decoded(prepared, _step(data) - 1)) < least

  def test_that_all_have_is_the_lowest_quality(self, model, photo, files):
    assert rate_control.compress(model, photo, Rate(psnr=1.0)) == files[0]

  def test_that_none_has_is_refused_with_the_range(self, model, photo):
    text = (
      r"^no quality gives at least 60 dB: found \d\d\.\d\d dB at quality 0, \d\d\.\d\d at 100; "
    )
    with pytest.raises(coding.ModelError, match=text):
      rate_control.compress(model, photo, Rate(psnr=60))

  def test_that_only_some_steps_have_is_found(self, model, photo, monkeypatch):
    """Of flat images PSNR goes up and down with the step."""
    monkeypatch.setattr(model, "decoded", lambda _, step: photo if 96 <= step < 110 else 0 * photo)
    assert _step(rate_control.compress(model, photo, Rate(psnr=40))) == 96


@pytest.mark.parametrize(
  "given", [{"quality": 3, "bytes": 9}, {"bpp": math.nan}, {"psnr": math.inf}, {"bytes": 0}]
)
def test_odd_rates_are_refused(given):
  with pytest.raises(rate_control.RateError, match="expected"):
    Rate(**given)


def test_steps_are_those_nearest_to_a_quality():
  for quality in np.linspace(0, 100, 2001):
    step = coding.step_of(quality)
    assert abs(step - 2.55 * quality) <= 0.5 + 1e-4
    if quality * 10 % 1 == 0:  # as files say it
      assert coding.step_of(step * 100 / 255) == step
  assert [coding.step_of(quality) for quality in (0, 10, 30, 50, 100)] == [0, 26, 77, 128, 255]


@pytest.mark.parametrize("value", ["high", None, 200, -1, True, math.nan])
def test_an_odd_default_quality_is_refused(value):
  description = {"arguments": {"num_qualities": 3}, "default_quality": value}
  with pytest.raises(coding.ModelError, match=r"^model.json has default_quality=.*, expected a"):
    model_folders.default_quality(description)


class TestModelsOfOneRate:
  @pytest.mark.parametrize(
    "rate, given",
    [
      (Rate(quality=30), "quality 30"),
      (Rate(bytes=9), "a target of bytes"),
      (Rate(bpp=9), "a target of bpp"),
      (Rate(psnr=9), "a target of psnr"),
    ],
  )
  def test_say_that_they_have_one(self, photo, rate, given):
    fixed = model_files.load(str(GOLDEN / "mbt2018_mean" / "model"))
    match = rf"^a model of one rate was given {given}, expected none; leave it out, or use a model"
    with pytest.raises(coding.ModelError, match=match):
      rate_control.compress(fixed, photo, rate)
    with pytest.raises(coding.ModelError, match=match):
      rate_control.check(fixed, rate)

  def test_refuse_files_of_a_quality_and_the_other_way_round(self, model, photo):
    fixed = model_files.load(str(GOLDEN / "mbt2018_mean" / "model"))
    header, substreams = bitstream.parse(fixed.compress(photo))
    data = bitstream.pack(header._replace(quality=7), substreams, version=2)
    with pytest.raises(
      bitstream.BitstreamError, match=r"has quality 7, expected 0 for a model of on"
    ):
      fixed.decompress(data)
    of_version_1 = bitstream.pack(header._replace(fingerprint=model.fingerprint), substreams)
    with pytest.raises(bitstream.BitstreamError, match=r"version 1, which has no quality, exp"):
      model.decompress(of_version_1)
    same = bitstream.pack(header, substreams, version=2)
    np.testing.assert_array_equal(
      fixed.decompress(same), fixed.decompress(bitstream.pack(header, substreams))
    )
