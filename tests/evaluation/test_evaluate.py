"""Evaluation against a model whose files and losses are known in closed form."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from khuvcm_tf import errors
from khuvcm_tf.data import images
from khuvcm_tf.evaluation import anchors, evaluate, metrics


class KnownModel:
  """Codes pictures with zlib, each sample `loss` levels off, and counts what it is asked for."""

  fingerprint, description = bytes(8), {"codec": "known"}

  def __init__(self, loss=0):
    self.loss, self.compressed, self.clock = loss, 0, 0.0

  def compress(self, picture):
    # The first call is slow, as where TensorFlow traces.
    self.clock += 2.0 if self.compressed else 1000.0
    self.compressed += 1
    if picture[0, 0, 0] == 66:
      raise errors.Error("cannot code 66")
    shape = np.array(picture.shape, "<u2").tobytes()
    return shape + zlib.compress((picture ^ self.loss).tobytes())

  def decompress(self, data):
    self.clock += 3.0 if self.compressed > 1 else 1000.0
    samples = np.frombuffer(zlib.decompress(data[6:]), np.uint8)
    return samples.reshape(np.frombuffer(data[:6], "<u2"))

  def estimate(self, picture):
    return {"z": 8.0, "y": float(picture.size)}


@pytest.fixture
def photos(tmp_path):
  """Three pictures: RGB of 176x192, grey of 20x30, RGB of 20x30."""
  rng = np.random.default_rng(0)
  folder = tmp_path / "photos"
  (folder / "b").mkdir(parents=True)
  pictures = {
    "a.png": rng.integers(100, 140, (176, 192, 3), np.uint8),
    "b/grey.png": rng.integers(100, 140, (20, 30, 1), np.uint8),
    "c.png": rng.integers(100, 140, (20, 30, 3), np.uint8),
  }
  for name, picture in pictures.items():
    images.write_image(str(folder / name), picture)
  return [str(folder / name) for name in pictures]


@pytest.fixture
def failing(photos, tmp_path):
  """The three pictures between one that is broken and one that the model cannot code."""
  broken, uncodable = str(tmp_path / "photos" / "_.png"), str(tmp_path / "photos" / "z.png")
  with open(broken, "wb") as file:
    file.write(b"\x89PNG\r\n\x1a\n")
  images.write_image(uncodable, np.full((8, 8, 3), 66, np.uint8))
  return [broken, *photos, uncodable]


def test_a_row_says_what_its_file_and_its_pixels_say(photos, tmp_path):
  folder = tmp_path / "files"
  rows = evaluate.evaluate(KnownModel(loss=1), photos, str(folder)).rows
  assert [row["name"] for row in rows] == ["a", "b/grey", "c"]
  for row, path in zip(rows, photos):
    picture = images.read_image(path)
    data = (folder / f"{row['name']}.kvc").read_bytes()
    assert (row["height"], row["width"]) == picture.shape[:2]
    assert row["bytes"] == len(data)
    assert row["bpp"] == 8 * len(data) / (row["height"] * row["width"])
    assert row["estimated_bpp"] == (8 + picture.size) / (row["height"] * row["width"])
    assert row["psnr_rgb"] == pytest.approx(48.1308, abs=1e-4), "of MSE 1"
    for name, value in metrics.measures(picture, picture ^ 1).items():
      np.testing.assert_equal(row[name], value)
  assert [math.isnan(row["ms_ssim"]) for row in rows] == [False, True, True]


def test_decoding_reads_the_file_on_disk(photos, tmp_path, monkeypatch):
  def write_other(path, data):
    with open(path, "wb") as file:
      file.write(KnownModel(loss=2).compress(images.read_image(photos[0])))

  monkeypatch.setattr(images, "write_bytes", write_other)
  row = evaluate.evaluate(KnownModel(loss=1), photos[:1], str(tmp_path)).rows[0]
  assert row["psnr_rgb"] == pytest.approx(10 * math.log10(255**2 / 4))


def test_the_first_call_is_not_timed(photos, tmp_path, monkeypatch):
  model = KnownModel()
  monkeypatch.setattr(evaluate.time, "perf_counter", lambda: model.clock)
  rows = evaluate.evaluate(model, photos, str(tmp_path)).rows
  assert [(row["encode_s"], row["decode_s"]) for row in rows] == [(2.0, 3.0)] * 3


def test_anchors_are_measured_at_the_bytes_of_the_file(tmp_path):
  ramp = np.add.outer(np.arange(96), np.arange(96)).astype(np.uint8)
  picture = np.stack([ramp, ramp // 2, 255 - ramp], -1)
  row = evaluate.evaluate_picture(KnownModel(), picture, str(tmp_path / "f.kvc"), ["jpeg"])
  expected = anchors.psnr_at_bytes(anchors.jpeg, picture, row["bytes"])
  assert math.isfinite(expected)
  assert row["psnr_jpeg"] == expected
  assert "psnr_webp" not in row


def test_a_side_too_long_for_an_anchor_leaves_its_psnr_out(tmp_path):
  picture = np.zeros((1, 16384, 3), np.uint8)
  row = evaluate.evaluate_picture(KnownModel(), picture, str(tmp_path / "f.kvc"), ["webp"])
  assert math.isnan(row["psnr_webp"])


def test_pictures_that_fail_are_named_and_the_others_reported(failing, tmp_path):
  evaluation = evaluate.evaluate(KnownModel(), failing, str(tmp_path))
  assert [row["name"] for row in evaluation.rows] == ["a", "b/grey", "c"]
  assert [failure.path for failure in evaluation.failures] == [failing[0], failing[-1]]
  assert evaluation.failures[1].reason == f"{failing[-1]}: cannot code 66"
  with pytest.raises(
    evaluate.EvaluationError, match=r"2 of 5 pictures left out, expected none: .*_\.png, .*z\.png; "
  ):
    evaluate.check_complete(evaluation)


def test_running_out_of_memory_leaves_one_picture_out(photos, tmp_path, monkeypatch):
  model = KnownModel()
  monkeypatch.setattr(model, "estimate", lambda picture: bytes(2**62))
  evaluation = evaluate.evaluate(model, photos[:1], str(tmp_path))
  assert evaluation.rows == []
  assert evaluation.failures[0].reason.startswith(f"{photos[0]}: out of memory")


def test_a_complete_evaluation_passes(photos, tmp_path):
  evaluate.check_complete(evaluate.evaluate(KnownModel(), photos, str(tmp_path)))


def test_run_writes_results_and_keeps_files_only_if_asked(photos, tmp_path, monkeypatch):
  monkeypatch.setattr(evaluate.model_files, "load", lambda name, precision: KnownModel(loss=1))
  for keep in (False, True):
    output = tmp_path / f"output_{keep}"
    evaluation = evaluate.run("known", str(tmp_path / "photos"), str(output), keep_files=keep)
    found = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
    kept = {"files/a.kvc", "files/b/grey.kvc", "files/c.kvc"} if keep else set()
    assert found == {"results.csv", "results.json"} | kept
  content = json.loads((output / "results.json").read_text())
  assert (content["model"], content["fingerprint"]) == ("known", "0000000000000000")
  assert content["description"] == {"codec": "known"}
  assert content["environment"]["tensorflow"] == evaluate.tf.__version__
  assert content["environment"]["cpu"]
  assert (output / "results.csv").read_text() == evaluate.to_csv(evaluation.rows)


def test_a_run_without_a_single_good_picture_is_an_error(failing, tmp_path, monkeypatch):
  monkeypatch.setattr(evaluate.model_files, "load", lambda name, precision: KnownModel())
  with pytest.raises(
    evaluate.EvaluationError, match=r"none of 1 pictures was evaluated, .*the first: .*_\.png"
  ):
    evaluate.run("known", failing[0], str(tmp_path / "output"))
  assert not os.listdir(tmp_path / "output")


def test_an_unknown_anchor_is_refused_before_anything_is_done(photos, tmp_path):
  with pytest.raises(
    evaluate.EvaluationError, match=r"no anchor is called 'gif'; expected some of jpeg, webp; write"
  ):
    evaluate.run("absent", photos[0], str(tmp_path / "output"), anchor_names=["gif"])
  assert not os.path.exists(tmp_path / "output")


@settings(deadline=None)
@given(st.lists(st.floats(0, 100) | st.just(math.nan), min_size=1))
def test_the_mean_leaves_nan_out_and_counts_the_rest(values):
  means, counts = evaluate.mean([{"name": "x", "psnr_jpeg": value} for value in values])
  assert counts == {"psnr_jpeg": np.count_nonzero(~np.isnan(values))}
  expected = np.nanmean(values) if counts["psnr_jpeg"] else math.nan
  assert means["psnr_jpeg"] == pytest.approx(expected, nan_ok=True)


ROWS = [
  {"name": "a", "bytes": 100, "psnr_rgb": 30.0, "ms_ssim": math.nan, "psnr_jpeg": 29.0},
  {"name": "long name", "bytes": 201, "psnr_rgb": math.inf, "ms_ssim": 0.9, "psnr_jpeg": math.nan},
]


def test_the_table_aligns_columns_and_tells_what_means_leave_out():
  assert evaluate.table(ROWS).splitlines() == [
    "name       bytes  psnr_rgb  ms_ssim  psnr_jpeg",
    "----------------------------------------------",
    "a            100     30.00      nan      29.00",
    "long name    201       inf   0.9000        nan",
    "----------------------------------------------",
    "mean         150       inf   0.9000      29.00",
    "ms_ssim: mean of 1 of 2 pictures",
    "psnr_jpeg: mean of 1 of 2 pictures, on which psnr_rgb is 30.00",
  ]


def test_csv_ends_in_the_mean():
  rows = list(csv.DictReader(io.StringIO(evaluate.to_csv(ROWS))))
  assert [row["name"] for row in rows] == ["a", "long name", "mean"]
  assert [float(row["bytes"]) for row in rows] == [100, 201, 150.5]
  assert math.isnan(float(rows[0]["ms_ssim"])) and math.isinf(float(rows[1]["psnr_rgb"]))


def test_json_is_strict_with_null_for_nan_and_a_word_for_infinity():
  failure = evaluate.Failure("bad.png", "cut short")
  text = evaluate.to_json(evaluate.Evaluation(ROWS, [failure]), {"model": "m"})
  content = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
  assert content["model"] == "m"
  assert content["pictures"][0]["ms_ssim"] is None
  assert content["mean"]["psnr_rgb"] == "inf"
  assert content["pictures_in_mean"]["psnr_jpeg"] == 1
  assert content["left_out"] == [{"path": "bad.png", "reason": "cut short"}]


@settings(deadline=None)
@given(st.sets(st.from_regex(r"([ab]/)?[xy](\.[pq])?\.(png|jpg)", fullmatch=True), min_size=1))
def test_names_differ_and_end_the_paths(paths):
  paths = sorted(paths)
  names = evaluate.names(paths)
  assert len(set(names)) == len(paths)
  assert all(os.path.splitext(p)[0].endswith(n) or p.endswith(n) for n, p in zip(names, paths))
