"""Bjontegaard's differences between two rate-distortion curves: BD-rate and BD-PSNR.

  saved = bd_rate(jpeg, ours).value  # -60.0: 60 % fewer bits than JPEG at equal quality

A curve is a sequence of (rate, quality), at least three, in any order: rate in bits per pixel, or
any unit that both curves share; quality in dB, similarities as -10 log10(1 - similarity). Between
the points it is a piecewise cubic Hermite polynomial (PCHIP), which keeps rising between rising
points: of log(rate) as a function of quality for BD-rate, of quality as a function of log(rate) for
BD-PSNR. Nothing is extrapolated: the mean is over the range that both curves cover.

Over a set of images the curve of the means is compared, not the mean of the images' BD-rates.

Reference: Bjontegaard, "Calculation of average PSNR differences between RD-curves", VCEG-M33, 2001,
  who fits one cubic to four points; "Improvements of the BD-PSNR model", VCEG-AI11, 2008. PCHIP and
  the mean over the common range as in JVET's common test conditions and the package bjontegaard.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Callable, NamedTuple

import numpy as np
from absl import logging
from scipy import interpolate

from khuvcm_tf import errors

# Through fewer points PCHIP is a straight line.
FEWEST_POINTS = 3

# A warning is logged where the common range is a smaller share of the shorter curve's.
LEAST_OVERLAP = 0.75

Curve = Sequence[tuple[float, float]]


class CurveError(errors.Error):
  """Curves that cannot be compared."""


class Difference(NamedTuple):
  """A mean difference, and where on the curves it was taken."""

  value: float  # % of the anchor's rate, or dB
  lowest: float  # the range that both curves cover: of dB for BD-rate, of rate for BD-PSNR
  highest: float
  overlap: float  # 0..1, that range as a share of the shorter curve's (for rates: of its logarithm)


def bd_rate(anchor: Curve, curve: Curve, *, warns: bool = True) -> Difference:
  """Mean difference in rate at equal quality.

      100 (exp(mean over quality of (log R_curve - log R_anchor)) - 1)

  Args:
    anchor: what is compared with.
    curve: what is judged.
    warns: whether a warning is logged where `overlap` is below 0.75.

  Returns:
    `value` in % of the anchor's rate; negative where the curve needs fewer bits.

  Raises:
    CurveError: fewer than 3 points, a rate or quality that is not finite, rates that are not
      positive, quality that does not rise with rate, or no common range of quality.

  Example:
    >>> anchor = [(0.2, 30), (0.5, 33), (1.0, 36)]
    >>> round(bd_rate(anchor, [(0.1, 30), (0.25, 33), (0.5, 36)]).value, 6)
    -50.0
  """
  rates, levels = zip(*(_checked(points, name) for points, name in _named(anchor, curve)))
  mean, *common = _mean_difference(levels, rates, "quality", float)
  found = Difference(100 * math.expm1(mean), *common)
  if warns:
    _warn_of_overlap(found, "quality")
  return found


def bd_psnr(anchor: Curve, curve: Curve) -> Difference:
  """Mean difference in quality at equal rate.

      mean over log(rate) of (Q_curve - Q_anchor)

  Args:
    anchor: what is compared with.
    curve: what is judged.

  Returns:
    `value` in dB; positive where the curve is better. A warning is logged where `overlap` is below
    0.75.

  Raises:
    CurveError: as `bd_rate` does, or no common range of rate.

  Example:
    >>> anchor = [(0.2, 30), (0.5, 33), (1.0, 36)]
    >>> round(bd_psnr(anchor, [(0.2, 31), (0.5, 34), (1.0, 37)]).value, 6)
    1.0
  """
  rates, levels = zip(*(_checked(points, name) for points, name in _named(anchor, curve)))
  found = Difference(*_mean_difference(rates, levels, "rate", math.exp))
  _warn_of_overlap(found, "rate")
  return found


def bd_rates(curves: Mapping[str, Curve], anchor: str) -> dict[str, dict[str, object]]:
  """Compares curves with one of them.

  Args:
    curves: by name.
    anchor: name of the one to compare with.

  Returns:
    By name, without the anchor's: `bd_rate` as a dictionary, or {"error": why there is none}.
  """
  found = {}
  for name, curve in curves.items():
    if name != anchor:
      try:
        found[name] = bd_rate(curves.get(anchor, []), curve)._asdict()
      except CurveError as error:
        found[name] = {"error": str(error)}
  return found


def _named(anchor: Curve, curve: Curve) -> list[tuple[Curve, str]]:
  return [(anchor, "anchor"), (curve, "curve")]


def _checked(points: Curve, name: str) -> tuple[np.ndarray, np.ndarray]:
  """Returns log(rate) and quality, both rising."""
  points = sorted((float(rate), float(quality)) for rate, quality in points)
  if len(points) < FEWEST_POINTS:
    raise CurveError(
      f"`{name}` has {len(points)} points; expected {FEWEST_POINTS} or more; measure it at more "
      "rate points"
    )
  for rate, quality in points:
    if not (0 < rate < math.inf and math.isfinite(quality)):
      raise CurveError(
        f"`{name}` has the point {_text(rate, quality)}; expected a positive rate and a finite "
        "quality; leave it out"
      )
  for lower, higher in zip(points, points[1:]):
    if not (lower[0] < higher[0] and lower[1] < higher[1]):
      raise CurveError(
        f"`{name}` does not rise from {_text(*lower)} to {_text(*higher)}; expected more quality "
        "for more rate; leave out the point that loses"
      )
  rates, levels = np.array(points).T
  return np.log(rates), levels


def _text(rate: float, quality: float) -> str:
  return f"(rate {rate:g}, quality {quality:g})"


def _mean_difference(
  xs: Sequence[np.ndarray],
  ys: Sequence[np.ndarray],
  name: str,
  shown: Callable[[float], float],
) -> tuple[float, float, float, float]:
  """Means y_2(x) - y_1(x) over the x that both curves cover.

  Args:
    xs: of anchor and curve, rising.
    ys: of both, rising.
    name: of what x is shown as.
    shown: from x to the value that errors and results show.

  Returns:
    The mean, the lowest and the highest x of the common range, as shown, and its share of the
    shorter range.
  """
  lowest, highest = max(x[0] for x in xs), min(x[-1] for x in xs)
  if lowest >= highest:
    ranges = " and ".join(f"{shown(x[0]):g}..{shown(x[-1]):g}" for x in xs)
    raise CurveError(
      f"anchor and curve have no common range of {name}: {ranges}; measure them at rate points "
      "that overlap"
    )
  overlap = float((highest - lowest) / min(x[-1] - x[0] for x in xs))
  anchor, curve = (
    interpolate.PchipInterpolator(x, y).integrate(lowest, highest) for x, y in zip(xs, ys)
  )
  mean = float(curve - anchor) / float(highest - lowest)
  return mean, shown(lowest), shown(highest), overlap


def _warn_of_overlap(found: Difference, name: str) -> None:
  if found.overlap < LEAST_OVERLAP:
    logging.warning(
      "anchor and curve have only %s %.3g..%.3g in common, %.0f %% of the shorter one",
      *(name, found.lowest, found.highest, 100 * found.overlap),
    )
