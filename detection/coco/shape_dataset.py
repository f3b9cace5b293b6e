"""The data set of drawn shapes in COCO's terms, drawn here rather than read.

`--dataset=shapes` reads the same images from TFDS's folder, where `builders.shapes` puts them.
"""

from __future__ import annotations

import functools
import os

import numpy as np

from detection.coco import annotation_files, masks, shapes
from detection.coco.categories import Category
from detection.coco.dataset import Dataset, Record
from detection.coco.options import GenerateShapesOptions
from khuvcm_tf import atomic_files
from khuvcm_tf.options import check

CATEGORIES = tuple(Category(id_, name) for id_, name in enumerate(shapes.CATEGORIES, 1))


def load(split: str, count: int, seed: int = 0) -> Dataset:
  """Draws the first images of a split for their objects; each image is drawn again when it is read.

  Drawing an image takes about 6 ms of a processor core.

  Args:
    split: one of `shapes.SPLITS`.
    count: number of images, from 1.
    seed: as `shapes.draw` takes it.

  Raises:
    ValueError: there is no such split, or a number is out of range.
    SamplePhotosError: scikit-image is not installed.
  """
  if count < 1:
    raise ValueError(f"`count` is {count}, expected at least 1")
  records = (_record(seed, split, index) for index in range(count))
  return Dataset(f"shapes:{split}", CATEGORIES, tuple(records))


def annotations(scene: shapes.Scene) -> list[dict]:
  """Returns a scene's objects as `dataset` describes them, with masks as RLE."""
  corners = scene.boxes.tolist()
  return [
    {
      "category_id": CATEGORIES[kind].id,
      "bbox": [x1, y1, x2 - x1, y2 - y1],
      "area": masks.area(rle),
      "iscrowd": 0,
      "segmentation": rle,
    }
    for kind, (x1, y1, x2, y2), rle in zip(scene.classes, corners, masks.encode(scene.masks))
  ]


def file_name(index: int) -> str:
  """Returns the file name of image `index` of a split."""
  return f"{index:06}.png"


def generate(options: GenerateShapesOptions) -> str:
  """Writes a split as files in COCO's format, and returns a line that says where.

  Raises:
    OptionsError: an option is missing or out of range.
    SamplePhotosError: scikit-image is not installed.
    FileError: the annotations exist and may not be replaced, or a file cannot be written.
  """
  check(options)
  path = os.path.join(options.output, f"{options.split}.json")
  folder = os.path.join(options.output, options.split)
  atomic_files.check_targets([path], overwrite=options.overwrite)
  annotation_files.write(load(options.split, options.count, options.seed), path, folder)
  return f"written: --annotations={path} --images={folder}"


def _record(seed: int, split: str, index: int) -> Record:
  objects = tuple(annotations(shapes.draw(seed, split, index)))
  load_image = functools.partial(_draw_image, seed, split, index)
  return Record(index, file_name(index), *shapes.SIZE, objects, load_image)


def _draw_image(seed: int, split: str, index: int) -> np.ndarray:
  return shapes.draw(seed, split, index).image
