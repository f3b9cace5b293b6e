"""The distortion up to which a detector does as well as on features that were not coded.

  P(D) = P0                       D <= D_T
  P(D) = P0 - s log(D / D_T)      D > D_T         s >= 0

P0 is the performance on features that were not coded. D_T and s are those of the least squared
error over the points of a curve. The interval is the bootstrap's over images: in each draw the
performances of all points and P0 are those of the images drawn, the distortions stay.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_STEPS = 400


class Threshold(NamedTuple):
  """A fit.

  Attributes:
    distortion: D_T.
    low, high: ends of its 95 % interval; nan without draws.
    slope: s, performance lost where the distortion grows e-fold.
    residual: root mean squared error of the fit.
    is_reached: whether a point lies below D_T; if not, D_T is at most the least distortion.
  """

  distortion: float
  low: float
  high: float
  slope: float
  residual: float
  is_reached: bool


def fit(
  distortions: np.ndarray,
  performances: np.ndarray,
  unchanged: float,
  draws: np.ndarray | None = None,
  unchanged_draws: np.ndarray | None = None,
) -> Threshold:
  """Fits the two lines.

  Args:
    distortions: D of the points, [n], above 0, at least three of them different.
    performances: P of the points, [n].
    unchanged: P0.
    draws: P of the points in each draw, [d, n].
    unchanged_draws: P0 in each draw, [d].

  Example:
    >>> D = np.array([0.1, 0.2, 0.4, 0.8, 1.6, 3.2])
    >>> P = 0.5 - 0.1 * np.maximum(0, np.log(D / 0.5))
    >>> round(fit(D, P, 0.5).distortion, 2)
    0.5
  """
  logs = np.log(np.asarray(distortions, np.float64))
  if np.ptp(logs) == 0:
    raise ValueError("`distortions` are all the same, expected a curve")
  where, slope, error = _fit(logs, np.asarray(performances)[np.newaxis], np.array([unchanged]))
  low = high = float("nan")
  if draws is not None:
    found, _, _ = _fit(logs, draws, unchanged_draws)
    low, high = (float(np.exp(each)) for each in np.percentile(found, (2.5, 97.5)))
  is_reached = bool(where[0] > logs.min() + 1e-9)
  return Threshold(float(np.exp(where[0])), low, high, float(slope[0]), float(error[0]), is_reached)


def _fit(logs: np.ndarray, performances: np.ndarray, unchanged: np.ndarray):
  """Returns log D_T, s and the root mean squared error of each row of performances [d, n]."""
  candidates = np.linspace(logs.min(), logs.max(), _STEPS)
  beyond = np.maximum(0.0, logs - candidates[:, np.newaxis])  # [c, n]
  lost = unchanged[:, np.newaxis] - performances  # [d, n]
  squares = np.maximum(np.sum(beyond**2, axis=1), 1e-12)
  slopes = np.maximum(lost @ beyond.T / squares, 0.0)  # [d, c]
  errors = np.sum(lost**2, axis=1)[:, np.newaxis] - slopes * (
    2 * lost @ beyond.T - slopes * squares
  )
  # Of equal errors the greatest D_T: a curve that never falls has no smaller one.
  best = errors.shape[1] - 1 - np.argmin(errors[:, ::-1], axis=1)
  rows = np.arange(len(best))
  error = np.sqrt(np.maximum(errors[rows, best], 0.0) / logs.size)
  return candidates[best], slopes[rows, best], error
