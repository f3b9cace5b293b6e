"""Descriptions of .kvc files, and bin/probe.py as a person starts it."""

from __future__ import annotations

import json
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from khuvcm_tf import bitstream, model_folders, probe

ROOT = pathlib.Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"
CONTAINERS = sorted(GOLDEN.glob("container_*.kvc"))


@pytest.fixture
def models(tmp_path, monkeypatch):
  """A folder with a shipped model called tiny, and one whose fingerprint is damaged."""
  folder = tmp_path / "models"
  shutil.copytree(GOLDEN / "mbt2018_mean" / "model", folder / "tiny")
  shutil.copytree(folder / "tiny", folder / "damaged")
  (folder / "damaged" / "fingerprint").write_text("no number")
  monkeypatch.setenv("KHUVCM_MODELS", str(folder))
  return folder


def test_a_description_lists_header_model_and_sizes(models):
  path = GOLDEN / "mbt2018_mean" / "photo.kvc"
  data = path.read_bytes()
  header, (z, y) = bitstream.parse(data)
  fingerprint = (models / "tiny" / "fingerprint").read_text().strip()

  assert probe.text(probe.describe(str(path))).splitlines() == [
    str(path),
    "  format      KVC version 1",
    "  image       128x96 pixels, RGB, 8 bits",
    f"  model       tiny (fingerprint {fingerprint})",
    f"  size        {len(data)} bytes, {8 * len(data) / (128 * 96):.4f} bits per pixel",
    f"  substreams  2, of {len(z)} + {len(y)} bytes",
    f"  overhead    {len(data) - len(z) - len(y)} bytes: header, lengths, checksum",
  ]


def test_a_model_that_is_not_shipped_has_no_name(models):
  assert model_folders.find_by_fingerprint(bytes(8)) is None
  described = probe.describe(str(GOLDEN / "container_grey_smallest.kvc"))
  assert described["model"] is None
  assert "model       none of the shipped ones (fingerprint 0000000000000000)" in probe.text(
    described
  )


def test_the_quality_of_version_2_is_described():
  described = probe.describe(str(GOLDEN / "container_rgb_quality.kvc"))
  assert described["format_version"] == 2
  assert described["quality"] == pytest.approx(200 / 2.55)
  assert "(fingerprint 0123456789abcdef), quality 78.4\n" in probe.text(described)
  assert probe.describe(str(GOLDEN / "container_rgb.kvc"))["quality"] is None


def test_images_of_any_size_are_described():
  path = GOLDEN / "container_ycbcr444_10_bits.kvc"
  assert probe.describe(str(path))["height"] == 65535


def test_features_are_described_by_the_pixels_of_their_image():
  path = GOLDEN / "container_features.kvc"
  described = probe.describe(str(path))
  assert described["input_format"] == "feature maps" and described["format_version"] == 3
  assert described["bpp"] == 8 * path.stat().st_size / (427 * 640)


def test_the_program_describes_good_files_and_names_damaged_ones_in_one_line(run_program, tmp_path):
  damaged = tmp_path / "damaged.kvc"
  of_rgb = CONTAINERS.index(GOLDEN / "container_rgb.kvc")
  damaged.write_bytes(CONTAINERS[of_rgb].read_bytes()[:-1])
  code, out, err = run_program(
    "probe.py", "--json", *map(str, CONTAINERS), str(damaged), "absent.kvc", cwd=tmp_path
  )
  assert code == 1
  descriptions = json.loads(out)
  assert [d["file"] for d in descriptions] == [str(path) for path in CONTAINERS]
  assert descriptions[of_rgb]["fingerprint"] == "0123456789abcdef"
  assert descriptions[of_rgb]["model"] is None
  assert descriptions[of_rgb]["substream_bytes"] == [4, 7]
  assert descriptions[of_rgb]["overhead_bytes"] == 25
  assert re.fullmatch(
    r"probe\.py: error: 2 of \d+ files are not whole: \S*damaged\.kvc: the file is (cut|damaged)"
    r".*; copy it again from its source; absent\.kvc: cannot be read: No such file .*; expected .*"
    r"\n",
    err,
  )


def test_one_damaged_file_is_named_without_a_count(tmp_path):
  path = tmp_path / "x.kvc"
  path.write_bytes(b"KVC")
  _, failures = probe.describe_all([str(path)])
  with pytest.raises(probe.ProbeError, match=rf"^{re.escape(str(path))}: the file is too short"):
    probe.check_complete([path], failures)


@pytest.mark.parametrize("module", ["probe", "model_folders", "bitstream", "options", "program"])
def test_modules_of_programs_import_no_tensorflow(module):
  command = f"import sys, khuvcm_tf.{module}; print('tensorflow' in sys.modules)"
  out = subprocess.check_output([sys.executable, "-c", command], cwd=ROOT, text=True)
  assert out == "False\n"
