"""What a codec's training refuses before it begins, in one line."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from khuvcm_tf import codecs, options
from khuvcm_tf.codecs import input_format
from khuvcm_tf.options import OptionsError
from khuvcm_tf.training import losses, task
from khuvcm_tf.training.options import CodecOptions


@pytest.mark.parametrize(
  "field, value, message",
  [
    ("workdir", None, r"found no --workdir, expected one"),
    ("max_steps", 0, r"--max_steps=0 is out of range, expected at least 1"),
    ("warmup_steps", -1, r"--warmup_steps=-1 .*at least 0"),
    ("learning_rate", float("inf"), r"--learning_rate=inf .*above 0"),
    ("ema", 1.0, r"--ema=1\.0 .*below 1"),
    ("lmbda", 0.0, r"--lambda=0\.0 is out of range, expected above 0"),
    ("min_resize_scale", 1.5, r"--min_resize_scale=1\.5 .*above 0, at most 1"),
    ("distortion", "mae", r"--distortion=mae .*one of mse, ms_ssim"),
    ("distortion", "ms_ssim", r"--crop_size=64 .*at least 176 for --distortion=ms_ssim"),
    (
      "train_images",
      None,
      r"found none of --train_images, --train_tfds, --train_f",
    ),
    (
      "train_tfds",
      "kodak",
      r"found --train_images and --train_tfds of .*, expected one of them",
    ),
    (
      "eval_tfds",
      "kodak",
      r"found --validation_images and --eval_tfds of .*, or none",
    ),
    ("component_weights", (4.0, 1.0), r"--component_weights=4\.0,1\.0 .*three numbers, not all 0"),
    (
      "component_weights",
      (0.0,) * 3,
      r"--component_weights=0\.0,0\.0,0\.0 .*not all 0",
    ),
    ("component_weights", (4.0, -1.0, 1.0), r"--component_weights=4\.0,-1\.0,1\.0 .*at least 0"),
    ("component_weights", (4.0, np.inf, 1.0), r"--component_weights=4\.0,inf,1\.0 "),
    (
      "lambda_range",
      (0.1,),
      r"--lambda_range=0\.1 is out of range, expected two numbers, ",
    ),
    (
      "lambda_range",
      (0.1, 0.1),
      r"--lambda_range=0\.1,0\.1 .*the smaller one first, as in 0",
    ),
    ("lambda_range", (0.0, 0.1), r"--lambda_range=0\.0,0\.1 is out of range, expected above 0"),
    ("codec", None, r"found no --codec, expected one, or --init_from=MODEL of the codec to train"),
  ],
)
def test_values_that_are_out_of_range_or_contradict_each_other_are_refused(
  toy, field, value, message
):
  with pytest.raises(OptionsError, match=f"^{message}[^\n]*$"):
    toy.make_options(**{"validation_images": "more_photos", field: value})


@pytest.mark.parametrize(
  "field, message",
  [
    ("lmbda", r"found both of --lambda and --lambda_range, expected one of them: --lambda for a c"),
    ("lambda_chroma", r"found both of --lambda_chroma and --lambda_range, .*--component_weights"),
  ],
)
def test_a_range_of_lambda_stands_in_place_of_lambda(toy, field, message):
  with pytest.raises(OptionsError, match=f"^{message}[^\n]*$"):
    toy.make_options(lambda_range=(0.01, 0.1), **{field: 0.02})


@pytest.mark.parametrize(
  "fields, message",
  [
    (
      {"arguments": {"num_qualities": 3}},
      r"found no --lambda_range, expected one for a codec of 3 qualities; give the lambdas of the "
      r"lowest and of the highest, as in --lambda_range=0\.0016,0\.1024",
    ),
    (
      {"lambda_range": (0.01, 0.1)},
      r"found --lambda_range, expected --lambda for a codec of one rate; give that, or make it a "
      r"codec of several rates with --argument=num_qualities=7",
    ),
  ],
)
def test_codecs_of_several_rates_and_they_alone_have_a_range_of_lambda(toy, fields, message):
  with pytest.raises(OptionsError, match=f"^{message}$"):
    task.CodecTask(toy.make_options(**fields))


def test_every_choice_of_the_distortion_is_one():
  specs = {field.name: spec for field, spec, _ in options._options(CodecOptions)}
  (codec,) = [codecs.create("bmshj2018_factorized", num_filters=2, latent_depth=2)]
  image = np.zeros((1, 176, 176, 3), np.float32)
  for kind in specs["distortion"].choices:
    assert losses.create(kind)(codec.input_format, (image,), (image,)).shape == (1,)


def test_options_need_no_tensorflow():
  code = "import sys, khuvcm_tf.training.options; print('tensorflow' in sys.modules)"
  found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert found.stdout == "False\n"


def test_what_a_resumed_run_must_not_change_is_what_its_checkpoints_depend_on():
  assert list(options.fixed_flags(CodecOptions)) == [
    "optimizer",
    "codec",
    "argument",
    "normalization",
    "lambda",
    "lambda_range",
    "distortion",
    "distortion_threshold",
    "component_weights",
    "lambda_chroma",
  ]


def test_flags_have_the_names_that_flagfiles_and_recorded_flags_use(toy):
  made = toy.make_options(lmbda=0.02, arguments={"depth": 3}, component_weights=(4.0, 0.5, 1.0))
  lines = options.to_flags(made)
  several_rates = toy.make_options(lambda_range=(0.0016, 0.1024))
  assert "--lambda_range=0.0016,0.1024" in options.to_flags(several_rates)
  assert {"--codec=toy", "--argument=depth=3", "--lambda=0.02", "--crop_size=64"} < set(lines)
  assert "--component_weights=4.0,0.5,1.0" in lines
  json.dumps(lines)


def test_a_crop_is_a_multiple_of_the_stride(toy):
  with pytest.raises(OptionsError, match=r"--crop_size=72 .* of 16, .* toy; give 80$"):
    task.CodecTask(toy.make_options(crop_size=72))


def test_ms_ssim_needs_large_validation_images(toy):
  given = toy.make_options(distortion="ms_ssim", crop_size=192)
  small = [np.zeros((200, 300, 3), np.uint8), np.zeros((200, 160, 3), np.uint8)]
  with pytest.raises(OptionsError, match=r"has a side of 160, expected at least 176 for"):
    task.check_validation_images(given, small)
  task.check_validation_images(given, small[:1])


class TestComponentWeights:
  def _weights(self, toy, form, **fields):
    return task.component_weights(toy.make_options(lmbda=0.01, **fields), form())

  def test_are_the_formats_own_where_no_option_gives_them(self, toy):
    assert self._weights(toy, input_format.Ycbcr420) is None

  def test_are_divided_by_their_sum(self, toy):
    found = self._weights(toy, input_format.Ycbcr444, component_weights=(6.0, 1.0, 1.0))
    assert found == [0.75, 0.125, 0.125]

  def test_of_chroma_follow_its_own_lambda(self, toy):
    found = self._weights(toy, input_format.Ycbcr420, lambda_chroma=0.005)
    np.testing.assert_allclose(found, [4 / 6, 0.5 / 6, 0.5 / 6])

  def test_are_for_mse_and_ycbcr_alone(self, toy):
    text = "expected them for --distortion=mse and codecs of YCbCr alone"
    with pytest.raises(OptionsError, match=text):
      self._weights(toy, input_format.Rgb, component_weights=(4.0, 1.0, 1.0))
    ms_ssim = {"distortion": "ms_ssim", "crop_size": 192}
    with pytest.raises(OptionsError, match=text):
      self._weights(toy, input_format.Ycbcr444, lambda_chroma=0.1, **ms_ssim)
