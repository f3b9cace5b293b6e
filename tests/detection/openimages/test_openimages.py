"""mAP by the rules of Open Images, on made-up files whose AP is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from detection.openimages import OpenImagesError, evaluation, files
from detection.openimages.files import Box, Label

_A, _B, _C = (0.0, 0.0, 0.2, 0.2), (0.5, 0.5, 0.7, 0.7), (0.8, 0.0, 1.0, 0.2)
_NEAR_A = (0.0, 0.0, 0.2, 0.15)  # IoU 0.75
_FAR_A = (0.0, 0.0, 0.2, 0.09)  # IoU 0.45


def _map(boxes, detections, labels=(), hierarchy=None):
  return evaluation.evaluate(boxes, list(labels), detections, hierarchy)


def test_what_is_found_and_what_is_not():
  boxes = [Box("1", "cat", _A), Box("1", "cat", _B)]
  found = [
    Box("1", "cat", _NEAR_A, 0.9),
    Box("1", "cat", _C, 0.8),  # wrong
    Box("1", "cat", _B, 0.7),
  ]
  # Precision 1 up to a recall of 1/2, then 2/3.
  assert _map(boxes, found)["map50"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
  assert _map(boxes, [])["map50"] == 0.0
  assert _map(boxes, [Box("1", "cat", _FAR_A, 0.9)])["map50"] == 0.0


def test_a_second_detection_of_an_object_is_wrong():
  found = [Box("1", "cat", _A, 0.9), Box("1", "cat", _NEAR_A, 0.8), Box("1", "cat", _B, 0.7)]
  boxes = [Box("1", "cat", _A), Box("1", "cat", _B)]
  assert _map(boxes, found)["map50"] == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_a_group_is_one_object_however_many_are_found_in_it():
  boxes = [Box("1", "cat", (0.0, 0.0, 0.5, 0.5), is_group=True), Box("1", "cat", _B)]
  inside = [Box("1", "cat", (x, 0.1, x + 0.1, 0.2), 0.5 + x) for x in (0.0, 0.1, 0.2)]
  assert _map(boxes, [*inside, Box("1", "cat", _B, 0.9)])["map50"] == 1.0
  # One that is not found is missed, one that is found by nothing is an object too.
  assert _map(boxes, inside)["map50"] == 0.5
  assert _map(boxes, [Box("1", "cat", _B, 0.9)])["map50"] == 0.5
  # What lies in it by less than half is wrong.
  outside = Box("1", "cat", (0.45, 0.1, 0.6, 0.2), 1.0)
  assert _map(boxes, [outside, Box("1", "cat", _B, 0.9)])["map50"] == pytest.approx(0.25)


def test_only_classes_that_were_verified_in_the_image_count():
  boxes = [Box("1", "cat", _A), Box("2", "dog", _A)]
  found = [Box("1", "cat", _A, 0.9), Box("1", "dog", _B, 0.95), Box("2", "dog", _A, 0.9)]
  result = _map(boxes, found)
  assert result["map50"] == 1.0 and result["passed_over"] == 1
  absent = [Label("1", "dog", False)]
  assert _map(boxes, found, absent)["classes"] == {"cat": 1.0, "dog": 0.5}


def test_boxes_count_for_the_classes_above_theirs():
  above = {"cat": ("animal",), "dog": ("animal",)}
  boxes = [Box("1", "cat", _A)]
  result = _map(boxes, [Box("1", "dog", _A, 0.9)], [], above)
  # No cat, no dog that was verified; but the animal is found.
  assert result["classes"] == {"animal": 1.0, "cat": 0.0} and result["passed_over"] == 1
  # Without animals there are no cats: the detection is wrong.
  labels = [Label("2", "animal", False)]
  found = [Box("1", "cat", _A, 0.5), Box("2", "cat", _A, 0.9)]
  assert _map(boxes, found, labels, above)["classes"] == {"animal": 0.5, "cat": 0.5}


def test_average_precision_is_the_area_below_the_envelope():
  rng = np.random.default_rng(0)
  scores, right = rng.permutation(40) / 40.0, rng.random(40) < 0.4
  order = np.argsort(-scores)
  hits = np.cumsum(right[order])
  precision = hits / np.arange(1, 41)
  slow = sum(max(precision[i:]) for i in range(40) if right[order][i]) / 20
  assert evaluation.average_precision(scores, right, 20) == pytest.approx(slow)


class TestFiles:
  @pytest.fixture
  def folder(self, tmp_path):
    (tmp_path / "boxes.csv").write_text(
      "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,"
      "IsDepiction,IsInside\n1,xclick,/m/cat,1,0,0.2,0,0.2,0,0,0,0,0\n"
      "1,xclick,/m/dog,1,0.5,0.9,0.5,0.9,0,0,1,0,0\n"
    )
    (tmp_path / "labels.csv").write_text(
      "ImageID,Source,LabelName,Confidence\n2,verification,/m/cat,0\n"
    )
    (tmp_path / "found.csv").write_text(
      "ImageID,LabelName,Score,XMin,XMax,YMin,YMax\n1,/m/cat,0.8,0,0.2,0,0.2\n"
      "1,/m/dog,0.8,0.6,0.7,0.6,0.7\n2,/m/cat,0.9,0,0.2,0,0.2\n"
    )
    (tmp_path / "hierarchy.json").write_text(
      json.dumps(
        {
          "LabelName": "/m/0bl9f",
          "Subcategory": [
            {"LabelName": "/m/pet", "Subcategory": [{"LabelName": "/m/cat"}]},
            {"LabelName": "/m/dog"},
          ],
        }
      )
    )
    return tmp_path

  def test_are_read_and_compared_by_the_program(self, folder, run_program):
    code, out, err = run_program(
      "evaluate_openimages.py",
      *("--boxes=boxes.csv", "--labels=labels.csv", "--detections=found.csv"),
      *("--hierarchy=hierarchy.json", "--output=results.json"),
      cwd=folder,
    )
    assert (code, err) == (0, "")
    result = json.loads((folder / "results.json").read_text())
    assert result["classes"] == {"/m/cat": 0.5, "/m/dog": 1.0, "/m/pet": 1.0}
    assert "mAP at 0.5" in out and "83.33" in out and result["passed_over"] == 1

  def test_the_hierarchy_has_all_that_is_above(self, folder):
    found = files.read_hierarchy(str(folder / "hierarchy.json"))
    assert found == {"/m/pet": (), "/m/cat": ("/m/pet",), "/m/dog": ()}

  @pytest.mark.parametrize(
    "name, old, new, text",
    [
      ("boxes.csv", "IsGroupOf", "IsGroup", "has no column IsGroupOf"),
      ("boxes.csv", "0.5,0.9,0.5,0.9", "0.9,0.5,0.5,0.9", "line 3: found a box from"),
      ("found.csv", "0.9,0,0.2", "nan,0,0.2", "line 4: found nan, expected a finite"),
      ("labels.csv", "/m/cat,0", "/m/cat,7", "line 2: found 7, expected 0 or 1"),
    ],
  )
  def test_what_is_wrong_is_told_in_one_line(self, folder, name, old, new, text):
    path = folder / name
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))
    read = {
      "boxes.csv": files.read_boxes,
      "found.csv": files.read_detections,
      "labels.csv": files.read_labels,
    }[name]
    with pytest.raises(OpenImagesError, match=text) as caught:
      read(str(path))
    assert "\n" not in str(caught.value)
