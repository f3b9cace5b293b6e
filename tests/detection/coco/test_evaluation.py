"""COCO's numbers: pycocotools counts the same, and limits that are known without counting."""

from __future__ import annotations

import contextlib
import copy
import io
import math

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detection.coco import CocoError, annotation_files, evaluation


def _pycocotools(ground_truth: dict, found: list[dict], kind: str, **chosen) -> COCOeval:
  """Evaluates as detectron2 does: masks are given without boxes."""
  other = {"bbox": "segmentation", "segm": "bbox"}[kind]
  found = [{k: v for k, v in each.items() if k != other} for each in found]
  with contextlib.redirect_stdout(io.StringIO()):
    truth = COCO()
    truth.dataset = copy.deepcopy(ground_truth)
    truth.createIndex()
    oracle = COCOeval(truth, truth.loadRes(copy.deepcopy(found)), kind)
    for name, ids in chosen.items():
      setattr(oracle.params, name, ids)
    oracle.evaluate()
    oracle.accumulate()
    oracle.summarize()
  return oracle


def _check_equal(metrics: dict, oracle: COCOeval, prefix: str) -> None:
  expected = [value if value >= 0 else math.nan for value in oracle.stats]
  found = [metrics[f"{prefix}{key}"] for key in evaluation.KEYS]
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
  precision = oracle.eval["precision"][:, :, :, 0, -1]
  for number, category in enumerate(oracle.params.catIds):
    of_category = precision[:, :, number]
    expected = of_category.mean() if (of_category > -1).all() else math.nan
    name = oracle.cocoGt.cats[category]["name"]
    found = metrics["categories"][name][f"{prefix}ap"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_numbers_are_those_of_pycocotools(crowded, jitter, seed):
  found = jitter(crowded, seed)
  metrics = evaluation.evaluate(crowded, found)
  assert all(0.1 < metrics[key] < 0.9 for key in ("ap", "mask_ap"))
  _check_equal(metrics, _pycocotools(crowded, found, "bbox"), "")
  _check_equal(metrics, _pycocotools(crowded, found, "segm"), "mask_")
  assert math.isnan(metrics["categories"]["kind 4"]["ap"])


def test_more_than_a_hundred_detections_of_an_image_are_those_of_pycocotools(crowded, jitter):
  found = [{**each, "image_id": 1} for seed in range(4) for each in jitter(crowded, seed)]
  assert len(found) > 300
  metrics = evaluation.evaluate(crowded, found)
  _check_equal(metrics, _pycocotools(crowded, found, "bbox"), "")
  _check_equal(metrics, _pycocotools(crowded, found, "segm"), "mask_")


@pytest.mark.parametrize("name", ["coco_person", "coco_small"])
def test_numbers_on_photos_are_those_of_pycocotools(reference, jitter, name):
  folder = reference / name
  dataset = annotation_files.load(
    str(folder / "annotations" / "instances_val.json"), str(folder / "val"), limit=60
  )
  truth = dataset.ground_truth
  found = jitter(truth, 0)
  metrics = evaluation.evaluate(truth, found)
  _check_equal(metrics, _pycocotools(truth, found, "bbox"), "")
  _check_equal(metrics, _pycocotools(truth, found, "segm"), "mask_")


def test_some_images_and_categories_are_evaluated_as_pycocotools_does(crowded, jitter):
  found = jitter(crowded, 0)
  image_ids, category_ids = [2, 3, 5, 7, 11, 13], [3, 1]
  metrics = evaluation.evaluate(crowded, found, image_ids, category_ids)
  oracle = _pycocotools(crowded, found, "bbox", imgIds=image_ids, catIds=sorted(category_ids))
  _check_equal(metrics, oracle, "")
  assert sorted(metrics["categories"]) == ["kind 1", "kind 3"]


def test_the_order_of_categories_does_not_matter(crowded, jitter):
  found = jitter(crowded, 0)
  turned = {**crowded, "categories": crowded["categories"][::-1]}
  assert repr(evaluation.evaluate(crowded, found)["ap"]) == repr(
    evaluation.evaluate(turned, found)["ap"]
  )
  for name, values in evaluation.evaluate(crowded, found)["categories"].items():
    assert repr(values) == repr(evaluation.evaluate(turned, found)["categories"][name])


def test_the_ground_truth_itself_is_found_wholly(crowded):
  found = [{**each, "score": 1.0} for each in crowded["annotations"] if not each["iscrowd"]]
  for each in found:  # results have run lengths
    each.pop("segmentation")
  metrics = evaluation.evaluate(crowded, found)
  recalls = ("ar1", "ar10")  # there are more objects than that
  assert {round(metrics[key], 9) for key in evaluation.KEYS if key not in recalls} == {1.0}


def test_one_object_and_a_false_detection_above_it_have_half_precision():
  truth = {
    "images": [{"id": 1, "height": 50, "width": 50}],
    "categories": [{"id": 1, "name": "person"}],
    "annotations": [
      {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 20, 10], "area": 200, "iscrowd": 0}
    ],
  }
  found = [
    {"image_id": 1, "category_id": 1, "bbox": [30, 30, 9, 9], "score": 0.9},
    {"image_id": 1, "category_id": 1, "bbox": [0, 0, 20, 7.75], "score": 0.8},  # IoU 0.775
  ]
  metrics = evaluation.evaluate(truth, found)
  # Precision 1/2 at all recalls, at six of the ten thresholds.
  assert metrics["ap"] == pytest.approx(0.3) and metrics["ap75"] == pytest.approx(0.5)
  assert metrics["ar1"] == 0 and metrics["ar10"] == pytest.approx(0.6)
  assert math.isnan(metrics["apm"]) and math.isnan(metrics["arl"])
  assert "mask_ap" not in metrics
  text = evaluation.table(metrics).splitlines()
  assert text[0].split() == "AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl".split()
  assert text[2].split()[:6] == ["boxes", "0.3000", "0.5000", "0.5000", "0.3000", "-"]


