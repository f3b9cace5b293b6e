"""COCO's twelve numbers: average precision (AP) and average recall (AR) of boxes and of masks.

All are fractions, 0..1. AP is the mean precision over 101 recalls, over categories and over the ten
thresholds 0.50, 0.55, ..., 0.95 of intersection over union (IoU).

  ap, ap50, ap75    over all thresholds, at 0.50, at 0.75
  aps, apm, apl     of objects with an area up to 32^2 pixels, from there to 96^2, and above
  ar1, ar10, ar100  recall with at most so many detections an image, mean over the thresholds
  ars, arm, arl     ar100 by size

Detections are in COCO's format of results: {"image_id", "category_id", "bbox": [x, y, width,
height] in pixels, "score", and "segmentation": RLE where there are masks}. As in detectron2, the
size of a detected mask is that of the mask, not of the box.

Reference: cocodataset.org, "Metrics". faster-coco-eval counts; its numbers are pycocotools' own.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Collection, Sequence

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from detection.coco import CocoError, masks
from detection.coco.categories import SUPERCATEGORIES, supercategory
from khuvcm_tf.results import rows

KEYS = ("ap", "ap50", "ap75", "aps", "apm", "apl", "ar1", "ar10", "ar100", "ars", "arm", "arl")
VERSION = f"faster-coco-eval {importlib.metadata.version('faster-coco-eval')}"


def evaluate(
  ground_truth: dict[str, list[dict]],
  detections: Sequence[dict],
  image_ids: Collection[int] | None = None,
  category_ids: Collection[int] | None = None,
  with_masks: bool | None = None,
) -> dict[str, object]:
  """Compares detections with what is in the images.

  Args:
    ground_truth: "images", "annotations" and "categories" as `dataset.Dataset.ground_truth` gives
      them.
    detections: as in this module's docstring, in any order; may be empty.
    image_ids, category_ids: what is evaluated; None for all. Others are left out on both sides.
    with_masks: whether masks are evaluated too; None: if detections have masks and all objects do.

  Returns:
    `KEYS` of boxes; with masks also mask_ap, ...; and "categories": for each category's name, a
    dictionary with ap, and with masks mask_ap. nan where there are no objects to find.

  Raises:
    CocoError: a detection is of an unknown image or category, or lacks a mask that others have.
  """
  _check_ids(ground_truth, detections)
  truth = chosen(ground_truth, image_ids, category_ids)
  images, categories = truth["images"], truth["categories"]
  # Shallow copies, as the evaluation writes into them.
  objects = [{**each} for each in truth["annotations"]]
  found = [{**each} for each in _of(detections, images, categories)]
  if with_masks is None:
    with_masks = bool(found) and all("segmentation" in e for e in objects)
    with_masks = with_masks and any("segmentation" in e for e in found)
  metrics, by_category = _measure("bbox", images, categories, objects, _as_boxes(found))
  parts = {category["name"]: {"ap": ap} for category, ap in zip(categories, by_category)}
  if with_masks:
    mask_metrics, by_category = _measure("segm", images, categories, objects, _as_masks(found))
    metrics.update({f"mask_{key}": value for key, value in mask_metrics.items()})
    for category, ap in zip(categories, by_category):
      parts[category["name"]]["mask_ap"] = ap
  return {**metrics, "categories": parts}


def chosen(
  ground_truth: dict[str, list[dict]],
  image_ids: Collection[int] | None = None,
  category_ids: Collection[int] | None = None,
) -> dict[str, list[dict]]:
  """Returns the part of a ground truth that `evaluate` compares with; arguments are its."""
  images = _chosen(ground_truth["images"], "id", image_ids)
  categories = _chosen(ground_truth["categories"], "id", category_ids)
  annotations = _of(ground_truth["annotations"], images, categories)
  return {"images": images, "annotations": annotations, "categories": categories}


def by_supercategory(
  ground_truth: dict[str, list[dict]],
  detections: Sequence[dict],
  category_ids: Collection[int] | None = None,
) -> tuple[dict[str, list[dict]], list[dict]]:
  """Returns both with COCO's categories replaced by their super-categories; others are left out.

  A detection then is right where any category of the super-category is. One object that was found
  as two of them counts as found once, and once as found in error.

  Args:
    ground_truth, detections, category_ids: as `evaluate` takes them.

  Raises:
    CocoError: no category is one of COCO's.
  """
  categories = _chosen(ground_truth["categories"], "id", category_ids)
  names = {each["id"]: supercategory(each["name"]) for each in categories}
  ids = {name: number for number, name in enumerate(SUPERCATEGORIES, 1) if name in names.values()}
  if not ids:
    raise CocoError(
      "none of the categories is one of COCO's, expected some; drop --supercategories"
    )

  def renamed(entries):
    return [
      {**each, "category_id": ids[names[each["category_id"]]]}
      for each in entries
      if names.get(each["category_id"])
    ]

  truth = {
    "images": ground_truth["images"],
    "annotations": renamed(ground_truth["annotations"]),
    "categories": [{"id": number, "name": name} for name, number in ids.items()],
  }
  return truth, renamed(detections)


def table(metrics: dict[str, object]) -> str:
  """Returns the twelve numbers as text: a line for boxes, and one for masks if they were evaluated.

  Args:
    metrics: as `evaluate` returns them; numbers that are nan are shown as "-".
  """
  header = ["", *(key[:2].upper() + key[2:] for key in KEYS)]
  lines = []
  for name, prefix in (("boxes", ""), ("masks", "mask_")):
    if f"{prefix}ap" in metrics:
      values = [metrics[f"{prefix}{key}"] for key in KEYS]
      lines.append([name, *("-" if math.isnan(value) else f"{value:.4f}" for value in values)])
  return rows.table([header, None, *lines])


def _check_ids(ground_truth: dict, detections: Sequence[dict]) -> None:
  for field, name in (("image_id", "images"), ("category_id", "categories")):
    unknown = {each[field] for each in detections} - {each["id"] for each in ground_truth[name]}
    if unknown:
      raise CocoError(
        f"detections have {len(unknown)} {field}s such as {min(unknown)}, expected those of the "
        f"{len(ground_truth[name])} {name} of the data set; evaluate on the data set of the "
        "detections"
      )


def _chosen(entries: Sequence[dict], field: str, values: Collection[int] | None) -> list[dict]:
  return [each for each in entries if values is None or each[field] in values]


def _of(entries: Sequence[dict], images: Sequence[dict], categories: Sequence[dict]) -> list[dict]:
  """Returns objects or detections that are of these images and categories."""
  entries = _chosen(entries, "image_id", {image["id"] for image in images})
  return _chosen(entries, "category_id", {category["id"] for category in categories})


def _as_boxes(found: Sequence[dict]) -> list[dict]:
  """Returns detections with the boxes' areas."""
  return [{**each, "area": each["bbox"][2] * each["bbox"][3]} for each in found]


