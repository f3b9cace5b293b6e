"""Rules on a data set: what a detector finds from features that each rule has changed.

The heads run once for each image and rule, several rules at a time, on features that a
`FeatureSource` gives. All that is found is kept as soon as it is found: a run that was ended goes
on, and experiments that share a store share the rules that they have in common.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Callable

import numpy as np
import tensorflow as tf
import tqdm

from detection import postprocessing
from detection.coco import bootstrap, evaluation, matches, run
from detection.coco.dataset import Dataset, Record
from detection.coco.detection_store import DetectionStore
from detection.coco.detections import to_coco
from detection.experiments import ExperimentError, features, rules
from detection.experiments.rules import NONE, Predictors, Rule
from detection.predictor import Predictor
from khuvcm_tf import __version__, executor, model_folders
from khuvcm_tf.data.stored_features import ImageFeatures
from khuvcm_tf.evaluation import images

KEYS = bootstrap.KEYS
_RULES_AT_ONCE = 6


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What a rule leads to on a data set.

  Attributes:
    rule: what was done to the features.
    metrics: COCO's numbers of boxes by `KEYS`, 0..1; nan where there are no such objects.
    elements: numbers that are kept, of all images.
    all_elements: numbers of all levels, of all images.
    make_draws: makes `draws`.
  """

  rule: Rule
  metrics: dict[str, float]
  elements: int
  all_elements: int
  make_draws: Callable[[], np.ndarray]

  @functools.cached_property
  def draws(self) -> np.ndarray:
    """The metrics of each draw of the bootstrap, float64 [D, 6]; all rules have the same draws."""
    return self.make_draws()

  @property
  def factor(self) -> float:
    """How many times less is kept than there is."""
    return self.all_elements / self.elements


