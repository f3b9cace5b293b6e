"""Annotations from files: what comes of them, and that each fault is said in one line."""

from __future__ import annotations

import json
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from detection.coco import CocoError, annotation_files, categories
from khuvcm_tf.data import image_files


def test_categories_and_objects_come_in_cocos_terms(content, write):
  dataset = annotation_files.load(*write(content))
  assert dataset.categories == ((1, "person"), (3, "car"), (18, "dog"))
  assert [record.image_id for record in dataset] == [7, 9, 8] and len(dataset) == 3
  person, dog = dataset.records[0].annotations
  assert person == {
    "category_id": 1,
    "bbox": [2, 3, 10, 12],
    "area": 60.5,
    "iscrowd": 0,
    "segmentation": [[2, 3, 12, 3, 12, 15]],
  }
  assert dog == {"category_id": 18, "bbox": [15.5, 4, 20, 20], "area": 400, "iscrowd": 0}
  assert dataset.records[1].annotations[0]["iscrowd"] == 1
  assert "segmentation" not in dataset.records[1].annotations[1]
  assert dataset.records[2].annotations == ()


def test_the_limit_takes_the_first_images(content, write):
  dataset = annotation_files.load(*write(content), limit=2)
  assert [record.image_id for record in dataset] == [7, 9]


def test_images_are_those_of_the_files(content, write):
  path, folder = write(content)
  for record in annotation_files.load(path, folder):
    image = image_files.read_image(os.path.join(folder, record.file_name))
    np.testing.assert_array_equal(record.read(), image)


def test_an_image_that_is_to_be_turned_has_the_size_of_the_turned_one(content, write):
  path, folder = write(content)
  exif = Image.Exif()
  exif[274] = 6  # turn by 90 degrees
  pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
  Image.fromarray(pixels).save(pathlib.Path(folder) / "a.png", exif=exif)
  record = annotation_files.load(path, folder).records[0]
  assert record.read().shape == (30, 40, 3)


def _set(content: dict, key: str, number: int, **fields) -> dict:
  content[key][number].update(fields)
  return content


@pytest.mark.parametrize(
  "change, message",
  [
    (lambda c: [], "holds a list, expected a dictionary .* not a file of detections"),
    (lambda c: {**c, "images": []}, "has an empty list of images, expected at least one"),
    (lambda c: {**c, "annotations": []}, "has an empty list of annotations, expected at least one"),
    (lambda c: {k: c[k] for k in ("images", "categories")}, "has no annotations, expected"),
    (lambda c: {**c, "categories": {"id": 1}}, "has no list of categories, expected"),
    (lambda c: {**c, "annotations": [3]}, "1 of 1 annotations are no dictionaries, expected none"),
    (
      lambda c: _set(c, "images", 1, id="9"),
      '1 of 3 images have no whole number as id, .* number 1: {"id": "9", "file_name": "b.png"',
    ),
    (lambda c: _set(c, "images", 1, id=7), "2 of 3 images have the id of another"),
    (lambda c: _set(c, "images", 0, width=0), "1 of 3 images have a height or width below 1"),
    (lambda c: _set(c, "images", 0, width=2.5), "1 of 3 images have no whole number as width"),
    (lambda c: _set(c, "images", 0, file_name=None), "1 of 3 images have no text as file_name"),
    (lambda c: _set(c, "categories", 0, name="dog"), "2 of 3 categories have the name of another"),
    (lambda c: _set(c, "categories", 0, id=1), "2 of 3 categories have the id of another"),
    (
      lambda c: _set(c, "annotations", 0, image_id=70),
      "1 of 4 annotations have image_ids that are not among the images, .* number 0: ",
    ),
    (
      lambda c: _set(c, "annotations", 3, category_id=2),
      "1 of 4 annotations have category_ids that are not among the categories, .* number 3: ",
    ),
    (lambda c: _set(c, "annotations", 0, bbox="1 2 3 4"), "have no list as bbox"),
    (lambda c: _set(c, "annotations", 0, bbox=[1, 2, 3]), r"is not \[x, y, width, height\]"),
    (lambda c: _set(c, "annotations", 0, bbox=[1, 2, 3, 1e999]), r"is not \[x, y, width"),
    (lambda c: _set(c, "annotations", 0, bbox=[5, 5, -1, 3]), "1 of 4 .* bbox of negative size"),
    (lambda c: _set(c, "annotations", 0, area=-1), "1 of 4 .* an area that is no number from 0"),
    (lambda c: _set(c, "annotations", 0, iscrowd=2), "an iscrowd that is neither 0 nor 1"),
    (
      lambda c: _set(c, "annotations", 0, segmentation=[[1, 2, 3]]),
      r"1 of 4 .* a segmentation that is neither polygons nor RLE \(a polygon has 3 numbers",
    ),
    (
      lambda c: _set(c, "annotations", 2, segmentation={"size": [30, 40], "counts": [1200]}),
      r"\(the RLE has size \[30, 40\], expected \[40, 30\]\)",
    ),
  ],
)
def test_each_fault_of_a_file_is_said_in_one_line(content, write, change, message):
  path, folder = write(content)
  pathlib.Path(path).write_text(json.dumps(change(content)))
  with pytest.raises(CocoError, match=message) as error:
    annotation_files.load(path, folder)
  assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_a_file_that_is_missing_or_cut_is_named(content, write):
  path, folder = write(content)
  text = pathlib.Path(path).read_text()
  pathlib.Path(path).write_text(text[: len(text) // 2])
  with pytest.raises(
    CocoError, match=r"instances\.json: is not JSON: .*char \d+\); fetch it again"
  ):
    annotation_files.load(path, folder)
  os.remove(path)
  with pytest.raises(CocoError, match=r"instances\.json: cannot be read: No such file"):
    annotation_files.load(path, folder)


def test_images_that_are_missing_are_counted(content, write):
  path, folder = write(content)
  os.remove(os.path.join(folder, "a.png"))
  os.remove(os.path.join(folder, "c.png"))
  with pytest.raises(CocoError, match=f"2 of 3 images are not in {folder}, .*first: a.png; give"):
    annotation_files.load(path, folder)


def test_images_of_another_size_are_counted(content, write):
  path, folder = write(content)
  image_files.write_image(os.path.join(folder, "b.png"), np.zeros((40, 31, 3), np.uint8))
  message = "1 of 3 images in .* another size .* the first: b.png is 31x40, expected 30x40; give"
  with pytest.raises(CocoError, match=message):
    annotation_files.load(path, folder)


def test_images_without_any_objects_are_refused(content, write):
  content["images"].reverse()
  path, folder = write(content)
  with pytest.raises(CocoError, match="first 1 images have no annotations, .* take more of them$"):
    annotation_files.load(path, folder, limit=1)


def test_photos_of_the_reference_load(reference):
  folder = reference / "coco_small"
  dataset = annotation_files.load(
    str(folder / "annotations" / "instances_val.json"), str(folder / "val")
  )
  assert len(dataset) == 320 and dataset.has_masks
  assert dataset.categories == categories.CATEGORIES
  assert len(dataset.ground_truth["annotations"]) == 2957
  dataset.records[0].read()
