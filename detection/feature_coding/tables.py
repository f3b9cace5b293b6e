"""Results of feature coding as columns, curves and text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detection.coco import bootstrap
from detection.feature_coding import study, threshold
from detection.feature_coding.curves import Measured
from detection.feature_coding.threshold import Threshold
from khuvcm_tf.ops.pyramid import BOX_LEVELS
from khuvcm_tf.results import bjontegaard, curves, rows
from khuvcm_tf.results.curves import Curve
from khuvcm_tf.results.rows import Quantity, Row

LABELS = dict(zip(bootstrap.KEYS, ("AP", "AP50", "AP75", "APs", "APm", "APl")))
METRICS = [Quantity(key, label, "%", 1) for key, label in LABELS.items()]
BPP = Quantity("bpp", "Bits per pixel of the image", "", 4)
MSE = Quantity("mse", "MSE of P2 to P5", "", 4)
PSNR = Quantity("psnr", "PSNR of P2 to P5", "dB", 2)
COLUMNS = [
  Quantity("curve", "Curve", "", None),
  Quantity("point", "Point", "", None),
  BPP,
  Quantity("bpe", "Bits per element", "", 4),
  MSE,
  *(Quantity(f"mse_{level}", f"MSE of {level.upper()}", "", 4) for level in BOX_LEVELS),
  PSNR,
  *METRICS,
]
_STYLES = {"Models": "strong", "Rebuilt": "strong", "Anchors": "plain", "Images": "plain"}


def by_curve(measured: Measured) -> dict[str, list[Row]]:
  """Returns the rows of each curve, by rising rate."""
  groups = rows.grouped(measured.rows, "curve")
  return {name: sorted(own, key=lambda row: row["bpp"]) for (name,), own in groups.items()}


def rate_curves(measured: Measured) -> list[Curve]:
  """Returns performance and PSNR against rate."""
  return [_curve(own, "bpp", ("psnr", "mse")) for own in by_curve(measured).values()]


def distortion_curves(measured: Measured) -> list[Curve]:
  """Returns performance against distortion."""
  return [_curve(own, "mse", ()) for own in by_curve(measured).values()]


def _curve(own: Sequence[Row], axis: str, more: Sequence[str]) -> Curve:
  points = [
    curves.Point(
      row["point"],
      row[axis],
      {**{key: 100 * row[key] for key in LABELS}, **{key: row[key] for key in more}},
    )
    for row in own
  ]
  first = own[0]
  return curves.curve(first["curve"], first["group"], _STYLES[first["group"]], points)


def thresholds(measured: Measured) -> dict[str, Threshold]:
  """Returns D_T of each curve with three points or more that codes all levels.

  Where a rule rebuilds levels, most of the distortion is the rule's, whatever the codec leaves.
  """
  found = {}
  for name, every in by_curve(measured).items():
    if every[0]["group"] == "Rebuilt":
      continue
    own = [row for row in every if row["mse"] > 0]
    distortions = np.array([row["mse"] for row in own])
    if len(set(distortions.tolist())) >= bjontegaard.FEWEST_POINTS:
      found[name] = threshold.fit(
        distortions,
        np.array([row["ap"] for row in own]),
        measured.unchanged["ap"],
        _draws(measured, own),
        measured.unchanged_draws,
      )
  return found


def bd_rates(measured: Measured, anchor: str) -> dict[str, dict[str, dict[str, object]]]:
  """Returns BD-rates over AP and over PSNR, as `bjontegaard.bd_rates` gives them.

  Points whose AP does not rise above those of lower rates are left out. Those over AP have an
  "interval", too, of 95 %, by the bootstrap over the images; the rates stay.

  Returns:
    {"ap": {name: ...}, "psnr": {name: ...}}.
  """
  rates, psnrs, aps, draws = {}, {}, {}, {}
  for name, own in by_curve(measured).items():
    rates[name] = [row["bpp"] for row in own]
    psnrs[name] = [(row["bpp"], row["psnr"]) for row in own]
    aps[name] = _rising(rates[name], [row["ap"] for row in own])
    draws[name] = _draws(measured, own)
  found = bjontegaard.bd_rates(aps, anchor)
  for name, each in found.items():
    if "value" in each:
      values = [
        _bd_rate(_rising(rates[anchor], of_anchor), _rising(rates[name], of_curve))
        for of_anchor, of_curve in zip(draws[anchor], draws[name])
      ]
      each["interval"] = bootstrap.interval(np.array(values))
  return {"ap": found, "psnr": bjontegaard.bd_rates(psnrs, anchor)}


def _draws(measured: Measured, own: Sequence[Row]) -> np.ndarray:
  """Returns AP of a curve's rows in each draw, [draws, rows]."""
  return measured.draws[[measured.rows.index(row) for row in own]].T


def _rising(rates: Sequence[float], performances: Sequence[float]) -> bjontegaard.Curve:
  """Returns points of a curve, in percent; not those that are no better than one of less rate."""
  found: list[tuple[float, float]] = []
  for rate, performance in zip(rates, performances):
    if not found or 100 * performance > found[-1][1]:
      found.append((rate, 100 * performance))
  return found


def _bd_rate(anchor: bjontegaard.Curve, curve: bjontegaard.Curve) -> float:
  """Returns the BD-rate in a draw, nan where it has none."""
  try:
    return bjontegaard.bd_rate(anchor, curve, warns=False).value
  except bjontegaard.CurveError:
    return float("nan")


def text(measured: Measured) -> str:
  """Returns the rows as a table."""
  keys = ("ap", "ap50", "aps", "apm", "apl")
  lines = [
    ["curve", "point", "bpp", "bits/element", "MSE", "PSNR", *(LABELS[k] for k in keys)],
    None,
  ]
  for row in (measured.unchanged, *measured.rows):
    numbers = ["–" if row[key] != row[key] else f"{100 * row[key]:.1f}" for key in keys]
    rates = [f"{row['bpp']:.4f}", f"{row['bpe']:.4f}", f"{row['mse']:.4f}", f"{row['psnr']:.2f}"]
    lines.append([row["curve"], row["point"], *rates, *numbers])
  return rows.table(lines, 2)


def study_lines() -> list[list[str]]:
  """Returns the study's table."""
  return [
    [f"{lmbda:g}", f"{mse:.3f}", f"{bpp:.3f}", f"{100 * performance:.1f}"]
    for lmbda, (mse, bpp, performance) in study.CURVE.items()
  ]
