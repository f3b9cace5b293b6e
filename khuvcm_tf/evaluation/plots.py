"""Rate-distortion curves of `results.json`, and their figures as PNG and SVG for papers and slides.

Points are means over the pictures: of bpp and of each measure, at one setting. MS-SSIM is drawn in
dB, -10 log10(1 - MS-SSIM), and its mean is that of the pictures' dB; a published curve has only the
dB of its mean.

Colours and markers come in one order here and in the page of `report`, so that a codec looks the
same in both. Published curves, measured elsewhere, are dashed with hollow markers.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from typing import NamedTuple

from khuvcm_tf.data import images
from khuvcm_tf.evaluation import metrics


class Measure(NamedTuple):
  """What stands on a quality axis."""

  label: str
  unit: str  # "dB", or "" of what goes from 0 to 1
  decimals: int


MEASURES = {
  "psnr_rgb": Measure("PSNR RGB", "dB", 2),
  "psnr_ycbcr": Measure("PSNR YCbCr", "dB", 2),
  "psnr_y": Measure("PSNR Y", "dB", 2),
  "ssim": Measure("SSIM", "", 4),
  "ms_ssim": Measure("MS-SSIM", "dB", 2),
  "psnr_hvs": Measure("PSNR-HVS", "dB", 2),
  "psnr_hvs_m": Measure("PSNR-HVS-M", "dB", 2),
}

# Okabe and Ito's colours, which people with any colour vision tell apart; sky blue and yellow are
# darkened to be seen on white. The page's style sheet has the same in its order.
COLOURS = (
  *("#0072b2", "#d55e00", "#009e73", "#b5569a"),
  *("#b07a00", "#3a9bd1", "#55555c", "#7d4b1f"),
)
# In Matplotlib's letters; the page draws the same shapes in the same order.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_KIND_ORDER = ("model", "anchor", "published")
_WINDOWS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)  # bpp


class Point(NamedTuple):
  """Means over the pictures at one setting."""

  setting: str
  bpp: float
  values: dict[str, float]  # of MEASURES, without those that have no finite mean


class Curve(NamedTuple):
  """A codec's points, by rising rate."""

  name: str
  kind: str  # "model", "anchor" or "published"
  points: list[Point]


def curves(results: dict) -> list[Curve]:
  """Returns all curves: models first, then anchors, then published ones, each as in the file.

  Args:
    results: as `report_results.read` returns them.
  """
  decibels: dict[tuple[str, str], list[float]] = {}
  for row in results["rows"]:
    value = row.get("ms_ssim", math.nan)
    if not math.isnan(value):
      key = row["codec"], row["setting"]
      decibels.setdefault(key, []).append(metrics.similarity_db(value))
  points: dict[str, list[Point]] = {}
  for mean in results["means"]:
    codec, setting = mean["codec"], mean["setting"]
    values = {name: mean.get(name, math.nan) for name in MEASURES}
    found = decibels.get((codec, setting), [])
    values["ms_ssim"] = sum(found) / len(found) if found else math.nan
    points.setdefault(codec, []).append(Point(setting, mean["bpp"], _finite(values)))
  measured = [
    Curve(codec, about["kind"], _rising(points.get(codec, [])))
    for codec, about in results["codecs"].items()
  ]
  published = [_published(name, curve) for name, curve in results["published"].items()]
  found = [curve for curve in measured + published if curve.points]
  return sorted(found, key=lambda curve: _KIND_ORDER.index(curve.kind))


def window(drawn: Sequence[Curve]) -> float:
  """Returns the highest rate to show at first, in bpp: half as much again as the models reach.

  Anchors often reach many times the rate of the models, which then share a corner of the figure.
  """
  rates = [p.bpp for c in drawn if c.kind == "model" for p in c.points]
  rates = [1.5 * rate for rate in rates] or [p.bpp for c in drawn for p in c.points]
  return next((limit for limit in _WINDOWS if limit >= max(rates)), math.ceil(max(rates)))


