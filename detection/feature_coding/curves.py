"""Coders of features on a data set: rate, distortion of each level, and what is then found.

Each image goes through each coder once; what it took and what was found is kept as soon as it is
found, so that a run that was ended goes on.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import sys
from collections.abc import Sequence
from typing import Callable, NamedTuple

import numpy as np
import tqdm

from detection.coco import bootstrap, evaluation, matches, run
from detection.coco.dataset import Dataset, Record
from detection.coco.detection_store import DetectionStore
from detection.coco.detections import to_coco
from detection.experiments.features import FeatureSource, digest
from detection.feature_coding import FeatureCodingError
from detection.feature_coding.coders import FeatureCoder
from detection.predictor import Predictor
from khuvcm_tf import __version__, executor
from khuvcm_tf.data.stored_features import ImageFeatures
from khuvcm_tf.evaluation import images
from khuvcm_tf.ops.pyramid import BOX_LEVELS
from khuvcm_tf.results.rows import Row


class Measured(NamedTuple):
  """Coders on a data set.

  Attributes:
    unchanged: the row of features that were not coded: no rate, no distortion.
    rows: of the coders, in their order; columns are those of `point_row`.
    draws: AP of each draw of the bootstrap over images, [coders, draws]; boxes or masks as `kind`.
    unchanged_draws: likewise, [draws].
    kind: what performance is of, "masks" or "boxes".
    left_out: "file_name" and "reason" of images that cannot be read.
  """

  unchanged: Row
  rows: list[Row]
  draws: np.ndarray
  unchanged_draws: np.ndarray
  kind: str
  left_out: list[dict[str, str]]


@dataclasses.dataclass(frozen=True)
class Measurement:
  """What coders are measured on.

  Attributes:
    model: the detector.
    dataset: images with objects.
    store: of what is found.
    source: of the images' features.
    num_draws: of the bootstrap.
  """

  model: Predictor
  dataset: Dataset
  store: DetectionStore
  source: FeatureSource
  num_draws: int = 1000

  @functools.cached_property
  def ids(self) -> dict[int, int]:
    """Ids of the data set's categories by the detector's classes."""
    return run.match(self.model.categories, self.dataset)

  @property
  def has_masks(self) -> bool:
    """Whether performance is that of masks."""
    return self.model.detector.config.masks and self.dataset.has_masks

  def measure(self, coders: Sequence[FeatureCoder]) -> Measured:
    """Codes all images with all coders.

    Raises:
      FeatureCodingError: no image could be read.
      errors.Error: a coder fails.
    """
    left_out: list[dict[str, str]] = []
    used, found = [], {coder.key: [] for coder in coders}
    unchanged = []
    bar = tqdm.tqdm(self.dataset, unit="image", disable=None)
    for record in bar:
      image, error = executor.attempt(_read, record)
      if error is not None:
        reason = images.left_out(error, record.file_name)
        left_out.append({"file_name": record.file_name, "reason": reason})
        continue
      used.append(record.image_id)
      features = functools.lru_cache(maxsize=1)(functools.partial(self.source.get, record, image))
      unchanged.append(self._of_image(record, image, features, None))
      for coder in coders:
        bar.set_postfix_str(f"{coder.curve} {coder.label}", refresh=False)
        found[coder.key].append(self._of_image(record, image, features, coder))
    if not used:
      raise FeatureCodingError(
        f"none of {len(self.dataset)} images could be read, expected at least one; the first: "
        f"{left_out[0]['reason']}"
      )
    truth = evaluation.chosen(self.dataset.ground_truth, set(used), set(self.ids.values()))
    weights = bootstrap.draw(0, len(used), self.num_draws)
    made = [self._evaluate(truth, each, weights) for each in (unchanged, *found.values())]
    rows = [
      {
        **{"curve": coder.curve, "point": coder.label, "group": coder.group},
        **_rates(of_coder),
        **numbers,
      }
      for coder, of_coder, (numbers, _) in zip(coders, found.values(), made[1:])
    ]
    first = {"curve": "not coded", "point": "", "group": "", **_rates(unchanged), **made[0][0]}
    draws = np.array([each for _, each in made[1:]]).reshape(len(coders), self.num_draws)
    kind = "masks" if self.has_masks else "boxes"
    return Measured(first, rows, draws, made[0][1], kind, left_out)

  def _of_image(
    self,
    record: Record,
    image: np.ndarray,
    features: Callable[[], ImageFeatures],
    coder: FeatureCoder | None,
  ) -> dict:
    """Returns bytes, squared errors and detections of an image, from the store where they are.

    Args:
      record, image: the image.
      features: gives its features.
      coder: of them; None where they are taken as they are.
    """
    parts = [__version__, *self.source.description, coder.key if coder else "not coded"]
    parts += [sorted(self.ids.items()), record.image_id, digest(image), self.has_masks]
    name = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    values = self.store.get(name)
    if values is None:
      original = features()
      size, decoded = coder.code(image, original) if coder else (0, original)
      objects = self.model.from_features(decoded)
      if not self.has_masks:
        objects = objects._replace(masks=None)
      values = {
        "bytes": size,
        "pixels": record.height * record.width,
        "elements": {level: original.levels[level].size for level in BOX_LEVELS},
        "squared": _squared_errors(decoded, original),
        "range": _range(original),
        "detections": to_coco(objects, record.image_id, *image.shape[:2], self.ids),
      }
      self.store.add(name, values)
    return values

  def _evaluate(self, truth, of_images: Sequence[dict], weights: np.ndarray):
    """Returns COCO's numbers, and AP of each draw."""
    detections = [each for values in of_images for each in values["detections"]]
    numbers = evaluation.evaluate(truth, detections, with_masks=self.has_masks)
    prefix = "mask_" if self.has_masks else ""
    chosen = {key: numbers[f"{prefix}{key}"] for key in bootstrap.KEYS}
    found = matches.match(truth, detections, self.has_masks)
    return chosen, bootstrap.evaluate(found, weights)[:, 0]


