"""Detections in photos on disk or from their stored features, one photo or a whole folder.

An output folder holds

  detections.json    of each photo its name, its size and what is in it; and of which detector
  a.jpg, sub/b.png   photos with their detections drawn on them, under the photos' own names

and, until detections.json is there, detections.part.jsonl with a line for each photo.
"""

from __future__ import annotations

import functools
import io
import json
import os
from collections.abc import Sequence
from typing import Callable, NamedTuple

import numpy as np
from PIL import Image

from detection import drawing, photos, predictor
from detection.coco.detections import to_coco
from detection.options import DetectOptions, config_changes
from detection.photos import Photo, PhotoError
from detection.postprocessing import Objects
from detection.predictor import Predictor
from khuvcm_tf import atomic_files
from khuvcm_tf.data import feature_files
from khuvcm_tf.data.feature_files import FeatureSet
from khuvcm_tf.options import check

RESULTS = "detections.json"
_JPEG = (".jpg", ".jpeg")


class _Found(NamedTuple):
  """What is in a photo of a height and width; its pixels, where it is to be drawn."""

  name: str
  size: tuple[int, int]
  objects: Objects
  image: np.ndarray | None


def run_detect(options: DetectOptions) -> str:
  """Detects what the options name; returns a line about what was written.

  Raises:
    errors.Error: the detector, the only photo or the features cannot be used, the output exists or
      cannot be written, or some of several photos failed; the results of the others are written.
  """
  check(options)
  output = options.output
  found = _photos_beside(output, options.input) if options.input else []
  _check_folder(output, options.overwrite)
  model = predictor.load(options.detector, **config_changes(options))
  if options.features:
    names, detect = _from_features(model, options, found)
  else:
    names = [photo.name for photo in found]
    detect = functools.partial(_detect_in_photo, model, options, found)
  targets = _targets({photo.name for photo in found} & set(names), output) if options.draw else {}
  sources = (photo.path for photo in found)
  atomic_files.check_targets(targets.values(), sources, options.overwrite)
  atomic_files.make_folder(output)
  left_out = []
  finish = functools.partial(_draw_and_describe, detect, model.categories, targets)
  results, entries = os.path.join(output, RESULTS), []
  with atomic_files.kept_lines(os.path.join(output, "detections.part.jsonl")) as keep:
    for entry in photos.attempt_all(range(len(names)), finish, names, left_out):
      entries.append(entry)
      keep(entry)
    if entries:
      content = {
        "detector": options.detector,
        "fingerprint": model.fingerprint,
        "categories": list(model.categories),
        "images": entries,
        "left_out": left_out,
      }
      atomic_files.write_text(results, f"{json.dumps(content, indent=1)}\n")
  photos.check_complete(left_out, len(names), results)
  return _summary(entries, results, options, len(names) - len(targets))


def _detect_in_photo(
  model: Predictor, options: DetectOptions, found: Sequence[Photo], number: int
) -> _Found:
  image = found[number].read(options.alpha)
  return _Found(found[number].name, image.shape[:2], model(image), image)


def _from_features(
  model: Predictor, options: DetectOptions, found: Sequence[Photo]
) -> tuple[list[str], Callable[[int], _Found]]:
  """Returns the names of the photos whose features are stored, and what detects by number."""
  features = feature_files.open_features(options.features, model.made_by)
  by_name = {photo.name: photo for photo in found} if options.draw else {}
  detect = functools.partial(_detect_in_features, model, options, features, by_name)
  return [each.name for each in features.metadata], detect


def _detect_in_features(
  model: Predictor,
  options: DetectOptions,
  features: FeatureSet,
  by_name: dict[str, Photo],
  number: int,
) -> _Found:
  metadata, stored = features[number]
  photo, image = by_name.get(metadata.name), None
  if photo is not None:
    if metadata.digest and photo.digest() != metadata.digest:
      raise PhotoError(
        f"{photo.path}: is not the photo of that name whose features are stored, expected the same "
        "file; give it with --input, extract its features again, or give --nodraw"
      )
    image = photo.read(options.alpha)
  return _Found(metadata.name, metadata.original_size, model.from_features(stored), image)


