"""A tiny detector to train, and a batch of what it is trained on."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from detection.config import Config
from detection.detector import Detector
from detection.training.examples import Batch
from detection.training.model import DetectorModel
from detection.training.options import DetectorOptions

ARGUMENTS = {
  "backbone": "resnet18",
  "width": 4,
  "norm": "batch",
  "masks": True,
  "fpn_channels": 8,
  "box_fc_channels": 8,
  "mask_channels": 4,
  "short_side": 64,
  "max_side": 64,
  "num_proposals": 10,
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
  """Six images of bright squares and dark discs on grey noise, in COCO's format."""
  folder = tmp_path_factory.mktemp("data")
  rng = np.random.default_rng(0)
  images, annotations = [], []
  for number in range(1, 7):
    pixels = rng.integers(90, 130, (64, 72, 3)).astype(np.uint8)
    for category, value, left in ((1, 250, 2), (2, 5, 38)):
      x, y, side = (int(each) for each in rng.integers((left, 4, 16), (left + 6, 36, 28)))
      pixels[y : y + side, x : x + side] = value
      segmentation = [[x, y, x + side, y, x + side, y + side, x, y + side]]
      annotations.append(
        {
          "id": len(annotations) + 1,
          "image_id": number,
          "category_id": category,
          "bbox": [x, y, side, side],
          "area": side**2,
          "iscrowd": 0,
          "segmentation": segmentation,
        }
      )
    Image.fromarray(pixels).save(folder / f"{number}.png")
    images.append({"id": number, "file_name": f"{number}.png", "height": 64, "width": 72})
  categories = [{"id": 1, "name": "light"}, {"id": 2, "name": "dark"}]
  content = {"images": images, "annotations": annotations, "categories": categories}
  (folder / "annotations.json").write_text(json.dumps(content))
  return folder


@pytest.fixture(scope="session")
def make_options(folder):
  """A function from changes to the options of a run of a few steps."""

  def make_options_(**changes) -> DetectorOptions:
    fields = {
      "workdir": "unused",
      "arguments": ARGUMENTS,
      "train_annotations": (str(folder / "annotations.json"),),
      "train_images": (str(folder),),
      "validation_annotations": str(folder / "annotations.json"),
      "validation_images": str(folder),
      "validation_limit": 2,
      "batch_size": 2,
      "image_side": 64,
      "max_objects": 4,
      "anchors_per_image": 32,
      "proposals_per_image": 20,
      "boxes_per_image": 16,
      "learning_rate": 2e-3,
      "clip_norm": 10.0,
    }
    return DetectorOptions(**{**fields, **changes})

  return make_options_


@pytest.fixture(scope="session")
def batch():
  """Two images; the second has one object without a mask."""
  rng = np.random.default_rng(1)
  boxes = np.zeros((2, 4, 4), np.float32)
  boxes[0, :2] = [[4, 6, 30, 40], [20, 10, 60, 50]]
  boxes[1, 0] = [8, 8, 40, 30]
  masks = np.zeros((2, 4, 64, 64), np.uint8)
  masks[0, 0, 6:40, 4:30] = masks[0, 1, 10:50, 20:60] = 1
  return Batch(
    tf.constant(rng.integers(0, 256, (2, 64, 64, 3)), tf.uint8),
    tf.constant([[64, 64], [40, 50]]),
    tf.constant(boxes),
    tf.constant([[0, 1, -1, -1], [1, -1, -1, -1]]),
    tf.constant(masks),
    tf.constant([[True, True, False, False], [False] * 4]),
    tf.constant([[1, 2], [3, 4]]),
  )


@pytest.fixture
def make_model(make_options):
  """A function from fields of the config to a model whose weights are always the same."""

  def make_model_(**fields) -> DetectorModel:
    tf.keras.utils.set_random_seed(0)
    return DetectorModel(Detector(Config(**ARGUMENTS, **fields, num_classes=2)), make_options())

  return make_model_


@pytest.fixture
def model(make_model):
  return make_model()