def _as_masks(found: Sequence[dict]) -> list[dict]:
  """Returns detections with the masks' areas."""
  without = sum("segmentation" not in each for each in found)
  if without:
    raise CocoError(
      f"{without} of {len(found)} detections have no mask, expected masks of all or of none; run "
      "the detector again"
    )
  return [{**each, "area": masks.area(each["segmentation"])} for each in found]


def _measure(
  kind: str,
  images: list[dict],
  categories: list[dict],
  objects: Sequence[dict],
  found: Sequence[dict],
) -> tuple[dict[str, float], list[float]]:
  """Returns the numbers by `KEYS`, and the AP of each category; 0..1, or nan.

  Args:
    kind: "bbox" or "segm".
  """
  about = {"images": images, "categories": categories}
  found = [{**each, "id": number, "iscrowd": 0} for number, each in enumerate(found, 1)]
  truth, result = (
    COCO({**about, "annotations": entries}) for entries in ([{**each} for each in objects], found)
  )
  evaluation = COCOeval_faster(truth, result, kind, print_function=lambda *_: None)
  evaluation.params.catIds = [category["id"] for category in categories]
  evaluation.run()
  precision = evaluation.eval["precision"][:, :, :, 0, -1]  # [IoU, recall, category]
  order = sorted(category["id"] for category in categories)  # of the last axis
  by_id = dict(zip(order, map(_mean, np.moveaxis(precision, -1, 0))))
  numbers = [math.nan if value < 0 else float(value) for value in evaluation.stats[: len(KEYS)]]
  return dict(zip(KEYS, numbers)), [by_id[category["id"]] for category in categories]


def _mean(values: np.ndarray) -> float:
  """Returns the mean of the values that are not -1, or nan."""
  values = values[values > -1]
  return float(values.mean()) if values.size else math.nan
