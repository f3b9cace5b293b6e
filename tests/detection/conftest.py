"""A tiny detector on a few images with objects where it finds some."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from detection.coco import annotation_files
from detection.coco.dataset import Dataset
from detection.coco.detections import to_coco
from detection.predictor import Predictor

NAMES = ("disc", "square", "star")


@pytest.fixture(scope="session")
def model(tiny_detector):
  return Predictor(tiny_detector, NAMES, "tiny")


@pytest.fixture(scope="session")
def folder(tmp_path_factory, model):
  """Images, and annotations that are some of what the detector finds: AP is neither 0 nor 1."""
  folder = tmp_path_factory.mktemp("images")
  rng, images, annotations = np.random.default_rng(0), [], []
  for number, (height, width) in enumerate([(64, 80), (90, 64), (64, 64), (70, 100)], 1):
    small = rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    pixels = np.asarray(Image.fromarray(small).resize((width, height)))
    Image.fromarray(pixels).save(folder / f"{number}.png")
    images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
    for each in to_coco(model(pixels), number, height, width, {0: 1, 1: 2, 2: 3})[::3]:
      area = each["bbox"][2] * each["bbox"][3]
      annotations.append({**each, "id": len(annotations) + 1, "area": area, "iscrowd": 0})
  categories = [{"id": number, "name": name} for number, name in enumerate(NAMES, 1)]
  content = {"images": images, "annotations": annotations, "categories": categories}
  (folder / "annotations.json").write_text(json.dumps(content))
  return folder


@pytest.fixture(scope="session")
def dataset(folder) -> Dataset:
  return annotation_files.load(str(folder / "annotations.json"), str(folder))
