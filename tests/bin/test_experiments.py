"""The experiments' programs as a person starts them, with a tiny detector of random weights."""

from __future__ import annotations

import json

import numpy as np
import pytest

from detection import detector_files
from khuvcm_tf.data import image_files

_NAMES = ("disc", "square", "star")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, tiny_detector):
  """Flags of a detector and a data set of two images."""
  folder = tmp_path_factory.mktemp("inputs")
  detector_files.save(str(folder / "tiny"), tiny_detector, _NAMES, {})
  images, annotations = [], []
  for number in (1, 2):
    pixels = np.random.default_rng(number).integers(0, 256, (64, 96, 3), np.uint8)
    image_files.write_image(str(folder / f"{number}.png"), pixels)
    images.append({"id": number, "file_name": f"{number}.png", "height": 64, "width": 96})
    annotations.append({"image_id": number, "category_id": number, "bbox": [8, 8, 40, 30]})
  categories = [{"id": number, "name": name} for number, name in enumerate(_NAMES, 1)]
  content = {"images": images, "annotations": annotations, "categories": categories}
  (folder / "annotations.json").write_text(json.dumps(content))
  return [
    f"--detector={folder}/tiny",
    f"--annotations={folder}/annotations.json",
    f"--images={folder}",
    "--draws=20",
  ]


def test_rules_are_evaluated_and_reported(run_program, inputs, tmp_path):
  rules = "--rules=p2=p3:up, p6=p5:pick; p4=0.5*p3:down+0.5*p5:up"
  code, out, err = run_program(
    "reconstruct_features.py", *inputs, rules, "--output=results", cwd=tmp_path
  )
  assert code == 0, err
  lines = out.splitlines()
  assert [line.split("  ")[0] for line in lines[2:5]] == [
    "none",
    "p2=p3:up, p6=p5:pick",
    "p4=0.5*p3:down+0.5*p5:up",
  ]
  assert lines[-1].startswith("written to results/report.html")
  rows = json.loads((tmp_path / "results" / "results.json").read_text())["rows"]
  assert [row["rule"] for row in rows] == ["none", *(r.strip() for r in rules[8:].split(";"))]
  assert (tmp_path / "results" / "report.html").stat().st_size > 20_000


def test_what_cannot_be_done_is_said_in_a_line(run_together, inputs, tmp_path):
  wanted = {
    ("reconstruct_features.py", "--rules=p2=p3:sideways"): "found 'p3:sideways' for p2, expected",
    ("combine_features.py", "--sets=p2+p9"): "found the levels 'p2+p9', expected such as p2+p3",
    ("degrade_features.py", "--levels="): "found no --levels, expected some",
    ("find_key_maps.py", "--search_images=2"): "found 2 images, 2 of them to search with",
  }
  ends = run_together(
    *([program, *inputs, flag, f"--output={tmp_path}/r"] for program, flag in wanted)
  )
  for (code, out, err), message in zip(ends, wanted.values()):
    assert code == 1 and out == "" and message in err.strip().splitlines()[-1], err
