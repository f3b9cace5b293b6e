"""Data sets: images as they are read, ground truth, categories, and the options that name them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from detection.coco import CocoError, annotation_files, categories, sources
from detection.coco.dataset import Record
from detection.coco.options import DatasetOptions
from khuvcm_tf.options import OptionsError


def test_there_are_80_categories_and_ten_numbers_without_one():
  ids = [category.id for category in categories.CATEGORIES]
  assert len(set(categories.NAMES)) == 80 and ids == sorted(ids)
  assert set(range(1, 91)) - set(ids) == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
  assert categories.NAMES[0] == "person" and categories.NAMES[79] == "toothbrush"


@pytest.mark.parametrize("channels", [1, 3])
def test_images_have_three_channels(channels):
  pixels = np.arange(6 * channels, dtype=np.uint8).reshape(2, 3, channels)
  image = Record(1, "a.png", 2, 3, (), lambda: pixels).read()
  assert image.shape == (2, 3, 3) and image.dtype == np.uint8 and image.flags.writeable
  np.testing.assert_array_equal(image, np.concatenate([pixels] * (3 // channels), axis=2))


def test_an_image_of_another_size_is_refused():
  record = Record(1, "a.png", 2, 3, (), lambda: np.zeros((3, 2, 3), np.uint8))
  with pytest.raises(CocoError, match="a.png: image is 2x3, expected 3x2 as the annotations say"):
    record.read()


def test_ground_truth_has_the_images_and_objects_of_the_records(content, write):
  dataset = annotation_files.load(*write(content), limit=2)
  truth = dataset.ground_truth
  assert truth["categories"][0] == {"id": 1, "name": "person"}
  assert truth["images"][1] == {"id": 9, "file_name": "b.png", "height": 40, "width": 30}
  assert [(a["id"], a["image_id"]) for a in truth["annotations"]] == [
    (1, 7),
    (2, 7),
    (3, 9),
    (4, 9),
  ]
  assert truth["annotations"][1]["bbox"] == [15.5, 4, 20, 20]
  assert not dataset.has_masks


def test_a_data_set_is_named_by_its_files(content, write):
  annotations, images = write(content)
  options = DatasetOptions(annotations=annotations, images=images, limit=1)
  assert len(sources.load(options)) == 1


@pytest.mark.parametrize(
  "options, message",
  [
    ({}, "found none of --dataset and --annotations with --images, expected one of them"),
    ({"dataset": "coco/2017", "images": "val2017"}, "found both of --dataset and --annotations"),
    ({"annotations": "a.json"}, "found no --images, expected --annotations=FILE.json --images="),
    ({"images": "val2017"}, "found no --annotations, expected --annotations=FILE.json --images="),
    ({"dataset": "coco/2017", "limit": 0}, "--limit=0 is out of range, expected at least 1"),
  ],
)
def test_options_must_name_one_data_set(options, message):
  with pytest.raises(OptionsError, match=message):
    sources.load(DatasetOptions(**options))


def test_options_import_nothing_that_is_slow():
  code = "import sys, detection.coco.options; print({'tensorflow', 'numpy'} & set(sys.modules))"
  assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


@pytest.mark.parametrize("given", [{"split": "train"}, {"data_dir": "d"}])
def test_options_of_a_data_set_are_refused_with_annotations(given):
  (name,) = given
  message = f"^found --{name} with --annotations, expected it for --dataset; leave it out$"
  with pytest.raises(OptionsError, match=message):
    sources.load(DatasetOptions(annotations="a.json", images="i", **given))
