"""Evaluation against a coder whose files and losses are known in closed form."""

from __future__ import annotations

import csv
import json
import math
import os
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from khuvcm_tf import atomic_files, coding, errors
from khuvcm_tf.data import image_files, inputs
from khuvcm_tf.evaluation import anchors, coders, evaluate, images, metrics
from khuvcm_tf.evaluation.options import EvaluateOptions


class KnownCoder(coders.Coder):
  """Codes images with zlib, each sample `loss` levels off; a clock counts its seconds."""

  kind, suffix, key, notes = "model", ".zlib", "known", "zlib"
  version, conversion, description, fingerprint = "1", "none", {"codec": "known"}, "00"

  def __init__(self, loss=0, quality=None):
    self.loss, self.quality, self.clock, self.is_warm = loss, quality, 0.0, False

  def load(self):
    """There is nothing to load."""

  def warm_up(self, image):
    assert self.clock == 0.0 and not self.is_warm
    self.is_warm = True

  def compress(self, image):
    self.clock += 2.0
    if image[0, 0, 0] == 66:
      raise errors.Error("cannot code 66")
    return zlib.compress((image ^ self.loss).tobytes())

  def decompress(self, data, shape):
    self.clock += 3.0
    return np.frombuffer(zlib.decompress(data), np.uint8).reshape(shape)

  def estimated_bits(self, image):
    return 8.0 + image.size


@pytest.fixture
def known(monkeypatch):
  """Puts a known coder in the place of models."""
  monkeypatch.setattr(evaluate.coders, "ModelCoder", lambda model, precision: KnownCoder(1))


@pytest.fixture
def photos(tmp_path):
  """Three images: RGB of 176x192, grey of 20x30, RGB of 20x30."""
  rng = np.random.default_rng(0)
  folder = tmp_path / "photos"
  (folder / "b").mkdir(parents=True)
  images = {
    "a.png": rng.integers(100, 140, (176, 192, 3), np.uint8),
    "b/grey.png": rng.integers(100, 140, (20, 30, 1), np.uint8),
    "c.png": rng.integers(100, 140, (20, 30, 3), np.uint8),
  }
  for name, image in images.items():
    image_files.write_image(str(folder / name), image)
  return [str(folder / name) for name in images]


@pytest.fixture
def failing(photos, tmp_path):
  """The three images between one that is broken and one that the coder cannot code."""
  broken, uncodable = str(tmp_path / "photos" / "_.png"), str(tmp_path / "photos" / "z.png")
  with open(broken, "wb") as file:
    file.write(b"\x89PNG\r\n\x1a\n")
  image_files.write_image(uncodable, np.full((8, 8, 3), 66, np.uint8))
  return [broken, *photos, uncodable]


def _evaluate(at_qualities, paths, *arguments):
  """Evaluates files; the arguments are those of `Measure` behind the coders."""
  return evaluate.evaluate(evaluate.Measure(at_qualities, *arguments), inputs.of_files(paths))


def test_a_row_holds_the_measures_of_its_file_and_its_pixels(photos, tmp_path):
  folder = tmp_path / "files"
  rows = _evaluate([KnownCoder(loss=1)], photos, str(folder)).rows
  assert [row["name"] for row in rows] == ["a", "b/grey", "c"]
  for row, path in zip(rows, photos):
    image = image_files.read_image(path)
    data = (folder / f"{row['name']}.zlib").read_bytes()
    assert (row["height"], row["width"]) == image.shape[:2]
    assert row["bytes"] == len(data)
    assert row["bpp"] == 8 * len(data) / (row["height"] * row["width"])
    assert row["estimated_bpp"] == (8 + image.size) / (row["height"] * row["width"])
    assert row["psnr_rgb"] == pytest.approx(48.1308, abs=1e-4), "of MSE 1"
    for name, value in metrics.measure(image, image ^ 1).items():
      np.testing.assert_equal(row[name], value)
  assert [math.isnan(row["ms_ssim"]) for row in rows] == [False, True, True]


def test_decoding_reads_the_file_on_disk(photos, tmp_path, monkeypatch):
  def write_other(path, data):
    with open(path, "wb") as file:
      file.write(KnownCoder(loss=2).compress(image_files.read_image(photos[0])))

  monkeypatch.setattr(atomic_files, "write_bytes", write_other)
  row = _evaluate([KnownCoder(loss=1)], photos[:1], str(tmp_path)).rows[0]
  assert row["psnr_rgb"] == pytest.approx(10 * math.log10(255**2 / 4))


