"""Rows of an evaluation: how they are averaged, written and printed.

A row is a dictionary of columns; all rows of an evaluation have the same ones. Where an item has no
value, such as a metric that is undefined for a small image, the value is nan.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from typing import NamedTuple, Union

from khuvcm_tf import atomic_files

Row = dict[str, Union[str, int, float]]


class Quantity(NamedTuple):
  """What a column or an axis shows."""

  key: str  # name of the column
  label: str  # its name for people
  unit: str = ""  # such as "dB"
  decimals: int | None = 2  # None for text

  @property
  def title(self) -> str:
    return f"{self.label} ({self.unit})" if self.unit else self.label

  def format(self, value: str | float) -> str:
    return value if self.decimals is None else f"{value:.{self.decimals}f}"


def mean(rows: Sequence[Row], columns: Sequence[str]) -> tuple[Row, dict[str, int]]:
  """Averages columns over the rows that have a value there.

  Returns:
    (means, number of rows in each); the mean of no values is nan.
  """
  means, counts = {}, {}
  for column in columns:
    values = [row[column] for row in rows if not math.isnan(row[column])]
    means[column] = sum(values) / len(values) if values else math.nan
    counts[column] = len(values)
  return means, counts


def grouped(rows: Sequence[Row], *columns: str) -> dict[tuple, list[Row]]:
  """Returns rows by their values in some columns, in the order in which those first occur."""
  groups: dict[tuple, list[Row]] = {}
  for row in rows:
    groups.setdefault(tuple(row[column] for column in columns), []).append(row)
  return groups


def common(rows: Sequence[Row], item: str, *columns: str) -> tuple[list[Row], list]:
  """Returns the rows to compare groups by: those of the items that every group has.

  Args:
    rows: of all groups.
    item: column of what each group should have one row of, such as "image".
    columns: whose values make a group.

  Returns:
    (rows, the items that some group lacks, in their order).

  Example:
    >>> rows = [{"codec": c, "image": i} for c, i in (("jpeg", 1), ("jpeg", 2), ("webp", 1))]
    >>> common(rows, "image", "codec")
    ([{'codec': 'jpeg', 'image': 1}, {'codec': 'webp', 'image': 1}], [2])
  """
  of_groups = [{row[item] for row in own} for own in grouped(rows, *columns).values()]
  items = list(dict.fromkeys(row[item] for row in rows))
  lacked = [each for each in items if not all(each in own for own in of_groups)]
  return [row for row in rows if row[item] not in lacked], lacked


def write_csv(path: str, rows: Sequence[Row]) -> None:
  """Writes rows as CSV; nan becomes an empty cell, infinity `inf`."""
  file = io.StringIO()
  writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
  writer.writeheader()
  for row in rows:
    writer.writerow({key: "" if value != value else value for key, value in row.items()})
  atomic_files.write_text(path, file.getvalue())


def write_json(path: str, content: object) -> None:
  """Writes strict JSON, which lacks two numbers: nan becomes null, infinity "inf"."""
  text = json.dumps(to_json(content), indent=1, ensure_ascii=False, allow_nan=False)
  atomic_files.write_text(path, text + "\n")


def to_json(value: object) -> object:
  """Replaces nan by None and infinity by "inf" in nested lists and dictionaries.

  Example:
    >>> to_json({"psnr": [float("inf"), float("nan"), 30.0]})
    {'psnr': ['inf', None, 30.0]}
  """
  if isinstance(value, dict):
    return {key: to_json(item) for key, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [to_json(item) for item in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None if math.isnan(value) else "inf" if value > 0 else "-inf"
  return value


def number(value: str | float | None) -> int | float:
  """Returns the number that `to_json` made `value` of."""
  if value is None:
    return math.nan
  return float(value) if isinstance(value, str) else value


def table(lines: Sequence[Sequence[str] | None], texts: int = 1) -> str:
  """Returns a table as text, columns aligned.

  Args:
    lines: cells, the first line those of the header; None draws a rule.
    texts: number of leading columns that are aligned to the left; numbers are to the right.

  Example:
    >>> print(table([["name", "bytes"], None, ["a", "7"]]))
    name  bytes
    -----------
    a         7
  """
  widths = [max(map(len, column)) for column in zip(*filter(None, lines))]
  rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
  return "\n".join(
    rule
    if cells is None
    else "  ".join(
      cell.ljust(width) if i < texts else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(cells, widths))
    ).rstrip()
    for cells in lines
  )
