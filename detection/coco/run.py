"""A detector on a data set: COCO's numbers, the detections on disk, resumed after a kill.

An output folder holds

  results.json      the numbers, and what is needed to judge or repeat them
  detections.json   all detections in COCO's format of results, for other tools
  detections.jsonl  the same image by image (`detection_store`), from which a run goes on

A detector's classes are matched with the data set's categories by name. Only those that both know
are evaluated: the others would count as not found. An image that cannot be read is named and left
out, the others are evaluated all the same, and `check_complete` then raises an error.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Callable, NamedTuple

import numpy as np
import tqdm
from absl import logging

from detection.coco import CocoError, evaluation
from detection.coco.dataset import Dataset
from detection.coco.detection_store import DetectionStore
from detection.coco.detections import Detections, to_coco
from khuvcm_tf import __version__, atomic_files
from khuvcm_tf.evaluation import images
from khuvcm_tf.executor import HERE, Executor, Progress
from khuvcm_tf.results import provenance, rows


class Result(NamedTuple):
  """What an evaluation found.

  Attributes:
    metrics: as `evaluation.evaluate` returns them.
    notes: what a reader of the numbers must know, a line each.
    left_out: "file_name" and "reason" of images that could not be evaluated.
    count: number of images in the data set.
  """

  metrics: dict[str, object]
  notes: list[str]
  left_out: list[dict[str, str]]
  count: int


def run_evaluation(
  detect: Callable[[np.ndarray], Detections],
  dataset: Dataset,
  output: str,
  *,
  categories: Sequence[str],
  fingerprint: str,
  about: dict[str, object] | None = None,
  supercategories: bool = False,
  executor: Executor = HERE,
) -> Result:
  """Evaluates a detector and writes the files of this module's docstring.

  Args:
    detect: from an image, uint8 RGB [H, W, 3], to what is in it.
    dataset: to evaluate on.
    output: folder for the results, made where it does not exist. Detections that are in it are
      taken over if they are of the same fingerprint and of the same pixels.
    categories: names of the detector's classes.
    fingerprint: identifies the detector: its weights and all its settings.
    about: further entries of results.json, such as the detector's name.
    supercategories: whether numbers by super-category are wanted too, as "supercategories".
    executor: calls the detector.

  Raises:
    CocoError: detector and data set have no category in common, or no image could be evaluated.
    FileError: the results cannot be written, or would replace the annotations.
    ValueError: the fingerprint is empty.
  """
  if not fingerprint:
    raise ValueError("`fingerprint` is empty, expected what tells this detector from others")
  ids = match(categories, dataset)
  stored, *written = (
    os.path.join(output, name) for name in ("detections.jsonl", "detections.json", "results.json")
  )
  atomic_files.check_targets(written, [dataset.name])
  atomic_files.make_folder(output)
  with DetectionStore(stored) as store:
    key = f"{__version__} {fingerprint}"
    function = _Detect(detect, dataset, store.keys(), key, ids)
    found, left_out = _detect_all(function, dataset, store, executor, output)
  if not found:
    raise CocoError(
      f"none of {len(dataset)} images was evaluated, expected at least one; the first: "
      f"{left_out[0]['reason']}"
    )
  detections = [each for values in found.values() for each in values["detections"]]
  with_masks = all(values["has_masks"] for values in found.values())
  pair, known = (dataset.ground_truth, detections), set(ids.values())
  chosen = {"image_ids": set(found), "with_masks": with_masks and dataset.has_masks}
  metrics = evaluation.evaluate(*pair, category_ids=known, **chosen)
  if supercategories:
    pair = evaluation.by_supercategory(*pair, known)
    metrics["supercategories"] = evaluation.evaluate(*pair, **chosen)
  notes_ = notes(categories, dataset, ids, with_masks)
  content = {
    **metrics,
    **(about or {}),
    "fingerprint": fingerprint,
    **provenance.describe(),
    "evaluated_by": evaluation.VERSION,
    "dataset": dataset.name,
    "images": len(found),
    "objects": sum(len(r.annotations) for r in dataset if r.image_id in found),
    "median_detect_s": statistics.median(values["detect_s"] for values in found.values()),
    "notes": notes_,
    "left_out": left_out,
  }
  atomic_files.write_text(written[0], json.dumps(detections))
  rows.write_json(written[1], content)
  return Result(metrics, notes_, left_out, len(dataset))


def match(categories: Sequence[str], dataset: Dataset) -> dict[int, int]:
  """Returns a data set's category ids by a detector's classes, for the names that both have.

  Raises:
    CocoError: there is no such name.
  """
  by_name = {category.name: category.id for category in dataset.categories}
  ids = {i: by_name[name] for i, name in enumerate(categories) if name in by_name}
  if not ids:
    raise CocoError(
      f"{dataset.name}: has the categories {_listed(by_name)}, expected some of the detector's: "
      f"{_listed(categories)}; give a data set for this detector"
    )
  return ids


def table(result: Result) -> str:
  """Returns the numbers and the notes as text."""
  lines = [evaluation.table(result.metrics)]
  if "supercategories" in result.metrics:
    lines += ["", "by super-category:", evaluation.table(result.metrics["supercategories"])]
  return "\n".join([*lines, *result.notes])


def check_complete(result: Result) -> None:
  """Raises CocoError where images were left out."""
  if result.left_out:
    names = [each["file_name"] for each in result.left_out]
    raise CocoError(
      f"{len(names)} of {result.count} images left out, expected none: {_listed(names)}; the "
      "numbers are those of the others"
    )


def _detect_all(
  detect: _Detect,
  dataset: Dataset,
  store: DetectionStore,
  executor: Executor,
  output: str,
) -> tuple[dict[int, dict], list[dict[str, str]]]:
  """Returns what was found by image id, and the images left out with their reasons."""
  found, left_out, taken_over = {}, {}, 0
  is_quiet = True if len(dataset) == 1 else None
  with Progress(len(dataset), "image", executor, output, is_quiet) as progress:
    for index, result, error in executor.map(detect, range(len(dataset))):
      record = dataset.records[index]
      if error is not None:
        reason = images.left_out(error, record.file_name)
        left_out[index] = {"file_name": record.file_name, "reason": reason}
        progress.fail(record.file_name, reason)
        continue
      key, values = result
      if values is None:
        taken_over += 1
      else:
        store.add(key, values)
      found[index] = store.get(key)
      progress.add()
  if taken_over:
    logging.info("%d of %d images were detected before", taken_over, len(dataset))
  by_id = {dataset.records[index].image_id: found[index] for index in sorted(found)}
  return by_id, [left_out[index] for index in sorted(left_out)]


class _Detect:
  """Detects in an image, given by its number; not where that was done before.

  Args:
    detect: as `run_evaluation` takes it.
    dataset: whose images they are.
    known: keys of what was detected before.
    detector_key: identifies the detector.
    category_ids: as `match` returns them.
  """

  def __init__(
    self,
    detect: Callable[[np.ndarray], Detections],
    dataset: Dataset,
    known: frozenset[str],
    detector_key: str,
    category_ids: dict[int, int],
  ):
    self._detect, self._known, self._category_ids = detect, known, category_ids
    self._detector_key = detector_key
    # Without the objects, as this may be sent to another process.
    self._records = [dataclasses.replace(record, annotations=()) for record in dataset]

  def __call__(self, number: int) -> tuple[str, dict[str, object] | None]:
    """Returns an image's key and values in the store; None where it has them."""
    record = self._records[number]
    with tqdm.tqdm.external_write_mode(sys.stderr):  # warnings do not tear the progress bar
      image = record.read()
    categories = sorted(self._category_ids.items())
    settings = [self._detector_key, categories, record.image_id, image.shape]
    key = hashlib.sha256(json.dumps(settings).encode() + image.tobytes()).hexdigest()
    if key in self._known:
      return key, None
    start = time.perf_counter()
    detections = self._detect(image)
    seconds = time.perf_counter() - start
    return key, {
      "detections": to_coco(detections, record.image_id, *image.shape[:2], self._category_ids),
      "has_masks": detections.masks is not None,
      "detect_s": seconds,
    }


def notes(
  categories: Sequence[str], dataset: Dataset, ids: dict[int, int], with_masks: bool
) -> list[str]:
  """Returns what a reader of a detector's numbers on a data set must know, a line each.

  Args:
    categories: names of the detector's classes.
    dataset: it was evaluated on.
    ids: as `match` returns them.
    with_masks: whether the detector has masks that were to be evaluated.
  """
  found = []
  unknown = [each.name for each in dataset.categories if each.name not in categories]
  if unknown:
    found.append(
      f"evaluated on {len(ids)} of the data set's {len(dataset.categories)} categories: the "
      f"detector does not know {_listed(unknown)}"
    )
  if with_masks and not dataset.has_masks:
    found.append("masks were not evaluated: the data set has none, or not of all objects")
  return found


def _listed(names: Sequence[str] | dict[str, int]) -> str:
  """Returns up to five names as text."""
  names = list(names)
  more = f" and {len(names) - 5} more" if len(names) > 5 else ""
  return ", ".join(names[:5]) + more
