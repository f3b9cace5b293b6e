"""A detector on a data set: numbers, files, resuming, and what is left out."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import types

import numpy as np
import pytest

from detection.coco import CocoError, annotation_files, evaluation, masks, run
from khuvcm_tf.atomic_files import FileError
from khuvcm_tf.executor import HERE

NAMES = ("dog", "boat", "person")


class _Perfect:
  """A detector that knows the answers by the images' pixels; classes are indices of `NAMES`."""

  def __init__(self, dataset, with_masks: bool = False, dies_at: int | None = None):
    self.calls, self._dies_at, self._with_masks = 0, dies_at, with_masks
    names = dict(dataset.categories)
    self._answers = {}
    for record in dataset:
      objects = [a for a in record.annotations if not a["iscrowd"]]
      boxes = np.array([a["bbox"] for a in objects], np.float32).reshape(-1, 4)
      boxes[:, 2:] += boxes[:, :2]
      mask = np.zeros((len(objects), record.height, record.width), bool)
      for one, box in zip(mask, boxes.astype(int)):
        one[box[1] : box[3], box[0] : box[2]] = True
      classes = [NAMES.index(names[a["category_id"]]) for a in objects]
      self._answers[record.read().tobytes()] = (boxes, np.array(classes, int), mask)

  def __call__(self, image):
    self.calls += 1
    if self.calls == self._dies_at:
      raise KeyboardInterrupt
    boxes, classes, mask = self._answers[image.tobytes()]
    scores = np.linspace(0.9, 0.5, len(boxes), dtype=np.float32)
    mask = mask if self._with_masks else None
    return types.SimpleNamespace(boxes=boxes, scores=scores, classes=classes, masks=mask)


@pytest.fixture
def dataset(content, write):
  return annotation_files.load(*write(content))


@pytest.fixture
def evaluate(dataset, tmp_path):
  """Evaluates into tmp_path/out."""

  def evaluate_(detect, dataset=dataset, fingerprint="f1", categories=NAMES, **options):
    return run.run_evaluation(
      detect,
      dataset,
      str(tmp_path / "out"),
      categories=categories,
      fingerprint=fingerprint,
      about={"detector": "perfect"},
      **options,
    )

  return evaluate_


def test_a_perfect_detector_finds_all_of_the_categories_it_knows(evaluate, dataset, tmp_path):
  result = evaluate(_Perfect(dataset))
  assert result.metrics["ap"] == result.metrics["ar100"] == pytest.approx(1)
  assert sorted(result.metrics["categories"]) == ["dog", "person"]
  (note,) = result.notes
  assert note == ("evaluated on 2 of the data set's 3 categories: the detector does not know car")
  assert run.table(result).splitlines()[-1] == note
  run.check_complete(result)

  written = json.loads((tmp_path / "out" / "results.json").read_text())
  assert written["ap"] == pytest.approx(1) and written["apm"] is None
  assert written["detector"] == "perfect" and written["fingerprint"] == "f1"
  assert (written["images"], written["objects"], written["left_out"]) == (3, 4, [])
  assert written["evaluated_by"] == evaluation.VERSION and written["median_detect_s"] > 0
  assert {"date", "commit", "machine", "dataset"} <= set(written)
  found = json.loads((tmp_path / "out" / "detections.json").read_text())
  assert [each["category_id"] for each in found] == [1, 18, 1]
  assert found[1]["bbox"] == [15.5, 4, 20, 20]


def test_numbers_by_supercategory_stand_beside_the_others(evaluate, dataset, tmp_path):
  result = evaluate(_Perfect(dataset), supercategories=True)
  lines = run.table(result).splitlines()
  assert lines[lines.index("by super-category:") + 3].split()[:2] == ["boxes", "1.0000"]
  written = json.loads((tmp_path / "out" / "results.json").read_text())["supercategories"]
  assert written["ap"] == pytest.approx(1)
  assert sorted(written["categories"]) == ["animal", "person"]


