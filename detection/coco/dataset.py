"""A data set of images with objects, whatever it was read from.

  for record in dataset:
    image = record.read()  # uint8 [H, W, 3]

An object is an annotation as in COCO's files: {"category_id", "bbox": [x, y, width, height] in
pixels, "area" in pixels, "iscrowd": 0 or 1, and "segmentation" (polygons or RLE) where it has a
mask}. x and y are the box's upper left corner; pixel (0, 0) covers 0..1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Callable

import numpy as np

from detection.coco import CocoError
from detection.coco.categories import Category


@dataclasses.dataclass(frozen=True)
class Record:
  """One image and its objects; the pixels are read when they are asked for.

  Attributes:
    image_id: of the data set; unique in it.
    file_name: for messages.
    height, width: in pixels.
    annotations: the objects, as in this module's docstring.
    load: reads the pixels, uint8 [H, W, 1 or 3].
  """

  image_id: int
  file_name: str
  height: int
  width: int
  annotations: tuple[dict, ...]
  load: Callable[[], np.ndarray]

  def read(self) -> np.ndarray:
    """Returns the image as uint8 RGB [H, W, 3]; grey becomes three equal channels.

    Raises:
      CocoError: the image has another size than the data set says.
      image_files.ImageError, data.DataError: the image cannot be read.
    """
    image = self.load()
    if image.shape[:2] != (self.height, self.width):
      raise CocoError(
        f"{self.file_name}: image is {image.shape[1]}x{image.shape[0]}, expected "
        f"{self.width}x{self.height} as the annotations say; fetch the images that belong to them"
      )
    return np.broadcast_to(image, (self.height, self.width, 3)).copy()


@dataclasses.dataclass(frozen=True)
class Dataset:
  """Images with objects of some categories.

  Attributes:
    name: for people: where the data set was read from.
    categories: in the order of their ids; a detector's class is an index into these.
    records: at least one, and at least one object in all.
  """

  name: str
  categories: tuple[Category, ...]
  records: tuple[Record, ...]

  def __iter__(self) -> Iterator[Record]:
    return iter(self.records)

  def __len__(self) -> int:
    return len(self.records)

  @property
  def has_masks(self) -> bool:
    """Whether each object has a mask."""
    return all("segmentation" in each for record in self for each in record.annotations)

  @property
  def ground_truth(self) -> dict[str, list[dict]]:
    """A new dictionary of COCO's format; annotations are numbered anew, from 1.

    0 as an id would be taken for "not matched" by COCO's own evaluation.
    """
    annotations = [{"image_id": r.image_id, **each} for r in self for each in r.annotations]
    return {
      "images": [
        {"id": r.image_id, "file_name": r.file_name, "height": r.height, "width": r.width}
        for r in self
      ],
      "annotations": [{"id": number, **each} for number, each in enumerate(annotations, 1)],
      "categories": [category._asdict() for category in self.categories],
    }
