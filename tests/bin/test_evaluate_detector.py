"""bin/evaluate_detector.py as a person starts it, with a tiny detector of random weights."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import tensorflow as tf

from detection import detector_files
from detection.config import Config
from detection.detector import Detector
from khuvcm_tf.data import image_files

_SIZES = [(60, 80), (70, 50), (64, 64)]  # height and width of images 1, 2, 3


@pytest.fixture(scope="module")
def detector(tmp_path_factory) -> str:
  """The folder of a detector of persons and dogs, boxes and masks."""
  config = Config(
    "resnet18",
    width=8,
    masks=True,
    num_classes=2,
    fpn_channels=8,
    box_fc_channels=16,
    mask_channels=8,
    rpn_top_k=20,
    num_proposals=20,
    max_detections=5,
    min_score=0.0,
    short_side=64,
    max_side=100,
  )
  tf.keras.utils.set_random_seed(1)
  folder = str(tmp_path_factory.mktemp("detectors") / "tiny")
  detector_files.save(folder, Detector(config), ("person", "dog"), {})
  return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
  """Three images with a person each, and annotations of persons and cars with masks."""
  folder = tmp_path_factory.mktemp("images")
  content = {
    "images": [],
    "annotations": [],
    "categories": [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}],
  }
  for number, (height, width) in enumerate(_SIZES, 1):
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
    image_files.write_image(str(folder / f"{number}.png"), pixels)
    content["images"].append(
      {"id": number, "file_name": f"{number}.png", "height": height, "width": width}
    )
    content["annotations"].append(
      {
        "image_id": number,
        "category_id": 1,
        "bbox": [10, 10, 30, 40],
        "segmentation": [[10, 10, 40, 10, 40, 50]],
      }
    )
  (folder / "instances.json").write_text(json.dumps(content))
  return folder


@pytest.fixture(scope="module")
def evaluated(run_program, detector, images, tmp_path_factory):
  """The folder of results, and the process's exit code, stdout and stderr."""
  output = tmp_path_factory.mktemp("output")
  return output, run_program(
    "evaluate_detector.py",
    f"--detector={detector}",
    f"--annotations={images}/instances.json",
    f"--images={images}",
    f"--output={output}",
    "--supercategories",
    cwd=output,
  )


def test_evaluate_detector_prints_a_table_and_writes_results(evaluated, detector):
  output, (code, out, err) = evaluated
  assert code == 0, err
  lines = out.splitlines()
  assert lines[0].split()[:3] == ["AP", "AP50", "AP75"]
  assert [line.split()[0] for line in lines[2:4]] == ["boxes", "masks"]
  assert lines[4:6] == ["", "by super-category:"]
  assert lines[8:10] == lines[2:4]  # person is the one category of its own
  assert lines[10:] == [
    "evaluated on 1 of the data set's 2 categories: the detector does not know car",
    f"written to {output}/results.json and detections.json",
  ]
  written = json.loads((output / "results.json").read_text())
  assert written["images"] == 3 and written["detector"] == detector
  assert written["fingerprint"] == detector_files.load(detector)[2]
  assert {"ap", "mask_ap", "apm", "categories"} <= set(written)
  assert written["supercategories"]["categories"]["person"]["ap"] == written["ap"]
  found = json.loads((output / "detections.json").read_text())
  assert {each["image_id"] for each in found} == {1, 2, 3}
  for each in found:
    (height, width), (x, y, w, h) = _SIZES[each["image_id"] - 1], each["bbox"]
    assert 0 <= x <= x + w <= width + 1e-3 and 0 <= y <= y + h <= height + 1e-3
    assert each["segmentation"]["size"] == [height, width] and each["category_id"] == 1


def test_errors_are_one_line_and_a_run_goes_on(evaluated, run_together, detector, images, tmp_path):
  output = evaluated[0]
  for number in (1, 2, 3):
    data = (images / f"{number}.png").read_bytes()
    (tmp_path / f"{number}.png").write_bytes(data[: 4000 if number == 2 else None])
  start = ["evaluate_detector.py", f"--output={output}"]
  detector, annotations = f"--detector={detector}", f"--annotations={images}/instances.json"
  ends = run_together(
    [*start, detector],
    [*start, detector, annotations, f"--images={tmp_path / 'none'}"],
    [*start, "--detector=nosuch", annotations, f"--images={images}"],
    [*start, detector, annotations, f"--images={tmp_path}"],
  )
  messages = (
    r"found none of --dataset and --annotations with --images, expected one of them",
    r"instances\.json: 3 of 3 images are not in \S+, expected all; the first: 1\.png; give",
    r"no detector at 'nosuch', expected a detector's folder",
    r"1 of 3 images left out, expected none: 2\.png; the numbers are those of the others",
  )
  for (code, _, err), message in zip(ends, messages):
    assert code == 1
    assert re.search(rf"^evaluate_detector\.py: error: .*{message}.*\n\Z", err, re.M), err
  _, out, err = ends[3]
  assert "notice: 2 of 3 images were detected before" in err and "warning: left out: " in err
  assert [line.split()[0] for line in out.splitlines()[2:4]] == ["boxes", "masks"]