def _read(record: Record) -> np.ndarray:
  with tqdm.tqdm.external_write_mode(sys.stderr):  # warnings do not tear the progress bar
    return record.read()


def _squared_errors(decoded: ImageFeatures, original: ImageFeatures) -> dict[str, float]:
  errors = {level: decoded.levels[level] - original.levels[level] for level in BOX_LEVELS}
  return {level: float(np.sum(np.square(each, dtype=np.float64))) for level, each in errors.items()}


def _range(features: ImageFeatures) -> tuple[float, float]:
  levels = [features.levels[level] for level in BOX_LEVELS]
  return float(min(map(np.min, levels))), float(max(map(np.max, levels)))


def _rates(of_images: Sequence[dict]) -> Row:
  """Returns rate and distortion over all images.

  Returns:
    `bytes` in all; `bpp`, bits per pixel of the images; `bpe`, bits per element of P2 to P5; `mse`
    over all elements of P2 to P5, and `mse_p2` to `mse_p5`; `psnr` in dB of `mse`, against the
    distance from the least to the greatest value of all features.
  """
  size = sum(each["bytes"] for each in of_images)
  elements = {level: sum(each["elements"][level] for each in of_images) for level in BOX_LEVELS}
  squared = {level: sum(each["squared"][level] for each in of_images) for level in BOX_LEVELS}
  mse = sum(squared.values()) / sum(elements.values())
  low = min(each["range"][0] for each in of_images)
  high = max(each["range"][1] for each in of_images)
  return {
    "bytes": size,
    "bpp": 8 * size / sum(each["pixels"] for each in of_images),
    "bpe": 8 * size / sum(elements.values()),
    "mse": mse,
    **{f"mse_{level}": squared[level] / elements[level] for level in BOX_LEVELS},
    "psnr": 10 * math.log10((high - low) ** 2 / mse) if mse else math.inf,
  }
