"""bin/evaluate.py and bin/demo.py as a person starts them, on a tiny model."""

from __future__ import annotations

import csv
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from khuvcm_tf import codecs, model_files, model_folders
from khuvcm_tf.data import image_files, sample_photos
from khuvcm_tf.evaluation import anchors, demo, demo_sheet, metrics
from khuvcm_tf.evaluation.options import DemoOptions

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
  """A folder of shipped models: tiny, of one rate, and the default, of several."""
  folder = tmp_path_factory.mktemp("models")
  images = [np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)]
  for name, codec_name, more in (
    ("tiny", "mbt2018_mean", {}),
    (model_folders.DEFAULT, "bmshj2018_factorized", {"num_qualities": 3}),
  ):
    arguments = {"num_filters": 8, "latent_depth": 12, **more}
    tf.keras.utils.set_random_seed(1)
    codec = codecs.create(codec_name, **arguments)
    description = {"codec": codec_name, "arguments": arguments}
    model_files.save(str(folder / name), codec, description, images)
  return folder


@pytest.fixture(scope="module")
def photo():
  return sample_photos.load()["chelsea"][:180, :200]


@pytest.fixture
def run(models):
  """Runs a program of bin/; returns its exit code, stdout and stderr."""

  def run_(name: str, *arguments: object) -> tuple[int, str, str]:
    process = subprocess.run(
      [sys.executable, str(ROOT / "bin" / name), *map(str, arguments)],
      capture_output=True,
      text=True,
      timeout=1800,
      env={**os.environ, "PYTHONPATH": str(ROOT), "KHUVCM_MODELS": str(models)},
    )
    return process.returncode, process.stdout, process.stderr

  return run_


def test_evaluate_measures_real_files_and_exits_with_1_for_a_broken_image(run, photo, tmp_path):
  images, output = tmp_path / "images", tmp_path / "output"
  images.mkdir()
  image_files.write_image(str(images / "cat.png"), photo)
  (images / "broken.png").write_bytes((images / "cat.png").read_bytes()[:2000])

  code, out, err = run(
    "evaluate.py",
    "--model=tiny",
    f"--images={images}/*.png",
    f"--output={output}",
    "--anchors=webp",
    "--keep_files",
  )

  assert code == 1
  assert re.search(r"^warning: left out: \S+broken\.png: damaged or cut short", err, re.M)
  assert re.search(
    r"^evaluate\.py: error: 1 of 2 images left out, .*broken\.png; .*\n\Z", err, re.M
  )
  assert [line.split()[0] for line in out.splitlines()[2:5:2]] == ["cat", "mean"]
  rows = list(csv.DictReader((output / "results.csv").open()))
  assert [row["name"] for row in rows] == ["cat", "mean"]
  size = (output / "files" / "cat.kvc").stat().st_size
  assert int(rows[0]["bytes"]) == size
  assert float(rows[0]["bpp"]) == 8 * size / (180 * 200)
  assert 0 < float(rows[0]["estimated_bpp"]) <= float(rows[0]["bpp"])
  content = json.loads((output / "results.json").read_text())
  assert content["description"]["codec"] == "mbt2018_mean"
  assert "psnr_webp" in content["images"][0]


def test_the_demo_draws_what_a_second_process_decoded(run, models, tmp_path):
  output = tmp_path / "demo"
  child = pathlib.Path(__file__).with_name("demo_in_child.py")
  code, out, err = run(child, f"--output={output}")
  assert (code, err) == (0, "")
  lines = out.splitlines()
  page = output / "report" / "report.html"
  assert lines[-1] == f"see {output / 'demo.png'} and {page}"
  names = (model_folders.DEFAULT, "jpeg", "webp")
  assert all(f'"name":"{name}"' in page.read_text(encoding="utf-8") for name in names)
  results = json.loads((output / "report" / "results.json").read_text(encoding="utf-8"))
  assert len(results["rows"]) == 2 * (5 + 6 + 6)
  model = model_files.load(str(models / model_folders.DEFAULT))
  for name, photo in list(sample_photos.load().items())[:2]:
    photo = photo[: demo_sheet.CROP, : demo_sheet.CROP]
    data = (output / "kvc" / f"{name}.kvc").read_bytes()
    decoded = image_files.read_image(str(output / "decoded" / f"{name}.png"))
    np.testing.assert_array_equal(decoded, model.decompress(data))
    row = next(line for line in lines if line.startswith(name)).split()
    assert row[1:3] == ["Ours", str(len(data))]
    assert float(row[4]) == pytest.approx(metrics.psnr(photo, decoded), abs=0.006)
  width, height = Image.open(output / "demo.png").size
  # For each photo, itself and crops of the original, ours and JPEG at twice the size.
  assert width > 4 * 2 * demo_sheet.CROP and height > 2 * 2 * demo_sheet.CROP


