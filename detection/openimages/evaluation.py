"""Mean average precision at an IoU of 0.5 by the rules of Open Images.

  - In an image only classes count that were verified there, present or absent; detections of
    others are passed over.
  - A detection is right if the box that it overlaps most, at an IoU of 0.5 or more, has not been
    found by a better one.
  - A box around a group counts as one object. All detections that lie in it by half of their own
    area or more (intersection over the detection's area), and are not right otherwise, are one
    detection, with the best score of them; without any the group is one object not found.
  - With a hierarchy, each box and detection also counts for all classes above its own, a class that
    is verified to be there makes those above be there, one that is absent those below it absent.
  - AP is the area below the precision's falling envelope; the mean is over classes with objects.

Reference: storage.googleapis.com/openimages/web/evaluation.html; `per_image_evaluation.py` of the
TensorFlow Object Detection API, with a weight of 1 for groups.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from detection.openimages.files import Box, Label

IOU = 0.5

Hierarchy = Mapping[str, tuple[str, ...]]


def evaluate(
  boxes: Sequence[Box],
  labels: Sequence[Label],
  detections: Sequence[Box],
  hierarchy: Hierarchy | None = None,
) -> dict[str, object]:
  """Compares detections with boxes.

  Returns:
    "map50"; "classes": AP of each class that has an object, 0..1; "passed_over": number of
    detections of classes that were not verified in their image.
  """
  above = hierarchy or {}
  boxes, detections = _expanded(boxes, above), _expanded(detections, above)
  verified = _verified(boxes, labels, above)
  truth, found, passed_over = defaultdict(list), defaultdict(list), 0
  for each in boxes:
    truth[each.label, each.image].append(each)
  for each in detections:
    if each.label in verified[each.image]:
      found[each.label, each.image].append(each)
    else:
      passed_over += 1
  classes = {}
  for label in sorted({label for label, _ in truth}):
    images = {image for name, image in (*truth, *found) if name == label}
    parts = [_match(truth[label, image], found[label, image]) for image in sorted(images)]
    scores = np.concatenate([scores for scores, _ in parts])
    right = np.concatenate([right for _, right in parts])
    count = sum(len(own) for (name, _), own in truth.items() if name == label)
    classes[label] = average_precision(scores, right, count)
  mean = float(np.mean(list(classes.values()))) if classes else float("nan")
  return {"map50": mean, "classes": classes, "passed_over": passed_over}


def average_precision(scores: np.ndarray, is_right: np.ndarray, count: int) -> float:
  """Returns the area below the falling envelope of precision over recall.

  Args:
    scores: of detections, [n].
    is_right: whether each found an object, bool [n].
    count: number of objects, 1 or more.

  Example:
    >>> average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), 2)
    0.8333333333333333
  """
  order = np.argsort(-scores, kind="stable")
  right = np.cumsum(is_right[order])
  precision = right / np.arange(1, len(right) + 1)
  envelope = np.maximum.accumulate(precision[::-1])[::-1]
  recall = np.concatenate([[0.0], right / count])
  return float(np.sum(np.diff(recall) * envelope))


def _expanded(boxes: Sequence[Box], above: Hierarchy) -> list[Box]:
  return [
    each._replace(label=label)
    for each in boxes
    for label in (each.label, *above.get(each.label, ()))
  ]


def _verified(boxes: Sequence[Box], labels: Sequence[Label], above: Hierarchy):
  """Returns the classes that were verified in each image."""
  below = defaultdict(list)
  for label, others in above.items():
    for other in others:
      below[other].append(label)
  found = defaultdict(set)
  for each in boxes:
    found[each.image].add(each.label)
  for each in labels:
    more = above.get(each.label, ()) if each.is_there else below[each.label]
    found[each.image].update((each.label, *more))
  return found


def _match(truth: Sequence[Box], found: Sequence[Box]) -> tuple[np.ndarray, np.ndarray]:
  """Returns scores and rightness of an image's detections of one class, those in a group as one."""
  found = sorted(found, key=lambda each: -each.score)
  single = [each for each in truth if not each.is_group]
  groups = [each for each in truth if each.is_group]
  iou, _ = _overlaps(found, single)
  _, share = _overlaps(found, groups)
  is_taken = np.zeros(len(single), bool)
  scores, right, best_of_group = [], [], {}
  for number, each in enumerate(found):
    nearest = int(np.argmax(iou[number])) if single else -1
    is_right = nearest >= 0 and iou[number, nearest] >= IOU and not is_taken[nearest]
    if is_right:
      is_taken[nearest] = True
    group = int(np.argmax(share[number])) if groups else -1
    if not is_right and group >= 0 and share[number, group] >= IOU:
      best_of_group.setdefault(group, each.score)  # the first is the best
      continue
    scores.append(each.score)
    right.append(is_right)
  scores += best_of_group.values()
  right += [True] * len(best_of_group)
  return np.array(scores, float), np.array(right, bool)


def _overlaps(found: Sequence[Box], truth: Sequence[Box]) -> tuple[np.ndarray, np.ndarray]:
  """Returns IoU, and the intersection as a share of each detection's own area, [n, m] each."""
  first, second = (
    np.array([each.corners for each in boxes], float).reshape(-1, 4) for boxes in (found, truth)
  )
  low = np.maximum(first[:, np.newaxis, :2], second[:, :2])
  high = np.minimum(first[:, np.newaxis, 2:], second[:, 2:])
  both = np.prod(np.maximum(high - low, 0.0), axis=-1)
  areas = (np.prod(each[:, 2:] - each[:, :2], axis=-1) for each in (first, second))
  own, others = (np.maximum(area, 1e-12) for area in areas)
  union = own[:, np.newaxis] + others - both
  return both / union, both / own[:, np.newaxis]
