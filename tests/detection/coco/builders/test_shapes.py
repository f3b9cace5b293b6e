"""The TFDS data set `shapes`, and `--dataset=shapes`: the scenes in their order, with masks."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow_datasets as tfds

from detection.coco import evaluation, shape_dataset, shapes, sources
from detection.coco.builders import shapes as builder
from detection.coco.options import DatasetOptions

pytest.importorskip("dill")  # tensorflow_datasets.testing imports it.


class TestShapesBuilder(tfds.testing.DatasetBuilderTestCase):
  """TFDS's own checks of a builder."""

  DATASET_CLASS = builder.Shapes
  BUILDER_CONFIG_NAMES_TO_TEST = ["tiny"]
  SPLITS = {"train": 32, "validation": 8, "test": 8}
  EXAMPLE_DIR = "."  # It reads no files.


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> str:
  return str(tmp_path_factory.mktemp("data_dir"))


def test_the_data_set_that_programs_read_is_the_one_that_is_drawn(data_dir):
  options = DatasetOptions(dataset="shapes/tiny", split="validation", data_dir=data_dir, limit=6)
  found, expected = sources.load(options), shape_dataset.load("validation", 6)
  assert found.name == "shapes/tiny:validation" and found.has_masks
  assert found.categories == expected.categories
  for mine, theirs in zip(found, expected):
    assert (mine.image_id, mine.file_name) == (theirs.image_id, theirs.file_name)
    np.testing.assert_array_equal(mine.read(), theirs.read())
    for one, other in zip(mine.annotations, theirs.annotations):
      np.testing.assert_allclose(one["bbox"], other["bbox"], atol=1e-4)
      assert {**one, "bbox": 0} == {**other, "bbox": 0}
  truth = found.ground_truth
  detections = [{**each, "score": 0.5} for each in expected.ground_truth["annotations"]]
  metrics = evaluation.evaluate(truth, detections, with_masks=True)
  np.testing.assert_allclose([metrics["ap"], metrics["mask_ap"]], 1)


def test_a_part_of_a_split_is_those_scenes(data_dir):
  options = DatasetOptions(dataset="shapes/tiny", split="train[30:]", data_dir=data_dir)
  found = sources.load(options)
  assert [record.image_id for record in found] == [30, 31]
  np.testing.assert_array_equal(found.records[1].read(), shapes.draw(0, "train", 31).image)


def test_numbers_and_seed_are_the_configurations(data_dir):
  config = builder.ShapesConfig(name="few", train=1, validation=1, test=2, seed=9)
  few = tfds.builder("shapes", config=config, data_dir=data_dir)
  few.download_and_prepare()
  assert {name: split.num_examples for name, split in few.info.splits.items()} == {
    "train": 1,
    "validation": 1,
    "test": 2,
  }
  images = [each["image"] for each in tfds.as_numpy(few.as_dataset(split="test"))]
  expected = [shapes.draw(9, "test", index).image for index in range(2)]
  np.testing.assert_array_equal(images, expected)


def test_by_default_there_are_4000_500_and_500_images(data_dir):
  config = tfds.builder("shapes", data_dir=data_dir).builder_config
  assert (config.train, config.validation, config.test, config.seed) == (4000, 500, 500, 0)
