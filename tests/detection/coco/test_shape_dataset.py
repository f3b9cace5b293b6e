"""The data set of drawn shapes: in COCO's terms, and as files that other programs read."""

from __future__ import annotations

import os

import numpy as np
import pytest

from detection.coco import annotation_files, evaluation, masks, shape_dataset, shapes
from detection.coco.options import GenerateShapesOptions
from khuvcm_tf.atomic_files import FileError


@pytest.fixture(scope="module")
def dataset():
  return shape_dataset.load("test", 12, seed=5)


def test_categories_are_numbered_from_one(dataset):
  assert [category.id for category in dataset.categories] == [*range(1, 9)]
  assert tuple(category.name for category in dataset.categories) == shapes.CATEGORIES
  assert dataset.name == "shapes:test" and dataset.has_masks and len(dataset) == 12


def test_records_are_the_scenes(dataset):
  for index, record in enumerate(dataset):
    scene = shapes.draw(5, "test", index)
    assert (record.image_id, record.file_name) == (index, f"{index:06}.png")
    np.testing.assert_array_equal(record.read(), scene.image)
    assert len(record.annotations) == len(scene.classes)
    for each, box, kind, mask in zip(record.annotations, scene.boxes, scene.classes, scene.masks):
      x, y, w, h = each["bbox"]
      assert [x, y, x + w, y + h] == box.tolist()
      assert (each["category_id"], each["area"], each["iscrowd"]) == (kind + 1, mask.sum(), 0)
      np.testing.assert_array_equal(masks.decode(each["segmentation"]), mask)


def test_its_own_objects_as_detections_are_all_right(dataset):
  truth = dataset.ground_truth
  found = [{**each, "score": 0.5} for each in truth["annotations"]]
  metrics = evaluation.evaluate(truth, found, with_masks=True)
  numbers = [metrics[f"{prefix}{key}"] for prefix in ("", "mask_") for key in ("ap", "ar100")]
  np.testing.assert_allclose(numbers, 1)


def test_files_are_read_back_as_they_were_written(tmp_path):
  options = GenerateShapesOptions(output=str(tmp_path / "new" / "shapes"), split="train", count=3)
  path, folder = (os.path.join(options.output, name) for name in ("train.json", "train"))
  expected = f"written: --annotations={path} --images={folder}"
  assert shape_dataset.generate(options) == expected
  found, dataset = annotation_files.load(path, folder), shape_dataset.load("train", 3)
  assert found.ground_truth == dataset.ground_truth
  for mine, theirs in zip(found, dataset):
    np.testing.assert_array_equal(mine.read(), theirs.read())


def test_files_are_replaced_only_on_request(tmp_path):
  options = {"output": str(tmp_path), "split": "test", "count": 1}
  shape_dataset.generate(GenerateShapesOptions(**options))
  message = "test.json exists; give another --output, or --overwrite to replace it"
  with pytest.raises(FileError, match=message):
    shape_dataset.generate(GenerateShapesOptions(**options))
  shape_dataset.generate(GenerateShapesOptions(**{**options, "count": 2}, overwrite=True))
  assert len(annotation_files.load(str(tmp_path / "test.json"), str(tmp_path / "test"))) == 2


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
  (tmp_path / "file").touch()
  options = GenerateShapesOptions(output=str(tmp_path / "file"), split="test", count=1)
  with pytest.raises(FileError, match=r"file: cannot be made: File exists; expected a writable pl"):
    shape_dataset.generate(options)


def test_a_data_set_without_images_is_refused():
  with pytest.raises(ValueError, match="`count` is 0, expected at least 1"):
    shape_dataset.load("train", 0)
