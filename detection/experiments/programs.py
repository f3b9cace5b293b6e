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
from detection.coco.detection_store import DetectionStore
from detection.experiments import (
  ExperimentError,
  combinations,
  degradation,
  key_maps,
  reconstruction,
  report,
  tables,
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
from khuvcm_tf.options import check, refuse_given


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
  inputs = _Inputs(options, degradation.NAME)
  runner = inputs.runner()
  found = degradation.run(runner, inputs.output, options.levels)
  return inputs.finish([runner], report.Results(degradation=found), degradation.text(found))


def combine(options: CombineOptions) -> Done:
  """Runs experiment 2; see `degrade`."""
  sets = options.sets or combinations.PAIRS
  for each in sets:
    combinations.damaged(each)  # A set that is none is named before anything is run.
  inputs = _Inputs(options, combinations.NAME)
  runner = inputs.runner()
  found = combinations.run(runner, inputs.output, sets)
  return inputs.finish([runner], report.Results(combinations=found), combinations.text(found))


def reconstruct(options: ReconstructOptions) -> Done:
  """Runs experiment 3; see `degrade`."""
  rules = reconstruction.rules_of_study()
  if options.rules:
    rules = reconstruction.parse_all(options.rules)
  if options.sweep:
    rules.update(reconstruction.sweep(options.sweep))
  reconstruction.check(rules)
  inputs = _Inputs(options, reconstruction.NAME)
  runner = inputs.runner()
  found = reconstruction.run(runner, inputs.output, rules)
  return inputs.finish([runner], report.Results(reconstruction=found), reconstruction.text(found))


def find(options: KeyMapOptions) -> Done:
  """Searches for key maps; see `degrade`."""
  inputs = _Inputs(options, key_maps.NAME, keeps_features=True)
  search, held_out = inputs.halves(options.search_images)
  budget = options.max_share, options.max_loss, options.evaluations
  found = key_maps.run(search, held_out, inputs.output, *budget)
  return inputs.finish([search, held_out], report.Results(key_maps=found), key_maps.text(found))


def run_all(options: AllOptions) -> Done:
  """Runs all experiments; each has a folder of its own, features and detections are shared."""
  inputs = _Inputs(options, "all", keeps_features=True)
  runner, (search, held_out) = inputs.runner(), inputs.halves(options.search_images)
  rules = {**reconstruction.rules_of_study(), **reconstruction.sweep(8)}
  parts = {
    degradation: lambda folder: degradation.run(runner, folder),
    combinations: lambda folder: combinations.run(runner, folder),
    reconstruction: lambda folder: reconstruction.run(runner, folder, rules),
    key_maps: lambda folder: key_maps.run(search, held_out, folder),
  }
  found, texts = {}, []
  for module, run in parts.items():
    logging.info("%s", module.NAME)
    key = module.NAME.replace(" ", "_")
    folder = os.path.join(inputs.output, key)
    atomic_files.make_folder(folder)
    found[key] = run(folder)
    texts.append(f"{module.NAME}\n\n{module.text(found[key])}\n")
  return inputs.finish([runner, search, held_out], report.Results(**found), "\n".join(texts))


class _Inputs:
  """What the options name, loaded once: detector, data set, features and what was found.

  Args:
    options: of the program.
    experiment: whose results the output folder is to hold.
    keeps_features: whether features are kept where no folder is given.

  Attributes:
    output: the folder, which exists.
  """

  def __init__(self, options: ExperimentOptions, experiment: str, keeps_features: bool = False):
    self._options = check(options)
    self.output = options.output
    tables.check_output(self.output, experiment)
    self._dataset = sources.load(options)
    self._model = predictor.load(options.detector)
    atomic_files.make_folder(self.output)
    self._store = DetectionStore(os.path.join(self.output, "detections.jsonl"))
    folder = options.features
    if folder is None and keeps_features:
      folder = os.path.join(self.output, "features")
    if folder is None:
      refuse_given(options, ("features_dtype",), "without --features, expected it for those")
    self._source = FeatureSource(self._model, folder, options.features_dtype)

  def runner(self, dataset: Dataset | None = None) -> Runner:
    """Returns a runner for the data set, or for a part of it."""
    dataset = dataset or self._dataset
    return Runner(self._model, dataset, self._store, self._source, self._options.draws)

  def halves(self, count: int | None) -> tuple[Runner, Runner]:
    """Returns runners for the first `count` images, by default half of them, and for the others.

    Raises:
      ExperimentError: one of the two has no images, or none with objects.
    """
    whole = self._dataset
    count = len(whole) // 2 if count is None else count
    parts = whole.records[:count], whole.records[count:]
    if not all(parts):
      raise ExperimentError(
        f"found {len(whole)} images, {min(count, len(whole))} of them to search with, expected "
        "others to measure on; change --search_images, or give more images"
      )
    search, held_out = (self.runner(dataclasses.replace(whole, records=part)) for part in parts)
    return search, held_out

  def finish(self, runners: Sequence[Runner], results: report.Results, text: str) -> Done:
    """Writes the report.

    Args:
      runners: of the experiments; the first is of the most images.
      results: of the experiments.
      text: tables to print.
    """
    left_out = {each["file_name"]: each for runner in runners for each in runner.left_out}
    path = report.write(
      runners[0],
      self.output,
      self._options.detector,
      results,
      len(self._dataset),
      list(left_out.values()),
    )
    return Done(f"{text}\nwritten to {path}", list(left_out.values()), len(self._dataset))