@pytest.mark.parametrize(
  "name, curve",
  [("tiny", "tiny"), (model_folders.DEFAULT, f"{model_folders.DEFAULT}@10,30,50,70,90")],
)
def test_the_report_of_the_demo_has_a_curve_of_a_model_of_several_rates(
  models, photo, tmp_path, monkeypatch, name, curve
):
  class Compared(Exception):
    """Ends the demonstration where its report would begin."""

  def decompress(model, output, program):
    data = (tmp_path / "kvc" / "chelsea.kvc").read_bytes()
    (tmp_path / "decoded").mkdir(exist_ok=True)
    decoded = model_files.load(model).decompress(data)
    image_files.write_image(str(tmp_path / "decoded" / "chelsea.png"), decoded)

  def compare(options):
    raise Compared(options.models)

  monkeypatch.setenv("KHUVCM_MODELS", str(models))
  monkeypatch.setattr(demo.sample_photos, "load", lambda: {"chelsea": photo})
  monkeypatch.setattr(demo, "CROPS", {"chelsea": (0, 0)})
  monkeypatch.setattr(demo, "decompress_elsewhere", decompress)
  monkeypatch.setattr(demo.rate_distortion, "run", compare)
  with pytest.raises(Compared) as found:
    demo.run(DemoOptions(model=name, output=str(tmp_path)), "")
  assert found.value.args == ((curve,),)


def test_crops_lie_inside_their_photos():
  for name, photo in sample_photos.load().items():
    left, top = demo.CROPS[name]
    assert 0 <= left <= photo.shape[1] - demo_sheet.CROP
    assert 0 <= top <= photo.shape[0] - demo_sheet.CROP


def test_a_sheet_shows_each_pixel_of_a_crop_as_a_square_of_four():
  rng = np.random.default_rng(0)
  photo = rng.integers(0, 256, (200, 300, 3), np.uint8)
  row = demo_sheet.Row(photo, (70, 5), [(photo, ["a", "b"])], ["c", "d"])
  sheet = demo_sheet.draw("title", [row])
  side = 2 * demo_sheet.CROP
  crop = photo[5 : 5 + demo_sheet.CROP, 70 : 70 + demo_sheet.CROP]
  enlarged = crop.repeat(2, axis=0).repeat(2, axis=1)
  starts = np.argwhere((sheet == enlarged[0, 0]).all(-1))
  assert any(
    np.array_equal(sheet[y : y + side, x : x + side], enlarged) for y, x in starts.tolist()
  )


def test_the_demo_table_marks_an_anchor_that_cannot_be_as_small(photo):
  ours, jpeg = demo.Coded("Ours", 100, photo), demo.Coded("JPEG", 150, photo)
  webp = demo.Coded("WebP", 99, photo)
  text = demo.table([demo.Shown("cat", photo, [ours, jpeg, webp])])
  marked = [line.split()[0] for line in text.splitlines() if line.endswith(" *")]
  assert marked == ["JPEG"]
  assert text.endswith("* its lowest quality: it has no file as small as ours")
  assert anchors.at_bytes(anchors.jpeg, photo, 100).quality == anchors.LOWEST_QUALITY


def test_a_second_process_that_fails_is_an_error_with_its_last_line(tmp_path):
  program = tmp_path / "decompress.py"
  program.write_text("import sys; sys.exit('first line\\nlast line')")
  with pytest.raises(
    demo.DemoError,
    match=r"ended with 1, expected 0; it printed: last line; start it yourself: .*python",
  ):
    demo.decompress_elsewhere("tiny", str(tmp_path), str(program))
