"""Which detections COCO counts as right, image by image, in arrays.

COCO's evaluation gives numbers over a whole data set; a bootstrap over images needs what each image
contributes. This is COCO's matching (`COCOeval.evaluateImg` of pycocotools): best detections first,
each takes the free object that it overlaps most; objects of another size than asked for, and
crowds, count neither for nor against.

Letters: N detections, A ranges of areas (`AREAS`), T thresholds of IoU (`THRESHOLDS`), I images, K
categories, G objects of one image and category.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from faster_coco_eval import mask as mask_lib

from detection.coco import masks

THRESHOLDS = np.linspace(0.5, 0.95, 10)
# All, small, medium and large objects, by square pixels.
AREAS = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))
_MAX_DETECTIONS = 100


class Matches(NamedTuple):
  """Detections of a data set, those of a category together, best first.

  Attributes:
    category: index of each detection's category, int32 [N].
    image: index of its image, int32 [N].
    is_right: whether it found an object that counts, bool [A, T, N].
    is_ignored: whether it counts neither for nor against, bool [A, T, N].
    objects: number of objects that count, int32 [A, K, I].
  """

  category: np.ndarray
  image: np.ndarray
  is_right: np.ndarray
  is_ignored: np.ndarray
  objects: np.ndarray


def match(
  ground_truth: dict[str, list[dict]], detections: Sequence[dict], with_masks: bool = False
) -> Matches:
  """Matches boxes, or masks, with objects.

  Args:
    ground_truth, detections: as `evaluation.evaluate` takes them; all of them are evaluated.
    with_masks: whether masks are matched; all objects and detections have one.
  """
  images = {each["id"]: number for number, each in enumerate(ground_truth["images"])}
  sizes = {each["id"]: (each["height"], each["width"]) for each in ground_truth["images"]}
  ids = sorted(each["id"] for each in ground_truth["categories"])
  categories = {each: number for number, each in enumerate(ids)}
  objects, found = defaultdict(list), defaultdict(list)
  for entries, lists in ((ground_truth["annotations"], objects), (detections, found)):
    for each in entries:
      if with_masks:
        rle = masks.from_segmentation(each["segmentation"], *sizes[each["image_id"]])
        each = {**each, "segmentation": rle}
      lists[categories[each["category_id"]], images[each["image_id"]]].append(each)
  counts = np.zeros((len(AREAS), len(categories), len(images)), np.int32)
  for (category, image), entries in objects.items():
    counts[:, category, image] = (~_are_ignored(entries)).sum(1)
  parts = defaultdict(list)
  for (category, image), entries in sorted(found.items()):
    entries = sorted(entries, key=lambda each: -each["score"])[:_MAX_DETECTIONS]
    right, ignored = _match_image(objects.get((category, image), []), entries, with_masks)
    parts[category].append((image, [each["score"] for each in entries], right, ignored))
  none, no_flags = np.zeros(0, np.int32), np.zeros((len(AREAS), len(THRESHOLDS), 0), bool)
  blocks = [(none, none, no_flags, no_flags)]
  for category, of_images in parts.items():
    scores, right, ignored = (
      np.concatenate([each[part] for each in of_images], -1) for part in (1, 2, 3)
    )
    image = np.concatenate([np.full(len(each[1]), each[0], np.int32) for each in of_images])
    # Of equal scores, those of the first image come first, as COCO sorts them.
    order = np.argsort(-scores, kind="stable")
    of_category = np.full(len(scores), category, np.int32)
    blocks.append((of_category, image[order], right[..., order], ignored[..., order]))
  return Matches(*(np.concatenate(columns, -1) for columns in zip(*blocks)), counts)


def _shapes(entries: Sequence[dict], with_masks: bool) -> np.ndarray | list[dict]:
  """Returns what overlaps are taken of: boxes [n, 4], or run-length codes of masks."""
  if with_masks:
    return [each["segmentation"] for each in entries]
  return np.array([each["bbox"] for each in entries], float)


def _are_ignored(objects: Sequence[dict]) -> np.ndarray:
  """Returns which objects do not count, by range of areas: bool [A, G]."""
  area = np.array([each["area"] for each in objects], float)
  crowd = np.array([bool(each.get("iscrowd")) for each in objects], bool)
  return np.array([crowd | (area < low) | (area > high) for low, high in AREAS])


def _match_image(
  objects: Sequence[dict], detections: Sequence[dict], with_masks: bool
) -> tuple[np.ndarray, np.ndarray]:
  """Returns `is_right` and `is_ignored` of an image's detections of one category, best first."""
  shapes, of_objects = _shapes(detections, with_masks), _shapes(objects, with_masks)
  if with_masks:
    area = np.array([masks.area(each) for each in shapes], float)
  else:
    area = shapes[:, 2] * shapes[:, 3]
  outside = np.array([(area < low) | (area > high) for low, high in AREAS])
  shape = (len(AREAS), len(THRESHOLDS), len(detections))
  right, ignored = np.zeros(shape, bool), np.repeat(outside[:, np.newaxis], shape[1], 1)
  if not objects:
    return right, ignored
  crowd = np.array([bool(each.get("iscrowd")) for each in objects])
  iou = mask_lib.iou(shapes, of_objects, crowd.tolist())
  skipped = _are_ignored(objects)[:, np.newaxis]  # [A, 1, G]
  is_free = np.ones((*shape[:2], len(objects)), bool)
  limits = np.minimum(THRESHOLDS, 1 - 1e-10)[:, np.newaxis]
  for number, overlap in enumerate(np.asarray(iou)):
    fits = (overlap >= limits) & (is_free | crowd)  # [A, T, G]
    counting = fits & ~skipped
    # Objects that do not count are taken only where none fits that does.
    fits = np.where(counting.any(-1, keepdims=True), counting, fits)
    # Of equal overlaps the last one, of those that count first.
    last = len(objects) - 1 - np.argmax(np.where(fits, overlap, -1.0)[..., ::-1], -1)
    is_found = fits.any(-1)
    taken = (np.arange(len(objects)) == last[..., np.newaxis]) & is_found[..., np.newaxis]
    is_free &= ~taken
    counts = (taken & ~skipped).any(-1)
    right[..., number] = counts
    ignored[..., number] = np.where(is_found, ~counts, ignored[..., number])
  return right, ignored
