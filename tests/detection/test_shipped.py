"""The detectors that come with the package."""

from __future__ import annotations

import os

import pytest

from detection import detector_files, predictor
from detection.coco import evaluation, shape_dataset
from detection.coco.detections import to_coco


def _bytes(name: str) -> int:
  folder = detector_files.find(name)
  return sum(os.path.getsize(os.path.join(folder, each)) for each in os.listdir(folder))


@pytest.mark.parametrize("name, most", [("shapes", 12e6), ("person", 14e6)])
def test_it_is_small_and_says_how_it_was_trained(name, most):
  assert _bytes(name) <= most
  description = detector_files._read_description(detector_files.find(name))
  assert description["training"]["steps"] > 0
  assert "options" in description["training"]


def test_shapes_are_found_in_images_that_were_not_trained_on():
  dataset = shape_dataset.load("test", 12)
  detect, found = predictor.load("shapes"), []
  ids = dict(enumerate(category.id for category in dataset.categories))
  for record in dataset:
    found += to_coco(detect(record.read()), record.image_id, record.height, record.width, ids)
  metrics = evaluation.evaluate(dataset.ground_truth, found)
  assert metrics["ap50"] > 0.4 and metrics["mask_ap50"] > 0.3
