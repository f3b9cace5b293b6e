"""bin/detect.py, bin/extract_features.py and bin/export_detector.py as a person starts them.

What they take and where it goes is tested without processes in tests/detection.
"""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import skimage.data
from PIL import Image

from detection import detector_files
from khuvcm_tf.data import image_files

_CATEGORIES = ("cat", "dog", "cup")


@pytest.fixture(scope="module")
def here(tmp_path_factory, tiny_detector):
  """A folder with a detector in tiny/, and photos/ of which one is broken."""
  folder = tmp_path_factory.mktemp("here")
  detector_files.save(str(folder / "tiny"), tiny_detector, _CATEGORIES, {})
  photo = skimage.data.astronaut()
  (folder / "photos" / "sub").mkdir(parents=True)
  (folder / "empty").mkdir()
  Image.fromarray(photo[:300:2, :400:2]).save(folder / "photos" / "a.jpg")
  image_files.write_image(str(folder / "photos" / "pixel.png"), photo[:1, :1])
  image_files.write_image(str(folder / "photos" / "sub" / "a.png"), photo[:20, :500, :1])
  (folder / "photos" / "broken.jpg").write_bytes(b"\xff\xd8 no photo")
  return folder


@pytest.fixture(scope="module")
def ends(run_together, here):
  """Exit code, stdout and stderr of each command below, run in this order."""
  tiny, score = "--detector=tiny", "--min_score=0.3"
  extract = ["extract_features.py", tiny, "--input=photos", "--output=npz"]
  commands = {
    "detect": ["detect.py", tiny, "--input=photos", "--output=out", score],
    "extract": extract,
    "again": extract,
    "features": ["detect.py", tiny, "--features=npz", "--output=again", score],
    "exists": ["detect.py", tiny, "--input=photos", "--output=out"],
    "empty": ["detect.py", tiny, "--input=empty", "--output=new"],
    "unknown": ["detect.py", "--detector=huge", "--input=photos", "--output=new"],
    "unwritable": ["detect.py", tiny, "--input=photos", "--output=photos/a.jpg/new"],
    "in use": ["export_detector.py", tiny, "--output=photos"],
  }
  return dict(zip(commands, run_together(*commands.values(), cwd=here)))


def _images(here, output: str) -> list[dict]:
  return json.loads((here / output / "detections.json").read_text())["images"]


def test_detect_draws_and_lists_all_photos_but_a_broken_one_which_it_names(ends, here):
  code, out, err = ends["detect"]
  assert (code, out) == (1, "")
  failed, end = err.splitlines()
  assert re.fullmatch(r"failed: photos/broken\.jpg: not an image, or damaged; .*", failed)
  assert end == (
    "detect.py: error: 1 of 4 photos failed, for the reasons above; the others are in "
    "out/detections.json"
  )
  images = _images(here, "out")
  assert [(each["file_name"], each["height"], each["width"]) for each in images] == [
    ("a.jpg", 150, 200),
    ("pixel.png", 1, 1),
    ("sub/a.png", 20, 500),
  ]
  detections = images[0]["detections"]
  assert len(detections) > 3
  for each in detections:
    x, y, width, height = each["bbox"]
    assert 0 <= x < x + width <= 200.001 and 0 <= y < y + height <= 150.001
    assert each["category_name"] == _CATEGORIES[each["category"]]
    assert each["segmentation"]["size"] == [150, 200] and each["score"] > 0.3
  for each in images:
    with Image.open(here / "out" / each["file_name"]) as drawn:
      assert drawn.size == (each["width"], each["height"])
  assert not (here / "out" / "broken.jpg").exists()


def test_stored_features_lead_to_the_detections_of_the_photos(ends, here):
  code, out, err = ends["features"]
  assert (code, err) == (0, "")
  assert re.fullmatch(
    r"3 photos: \d+ detections in again/detections\.json; 3 photos not drawn, as features hold no "
    r"pixels: give the photos with --input\n",
    out,
  )
  assert _images(here, "again") == _images(here, "out")


def test_extract_goes_on_where_it_ended(ends, here):
  code, out, err = ends["extract"]
  assert (code, out) == (1, "")
  assert err.endswith("1 of 4 photos failed, for the reasons above; the others are in npz\n")
  code, _, err = ends["again"]
  assert code == 1
  assert re.fullmatch(r"extract_features\.py: error: photos/broken\.jpg: not an image, .*\n", err)
  with np.load(here / "npz" / "sub" / "a.png.npz") as arrays:
    assert arrays["p2"].shape == (8, 32, 16) and arrays["original_size"].tolist() == [20, 500]


@pytest.mark.parametrize(
  "name, text",
  [
    (
      "exists",
      r"detect\.py: error: out/detections\.json exists; give another --output, or --overw",
    ),
    ("empty", r"detect\.py: error: empty: no images found; expected a file, a folder or a glob"),
    ("unknown", r"detect\.py: error: no detector at 'huge', expected a detector's folder"),
    ("unwritable", r"detect\.py: error: --output=photos/a\.jpg/new: cannot be written: Not a d"),
    ("in use", r"export_detector\.py: error: photos exists and is not empty; give a new --output"),
  ],
)
def test_what_cannot_be_done_ends_in_one_line(ends, name, text):
  code, out, err = ends[name]
  assert (code, out) == (1, "")
  assert re.fullmatch(rf"{text}.*\n", err)


@pytest.mark.parametrize(
  "program, text",
  [
    ("detect.py", r"found neither --input nor --features, expected one: what to detect in"),
    ("extract_features.py", r"the flag --input is required \(--helpshort lists the flags\)"),
    ("export_detector.py", r"Unknown command line flag 'input'.*"),
  ],
)
def test_wrong_arguments_end_in_one_line(run_program, program, text, here):
  given = ["--detector=tiny", "--output=x", *["--input=a"] * (program == "export_detector.py")]
  code, out, err = run_program(program, *given, cwd=here)
  assert (code, out) == (1, "")
  assert re.fullmatch(rf"{re.escape(program)}: error: {text}\n", err)
