"""Small data sets in COCO's format, and detections made from their objects."""

from __future__ import annotations

import json
import os
import pathlib

import numpy as np
import pytest

from detection.coco import masks
from khuvcm_tf.data import image_files


def _annotation(image_id: int, category_id: int, bbox: list[float], **more) -> dict:
  return {"image_id": image_id, "category_id": category_id, "bbox": bbox, **more}


@pytest.fixture
def content() -> dict:
  """Annotations of three images, 40x30, 30x40 and 25x20; tests change them."""
  return {
    "images": [
      {"id": 7, "file_name": "a.png", "height": 30, "width": 40},
      {"id": 9, "file_name": "b.png", "height": 40, "width": 30},
      {"id": 8, "file_name": "c.png", "height": 20, "width": 25},
    ],
    "categories": [
      {"id": 3, "name": "car"},
      {"id": 1, "name": "person"},
      {"id": 18, "name": "dog"},
    ],
    "annotations": [
      _annotation(7, 1, [2, 3, 10, 12], area=60.5, segmentation=[[2, 3, 12, 3, 12, 15]]),
      _annotation(7, 18, [15.5, 4, 20, 20]),
      _annotation(9, 1, [0, 0, 30, 40], iscrowd=1, segmentation=_ring(40, 30)),
      _annotation(9, 1, [3, 3, 8, 20], segmentation=[]),
    ],
  }


def _ring(height: int, width: int) -> dict:
  return {"size": [height, width], "counts": [0, height, height * (width - 2), height]}


@pytest.fixture
def write(tmp_path):
  """A function that writes annotations and images of their sizes; returns their two paths."""

  def write_(content: object) -> tuple[str, str]:
    folder = tmp_path / "images"
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for image in content["images"] if isinstance(content, dict) else []:
      pixels = rng.integers(0, 256, (image["height"], image["width"], 3), np.uint8)
      image_files.write_image(str(folder / image["file_name"]), pixels)
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    return str(path), str(folder)

  return write_


@pytest.fixture(scope="session")
def jitter():
  """A function from ground truth to detections: moved, doubled, missed, with scores that tie."""

  def jitter_(ground_truth: dict, seed: int) -> list[dict]:
    rng = np.random.default_rng(seed)
    sizes = {image["id"]: (image["height"], image["width"]) for image in ground_truth["images"]}
    found = []
    for each in ground_truth["annotations"]:
      for _ in range(rng.integers(0, 4)):
        x, y, w, h = each["bbox"]
        shift = np.round(rng.normal(0, 0.06, 2) * (w, h)).astype(int)
        grown = np.exp(rng.normal(0, 0.06, 2)) * (w, h)
        mask = masks.decode(masks.from_segmentation(each["segmentation"], *sizes[each["image_id"]]))
        found.append(
          {
            "image_id": each["image_id"],
            "category_id": each["category_id"],
            "bbox": [x + shift[0], y + shift[1], *grown],
            "score": round(float(rng.random()), 1),
            "segmentation": masks.encode(np.roll(mask, shift[::-1], (0, 1))[np.newaxis])[0],
          }
        )
    rng.shuffle(found)
    return found

  return jitter_


@pytest.fixture(scope="session")
def crowded() -> dict:
  """Ground truth of 20 images with objects of all sizes, crowds and bounds between sizes.

  Category 4 has no objects, category 5 has a crowd only. Image 20 is empty.
  """
  rng = np.random.default_rng(1)
  images = [{"id": i, "file_name": f"{i}.png", "height": 160, "width": 200} for i in range(1, 21)]
  annotations = []
  for image in images[:-1]:
    for _ in range(rng.integers(1, 12)):
      w, h = rng.choice([4, 12, 32, 50, 96, 130], 2)
      annotations.append(_object(rng, image, int(rng.integers(1, 4)), int(w), int(h)))
    if rng.random() < 0.5:
      annotations.append({**_object(rng, image, int(rng.choice([1, 5])), 120, 90), "iscrowd": 1})
  for w, h in ((32, 32), (96, 96)):  # at the bounds of small, medium and large
    annotations.append(_object(rng, images[0], 1, w, h))
  return {
    "images": images,
    "annotations": [{"id": i, **each} for i, each in enumerate(annotations, 1)],
    "categories": [{"id": i, "name": f"kind {i}"} for i in range(1, 6)],
  }


def _object(rng, image: dict, category_id: int, w: int, h: int) -> dict:
  """A rectangle, or the ellipse in it, as polygon or run lengths."""
  x, y = (int(rng.integers(0, image[side] - s + 1)) for side, s in (("width", w), ("height", h)))
  mask = np.zeros((image["height"], image["width"]), bool)
  if rng.random() < 0.5:
    mask[y : y + h, x : x + w] = True
  else:
    rows, columns = np.ogrid[: image["height"], : image["width"]]
    mask |= ((columns + 0.5 - x - w / 2) / w) ** 2 + ((rows + 0.5 - y - h / 2) / h) ** 2 <= 0.25
  rle = masks.encode(mask[np.newaxis])[0]
  polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
  return {
    "image_id": image["id"],
    "category_id": category_id,
    "bbox": [x, y, w, h],
    "area": int(mask.sum()),
    "iscrowd": 0,
    "segmentation": polygon if mask.sum() == w * h else rle,
  }


@pytest.fixture(scope="session")
def reference() -> pathlib.Path:
  """The folder of data of other systems."""
  if "KHUVCM_REFERENCE" not in os.environ:
    pytest.skip("KHUVCM_REFERENCE is not set: no photos with annotations to compare on")
  return pathlib.Path(os.environ["KHUVCM_REFERENCE"]) / "data"
