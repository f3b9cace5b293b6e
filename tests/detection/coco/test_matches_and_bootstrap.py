"""Matching and the bootstrap: pycocotools counts the same, on the images and on drawn ones."""

from __future__ import annotations

import contextlib
import copy
import io
import math

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detection.coco import bootstrap, evaluation, matches


def _pycocotools(ground_truth: dict, found: list[dict]) -> list[float]:
  """Returns AP, AP50, AP75, APs, APm, APl of boxes."""
  with contextlib.redirect_stdout(io.StringIO()):
    truth = COCO()
    truth.dataset = copy.deepcopy(ground_truth)
    truth.createIndex()
    oracle = COCOeval(truth, truth.loadRes(copy.deepcopy(found)), "bbox")
    oracle.evaluate()
    oracle.accumulate()
    oracle.summarize()
  return [value if value >= 0 else math.nan for value in oracle.stats[:6]]


def _boxes(found: list[dict]) -> list[dict]:
  return [{k: v for k, v in each.items() if k != "segmentation"} for each in found]


def _repeated(ground_truth: dict, found: list[dict], weights: np.ndarray):
  """Returns a data set and its detections in which each image stands as often as it counts."""
  images, annotations, detections = [], [], []
  for image, weight in zip(ground_truth["images"], weights):
    for _ in range(weight):
      number = len(images) + 1
      images.append({**image, "id": number})
      for each in ground_truth["annotations"]:
        if each["image_id"] == image["id"]:
          annotations.append({**each, "id": len(annotations) + 1, "image_id": number})
      own = [each for each in found if each["image_id"] == image["id"]]
      detections += [{**each, "image_id": number} for each in own]
  truth = {"images": images, "annotations": annotations, "categories": ground_truth["categories"]}
  return truth, detections


@pytest.mark.parametrize("seed", range(3))
def test_each_image_once_gives_the_numbers_of_pycocotools(crowded, jitter, seed):
  found = _boxes(jitter(crowded, seed))
  once = np.ones((1, len(crowded["images"])), int)
  (got,) = bootstrap.evaluate(matches.match(crowded, found), once)
  np.testing.assert_allclose(got, _pycocotools(crowded, found), rtol=0, atol=1e-12)


def test_images_drawn_twice_count_as_two_images(crowded, jitter):
  # Without ties, whose order in the two copies of an image would count.
  found = [{**each, "score": i / 1000} for i, each in enumerate(_boxes(jitter(crowded, 0)))]
  weights = bootstrap.draw(1, len(crowded["images"]), 4)
  assert weights.shape == (4, 20) and (weights.sum(1) == 20).all() and (weights == 0).any()
  got = bootstrap.evaluate(matches.match(crowded, found), weights)
  for numbers, row in zip(got, weights):
    expected = _pycocotools(*_repeated(crowded, found, row))
    np.testing.assert_allclose(numbers, expected, rtol=0, atol=1e-12)


def test_numbers_on_photos_are_those_of_the_evaluation(reference, jitter):
  from detection.coco import annotation_files

  folder = reference / "coco_small"
  annotations = str(folder / "annotations" / "instances_val.json")
  truth = annotation_files.load(annotations, str(folder / "val"), limit=60).ground_truth
  found = jitter(truth, 0)
  (got,) = bootstrap.evaluate(matches.match(truth, found), np.ones((1, 60), int))
  metrics = evaluation.evaluate(truth, found)
  np.testing.assert_allclose(got, [metrics[key] for key in bootstrap.KEYS], rtol=0, atol=1e-10)


def test_without_detections_all_is_0_and_without_objects_nan(crowded):
  nothing = matches.match(crowded, [])
  once = np.ones((1, 20), int)
  assert bootstrap.evaluate(nothing, once)[0].tolist() == [0.0] * 6
  large = [each for each in crowded["annotations"] if each["area"] > 96**2]
  (numbers,) = bootstrap.evaluate(matches.match({**crowded, "annotations": large}, []), once)
  assert np.isnan(numbers[3:5]).all() and numbers[5] == 0


def test_an_interval_holds_95_of_100_draws():
  assert bootstrap.interval(np.arange(1001.0)) == (25.0, 975.0)
  assert bootstrap.interval(np.array([np.nan, 2.0])) == (2.0, 2.0)
  assert all(map(math.isnan, bootstrap.interval(np.array([np.nan]))))
