"""Curves of results: points of a cost and of the metrics reached at it, and how curves look.

Colours and markers come in one order in figures and on the report page, so that a curve looks the
same in both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

# Okabe and Ito's colours, which people with any colour vision can distinguish; sky blue and yellow
# are darkened to be seen on white. The page's style sheet has the same in this order.
COLOURS = (
  *("#0072b2", "#d55e00", "#009e73", "#b5569a"),
  *("#b07a00", "#3a9bd1", "#55555c", "#7d4b1f"),
)
# In Matplotlib's letters; the page draws the same shapes in the same order.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


class Point(NamedTuple):
  """Means over items at one cost."""

  label: str  # such as "q50"; "" where it has no name
  x: float  # the cost, such as bits per pixel or the share of elements that are kept
  values: dict[str, float]  # metrics by key; those without a finite value are missing
  count: int | None = None  # number of items; None where it is unknown


class Curve(NamedTuple):
  """Points of one method, drawn "strong" where it is evaluated, "plain" where it is a reference,
  "dashed" with hollow markers where it was not measured in this run.
  """

  name: str  # of the method
  group: str  # heading in the legend, such as "Models"
  style: str  # "strong", "plain" or "dashed"
  points: list[Point]  # by rising x


def curve(name: str, group: str, style: str, points: Sequence[Point]) -> Curve:
  """Returns a curve of points in any order; values that are not finite are left out."""
  finite = [
    point._replace(values={key: v for key, v in point.values.items() if math.isfinite(v)})
    for point in points
    if math.isfinite(point.x)
  ]
  return Curve(name, group, style, sorted(finite, key=lambda point: point.x))


def first_window(curves: Sequence[Curve], windows: Sequence[float] = ()) -> float:
  """Returns the highest cost to show at first: half as much again as the strong curves reach.

  References often reach many times the cost of what is evaluated, which then shares a corner of the
  figure.

  Args:
    curves: at least one.
    windows: costs to choose from, rising; without any, all points are shown.
  """
  highest = max(point.x for curve in curves for point in curve.points)
  if not windows:
    return 1.02 * highest or 1.0
  strong = [1.5 * p.x for curve in curves if curve.style == "strong" for p in curve.points]
  needed = max(strong) if strong else highest
  return next((window for window in windows if window >= needed), math.ceil(needed))


def look(index: int) -> tuple[int, int]:
  """Returns the numbers of the colour and of the marker of a curve, different for the first 64.

  Example:
    >>> look(0), look(7), look(8)
    ((0, 0), (7, 7), (0, 3))
  """
  count = len(COLOURS)
  return index % count, (index + index // count * 3) % count
