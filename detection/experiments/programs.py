"""The experiments as programs run them: from options to results, a report, and a table as text."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import NamedTuple

from absl import logging

from detection import predictor
from detection.coco import sources
from detection.coco.dataset import Dataset
from detection.experiments import (
  ExperimentError,
  combinations,
  degradation,
  key_maps,
  reconstruction,
  report,
)
from detection.experiments.features import FeatureSource
from detection.experiments.options import (
  AllOptions,
  CombineOptions,
  DegradeOptions,
  ExperimentOptions,
  KeyMapOptions,
  ReconstructOptions,
)
from detection.experiments.runner import Runner
from khuvcm_tf import atomic_files
from khuvcm_tf.options import check


class Done(NamedTuple):
  """What a program has done.

  Attributes:
    text: table of results, and where they are.
    left_out: "file_name" and "reason" of images that could not be used.
    count: number of images.
  """

  text: str
  left_out: list[dict[str, str]]
  count: int


def degrade(options: DegradeOptions) -> Done:
  """Runs experiment 1.

  Raises:
    errors.Error: what the user can mend.
  """
  runner = _Inputs(options).runner()
  found = degradation.run(runner, options.output, options.levels)
  return _finish([runner], options, report.Results(degradation=found), degradation.text(found))


def combine(options: CombineOptions) -> Done:
  """Runs experiment 2; see `degrade`."""
  sets = options.sets or combinations.PAIRS
  for each in sets:
    combinations.damaged(each)  # A set that is none is named before anything is run.
  runner = _Inputs(options).runner()
  found = combinations.run(runner, options.output, sets)
  return _finish([runner], options, report.Results(combinations=found), combinations.text(found))


def reconstruct(options: ReconstructOptions) -> Done:
  """Runs experiment 3; see `degrade`."""
  rules = reconstruction.rules_of_study()
  if options.rules:
    rules = reconstruction.parse_all(options.rules)
  if options.sweep:
    rules.update(reconstruction.sweep(options.sweep))
  reconstruction.check(rules)
  runner = _Inputs(options).runner()
  found = reconstruction.run(runner, options.output, rules)
  results = report.Results(reconstruction=found)
  return _finish([runner], options, results, reconstruction.text(found))


def find(options: KeyMapOptions) -> Done:
  """Searches for key maps; see `degrade`."""
  search, held_out = _Inputs(options).halves(options.search_images)
  budget = options.max_share, options.max_loss, options.evaluations
  found = key_maps.run(search, held_out, options.output, *budget)
  results = report.Results(key_maps=found)
  return _finish([search, held_out], options, results, key_maps.text(found))


def run_all(options: AllOptions) -> Done:
  """Runs all experiments; each has a folder of its own, features and detections are shared."""
  inputs = _Inputs(options)
  runner, (search, held_out) = inputs.runner(), inputs.halves(options.search_images)
  rules = {**reconstruction.rules_of_study(), **reconstruction.sweep(8)}
  parts = {
    "degradation": lambda folder: degradation.run(runner, folder),
    "combinations": lambda folder: combinations.run(runner, folder),
    "reconstruction": lambda folder: reconstruction.run(runner, folder, rules),
    "key_maps": lambda folder: key_maps.run(search, held_out, folder),
  }
  found, texts = {}, []
  for name, run in parts.items():
    logging.info("%s", name.replace("_", " "))
    folder = os.path.join(options.output, name)
    atomic_files.make_folder(folder)
    found[name] = run(folder)
    texts.append(f"{name.replace('_', ' ')}\n\n{_MODULES[name].text(found[name])}\n")
  return _finish([runner], options, report.Results(**found), "\n".join(texts))


_MODULES = {
  "degradation": degradation,
  "combinations": combinations,
  "reconstruction": reconstruction,
  "key_maps": key_maps,
}


class _Inputs:
  """Detector and data set of the options, loaded once."""

  def __init__(self, options: ExperimentOptions):
    self._options = check(options)
    self._dataset = sources.load(options)
    self._model = predictor.load(options.detector)
    self._source = FeatureSource(self._model, options.features, options.features_dtype)

  def runner(self, dataset: Dataset | None = None) -> Runner:
    """Returns a runner for the data set, or for a part of it."""
    options = self._options
    return Runner(
      self._model, dataset or self._dataset, options.output, self._source, options.draws
    )

  def halves(self, count: int | None) -> tuple[Runner, Runner]:
    """Returns runners for the first `count` images, by default half of them, and for the others.

    Raises:
      ExperimentError: one of the two has no images, or none with objects.
    """
    whole = self._dataset
    count = len(whole) // 2 if count is None else count
    runners = []
    for part in (whole.records[:count], whole.records[count:]):
      if not any(record.annotations for record in part):
        raise ExperimentError(
          f"found {len(part)} of {len(whole)} images, without objects, to search with or to "
          "measure on, expected some for both; change --search_images, or give more images"
        )
      runners.append(self.runner(dataclasses.replace(whole, records=part)))
    return tuple(runners)


def _finish(
  runners: Sequence[Runner], options: ExperimentOptions, results: report.Results, text: str
) -> Done:
  path = report.write(runners, options.output, options.detector, results)
  left_out = [each for runner in runners for each in runner.left_out]
  return Done(
    f"{text}\nwritten to {path}, with results.json, results.csv and plots beside it",
    left_out,
    sum(len(runner.dataset) for runner in runners),
  )
