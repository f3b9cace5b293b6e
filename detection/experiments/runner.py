"""Rules on a data set: what a detector finds from features that each rule has changed.

The trunk runs once for each image, the heads once for each image and rule, several rules at a time.
All that is found is kept in `detections.jsonl` of the output folder as soon as it is found: a run
that was ended goes on, and experiments that share a folder share what rules they have in common.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

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
from detection.predictor import ImageFeatures, Predictor
from khuvcm_tf import __version__, atomic_files
from khuvcm_tf.evaluation import images

KEYS = bootstrap.KEYS
STORE = "detections.jsonl"
_RULES_AT_ONCE = 6


class Outcome(NamedTuple):
  """What a rule leads to on a data set.

  Attributes:
    rule: of it.
    metrics: COCO's numbers of boxes by `KEYS`, 0..1.
    draws: the same of each draw of the bootstrap, float64 [D, 6]; the same draws for all rules.
    elements: numbers that are kept, of all images.
    all_elements: numbers of all levels, of all images.
  """

  rule: Rule
  metrics: dict[str, float]
  draws: np.ndarray
  elements: int
  all_elements: int

  @property
  def factor(self) -> float:
    """How many times less is kept than there is."""
    return self.all_elements / self.elements


class Runner:
  """A detector, a data set, and what was found so far.

  Args:
    model: the detector.
    dataset: its images.
    output: folder of what is found; made where it does not exist.
    source: of the images' features.
    num_draws: of the bootstrap.

  Attributes:
    model, dataset: as given.
    left_out: "file_name" and "reason" of images that cannot be used.

  Raises:
    CocoError: detector and data set have no category in common.
    atomic_files.FileError: the folder cannot be made.
  """

  def __init__(
    self,
    model: Predictor,
    dataset: Dataset,
    output: str,
    source: features.FeatureSource,
    num_draws: int = 1000,
  ):
    self.model, self.dataset, self.left_out = model, dataset, []
    self._source, self._num_draws = source, num_draws
    self._ids = run.match(model.categories, dataset)
    atomic_files.make_folder(output)
    self._path = os.path.join(output, STORE)
    self._outcomes: dict[str, Outcome] = {}

  def evaluate(self, wanted: Sequence[Rule], predictors: Predictors | None = None) -> list[Outcome]:
    """Returns what rules lead to.

    Args:
      wanted: in any order; each is evaluated once.
      predictors: weights of their convolutions.

    Raises:
      ExperimentError: no image could be used.
      atomic_files.FileError: what is found cannot be kept.
    """
    keys = {rule: self._rule_key(rule, predictors or {}) for rule in wanted}
    new = [rule for rule, key in keys.items() if key not in self._outcomes]
    if new:
      self._outcomes.update(self._evaluate({rule: keys[rule] for rule in new}, predictors or {}))
    return [self._outcomes[keys[rule]] for rule in wanted]

  def count_elements(self, kept: Mapping[str, int]) -> int:
    """Returns how many numbers levels hold, each shrunk by a factor, of all images together.

    Args:
      kept: factors by level, as `Rule.kept` gives them.
    """
    sizes = (features.level_sizes(self.model, each) for each in self._records())
    channels = self.model.detector.config.fpn_channels
    return channels * sum(rules.count_positions(kept, each) for each in sizes)

  def features(self) -> Iterator[dict[str, np.ndarray]]:
    """Yields the features of each image that can be used, `p2` to `p6`, float32 [H, W, C]."""
    for record in tqdm.tqdm(self._records(), desc="features", unit="image", disable=None):
      yield self._source.get(record, record.read()).levels

  @functools.cached_property
  def _weights(self) -> np.ndarray:
    """Returns how often each draw has each image."""
    return bootstrap.draw(0, len(self.dataset) - len(self.left_out), self._num_draws)

  def _evaluate(self, keys: dict[Rule, str], predictors: Predictors) -> dict[str, Outcome]:
    found = self._find(keys, predictors)
    if not any(found.values()):
      raise ExperimentError(
        f"none of {len(self.dataset)} images could be used, expected at least one; the first: "
        f"{self.left_out[0]['reason']}"
      )
    truth, outcomes = self._ground_truth(), {}
    bar = tqdm.tqdm(found.items(), desc="AP", unit="rule", leave=False, disable=None)
    for rule, detections in bar:
      numbers = evaluation.evaluate(truth, detections, with_masks=False)
      outcomes[keys[rule]] = Outcome(
        rule,
        {key: numbers[key] for key in KEYS},
        bootstrap.evaluate(matches.match(truth, detections), self._weights),
        self.count_elements(rule.kept()),
        self.count_elements(NONE.kept()),
      )
    return outcomes

  def _find(self, keys: dict[Rule, str], predictors: Predictors) -> dict[Rule, list[dict]]:
    """Returns the detections that each rule leads to, in all images that can be used."""
    found = {rule: [] for rule in keys}
    known = {each["file_name"] for each in self.left_out}
    with DetectionStore(self._path) as store:
      for record in tqdm.tqdm(self.dataset, unit="image", disable=None):
        if record.file_name in known:
          continue
        detections, reason = images.attempt(
          record.file_name, self._find_in, record, keys, predictors, store
        )
        if detections is None:
          self.left_out.append({"file_name": record.file_name, "reason": reason})
          continue
        for rule, entries in detections.items():
          found[rule] += entries
    return found

  def _find_in(
    self, record: Record, keys: dict[Rule, str], predictors: Predictors, store: DetectionStore
  ) -> dict[Rule, list[dict]]:
    with tqdm.tqdm.external_write_mode(sys.stderr):  # warnings do not tear the progress bar
      image = record.read()
    digest = hashlib.sha256(image.tobytes()).hexdigest()
    of_image = {
      rule: hashlib.sha256(json.dumps([key, record.image_id, digest]).encode()).hexdigest()
      for rule, key in keys.items()
    }
    new = [rule for rule, key in of_image.items() if store.get(key) is None]
    if new:
      made = self._source.get(record, image)
      for start in range(0, len(new), _RULES_AT_ONCE):
        chunk = new[start : start + _RULES_AT_ONCE]
        for rule, objects in zip(chunk, self._detect(chunk, made, predictors)):
          entries = to_coco(objects, record.image_id, *image.shape[:2], self._ids)
          store.add(of_image[rule], {"detections": entries})
    return {rule: store.get(key)["detections"] for rule, key in of_image.items()}

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
    for level, term in rule.predicted:
      for array in predictors[rules.predictor_name(level, term)]:
        digest.update(np.asarray(array).tobytes())
    about = [__version__, *self._source.description, str(rule), sorted(self._ids.items())]
    return json.dumps([*about, digest.hexdigest() if rule.predicted else ""], sort_keys=True)

  def _records(self) -> list[Record]:
    """Returns the records of the images that can be used."""
    left_out = {each["file_name"] for each in self.left_out}
    return [each for each in self.dataset if each.file_name not in left_out]

  def _ground_truth(self) -> dict[str, list[dict]]:
    """Returns what is in the images that can be used, of the categories that the detector knows."""
    truth, used = self.dataset.ground_truth, {each.image_id for each in self._records()}
    known = set(self._ids.values())
    return {
      "images": [each for each in truth["images"] if each["id"] in used],
      "annotations": [
        each
        for each in truth["annotations"]
        if each["image_id"] in used and each["category_id"] in known
      ],
      "categories": [each for each in truth["categories"] if each["id"] in known],
    }
