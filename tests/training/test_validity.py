"""What a run refuses before it begins, in one line."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from khuvcm_tf import errors
from khuvcm_tf.codecs import picture_format
from khuvcm_tf.training import validity

_PICTURES = {"train_images": "photos", "validation_images": "more_photos"}


@pytest.mark.parametrize(
  "field, value, message",
  [
    ("max_steps", 0, r"--max_steps=0 is out of range, expected at least 1"),
    ("batch_size", 0, r"--batch_size=0 is out of range, expected at least 1"),
    ("crop_size", -64, r"--crop_size=-64 is out of range, expected at least 1"),
    ("log_steps", 0, r"--log_steps=0 .*at least 1"),
    ("checkpoint_steps", 0, r"--checkpoint_steps=0 .*at least 1"),
    ("validation_limit", 0, r"--validation_limit=0 .*at least 1"),
    ("warmup_steps", -1, r"--warmup_steps=-1 .*at least 0"),
    ("clip_norm", -1.0, r"--clip_norm=-1\.0 .*at least 0"),
    ("cache_gib", -1.0, r"--cache_gib=-1\.0 .*at least 0"),
    ("rate_distortion", 0.0, r"--lambda=0\.0 is out of range, expected a positive number"),
    ("rate_distortion", float("nan"), r"--lambda=nan .*a positive number"),
    ("learning_rate", float("inf"), r"--learning_rate=inf .*a positive number"),
    ("smallest_scale", 0.0, r"--smallest_scale=0\.0 .*above 0, at most 1"),
    ("ema", 1.0, r"--ema=1\.0 .*below 1"),
    ("distortion", "mae", r"--distortion=mae .*one of mse, ms_ssim"),
    ("distortion", "ms_ssim", r"--crop_size=64 .*at least 176 for --distortion=ms_ssim"),
    ("learning_rate_schedule", "step", r"--learning_rate_schedule=step .*one of constant, "),
    ("strategy", "tpu", r"--strategy=tpu .*one of default, mirrored, multi_worker"),
    ("on_nan", "ignore", r"--on_nan=ignore .*one of stop, restore"),
    ("train_images", None, r"found none of --train_images and --train_tfds, expected one of them"),
    ("train_tfds", "kodak", r"found both of --train_images and --train_tfds, expected one of them"),
    ("eval_tfds", "kodak", r"found both of --validation_images and --eval_tfds, expected one of"),
  ],
)
def test_values_out_of_range_are_refused(toy, field, value, message):
  recipe = toy.make_recipe(**{"workdir": "w", **_PICTURES, field: value})
  with pytest.raises(validity.TrainingError, match=f"^{message}[^\n]*$"):
    toy.recipe.train(recipe)


def test_a_crop_is_a_multiple_of_the_stride(toy, photos, tmp_path):
  recipe = toy.make_recipe(workdir=str(tmp_path / "w"), train_images=photos, crop_size=72)
  with pytest.raises(validity.TrainingError, match=r"--crop_size=72 .* of 16, .* toy; give 80$"):
    toy.recipe.train(recipe)


def test_a_batch_has_equal_parts(toy):
  recipe = toy.make_recipe(workdir="w", batch_size=7, strategy="mirrored")
  with pytest.raises(
    validity.TrainingError, match=r"--batch_size=7 .* 2 replicas of --strategy=mirrored; give 8$"
  ):
    validity.check_batch(recipe, 2)


def test_ms_ssim_needs_large_validation_pictures(toy):
  recipe = toy.make_recipe(workdir="w", distortion="ms_ssim")
  small = [np.zeros((200, 300, 3), np.uint8), np.zeros((200, 160, 3), np.uint8)]
  with pytest.raises(validity.TrainingError, match=r"has a side of 160, expected at least 176 for"):
    validity.check_validation(recipe, small)
  validity.check_validation(recipe, small[:1])


@pytest.mark.parametrize(
  "found",
  [
    None,
    "{",
    "[]",
    '{"task": {"type": "worker", "index": 0}}',
    json.dumps({"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}),
    json.dumps(
      {"cluster": {"chief": ["a:1"], "worker": ["b:1"]}, "task": {"type": "worker", "index": 0}}
    ),
  ],
)
def test_several_workers_need_a_cluster(toy, monkeypatch, found):
  monkeypatch.delenv("TF_CONFIG", raising=False)
  if found is not None:
    monkeypatch.setenv("TF_CONFIG", found)
  recipe = toy.make_recipe(workdir="w", train_images="photos", strategy="multi_worker")
  with pytest.raises(validity.TrainingError, match=r"found TF_CONFIG='.*', expected the cluster's"):
    toy.recipe.train(recipe)


def _claim(toy, workdir, **fields):
  recipe = dataclasses.replace(toy.make_recipe(workdir=str(workdir)), **fields)
  validity.claim(recipe, dataclasses.asdict(recipe))


def test_flags_txt_is_a_flagfile_of_the_run(toy, tmp_path):
  _claim(toy, tmp_path, arguments={"b": "gdn", "a": 3}, rate_distortion=0.02, profile=True)
  lines = (tmp_path / "flags.txt").read_text().splitlines()
  assert {
    f"--workdir={tmp_path}",
    "--codec=toy",
    "--lambda=0.02",
    "--profile=true",
    "--jit_compile=false",
    "--crop_size=64",
  } <= set(lines)
  assert [line for line in lines if "argument" in line] == ["--argument=a=3", "--argument=b=gdn"]
  assert not [line for line in lines if "None" in line]
  assert [path.name for path in tmp_path.iterdir()] == ["flags.txt"]


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"codec": "other"}, r"says --codec=toy, found --codec=other: go on with the same, or give"),
    ({"arguments": {"n": 8}}, r"says no --argument, found --argument=n=8: "),
    ({"rate_distortion": 0.5}, r"says --lambda=0\.01, found --lambda=0\.5: "),
    ({"distortion": "ms_ssim"}, r"says --distortion=mse, found --distortion=ms_ssim: "),
  ],
)
def test_another_run_in_the_workdir_is_refused_and_left_as_it_is(toy, tmp_path, fields, message):
  _claim(toy, tmp_path)
  before = (tmp_path / "flags.txt").read_text()
  with pytest.raises(errors.Error, match=rf"flags\.txt {message}"):
    _claim(toy, tmp_path, **fields)
  assert (tmp_path / "flags.txt").read_text() == before


def test_a_run_may_go_on_longer_and_with_another_learning_rate(toy, tmp_path):
  _claim(toy, tmp_path, max_steps=100)
  _claim(toy, tmp_path, max_steps=200, learning_rate=1e-5)
  assert "--max_steps=200\n" in (tmp_path / "flags.txt").read_text()


class TestComponentShares:
  def _shares(self, toy, picture_format, **fields):
    recipe = toy.make_recipe(workdir="w", train_images="photos", rate_distortion=0.01, **fields)
    return validity.component_shares(recipe, picture_format())

  def test_are_the_formats_own_where_no_flag_tells(self, toy):
    assert self._shares(toy, picture_format.Ycbcr420) is None

  def test_are_the_weights_over_their_sum(self, toy):
    found = self._shares(toy, picture_format.Ycbcr444, component_weights=(6.0, 1.0, 1.0))
    assert found == [0.75, 0.125, 0.125]

  def test_of_chroma_are_by_its_own_lambda(self, toy):
    found = self._shares(toy, picture_format.Ycbcr420, lambda_chroma=0.005)
    np.testing.assert_allclose(found, [4 / 6, 0.5 / 6, 0.5 / 6])

  @pytest.mark.parametrize(
    "weights", [(), (4.0, 1.0), (4.0, -1.0, 1.0), (0.0,) * 3, (1.0, 1.0, np.inf)]
  )
  def test_refuse_what_are_no_weights(self, toy, weights):
    with pytest.raises(validity.TrainingError, match="three numbers, as in 4,1,1"):
      self._shares(toy, picture_format.Ycbcr420, component_weights=weights)

  def test_are_for_mse_and_ycbcr_alone(self, toy):
    text = "expected them for --distortion=mse and codecs of YCbCr alone"
    with pytest.raises(validity.TrainingError, match=text):
      self._shares(toy, picture_format.Rgb, component_weights=(4.0, 1.0, 1.0))
    with pytest.raises(validity.TrainingError, match=text):
      self._shares(toy, picture_format.Ycbcr444, lambda_chroma=0.1, distortion="ms_ssim")

  def test_stand_in_flags_txt_as_the_flag_takes_them(self, toy, tmp_path):
    recipe = toy.make_recipe(
      workdir=str(tmp_path), train_images="photos", component_weights=(4.0, 0.5, 1.0)
    )
    validity.claim(recipe, dataclasses.asdict(recipe))
    assert "--component_weights=4.0,0.5,1.0" in (tmp_path / "flags.txt").read_text().splitlines()