def _draw_and_describe(
  detect: Callable[[int], _Found],
  categories: Sequence[str],
  targets: dict[str, str],
  number: int,
) -> dict[str, object]:
  """Detects in a photo, draws it where it has a target, and returns its entry."""
  found = detect(number)
  entry = _entry(found, categories)
  if found.name in targets:
    _write_drawn(targets[found.name], drawing.draw(found.image, found.objects, categories))
  return entry


def _entry(found: _Found, categories: Sequence[str]) -> dict[str, object]:
  """Returns what detections.json says of a photo."""
  same = {index: index for index in range(len(categories))}
  detections = [
    {
      "category": each["category_id"],
      "category_name": categories[each["category_id"]],
      "score": each["score"],
      "bbox": each["bbox"],
      **({"segmentation": each["segmentation"]} if "segmentation" in each else {}),
    }
    for each in to_coco(found.objects, 0, *found.size, same)
  ]
  height, width = found.size
  return {"file_name": found.name, "height": height, "width": width, "detections": detections}


def _photos_beside(output: str, pattern: str) -> list[Photo]:
  """Returns the photos that are named, but for those in the output folder: drawn by an earlier run.

  So a photo is never replaced by a drawing of itself.
  """
  place = os.path.join(os.path.realpath(output), "")
  found = photos.find(pattern)
  kept = [photo for photo in found if not os.path.realpath(photo.path).startswith(place)]
  if not kept:
    raise PhotoError(
      f"{pattern}: all photos found lie in {output}, expected a folder of their own for the "
      "results, which have the photos' names; give another --output"
    )
  return kept


def _targets(names: set[str], output: str) -> dict[str, str]:
  """Returns for each photo where it is drawn: under its name, as a JPEG if it is one, else PNG."""
  suffixes = (*_JPEG, ".png")
  targets = {
    name: os.path.join(output, name if name.lower().endswith(suffixes) else f"{name}.png")
    for name in sorted(names)
  }
  taken = {}
  for name, target in targets.items():
    other = taken.setdefault(target, name)
    if other != name:
      raise PhotoError(f"{other} and {name} would both be drawn to {target}; rename one")
  return targets


def _check_folder(output: str, overwrite: bool) -> None:
  if os.path.exists(output) and not os.path.isdir(output):
    raise PhotoError(f"{output} is a file, expected a folder for {RESULTS} and pictures")
  atomic_files.check_targets([os.path.join(output, RESULTS)], overwrite=overwrite)


def _write_drawn(path: str, drawn: Image.Image) -> None:
  file = io.BytesIO()
  if path.lower().endswith(_JPEG):
    # Thin lines of pure colours, which subsampled chroma would blur.
    drawn.save(file, "JPEG", quality=92, subsampling=0)
  else:
    drawn.save(file, "PNG")
  atomic_files.make_folder(os.path.dirname(path))
  atomic_files.write_bytes(path, file.getvalue())


def _summary(
  entries: Sequence[dict], results: str, options: DetectOptions, num_undrawn: int
) -> str:
  count = sum(len(each["detections"]) for each in entries)
  line = f"{_count(len(entries), 'photo')}: {_count(count, 'detection')} in {results}"
  if not options.draw:
    return line
  if num_undrawn == 0:
    return f"{line}, drawn beside it"
  reason = "as features hold no pixels: give the photos with --input"
  if options.input:
    reason = "as --input has none of that name: give the folder that was extracted"
  return f"{line}; {_count(num_undrawn, 'photo')} not drawn, {reason}"


def _count(number: int, name: str) -> str:
  return f"{number} {name}{'' if number == 1 else 's'}"
