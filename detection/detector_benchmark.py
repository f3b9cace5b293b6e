"""Seconds of detectors on one photo: of the features alone, and of all until masks are pasted.

Weights decide how many objects are found, and by that what the heads cost: a config's name stands
for random weights whose every score counts, so that there are as many detections as there may be.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import statistics
import time
from collections.abc import Sequence
from typing import Callable, NamedTuple

import tensorflow as tf
from absl import logging

from detection import predictor
from detection.config import CONFIGS
from detection.detector import Detector
from detection.options import BenchmarkOptions
from detection.predictor import Predictor
from khuvcm_tf import atomic_files, errors
from khuvcm_tf.data import image_files, sample_photos


class DetectorBenchmarkError(errors.Error):
  """A detector that cannot be measured."""


class Row(NamedTuple):
  """The medians of one detector.

  Attributes:
    size: height and width of the resized image.
    objects: number of detections.
    features_cpu, features_wall: seconds from the photo to P2-P6; CPU seconds are those of all
      threads.
    whole_cpu, whole_wall: seconds from the photo to its objects.
  """

  detector: str
  size: tuple[int, int]
  objects: int
  features_cpu: float
  features_wall: float
  whole_cpu: float
  whole_wall: float


def run(options: BenchmarkOptions) -> list[Row]:
  """Measures all detectors, one after the other.

  Raises:
    DetectorBenchmarkError: no detector is named.
    errors.Error: a detector or the photo cannot be read.
  """
  if not options.detectors:
    raise DetectorBenchmarkError("found no detector, expected at least one in --detectors")
  photo = image_files.read_image(options.image) if options.image else None
  photo = sample_photos.load()["coffee"] if photo is None else photo
  return [_measure(name, photo, options.repeats) for name in options.detectors]


def _measure(name: str, photo, repeats: int) -> Row:
  logging.info("measures %s", name)
  detect = _random(name) if name in CONFIGS and not os.path.exists(name) else predictor.load(name)
  detect(photo)  # builds the graphs
  features = [_seconds(lambda: detect.extract_features(photo)) for _ in range(repeats)]
  extracted = detect.extract_features(photo)
  heads = [_seconds(lambda: detect.from_features(extracted)) for _ in range(repeats)]
  (f_cpu, f_wall), (h_cpu, h_wall) = (map(statistics.median, zip(*e)) for e in (features, heads))
  objects = len(detect.from_features(extracted).boxes)
  return Row(name, extracted.image_size, objects, f_cpu, f_wall, f_cpu + h_cpu, f_wall + h_wall)


def _random(name: str) -> Predictor:
  """Returns a detector of a config with random weights."""
  tf.keras.utils.set_random_seed(0)
  config = dataclasses.replace(CONFIGS[name], min_score=0.0)
  detector = Detector(config)
  for key, weight in detector.named_weights().items():
    if key.endswith("conv3.norm.weight"):  # else activations grow from block to block
      weight.assign(0.2 * tf.ones_like(weight))
  return Predictor(detector, tuple(map(str, range(config.num_classes))))


def _seconds(call: Callable[[], object]) -> tuple[float, float]:
  """Returns the CPU and the wall seconds of a call."""
  before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
  call()
  wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
  return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def table(rows: Sequence[Row]) -> str:
  """Returns rows as text, a line each."""
  width = max(len(row.detector) for row in rows)
  lines = [f"{'seconds':{width}}  {'image':>9} {'found':>5}  features CPU  wall   whole CPU  wall"]
  lines += [
    f"{row.detector:{width}}  {row.size[1]:4}x{row.size[0]:<4} {row.objects:5}  "
    f"{row.features_cpu:12.2f} {row.features_wall:5.2f} {row.whole_cpu:11.2f} {row.whole_wall:5.2f}"
    for row in rows
  ]
  return "\n".join(lines)


def write_json(path: str, rows: Sequence[Row], options: BenchmarkOptions) -> None:
  """Writes options and rows."""
  content = {"options": dataclasses.asdict(options), "rows": [row._asdict() for row in rows]}
  atomic_files.write_text(path, json.dumps(content, indent=2) + "\n")
