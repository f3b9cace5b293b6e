"""Images to be compared side by side on a report page, embedded as text.

Pixels are shown as they are: of an image whose side is longer than 1024, the middle. For display,
images are compressed as WebP; figures beside them come from the images as they were kept.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from khuvcm_tf import errors

# The page stays below 15 MB, so that mail takes it and telephones open it.
IMAGE_BYTES = 13_500_000
_LONGEST_SIDE = 1024  # of what is shown of an image, in pixels
_QUALITY, _DIFFERENCE_QUALITY = 90, 75  # of WebP
_DIFFERENCE_GAIN = 4


class ViewerError(errors.Error):
  """Kept images that cannot be shown together."""


class Version(NamedTuple):
  """An image as a method returned it."""

  name: str  # of the method
  image: str  # name of the image
  label: str  # of the point at which the method ran, such as "q50"
  x: float  # cost, more than 0, such as bits per pixel
  notes: tuple[str, ...]  # lines to show below the image
  path: str  # of the file, 8-bit grey or RGB, as large as the original


def embed(originals: Mapping[str, str], versions: Sequence[Version]) -> dict[str, object]:
  """Embeds images, as many as a page has room for.

  Args:
    originals: files of the images by name.
    versions: of these images; the first one's method chooses the costs to compare at.

  Returns:
    {"targets": up to three costs, "images": those embedded, "omitted": number of images there is
    no room for}. In each image, "chosen" holds for each target, by method, the index in "versions"
    of the one whose cost is nearest.

  Raises:
    ViewerError: a version has another size than its original.
  """
  targets, embedded = _targets(versions), {}
  for chosen in (targets, targets[len(targets) // 2 :][:1]):
    images, size = [], 0
    for name, path in originals.items():
      own = [version for version in versions if version.image == name]
      image = _image(name, path, own, chosen, embedded)
      num_bytes = len(json.dumps(image))
      if size + num_bytes <= IMAGE_BYTES:
        images.append(image)
        size += num_bytes
    if len(images) == len(originals):
      break
  return {"targets": chosen, "images": images, "omitted": len(originals) - len(images)}


def _targets(versions: Sequence[Version]) -> list[float]:
  """Returns the lowest, a middle and the highest mean cost of the first method, rounded."""
  costs_by_label: dict[str, list[float]] = {}
  for version in versions:
    if version.name == versions[0].name:
      costs_by_label.setdefault(version.label, []).append(version.x)
  costs = sorted({float(f"{sum(own) / len(own):.2g}") for own in costs_by_label.values()})
  return costs if len(costs) <= 3 else [costs[0], costs[len(costs) // 2], costs[-1]]


def _image(
  name: str, path: str, versions: Sequence[Version], targets: Sequence[float], embedded: dict
) -> dict[str, object]:
  """Returns an image as the page's script reads it.

  Args:
    embedded: texts made before, by path, so that nothing is compressed twice.
  """
  original = _read(path)
  height, width, _ = original.shape
  top, left = (max(0, (side - _LONGEST_SIDE) // 2) for side in (height, width))
  window = slice(top, top + _LONGEST_SIDE), slice(left, left + _LONGEST_SIDE)
  chosen, shown = [], {}
  for target in targets:
    nearest: dict[str, Version] = {}
    for version in sorted(versions, key=lambda each: abs(math.log(each.x / target))):
      nearest.setdefault(version.name, version)
    for version in nearest.values():
      shown.setdefault(version, len(shown))
      if version.path not in embedded:
        embedded[version.path] = _texts(version.path, original, window)
    # In the order of the versions, whichever is nearest.
    chosen.append({version.name: shown[nearest[version.name]] for version in versions})
  if path not in embedded:
    embedded[path] = _data_uri(original[window], _QUALITY)
  return {
    **{"name": name, "width": width, "height": height, "original": embedded[path]},
    **dict(zip(("shownHeight", "shownWidth"), original[window].shape)),
    "chosen": chosen,
    "versions": [
      {"name": each.name, "notes": each.notes}
      | dict(zip(("decoded", "difference"), embedded[each.path]))
      for each in shown
    ],
  }


def _texts(path: str, original: np.ndarray, window: tuple[slice, slice]) -> tuple[str, str]:
  """Returns a version and its difference from the original as data URIs."""
  decoded = _read(path)
  if decoded.shape != original.shape:
    found, expected = ("x".join(map(str, a.shape[1::-1])) for a in (decoded, original))
    raise ViewerError(
      f"{path}: is {found} with {decoded.shape[2]} channels; expected {expected} with "
      f"{original.shape[2]} as the original; delete the folder of kept images and run again"
    )
  difference = _difference_map(original[window], decoded[window])
  return _data_uri(decoded[window], _QUALITY), _data_uri(difference, _DIFFERENCE_QUALITY)


def _read(path: str) -> np.ndarray:
  """Returns uint8 [H, W, 3] or [H, W, 1]."""
  try:
    with Image.open(path) as image:
      pixels = np.array(image)
  except (OSError, SyntaxError) as error:
    raise ViewerError(
      f"{path}: cannot be read: {error}; delete the folder of kept images and run again"
    ) from error
  return pixels.reshape(*pixels.shape[:2], -1)


def _difference_map(original: np.ndarray, decoded: np.ndarray) -> np.ndarray:
  """Four times what was added, around grey; clipped where it is more than 32."""
  difference = decoded.astype(np.int16) - original
  return np.clip(128 + _DIFFERENCE_GAIN * difference, 0, 255).astype(np.uint8)


def _data_uri(image: np.ndarray, quality: int) -> str:
  file = io.BytesIO()
  shown = image[..., 0] if image.shape[2] == 1 else image
  Image.fromarray(shown).save(file, "WEBP", quality=quality)
  return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
