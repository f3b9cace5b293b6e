"""Curves as PNG and SVG files, for papers and slides."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from khuvcm_tf import atomic_files
from khuvcm_tf.results.curves import COLOURS, MARKERS, Curve, look
from khuvcm_tf.results.rows import Quantity

if TYPE_CHECKING:  # Matplotlib takes a second to import.
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

# What a file says beside the drawing, by its suffix: nothing that differs from run to run.
_METADATA = {"png": {"Software": None}, "svg": {"Date": None}}


def write(
  folder: str, axis: Quantity, metrics: Sequence[Quantity], curves: Sequence[Curve], limit: float
) -> list[str]:
  """Writes a PNG and an SVG of each metric that a curve has, named by the metric's key.

  Args:
    folder: made where it does not exist.
    axis: what x is.
    metrics: what y may be.
    curves: in the order of their colours.
    limit: highest x to show.

  Returns:
    The files' paths.

  Raises:
    atomic_files.FileError: a file cannot be written.
  """
  paths = []
  for metric in metrics:
    if any(metric.key in point.values for curve in curves for point in curve.points):
      path = os.path.join(folder, metric.key)
      with new_figure(path, (7.5, 4.6), font_size=9) as figure:
        _draw(figure, axis, metric, curves, limit)
      paths += [f"{path}.{suffix}" for suffix in _METADATA]
  return paths


@contextlib.contextmanager
def new_figure(path: str, size: tuple[float, float], font_size: int) -> Iterator[Figure]:
  """Within, a figure of Matplotlib to draw on; behind it, its PNG and SVG files are written.

  Args:
    path: of the files, without suffix; the folder is made where it does not exist.
    size: width and height in inches.
    font_size: in points.

  Raises:
    atomic_files.FileError: a file cannot be written.
  """
  import matplotlib  # takes a second
  from matplotlib.figure import Figure  # without pyplot: no display, Agg draws

  # A fixed salt makes the same results the same SVG, byte for byte.
  with matplotlib.rc_context({"svg.hashsalt": "khuvcm", "font.size": font_size}):
    figure = Figure(figsize=size, layout="constrained")
    yield figure
    atomic_files.make_folder(os.path.dirname(path))
    for suffix, metadata in _METADATA.items():
      file = io.BytesIO()
      figure.savefig(file, format=suffix, dpi=160, metadata=metadata)
      atomic_files.write_bytes(f"{path}.{suffix}", file.getvalue())


def add_grid(axes: Axes) -> None:
  """Draws a pale grid, and no frame at the top and the right."""
  axes.grid(color="0.9", linewidth=0.6)
  axes.spines[["top", "right"]].set_visible(False)


def _draw(
  figure: Figure, axis: Quantity, metric: Quantity, curves: Sequence[Curve], limit: float
) -> None:
  """Draws one metric."""
  axes = figure.add_subplot()
  handles, labels, shown = [], [], []
  for index, curve in enumerate(curves):
    points = [(p.x, p.values[metric.key]) for p in curve.points if metric.key in p.values]
    if points:
      shown += [value for x, value in points if x <= limit]
      handles += axes.plot(*zip(*points), **_style(index, curve.style))
      labels.append(curve.name + f" ({curve.group.lower()})" * (curve.style == "dashed"))
  axes.set_xlim(0, limit)
  if shown:
    margin = 0.05 * (max(shown) - min(shown)) or 0.5
    axes.set_ylim(min(shown) - margin, max(shown) + margin)
  axes.set_xlabel(axis.label)
  axes.set_ylabel(metric.title)
  add_grid(axes)
  _add_legend(figure, handles, labels)


def _style(index: int, style: str) -> dict[str, object]:
  colour, marker = look(index)
  return {
    "color": COLOURS[colour],
    "marker": MARKERS[marker],
    "markersize": 5,
    "linewidth": 1.9 if style == "strong" else 1.1,
    "linestyle": (0, (4, 2)) if style == "dashed" else "-",
    "markerfacecolor": "white" if style == "dashed" else COLOURS[colour],
    "zorder": 3 if style == "strong" else 2,
  }


def _add_legend(figure, handles: Sequence, labels: Sequence[str]):
  # Matplotlib drops labels that begin with an underscore, and reads $ as mathematics.
  labels = [" " + label if label.startswith("_") else label for label in labels]
  legend = figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)
  for text in legend.get_texts():
    text.set_parse_math(False)
