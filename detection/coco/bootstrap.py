"""How sure average precision is: the numbers of data sets drawn from the images that there are.

A draw takes as many images as there are, each at random, some twice and some not at all. Variants
are compared on the same draws (paired): what makes the images hard is in both. An interval is what
lies between the 2.5th and the 97.5th percentile of the draws.

Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.

Letters: D draws, I images, N detections of a category, P of them that are right.
"""

from __future__ import annotations

import numpy as np

from detection.coco.matches import Matches

KEYS = ("ap", "ap50", "ap75", "aps", "apm", "apl")
_RECALLS = np.linspace(0.0, 1.0, 101)  # at which COCO takes the precision
_DRAWS_AT_ONCE = 250  # which bounds the memory


def draw(seed: int, num_images: int, count: int = 1000) -> np.ndarray:
  """Returns how often each draw has each image, int32 [count, num_images]."""
  rng = np.random.default_rng(seed)
  return rng.multinomial(num_images, np.full(num_images, 1 / num_images), count).astype(np.int32)


def evaluate(matches: Matches, weights: np.ndarray) -> np.ndarray:
  """Returns COCO's numbers of boxes of each draw, in the order of `KEYS`, float64 [D, 6].

  Args:
    matches: of a detector on I images.
    weights: how often each image counts, integers [D, I]. Ones give COCO's own numbers.

  Returns:
    Fractions, 0..1; nan where a draw has no objects of that size.
  """
  starts = range(0, len(weights), _DRAWS_AT_ONCE)
  parts = [_evaluate(matches, weights[start : start + _DRAWS_AT_ONCE]) for start in starts]
  return np.concatenate(parts)


def interval(values: np.ndarray) -> tuple[float, float]:
  """Returns the 95 % interval of draws; nan where they have no values."""
  finite = values[np.isfinite(values)]
  if not finite.size:
    return float("nan"), float("nan")
  low, high = np.percentile(finite, (2.5, 97.5))
  return float(low), float(high)


def _evaluate(matches: Matches, weights: np.ndarray) -> np.ndarray:
  areas, thresholds = matches.is_right.shape[:2]
  sums = np.zeros((areas, thresholds, len(weights)))
  counts = np.zeros((areas, len(weights)))
  edges = np.searchsorted(matches.category, np.arange(matches.objects.shape[1] + 1))
  for category, (start, end) in enumerate(zip(edges, edges[1:])):
    objects = matches.objects[:, category] @ weights.T  # [A, D]
    counts += objects > 0
    of_images = weights[:, matches.image[start:end]]  # [D, N]
    total = np.cumsum(of_images, 1, dtype=np.int32)
    for area in range(areas):
      if objects[area].any():
        for threshold in range(thresholds):
          right = matches.is_right[area, threshold, start:end]
          ignored = matches.is_ignored[area, threshold, start:end]
          found = _average_precision(of_images, total, right, ignored, objects[area])
          sums[area, threshold] += found
  with np.errstate(invalid="ignore"):
    means = sums / counts[:, np.newaxis]  # of an AP, over the categories that a draw has
  of_all, *by_size = means.mean(1)
  return np.stack([of_all, means[0, 0], means[0, 5], *by_size], -1)


def _average_precision(
  weights: np.ndarray,
  total: np.ndarray,
  right: np.ndarray,
  ignored: np.ndarray,
  objects: np.ndarray,
) -> np.ndarray:
  """Returns the AP of one category at one threshold and size in each draw, [D]; 0 without objects.

  Args:
    weights: of the detections, best first, int32 [D, N].
    total: sums of the weights up to each detection, int32 [D, N].
    right, ignored: bool [N].
    objects: number in each draw, [D].
  """
  at, left_out = np.flatnonzero(right), np.flatnonzero(ignored)
  if not at.size:
    return np.zeros(len(weights))
  # All sums are taken at the detections that are right, [D, P]: precision is best there.
  found = np.cumsum(weights[:, at], 1, dtype=np.int32)
  counted = total[:, at]
  if left_out.size:
    skipped = np.cumsum(weights[:, left_out], 1, dtype=np.int32)
    skipped = np.pad(skipped, [(0, 0), (1, 0)])
    counted = counted - skipped[:, np.searchsorted(left_out, at)]
  precision = found / np.maximum(counted, 1)
  # The best precision at this recall or a higher one.
  precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
  recall = found / np.maximum(objects, 1)[:, np.newaxis]
  steps = np.searchsorted(_RECALLS, recall, "right")  # recalls at which precision is taken, so far
  first = np.concatenate([np.zeros((len(steps), 1), int), steps[:, :-1]], 1)
  return (precision * (steps - first)).sum(1) / len(_RECALLS)
