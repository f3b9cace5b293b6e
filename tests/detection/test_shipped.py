"""The detectors that come with the package."""

from __future__ import annotations

import os

import numpy as np
import pytest

from detection import detector_files, predictor
from detection.coco import evaluation, run, shape_dataset
from detection.coco.detections import to_coco
from khuvcm_tf import model_folders
from khuvcm_tf.data import sample_photos

SHIPPED = sorted(model_folders.shipped(detector_files.DESCRIPTION))


def test_which_are_shipped():
  assert {"coco80", "person", "shapes"} <= set(SHIPPED)


def test_shapes_finds_most_of_what_is_drawn():
  detect, dataset = predictor.load("shapes"), shape_dataset.load("test", 16)
  ids, found = run.match(detect.categories, dataset), []
  for record in dataset:
    objects = detect(record.read())
    found += to_coco(objects, record.image_id, record.height, record.width, ids)
  metrics = evaluation.evaluate(dataset.ground_truth, found)
  # On 500 images: 0.73 of boxes, 0.69 of masks.
  assert metrics["ap50"] > 0.55 and metrics["mask_ap50"] > 0.5


@pytest.mark.parametrize("name", SHIPPED)
def test_it_is_small_and_says_how_it_was_trained(name):
  folder = detector_files.find(name)
  assert sum(os.path.getsize(os.path.join(folder, each)) for each in os.listdir(folder)) <= 14e6
  training = detector_files._read_description(folder)["training"]
  assert training["steps"] > 0 and training["options"]["batch_size"] > 0


def test_person_finds_the_astronaut():
  objects = predictor.load("person", min_score=0.5)(sample_photos.load()["astronaut"])
  # She fills the photo from the left to two thirds of its width, and down to its lower edge.
  areas = (objects.boxes[:, 2] - objects.boxes[:, 0]) * (objects.boxes[:, 3] - objects.boxes[:, 1])
  largest = int(areas.argmax())
  x1, y1, x2, y2 = objects.boxes[largest]
  assert x1 < 110 and y1 < 60 and 300 < x2 < 420 and y2 > 470
  face = objects.masks[largest][80:140, 200:250]
  assert np.mean(face) > 0.8
