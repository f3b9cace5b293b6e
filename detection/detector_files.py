"""A detector's folder: written whole or not at all, found by path or by the name it ships under.

  detector.json   its config, its categories, and where its weights come from
  weights.npz     float32 or float16, by the names of detectron2's state dicts
  fingerprint     16 hexadecimal digits: the first 8 bytes of SHA-256 over config and weights

Results and features that are stored carry the fingerprint of the detector that made them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Sequence

import numpy as np

from detection.config import Config, ConfigError
from detection.detector import Detector
from khuvcm_tf import atomic_files, errors, layers, model_folders

FORMAT = 1  # of detector.json and the files beside it
DESCRIPTION = "detector.json"


class DetectorError(errors.Error):
  """A detector that cannot be used."""


def save(
  folder: str,
  detector: Detector,
  categories: Sequence[str],
  description: dict[str, object],
  weights_dtype: str = "float32",
) -> None:
  """Writes a detector's folder; an earlier one is replaced.

  Args:
    folder: to write.
    detector: with trained weights.
    categories: the name of each class, in their order.
    description: what else `detector.json` says, such as where the weights come from.
    weights_dtype: "float32" or "float16".

  Raises:
    model_folders.ModelError: a weight is not finite in `weights_dtype`, `folder` holds something
      else than a detector.
    atomic_files.FileError: the folder cannot be written.
    ValueError: there is not one name for each class.
  """
  if len(categories) != detector.config.num_classes:
    raise ValueError(f"{len(categories)} categories, expected {detector.config.num_classes}")
  model_folders.check_replaceable(folder, DESCRIPTION)
  weights = model_folders.as_stored(detector.named_weights(), weights_dtype)
  content = {
    "format": FORMAT,
    "config": detector.config.to_json(),
    "categories": list(categories),
    **description,
  }
  with atomic_files.new_folder(folder) as new:
    np.savez_compressed(os.path.join(new, "weights.npz"), **weights)
    with open(os.path.join(new, DESCRIPTION), "w", encoding="utf-8") as file:
      json.dump(content, file, indent=2)
      file.write("\n")
    model_folders.write_fingerprint(new, _fingerprint(detector.config, weights))


def load(path_or_name: str, **changes) -> tuple[Detector, dict[str, object], str]:
  """Loads a detector.

  Args:
    path_or_name: a detector's folder, the work directory of a training that has ended, or the name
      of a shipped detector.
    **changes: fields of its config that are to differ from what is stored, such as `min_score`.

  Returns:
    The detector, the contents of `detector.json`, and the fingerprint.

  Raises:
    DetectorError: there is no such detector, or it is damaged.
  """
  folder = find(path_or_name)
  with _damage_named(folder):
    description = _read_description(folder)
    weights = model_folders.read_arrays(os.path.join(folder, "weights.npz"))
    stored = model_folders.read_fingerprint(folder)
    config = Config.from_json(description["config"])
    fingerprint = _fingerprint(config, weights)
    if stored != fingerprint:
      raise ValueError(f"its fingerprint is {fingerprint.hex()}, expected {stored.hex()} as stored")
    if len(description["categories"]) != config.num_classes:
      raise ValueError("it has not one category for each class")
    with layers.weights_assigned():
      detector = Detector(dataclasses.replace(config, **changes))
    detector.assign_weights(weights)
  return detector, description, fingerprint.hex()


def read_config(path_or_name: str) -> Config:
  """Returns the config of a detector that is named as for `load`.

  Raises:
    DetectorError: there is no such detector, or it is damaged.
  """
  folder = find(path_or_name)
  with _damage_named(folder):
    return Config.from_json(_read_description(folder)["config"])


def read_weights(path_or_name: str) -> dict[str, np.ndarray]:
  """Returns the weights of a detector that is named as for `load`, by name.

  Raises:
    DetectorError: there is no such detector, or it is damaged.
  """
  folder = find(path_or_name)
  with _damage_named(folder):
    return model_folders.read_arrays(os.path.join(folder, "weights.npz"))


@contextlib.contextmanager
def _damage_named(folder: str) -> Iterator[None]:
  """Within, what reading a damaged folder raises becomes a DetectorError that names it."""
  try:
    yield
  except (OSError, ValueError, KeyError, TypeError, RecursionError, ConfigError) as error:
    raise DetectorError(
      f"{folder} is not a whole detector: {errors.reason(error)}; copy it again from its source"
    ) from error


def find(path_or_name: str) -> str:
  """Returns the folder of a detector that is named as for `load`.

  Raises:
    DetectorError: there is none.
  """
  for folder in (path_or_name, os.path.join(path_or_name, "detector")):
    if os.path.isfile(os.path.join(folder, DESCRIPTION)):
      return folder
  shipped = model_folders.shipped(DESCRIPTION)
  if path_or_name in shipped:
    return shipped[path_or_name]
  raise DetectorError(
    f"no detector at {path_or_name!r}, expected a detector's folder (as bin/convert_detectron2.py "
    f"writes it), a training workdir, or one of the shipped: {', '.join(shipped) or 'none'}"
  )


def _read_description(folder: str) -> dict[str, object]:
  with open(os.path.join(folder, DESCRIPTION), encoding="utf-8") as file:
    description = json.load(file)
  expected = {"format": int, "config": dict, "categories": list}
  for key, kind in expected.items():
    if not isinstance(description, dict) or not isinstance(description.get(key), kind):
      raise ValueError(f"{DESCRIPTION} has no {key}")
  if description["format"] != FORMAT:
    raise DetectorError(
      f"{folder} has detector format {description['format']}, expected {FORMAT}; use the version "
      "of the package that wrote it"
    )
  if not all(isinstance(name, str) for name in description["categories"]):
    raise ValueError(f"{DESCRIPTION} has categories that are no names")
  return description


def _fingerprint(config: Config, weights: dict[str, np.ndarray]) -> bytes:
  # Without defaults: a field that a later version adds changes no fingerprint.
  digest = hashlib.sha256(json.dumps(config.changes(), sort_keys=True).encode())
  model_folders.add_to_digest(digest, weights)
  return digest.digest()[:8]