def look(index: int) -> tuple[int, int]:
  """Returns the numbers of the colour and of the marker of a curve, different for the first 64.

  Example:
    >>> look(0), look(7), look(8)
    ((0, 0), (7, 7), (0, 3))
  """
  count = len(COLOURS)
  return index % count, (index + index // count * 3) % count


def write(drawn: Sequence[Curve], folder: str) -> list[str]:
  """Writes a PNG and an SVG of each measure that a curve has.

  Args:
    drawn: what `curves` returned.
    folder: made where it does not exist.

  Returns:
    The files' paths.

  Raises:
    images.ImageError: a file cannot be written.
  """
  paths = []
  os.makedirs(folder, exist_ok=True)
  for name in MEASURES:
    if any(name in point.values for curve in drawn for point in curve.points):
      for suffix, data in _figure(drawn, name).items():
        paths.append(os.path.join(folder, f"{name}.{suffix}"))
        images.write_bytes(paths[-1], data)
  return paths


def _published(name: str, curve: dict) -> Curve:
  points = []
  for index, bpp in enumerate(curve["bpp"]):
    values = {m: curve[m][index] for m in MEASURES if m in curve}
    if "ms_ssim" in values:
      values["ms_ssim"] = metrics.similarity_db(values["ms_ssim"])
    points.append(Point("", bpp, _finite(values)))
  return Curve(name, "published", _rising(points))


def _rising(points: list[Point]) -> list[Point]:
  return sorted((p for p in points if math.isfinite(p.bpp)), key=lambda point: point.bpp)


def _finite(values: dict[str, float]) -> dict[str, float]:
  return {name: value for name, value in values.items() if math.isfinite(value)}


def _figure(drawn: Sequence[Curve], name: str) -> dict[str, bytes]:
  """Draws one measure; returns the files' contents by suffix."""
  import matplotlib  # a second to import, and needed here alone
  from matplotlib.figure import Figure  # without pyplot: no display, Agg draws

  measure, limit, levels = MEASURES[name], window(drawn), []
  # A fixed salt makes the same results the same SVG, byte for byte.
  with matplotlib.rc_context(
    {"svg.hashsalt": "khuvcm", "font.size": 9, "axes.unicode_minus": True}
  ):
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axes = figure.add_subplot()
    handles, labels = [], []
    for index, curve in enumerate(drawn):
      points = [(p.bpp, p.values[name]) for p in curve.points if name in p.values]
      if not points:
        continue
      levels += [value for bpp, value in points if bpp <= limit]
      handles += axes.plot(*zip(*points), **_style(index, curve.kind))
      labels.append(curve.name + " (published)" * (curve.kind == "published"))
    axes.set_xlim(0, limit)
    if levels:
      margin = 0.05 * (max(levels) - min(levels)) or 0.5
      axes.set_ylim(min(levels) - margin, max(levels) + margin)
    axes.set_xlabel("bits per pixel")
    axes.set_ylabel(measure.label + f" ({measure.unit})" * bool(measure.unit))
    axes.grid(color="0.9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    _add_legend(figure, handles, labels)
    contents = {}
    for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
      file = io.BytesIO()
      figure.savefig(file, format=suffix, dpi=160, metadata=metadata)
      contents[suffix] = file.getvalue()
  return contents


def _style(index: int, kind: str) -> dict[str, object]:
  colour, marker = look(index)
  return {
    "color": COLOURS[colour],
    "marker": MARKERS[marker],
    "markersize": 5,
    "linewidth": 1.9 if kind == "model" else 1.1,
    "linestyle": (0, (4, 2)) if kind == "published" else "-",
    "markerfacecolor": "white" if kind == "published" else COLOURS[colour],
    "zorder": 3 if kind == "model" else 2,
  }


def _add_legend(figure, handles: Sequence, labels: Sequence[str]):
  # Matplotlib drops labels that begin with an underscore, and reads $ as mathematics.
  labels = [" " + label if label.startswith("_") else label for label in labels]
  legend = figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)
  for text in legend.get_texts():
    text.set_parse_math(False)