def test_seconds_are_those_of_the_coder_after_its_warm_up(photos, tmp_path, monkeypatch):
  coder = KnownCoder()
  monkeypatch.setattr(images.time, "perf_counter", lambda: coder.clock)
  rows = _evaluate([coder], photos, str(tmp_path)).rows
  assert [(row["encode_s"], row["decode_s"]) for row in rows] == [(2.0, 3.0)] * 3


def test_anchors_are_measured_at_the_bytes_of_the_file(tmp_path):
  ramp = np.add.outer(np.arange(96), np.arange(96)).astype(np.uint8)
  image = np.stack([ramp, ramp // 2, 255 - ramp], -1)
  image_files.write_image(str(tmp_path / "ramp.png"), image)
  paths = [str(tmp_path / "ramp.png")]
  (row,) = _evaluate([KnownCoder()], paths, str(tmp_path), "refuse", ["jpeg"]).rows
  expected = anchors.psnr_at_bytes(anchors.jpeg, image, row["bytes"])
  assert math.isfinite(expected)
  assert row["psnr_jpeg"] == expected
  assert "psnr_webp" not in row


def test_a_side_too_long_for_an_anchor_leaves_its_psnr_out(tmp_path):
  image_files.write_image(str(tmp_path / "long.png"), np.zeros((1, 16384, 3), np.uint8))
  paths = [str(tmp_path / "long.png")]
  (row,) = _evaluate([KnownCoder()], paths, str(tmp_path), "refuse", ["webp"]).rows
  assert math.isnan(row["psnr_webp"])


def _at_qualities():
  return [KnownCoder(loss, quality) for loss, quality in ((4, 10.0), (2, 30.5), (1, 90.0))]


def test_rows_of_several_qualities_follow_each_other(photos, tmp_path):
  rows = _evaluate(_at_qualities(), photos, str(tmp_path / "files")).rows
  names = ["a", "b/grey", "c"]
  assert [(row["quality"], row["name"]) for row in rows] == [
    (quality, name) for quality in (10, 30.5, 90) for name in names
  ]
  for row, mse in zip(rows, [16] * 3 + [4] * 3 + [1] * 3):
    assert row["psnr_rgb"] == pytest.approx(10 * math.log10(255**2 / mse))
    file = tmp_path / "files" / f"q{row['quality']:g}" / f"{row['name']}.zlib"
    assert file.stat().st_size == row["bytes"]


def test_an_image_that_fails_at_several_qualities_is_one_that_is_left_out(failing, tmp_path):
  evaluation = _evaluate(_at_qualities(), failing, str(tmp_path))
  assert len(evaluation.rows) == 3 * 3
  with pytest.raises(evaluate.EvaluationError, match="^2 of 5 images left out, "):
    evaluate.check_complete(evaluation)


def test_images_that_fail_are_named_and_the_others_reported(failing, tmp_path):
  evaluation = _evaluate([KnownCoder()], failing, str(tmp_path))
  assert [row["name"] for row in evaluation.rows] == ["a", "b/grey", "c"]
  assert [each["path"] for each in evaluation.left_out] == [failing[0], failing[-1]]
  assert evaluation.left_out[1]["reason"] == f"{failing[-1]}: cannot code 66"
  with pytest.raises(
    evaluate.EvaluationError, match=r"2 of 5 images left out, expected none: .*_\.png, .*z\.png; "
  ):
    evaluate.check_complete(evaluation)


def test_in_whatever_order_images_are_done_results_are_in_theirs(failing, tmp_path, backwards):
  found, output = inputs.of_files(failing), str(tmp_path / "out")
  os.mkdir(output)
  expected = evaluate.evaluate(evaluate.Measure(_at_qualities()), found)
  results = evaluate.evaluate(evaluate.Measure(_at_qualities()), found, backwards, output)
  untimed = [
    [{key: value for key, value in row.items() if not key.endswith("_s")} for row in each.rows]
    for each in (expected, results)
  ]
  assert repr(untimed[0]) == repr(untimed[1]) and expected.left_out == results.left_out
  with open(tmp_path / "out" / "failed.csv", newline="") as file:
    assert [row["name"] for row in csv.DictReader(file)] == [failing[-1], failing[0]]


def test_rows_that_are_there_are_not_made_again_unless_their_image_changes(photos, tmp_path):
  def run(coder):
    measure = evaluate.Measure([coder], anchor_names=["jpeg"], points=str(tmp_path / "points"))
    rows = evaluate.evaluate(measure, inputs.of_files(photos)).rows
    return rows, coder.clock / 5

  first, coded = run(KnownCoder())
  assert coded == 3
  again, coded = run(KnownCoder())
  assert coded == 0 and repr(again) == repr(first)
  image_files.write_image(photos[1], np.full((20, 30, 1), 7, np.uint8))
  changed, coded = run(KnownCoder())
  assert coded == 1 and changed[1]["bytes"] != first[1]["bytes"]


def test_running_out_of_memory_leaves_one_image_out(photos, tmp_path, monkeypatch):
  coder = KnownCoder()
  monkeypatch.setattr(coder, "estimated_bits", lambda image: bytes(2**62))
  evaluation = _evaluate([coder], photos[:1], str(tmp_path))
  assert evaluation.rows == []
  assert evaluation.left_out[0]["reason"].startswith(f"{photos[0]}: out of memory")


def test_a_complete_evaluation_passes(photos, tmp_path):
  evaluate.check_complete(_evaluate([KnownCoder()], photos, str(tmp_path)))


def _run(images, output, **options):
  return evaluate.run(EvaluateOptions(str(images), str(output), model="known", **options))


def test_run_writes_results_and_keeps_files_only_if_asked(known, photos, tmp_path):
  for keep in (False, True):
    output = tmp_path / f"output_{keep}"
    evaluation = _run(tmp_path / "photos", output, keep_files=keep)
    found = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
    kept = {"files/a.zlib", "files/b/grey.zlib", "files/c.zlib"} if keep else set()
    assert found == {"results.csv", "results.json"} | kept
  content = json.loads((output / "results.json").read_text())
  assert (content["model"], content["fingerprint"]) == ("known", "00")
  assert content["description"] == {"codec": "known"}
  assert content["machine"]["cpu"] and content["left_out"] == []
  assert content["images_in_mean"]["ms_ssim"] == 1
  assert content["images"][1]["psnr_ycbcr"] is None
  with (output / "results.csv").open(newline="") as file:
    rows = list(csv.DictReader(file))
  assert [row["name"] for row in rows] == ["a", "b/grey", "c", "mean"]
  sizes = [row["bytes"] for row in evaluation.rows]
  assert [float(row["bytes"]) for row in rows] == pytest.approx([*sizes, sum(sizes) / 3])


def test_a_run_at_qualities_writes_the_means_of_each(several_rates, photos, tmp_path):
  output = tmp_path / "output"
  images = str(tmp_path / "photos")
  options = EvaluateOptions(images, str(output), model=f"{several_rates}@80,30", keep_files=True)
  evaluation = evaluate.run(options)
  content = json.loads((output / "results.json").read_text())
  low, high = content["mean"]
  assert (low["quality"], high["quality"]) == (30, 80)
  assert [counts["ms_ssim"] for counts in content["images_in_mean"]] == [1, 1]
  assert [image["quality"] for image in content["images"]] == [30] * 3 + [80] * 3
  sizes = [row["bytes"] for row in evaluation.rows]
  assert [low["bytes"], high["bytes"]] == pytest.approx([sum(sizes[:3]) / 3, sum(sizes[3:]) / 3])
  with (output / "results.csv").open(newline="") as file:
    rows = [(row["name"], float(row["quality"])) for row in csv.DictReader(file)]
  names = ["a", "b/grey", "c"]
  expected = [(name, quality) for quality in (30, 80) for name in names]
  assert rows == [*expected, ("mean", 30), ("mean", 80)]
  kept = [output / "files" / f"q{quality}" / "b" / "grey.kvc" for quality in (30, 80)]
  assert [file.stat().st_size for file in kept] == [sizes[1], sizes[4]]


def test_one_quality_has_one_mean_and_without_any_it_is_the_default(
  several_rates, photos, tmp_path
):
  for model, quality in ((f"{several_rates}@30", 30), (several_rates, 40)):
    evaluate.run(EvaluateOptions(photos[2], str(tmp_path / "output"), model=model))
    content = json.loads((tmp_path / "output" / "results.json").read_text())
    assert content["mean"]["quality"] == content["images"][0]["quality"] == quality
    assert content["images_in_mean"]["psnr_rgb"] == 1


def test_a_quality_that_a_model_has_not_ends_the_run(several_rates, photos, tmp_path):
  options = EvaluateOptions(photos[0], str(tmp_path / "output"), model=f"{several_rates}@101")
  with pytest.raises(coders.CoderError, match="'101' behind the @ of"):
    evaluate.run(options)
  assert not os.path.exists(tmp_path / "output")


def test_a_run_without_a_single_good_image_is_an_error(known, failing, tmp_path):
  with pytest.raises(
    evaluate.EvaluationError, match=r"none of 1 images was evaluated, .*the first: .*_\.png"
  ):
    _run(failing[0], tmp_path / "output")
  assert not os.listdir(tmp_path / "output")


def test_a_model_that_cannot_be_loaded_ends_the_run(photos, tmp_path):
  with pytest.raises(coding.ModelError, match="known"):
    _run(photos[0], tmp_path / "output")
  assert not os.path.exists(tmp_path / "output")


def test_an_unknown_anchor_is_refused_before_anything_is_done(known, photos, tmp_path):
  with pytest.raises(
    evaluate.EvaluationError, match=r"no anchor is called 'gif'; expected some of jpeg, webp; write"
  ):
    _run(photos[0], tmp_path / "output", anchors=("gif",))
  assert not os.path.exists(tmp_path / "output")


ROWS = [
  {"name": "a", "bytes": 100, "psnr_rgb": 30.0, "ms_ssim": math.nan, "psnr_jpeg": 29.0},
  {"name": "long name", "bytes": 201, "psnr_rgb": math.inf, "ms_ssim": 0.9, "psnr_jpeg": math.nan},
]


def test_the_table_aligns_columns_and_counts_what_means_leave_out():
  assert evaluate.table(ROWS).splitlines() == [
    "name       bytes  psnr_rgb  ms_ssim  psnr_jpeg",
    "----------------------------------------------",
    "a            100     30.00      nan      29.00",
    "long name    201       inf   0.9000        nan",
    "----------------------------------------------",
    "mean         150       inf   0.9000      29.00",
    "ms_ssim: mean of 1 of 2 images",
    "psnr_jpeg: mean of 1 of 2 images, on which psnr_rgb is 30.00",
  ]


def test_the_table_of_several_qualities_ends_with_their_means():
  other = [{**row, "bytes": 2 * row["bytes"], "psnr_jpeg": 31.0} for row in ROWS]
  rows = [
    {"name": row["name"], "quality": quality, **row}
    for quality, own in ((30.0, ROWS), (62.5, other))
    for row in own
  ]
  assert evaluate.table(rows).splitlines() == [
    "name       quality  bytes  psnr_rgb  ms_ssim  psnr_jpeg",
    "-------------------------------------------------------",
    "a               30    100     30.00      nan      29.00",
    "long name       30    201       inf   0.9000        nan",
    "-------------------------------------------------------",
    "a             62.5    200     30.00      nan      31.00",
    "long name     62.5    402       inf   0.9000      31.00",
    "-------------------------------------------------------",
    "mean            30    150       inf   0.9000      29.00",
    "mean          62.5    301       inf   0.9000      31.00",
    "ms_ssim at quality 30: mean of 1 of 2 images",
    "psnr_jpeg at quality 30: mean of 1 of 2 images, on which psnr_rgb is 30.00",
    "ms_ssim at quality 62.5: mean of 1 of 2 images",
  ]


@settings(deadline=None)
@given(st.sets(st.from_regex(r"([ab]/)?[xy](\.[pq])?\.(png|jpg)", fullmatch=True), min_size=1))
def test_names_differ_and_end_the_paths(paths):
  paths = sorted(paths)
  names = images.names(inputs.of_files(paths))
  assert len(set(names)) == len(paths)
  assert all(os.path.splitext(p)[0].endswith(n) or p.endswith(n) for n, p in zip(names, paths))


def test_a_name_that_is_not_utf8_is_evaluated_as_any_other(known, photos, tmp_path):
  name = os.fsdecode(b"caf\xe9.png")
  image_files.write_image(str(tmp_path / "photos" / name), np.full((20, 30, 3), 7, np.uint8))
  options = EvaluateOptions(str(tmp_path / "photos"), str(tmp_path / "out"), keep_files=True)
  found = evaluate.run(options)
  assert found.left_out == [] and len(found.rows) == 4
  content = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))
  assert "caf\udce9" in [row["name"] for row in content["images"]]
  assert (tmp_path / "out" / "files" / "caf\udce9.zlib").is_file()


def test_rows_are_kept_as_they_come(known, photos, tmp_path, monkeypatch):
  code, kept = images.code, tmp_path / "out" / "results.part.jsonl"
  seen = []

  def coded(*arguments):
    seen.append(kept.read_text().count("\n"))
    if len(seen) == 3:
      raise atomic_files.NoRoomError("full")
    return code(*arguments)

  monkeypatch.setattr(images, "code", coded)
  with pytest.raises(atomic_files.NoRoomError, match="^full$"):
    evaluate.run(EvaluateOptions(str(tmp_path / "photos"), str(tmp_path / "out")))
  assert seen == [0, 1, 2]
  rows = list(map(json.loads, kept.read_text().splitlines()))
  assert [row["bytes"] > 0 for row in rows] == [True, True]