def test_no_detections_give_0(crowded):
  metrics = evaluation.evaluate(crowded, [], with_masks=True)
  assert {metrics[f"{p}{key}"] for key in evaluation.KEYS for p in ("", "mask_")} == {0.0}
  assert "mask_ap" not in evaluation.evaluate(crowded, [])


def test_masks_are_left_out_where_an_object_has_none(crowded, jitter):
  found = jitter(crowded, 0)
  annotations = [dict(each) for each in crowded["annotations"]]
  annotations[0].pop("segmentation")
  assert "mask_ap" not in evaluation.evaluate({**crowded, "annotations": annotations}, found)


def test_the_arguments_stay_as_they_are_and_nothing_is_printed(crowded, jitter, capfd):
  found = jitter(crowded, 0)
  before = copy.deepcopy((crowded, found))
  evaluation.evaluate(crowded, found)
  assert (crowded, found) == before
  assert capfd.readouterr() == ("", "")


def test_detections_of_another_data_set_are_refused(crowded, jitter):
  found = jitter(crowded, 0)
  other = [*found, {**found[0], "image_id": 21}]
  with pytest.raises(CocoError, match="1 image_ids such as 21, expected those of the 20 images"):
    evaluation.evaluate(crowded, other)
  other = [{**found[0], "category_id": 9}]
  with pytest.raises(CocoError, match="1 category_ids such as 9, expected those of the 5 cat"):
    evaluation.evaluate(crowded, other)
  other = [dict(each) for each in found]
  other[3].pop("segmentation")
  with pytest.raises(CocoError, match=f"1 of {len(found)} detections have no mask, expected"):
    evaluation.evaluate(crowded, other)


def _of_coco(crowded):
  """Returns the data set with names of COCO: two vehicles, two animals, and one that is none."""
  names = ["car", "zebra", "bus", "kind 4", "cow"]
  pairs = zip(crowded["categories"], names)
  return {**crowded, "categories": [{**each, "name": name} for each, name in pairs]}


def test_the_categories_of_a_supercategory_count_as_one(crowded, jitter):
  found, crowded = jitter(crowded, 0), _of_coco(crowded)
  truth, renamed = evaluation.by_supercategory(crowded, found)
  assert truth["categories"] == [{"id": 2, "name": "vehicle"}, {"id": 4, "name": "animal"}]
  ids = {each["id"]: each["name"] for each in crowded["categories"]}
  expected = {"car": 2, "bus": 2, "zebra": 4, "cow": 4}
  for before, after in ((crowded["annotations"], truth["annotations"]), (found, renamed)):
    numbers = [expected.get(ids[each["category_id"]]) for each in before]
    assert [each["category_id"] for each in after] == [n for n in numbers if n]
  metrics = evaluation.evaluate(truth, renamed)
  _check_equal(metrics, _pycocotools(truth, renamed, "bbox"), "")


def test_supercategories_are_of_the_categories_evaluated(crowded, jitter):
  found, crowded = jitter(crowded, 0), _of_coco(crowded)
  buses = [each["id"] for each in crowded["categories"] if each["name"] == "bus"]
  truth, renamed = evaluation.by_supercategory(crowded, found, buses)
  assert [each["name"] for each in truth["categories"]] == ["vehicle"]
  both = (crowded["annotations"], found)
  counts = [sum(each["category_id"] in buses for each in entries) for entries in both]
  assert [len(truth["annotations"]), len(renamed)] == counts


def test_a_data_set_without_categories_of_coco_has_no_supercategories(crowded):
  with pytest.raises(CocoError, match="none of the categories is one of COCO's.*--supercategories"):
    evaluation.by_supercategory(crowded, [])
