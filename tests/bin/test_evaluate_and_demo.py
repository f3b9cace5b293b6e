"""bin/evaluate.py, bin/probe.py and bin/demo.py as a person starts them, on a tiny model."""

from __future__ import annotations

import csv
import json
import os
import pathlib
import re
import subprocess
import sys
import zlib

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from khuvcm_tf import bitstream, codecs, model_files
from khuvcm_tf.data import images, sample_photos
from khuvcm_tf.evaluation import anchors, demo, demo_picture, metrics, probe

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = sorted((ROOT / "tests" / "golden").glob("container_*.kvc"))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
  """A folder with a shipped model called tiny."""
  folder = tmp_path_factory.mktemp("models")
  arguments = {"num_filters": 8, "latent_depth": 12}
  tf.keras.utils.set_random_seed(1)
  codec = codecs.create("mbt2018_mean", **arguments)
  pictures = [np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)]
  description = {"codec": "mbt2018_mean", "arguments": arguments}
  model_files.save(str(folder / "tiny"), codec, description, pictures)
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
      timeout=300,
      env={**os.environ, "PYTHONPATH": str(ROOT), "KHUVCM_MODELS": str(models)},
    )
    return process.returncode, process.stdout, process.stderr

  return run_


def test_evaluate_measures_real_files_and_exits_with_1_for_a_broken_picture(run, photo, tmp_path):
  pictures, output = tmp_path / "pictures", tmp_path / "output"
  pictures.mkdir()
  images.write_image(str(pictures / "cat.png"), photo)
  (pictures / "broken.png").write_bytes((pictures / "cat.png").read_bytes()[:2000])

  code, out, err = run(
    "evaluate.py",
    "--model=tiny",
    f"--images={pictures}/*.png",
    f"--output={output}",
    "--anchors=webp",
    "--keep_files",
  )

  assert code == 1
  assert re.search(r"^warning: left out: \S+broken\.png: damaged or cut short", err, re.M)
  assert re.search(
    r"^evaluate\.py: error: 1 of 2 pictures left out, .*broken\.png; .*\n\Z", err, re.M
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
  assert "psnr_webp" in content["pictures"][0]


def test_probe_says_header_and_sizes_in_words(models, photo, tmp_path, monkeypatch):
  monkeypatch.setenv("KHUVCM_MODELS", str(models))
  data = model_files.load(str(models / "tiny")).compress(photo)
  kvc = tmp_path / "cat.kvc"
  kvc.write_bytes(data)
  header, (z, y) = bitstream.parse(data)

  assert probe.text(probe.describe(str(kvc))).splitlines() == [
    str(kvc),
    "  format      KVC version 1",
    "  picture     200x180 pixels, RGB, 8 bits",
    f"  model       tiny (fingerprint {header.fingerprint.hex()})",
    f"  size        {len(data)} bytes, {8 * len(data) / (180 * 200):.4f} bits per pixel",
    f"  substreams  2, of {len(z)} + {len(y)} bytes",
    f"  overhead    {len(data) - len(z) - len(y)} bytes: header, lengths, checksum",
  ]


def test_probe_describes_good_files_and_names_damaged_ones_in_one_line(run, tmp_path):
  damaged = tmp_path / "damaged.kvc"
  damaged.write_bytes(GOLDEN[1].read_bytes()[:-1])
  code, out, err = run("probe.py", "--json", *GOLDEN, damaged, "absent.kvc")
  assert code == 1
  descriptions = json.loads(out)
  assert [d["file"] for d in descriptions] == [str(path) for path in GOLDEN]
  assert descriptions[1]["fingerprint"] == "0123456789abcdef"
  assert descriptions[1]["model"] is None
  assert descriptions[1]["substream_bytes"] == [4, 7]
  assert descriptions[1]["overhead_bytes"] == 25
  assert re.fullmatch(
    r"probe\.py: error: 2 of \d+ files are not whole: \S*damaged\.kvc: the file is (cut|damaged)"
    r".*; copy it again from its source; absent\.kvc: cannot be read: No such file .*; expected .*"
    r"\n",
    err,
  )


def test_one_damaged_file_is_told_without_a_count(tmp_path):
  path = tmp_path / "x.kvc"
  path.write_bytes(b"KVC")
  _, failures = probe.describe_all([str(path)])
  with pytest.raises(probe.ProbeError, match=rf"^{re.escape(str(path))}: the file is too short"):
    probe.check_complete([path], failures)


@st.composite
def files(draw):
  """A golden file with bytes exchanged, cut or added, mostly with a checksum that is right."""
  body = bytearray(draw(st.sampled_from(GOLDEN)).read_bytes()[:-4])
  for _ in range(draw(st.integers(0, 3))):
    place = draw(st.integers(0, min(40, len(body) - 1)))
    body[place] = draw(st.integers(0, 255) | st.sampled_from([0, 1, 2, 16, 17, 127, 128, 255]))
  body = bytes(body[: draw(st.just(len(body)) | st.integers(0, len(body)))])
  body += draw(st.binary(max_size=4))
  return body + draw(st.just(zlib.crc32(body).to_bytes(4, "little")) | st.binary(max_size=4))


@settings(deadline=None)  # the first call traces
@given(files())
def test_the_plain_reader_takes_and_refuses_what_bitstream_does(data):
  try:
    header, substreams = bitstream.parse(data, max_pixels=65535**2)
    expected = probe.Contents(*header, [len(substream) for substream in substreams])
  except bitstream.BitstreamError:
    expected = None
  assert probe.parse_plainly(data) == expected


def test_a_file_that_only_bitstream_can_read_is_described_all_the_same(monkeypatch):
  expected = [probe.describe(str(path)) for path in GOLDEN]
  monkeypatch.setattr(probe, "parse_plainly", lambda data: None)
  assert [probe.describe(str(path)) for path in GOLDEN] == expected


def test_shipped_names_are_those_of_model_files(models, monkeypatch):
  monkeypatch.setenv("KHUVCM_MODELS", str(models))
  fingerprint = model_files.read_fingerprint(str(models / "tiny"))
  assert probe.shipped_name(fingerprint) == "tiny" == model_files.find_by_fingerprint(fingerprint)
  assert probe.shipped_name(bytes(8)) is None is model_files.find_by_fingerprint(bytes(8))


def test_the_demo_draws_what_a_second_process_decoded(run, models, tmp_path):
  output = tmp_path / "demo"
  child = pathlib.Path(__file__).with_name("demo_in_child.py")
  code, out, err = run(child, "--model=tiny", f"--output={output}")
  assert (code, err) == (0, "")
  lines = out.splitlines()
  page = output / "report" / "report.html"
  assert lines[-1] == f"see {output / 'demo.png'} and {page}"
  assert all(f">{name}" in page.read_text(encoding="utf-8") for name in ("tiny", "jpeg", "webp"))
  results = json.loads((output / "report" / "results.json").read_text(encoding="utf-8"))
  assert len(results["rows"]) == 4 * (1 + 6 + 6)
  model = model_files.load(str(models / "tiny"))
  for name, photo in sample_photos.load().items():
    photo = photo[: demo_picture.CROP, : demo_picture.CROP]
    data = (output / "kvc" / f"{name}.kvc").read_bytes()
    decoded = images.read_image(str(output / "decoded" / f"{name}.png"))
    np.testing.assert_array_equal(decoded, model.decompress(data))
    row = next(line for line in lines if line.startswith(name)).split()
    assert row[1:3] == ["Ours", str(len(data))]
    assert float(row[4]) == pytest.approx(metrics.psnr(photo, decoded), abs=0.006)
  width, height = Image.open(output / "demo.png").size
  assert width > 4 * 2 * demo_picture.CROP and height > 4 * 2 * demo_picture.CROP


def test_crops_lie_inside_their_photos():
  for name, photo in sample_photos.load().items():
    left, top = demo.CROPS[name]
    assert 0 <= left <= photo.shape[1] - demo_picture.CROP
    assert 0 <= top <= photo.shape[0] - demo_picture.CROP


def test_a_sheet_shows_each_pixel_of_a_crop_as_a_square_of_four():
  rng = np.random.default_rng(0)
  photo = rng.integers(0, 256, (200, 300, 3), np.uint8)
  row = demo_picture.Row(photo, (70, 5), [(photo, ["a", "b"])], ["c", "d"])
  sheet = demo_picture.draw("title", [row])
  side = 2 * demo_picture.CROP
  crop = photo[5 : 5 + demo_picture.CROP, 70 : 70 + demo_picture.CROP]
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


def test_a_second_process_that_fails_is_told_with_its_last_line(tmp_path):
  program = tmp_path / "decompress.py"
  program.write_text("import sys; sys.exit('first line\\nlast line')")
  with pytest.raises(
    demo.DemoError, match=r"ended with 1, expected 0; it said: last line; run it by hand: .*python"
  ):
    demo.decompress_elsewhere("tiny", str(tmp_path), str(program))
