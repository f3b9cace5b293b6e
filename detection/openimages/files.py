"""The CSV files of Open Images, and the hierarchy of its classes.

  boxes        ImageID, LabelName, XMin, XMax, YMin, YMax, IsGroupOf      ground truth
  labels       ImageID, LabelName, Confidence                            1 there, 0 verified absent
  detections   ImageID, LabelName, Score, XMin, XMax, YMin, YMax
  hierarchy    JSON: {"LabelName": ..., "Subcategory": [...]}, nested

Coordinates are fractions of the image's sides. Further columns, as the published files have them,
are passed over.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from typing import NamedTuple

from detection.openimages import OpenImagesError
from khuvcm_tf import errors

_CORNERS = ("XMin", "YMin", "XMax", "YMax")


class Box(NamedTuple):
  """A box of a class in an image: of the ground truth, or detected.

  Attributes:
    corners: left, top, right, bottom, fractions of the image's sides.
    score: of a detection; 1 of ground truth.
    is_group: whether it is around more than five objects that touch.
  """

  image: str
  label: str
  corners: tuple[float, float, float, float]
  score: float = 1.0
  is_group: bool = False


class Label(NamedTuple):
  """A class that was verified to be in an image, or not to be there."""

  image: str
  label: str
  is_there: bool


def read_boxes(path: str) -> list[Box]:
  """Returns the ground truth.

  Raises:
    OpenImagesError: the file cannot be read, or a line is not as it should be.
  """

  def parse(row):
    return Box(*_names(row), _corners(row), 1.0, _flag(row["IsGroupOf"]))

  return _read(path, ("ImageID", "LabelName", *_CORNERS, "IsGroupOf"), parse)


def read_labels(path: str) -> list[Label]:
  """Returns labels of whole images; see `read_boxes`."""

  def parse(row):
    return Label(*_names(row), _flag(row["Confidence"]))

  return _read(path, ("ImageID", "LabelName", "Confidence"), parse)


def read_detections(path: str) -> list[Box]:
  """Returns detections; see `read_boxes`."""

  def parse(row):
    return Box(*_names(row), _corners(row), _number(row["Score"]))

  return _read(path, ("ImageID", "LabelName", *_CORNERS, "Score"), parse)


def read_hierarchy(path: str) -> dict[str, tuple[str, ...]]:
  """Returns the classes above each class, from the next one up.

  Raises:
    OpenImagesError: the file cannot be read or is no hierarchy.
  """
  try:
    with open(path, encoding="utf-8") as file:
      root = json.load(file)
    found: dict[str, tuple[str, ...]] = {}
    # The root is not a class.
    for each in root.get("Subcategory", []):
      _descend(each, (), found)
  except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
    raise OpenImagesError(
      f"{path}: is no hierarchy of classes: {errors.reason(error)}; expected "
      "bbox_labels_600_hierarchy.json or its like"
    ) from error
  return found


def _descend(node: dict, above: tuple[str, ...], found: dict[str, tuple[str, ...]]) -> None:
  label = node["LabelName"]
  found[label] = tuple(dict.fromkeys((*found.get(label, ()), *above)))  # a class may stand twice
  for each in (*node.get("Subcategory", []), *node.get("Part", [])):
    _descend(each, (label, *above) if each in node.get("Subcategory", []) else above, found)


def _read(path: str, columns: Sequence[str], parse) -> list:
  try:
    with open(path, encoding="utf-8", newline="") as file:
      reader = csv.DictReader(file)
      missing = [name for name in columns if name not in (reader.fieldnames or [])]
      if missing:
        raise OpenImagesError(
          f"{path}: has no column {', '.join(missing)}, expected {', '.join(columns)}"
        )
      found = []
      for row in reader:
        try:
          found.append(parse(row))
        except (ValueError, TypeError) as error:
          raise OpenImagesError(
            f"{path}: line {reader.line_num}: {error}; correct or remove it"
          ) from error
      return found
  except (OSError, UnicodeError, csv.Error) as error:
    raise OpenImagesError(
      f"{path}: cannot be read: {errors.reason(error)}; expected a CSV file of Open Images"
    ) from error


def _names(row: dict[str, str]) -> tuple[str, str]:
  if not row["ImageID"] or not row["LabelName"]:
    raise ValueError("ImageID or LabelName is empty")
  return row["ImageID"], row["LabelName"]


def _number(text: str) -> float:
  value = float(text)
  if not math.isfinite(value):
    raise ValueError(f"found {text}, expected a finite number")
  return value


def _flag(text: str) -> bool:
  value = _number(text)
  if value not in (0.0, 1.0, -1.0):  # -1: not known
    raise ValueError(f"found {text}, expected 0 or 1")
  return value == 1.0


def _corners(row: dict[str, str]) -> tuple[float, float, float, float]:
  x1, y1, x2, y2 = (_number(row[name]) for name in _CORNERS)
  if not (x1 <= x2 and y1 <= y2):
    raise ValueError(
      f"found a box from ({x1}, {y1}) to ({x2}, {y2}), expected the lower ends first"
    )
  return x1, y1, x2, y2
