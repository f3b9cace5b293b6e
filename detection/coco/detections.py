"""What a detector finds in an image, in COCO's format of results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from detection.coco import CocoError, masks


class Detections(Protocol):
  """What a detector returns for an image.

  Attributes:
    boxes: float32 [n, 4], x1, y1, x2, y2 in the image's pixels.
    scores: float32 [n], 0..1.
    classes: int [n], indices into the detector's categories.
    masks: bool [n, H, W], or None for a detector of boxes only.
  """

  boxes: np.ndarray
  scores: np.ndarray
  classes: np.ndarray
  masks: np.ndarray | None


def to_coco(
  detections: Detections, image_id: int, height: int, width: int, category_ids: Mapping[int, int]
) -> list[dict]:
  """Returns detections in COCO's format: {"image_id", "category_id", "bbox", "score", ...}.

  Args:
    detections: of one image.
    image_id: of the image in its data set.
    height, width: of the image, in pixels.
    category_ids: from the detector's classes to ids of the data set; others are left out.

  Raises:
    ValueError: an array has another shape than `Detections` says.
    CocoError: a number is not finite.
  """
  boxes, scores = np.asarray(detections.boxes, np.float32), np.asarray(detections.scores)
  classes, count = np.asarray(detections.classes), len(boxes)
  shapes = {"boxes": (count, 4), "scores": (count,), "classes": (count,)}
  arrays = {"boxes": boxes, "scores": scores, "classes": classes}
  if detections.masks is not None:
    shapes["masks"] = (count, height, width)
    arrays["masks"] = np.asarray(detections.masks, bool)
  for name, shape in shapes.items():
    if arrays[name].shape != shape:
      raise ValueError(f"`{name}` is {list(arrays[name].shape)}, expected {list(shape)}")
  if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
    raise CocoError(
      "boxes or scores of the detector are not finite, expected numbers; check its weights"
    )
  corners = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)  # x, y, w, h
  kept = [i for i, each in enumerate(classes.tolist()) if each in category_ids]
  found = [
    {
      "image_id": image_id,
      "category_id": category_ids[int(classes[i])],
      "bbox": corners[i].tolist(),
      "score": float(scores[i]),
    }
    for i in kept
  ]
  if detections.masks is not None:
    for each, rle in zip(found, masks.encode(arrays["masks"][kept])):
      each["segmentation"] = rle
  return found
