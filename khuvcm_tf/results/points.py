"""Points of an evaluation that outlive the run that made them, so that a run can be resumed.

A point holds the numbers of one item, such as an image coded at one rate, in a JSON file of its
own: {"key": ..., "digest": ..., "values": {column: number}}. The key contains
everything that the numbers depend on. A point is made again only where its key differs, or its file
is missing or damaged.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Callable

from khuvcm_tf import atomic_files
from khuvcm_tf.results import rows


def load_or_make(
  path: pathlib.Path,
  key: str,
  columns: Sequence[str],
  make: Callable[[], dict[str, float]],
  is_current: Callable[[dict[str, float]], bool] = lambda values: True,
) -> dict[str, float]:
  """Returns the numbers of a point: those on disk where they hold, newly made ones otherwise.

  Args:
    path: of the point's file; folders are made as needed.
    key: identifies the item, its content and how it is evaluated, versions included.
    columns: of the numbers.
    make: makes the numbers, which are then stored.
    is_current: whether stored numbers fit what else is on disk, such as a coded file.

  Raises:
    atomic_files.FileError: the point cannot be written. What `make` raises is passed on, and
      nothing is stored.
  """
  values = _load(path, key)
  if values is None or set(values) != set(columns) or not is_current(values):
    values = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = rows.to_json(values)
    content = {"key": key, "digest": _digest(key, stored), "values": stored}
    atomic_files.write_text(str(path), json.dumps(content, allow_nan=False))
  return values


def _load(path: pathlib.Path, key: str) -> dict[str, float] | None:
  """Returns the numbers of a file; None where it is missing, damaged or of another key."""
  try:
    content = json.loads(path.read_text(encoding="utf-8"))
    stored = content["values"]
    if content["key"] != key or content["digest"] != _digest(key, stored):
      return None
    return {column: rows.number(value) for column, value in stored.items()}
  except (OSError, ValueError, KeyError, TypeError, AttributeError):
    return None


def _digest(key: str, stored: dict) -> str:
  return hashlib.sha256(json.dumps([key, stored], sort_keys=True).encode()).hexdigest()