class Runner:
  """A detector, a data set, and what was found so far.

  Args:
    model: the detector.
    dataset: its images.
    store: of what is found.
    source: of the images' features.
    num_draws: of the bootstrap.

  Attributes:
    model, dataset, source, num_draws: as given.
    left_out: "file_name" and "reason" of images that cannot be read.

  Raises:
    CocoError: detector and data set have no category in common.
    ExperimentError: no image has an object that the detector knows, or two have the same id.
  """

  def __init__(
    self,
    model: Predictor,
    dataset: Dataset,
    store: DetectionStore,
    source: features.FeatureSource,
    num_draws: int = 1000,
  ):
    self.model, self.dataset, self.source, self.num_draws = model, dataset, source, num_draws
    self.left_out: list[dict[str, str]] = []
    self._store, self._ids = store, run.match(model.categories, dataset)
    known = set(self._ids.values())
    objects = (each for record in dataset for each in record.annotations)
    if not any(each["category_id"] in known and not each["iscrowd"] for each in objects):
      raise ExperimentError(
        f"{dataset.name}: none of {len(dataset)} images has an object of the detector's "
        "categories, expected some; give more images, or others"
      )
    if len({record.image_id for record in dataset}) < len(dataset):
      raise ExperimentError(
        f"{dataset.name}: images have the id of another, expected one for each; give one split"
      )
    self._outcomes: dict[str, Outcome] = {}
    self._records = list(dataset)

  @property
  def notes(self) -> list[str]:
    """What a reader of the numbers must know, a line each."""
    return run.notes(self.model.categories, self.dataset, self._ids, with_masks=False)

  def evaluate(self, wanted: Sequence[Rule], predictors: Predictors | None = None) -> list[Outcome]:
    """Returns what rules lead to.

    Args:
      wanted: in any order; each is evaluated once.
      predictors: weights of their convolutions.

    Raises:
      ExperimentError: no image could be read, or one that could be read before.
      FeatureError: stored features are damaged, or of another detector.
      atomic_files.FileError: what is found, or features, cannot be kept.
    """
    keys = {rule: self._rule_key(rule, predictors or {}) for rule in wanted}
    new = {rule: key for rule, key in keys.items() if key not in self._outcomes}
    if new:
      self._outcomes.update(self._evaluate(new, predictors or {}))
    return [self._outcomes[keys[rule]] for rule in wanted]

  def count_elements(self, kept: Mapping[str, int]) -> int:
    """Returns how many numbers levels hold, each shrunk by a factor, of all images together.

    Args:
      kept: factors by level, as `Rule.kept` gives them.
    """
    sizes = (features.level_sizes(self.model, each) for each in self._records)
    channels = self.model.detector.config.fpn_channels
    return channels * sum(rules.count_positions(kept, each) for each in sizes)

  def features(self, limit: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields the features of the first images, `p2` to `p6`, float32 [H, W, C]."""
    for record in tqdm.tqdm(self._records[:limit], desc="features", unit="image", disable=None):
      yield self.source.get(record, record.read()).levels

  @functools.cached_property
  def _weights(self) -> np.ndarray:
    """How often each draw has each image."""
    return bootstrap.draw(0, len(self._records), self.num_draws)

  def _evaluate(self, keys: dict[Rule, str], predictors: Predictors) -> dict[str, Outcome]:
    found = self._find(keys, predictors)
    truth, outcomes, total = self._ground_truth(), {}, self.count_elements(NONE.kept())
    bar = tqdm.tqdm(found.items(), desc="AP", unit="rule", leave=False, disable=None)
    for rule, detections in bar:
      numbers = evaluation.evaluate(truth, detections, with_masks=False)
      outcomes[keys[rule]] = Outcome(
        rule,
        {key: numbers[key] for key in KEYS},
        self.count_elements(rule.kept()),
        total,
        functools.partial(self._make_draws, truth, detections),
      )
    return outcomes

  def _make_draws(self, truth: dict[str, list[dict]], detections: list[dict]) -> np.ndarray:
    return bootstrap.evaluate(matches.match(truth, detections), self._weights)

  def _find(self, keys: dict[Rule, str], predictors: Predictors) -> dict[Rule, list[dict]]:
    """Returns the detections that each rule leads to, in all images that can be read."""
    found, readable = {rule: [] for rule in keys}, []
    for record in tqdm.tqdm(self._records, unit="image", disable=None):
      image, error = executor.attempt(_read, record)
      if error is not None:
        reason = images.left_out(error, record.file_name)
        if self._outcomes:  # of the same images as what comes now
          raise ExperimentError(f"{reason}; it could be read before: start again")
        self.left_out.append({"file_name": record.file_name, "reason": reason})
        continue
      readable.append(record)
      for rule, entries in self._find_in(record, image, keys, predictors).items():
        found[rule] += entries
    if not readable:
      raise ExperimentError(
        f"none of {len(self._records)} images could be read, expected at least one; the first: "
        f"{self.left_out[0]['reason']}"
      )
    self._records = readable
    return found

  def _find_in(
    self, record: Record, image: np.ndarray, keys: dict[Rule, str], predictors: Predictors
  ) -> dict[Rule, list[dict]]:
    digest = features.digest(image)
    of_image = {
      rule: hashlib.sha256(json.dumps([key, record.image_id, digest]).encode()).hexdigest()
      for rule, key in keys.items()
    }
    new = [rule for rule, key in of_image.items() if self._store.get(key) is None]
    if new:
      made = self.source.get(record, image)
      for start in range(0, len(new), _RULES_AT_ONCE):
        chunk = new[start : start + _RULES_AT_ONCE]
        for rule, objects in zip(chunk, self._detect(chunk, made, predictors)):
          entries = to_coco(objects, record.image_id, *image.shape[:2], self._ids)
          self._store.add(of_image[rule], {"detections": entries})
    return {rule: self._store.get(key)["detections"] for rule, key in of_image.items()}

  def _detect(
    self, chunk: Sequence[Rule], made: ImageFeatures, predictors: Predictors
  ) -> list[postprocessing.Objects]:
    levels = {level: tf.constant(value[np.newaxis]) for level, value in made.levels.items()}
    changed = [rule.apply(levels, predictors) for rule in chunk]
    together = {level: tf.concat([each[level] for each in changed], 0) for level in levels}
    return self.model.from_variants(together, made.image_size, made.original_size)

  def _rule_key(self, rule: Rule, predictors: Predictors) -> str:
    """Returns what the detections of a rule depend on, but for the image."""
    digest = hashlib.sha256()
    for name in (rules.predictor_name(*each) for each in rule.predicted):
      arrays = map(np.asarray, predictors[name])
      model_folders.add_to_digest(digest, dict(zip(("kernel", "bias"), arrays)))
    parts = [__version__, *self.source.description, str(rule), sorted(self._ids.items())]
    return json.dumps([*parts, digest.hexdigest() if rule.predicted else ""], sort_keys=True)

  def _ground_truth(self) -> dict[str, list[dict]]:
    """Returns what is in the images that can be read, of the categories that the detector knows."""
    used = {each.image_id for each in self._records}
    return evaluation.chosen(self.dataset.ground_truth, used, set(self._ids.values()))


def _read(record: Record) -> np.ndarray:
  with tqdm.tqdm.external_write_mode(sys.stderr):  # warnings do not tear the progress bar
    return record.read()