def test_masks_are_evaluated_where_all_objects_have_them(evaluate, content, write):
  for each in content["annotations"]:
    x, y, w, h = map(int, each["bbox"])
    each["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
  dataset = annotation_files.load(*write(content))
  result = evaluate(_Perfect(dataset, with_masks=True), dataset)
  assert result.metrics["mask_ap"] == pytest.approx(1)
  assert [line.split()[0] for line in run.table(result).splitlines()[2:4]] == ["boxes", "masks"]


def test_a_data_set_without_masks_is_evaluated_by_boxes(evaluate, dataset, tmp_path):
  result = evaluate(_Perfect(dataset, with_masks=True))
  assert "mask_ap" not in result.metrics
  assert result.notes[-1].startswith("masks were not evaluated: the data set has none")
  (first, *_) = json.loads((tmp_path / "out" / "detections.json").read_text())
  assert masks.area(first["segmentation"]) == 120


def test_a_killed_run_goes_on_where_it_was(evaluate, dataset, tmp_path, caplog):
  with pytest.raises(KeyboardInterrupt):
    evaluate(_Perfect(dataset, dies_at=3))
  assert not (tmp_path / "out" / "results.json").exists()
  second = _Perfect(dataset)
  with caplog.at_level(logging.INFO, logger="absl"):
    resumed = evaluate(second)
  assert second.calls == 1 and "2 of 3 images were detected before" in caplog.text
  (tmp_path / "out" / "detections.jsonl").unlink()
  assert repr(evaluate(_Perfect(dataset))) == repr(resumed)


def test_in_whatever_order_images_are_done_detections_are_in_theirs(
  evaluate, dataset, tmp_path, backwards
):
  found = []
  for executor in (HERE, backwards):
    evaluate(_Perfect(dataset), executor=executor)
    found.append((tmp_path / "out" / "detections.json").read_text())
    (tmp_path / "out" / "detections.jsonl").unlink()
  assert found[0] == found[1]


def test_another_detector_starts_anew_and_the_first_is_not_lost(evaluate, dataset):
  evaluate(_Perfect(dataset))
  for fingerprint, categories, calls in (
    ("f2", NAMES, 3),
    ("f1", ("dog", "boat", "person", "cat"), 0),
    ("f1", ("person", "boat", "dog"), 3),
    ("f1", NAMES, 0),
  ):
    detect = _Perfect(dataset)
    evaluate(detect, fingerprint=fingerprint, categories=categories)
    assert detect.calls == calls


def test_an_image_whose_pixels_changed_is_detected_anew(evaluate, dataset, content, write):
  evaluate(_Perfect(dataset))
  content["images"][1]["width"] = 31
  content["annotations"][2]["segmentation"] = []
  changed = annotation_files.load(*write(content))
  detect = _Perfect(changed)
  evaluate(detect, changed)
  assert detect.calls == 2  # images are drawn one after the other, so the third is new too


def test_a_damaged_image_is_left_out_and_named(evaluate, dataset, content, write):
  path, folder = write(content)
  with open(os.path.join(folder, "b.png"), "r+b") as file:
    file.truncate(1500)
  whole = [record for record in dataset if record.file_name != "b.png"]
  detect = _Perfect(type(dataset)("whole", dataset.categories, tuple(whole)))
  result = evaluate(detect, annotation_files.load(path, folder))
  assert result.metrics["ap"] == pytest.approx(1)
  assert [each["file_name"] for each in result.left_out] == ["b.png"]
  with pytest.raises(CocoError, match="1 of 3 images left out, expected none: b.png; the numbers"):
    run.check_complete(result)


def test_no_image_at_all_is_an_error(evaluate, dataset):
  def detect(image):
    nan = np.full((1, 4), np.nan, np.float32)
    return types.SimpleNamespace(boxes=nan, scores=nan[0, :1], classes=[0], masks=None)

  with pytest.raises(CocoError, match="none of 3 images was evaluated, .*first: a.png: boxes or"):
    evaluate(detect)


def test_no_category_in_common_is_an_error(evaluate, dataset):
  message = (
    r"categories person, car, dog, expected some of the detector's: a, b, c, d, e and 2 more"
  )
  with pytest.raises(CocoError, match=message):
    evaluate(_Perfect(dataset), categories=tuple("abcdefg"))


def test_annotations_are_never_replaced_by_results(evaluate, dataset, tmp_path):
  named = dataclasses.replace(dataset, name=str(tmp_path / "out" / "detections.json"))
  with pytest.raises(
    FileError, match=r"detections\.json would replace \S+detections\.json, from wh"
  ):
    evaluate(_Perfect(named), named)


def test_an_output_that_is_a_file_is_told(evaluate, dataset, tmp_path):
  (tmp_path / "out").touch()
  with pytest.raises(FileError, match=r"out: cannot be made: File exists; expected a writable"):
    evaluate(_Perfect(dataset))


def test_a_detector_without_fingerprint_is_refused(evaluate, dataset):
  with pytest.raises(ValueError, match="`fingerprint` is empty"):
    evaluate(_Perfect(dataset), fingerprint="")
