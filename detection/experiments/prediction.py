"""Levels predicted from others by least squares: weights of a sum, or a small convolution.

Nothing is trained step by step: both have a closed form, for which one pass over images gathers
sums. A sum of levels is fitted on all positions, a convolution on at most `_POSITIONS` of each
image, drawn at random.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import tensorflow as tf

from detection.experiments import rules
from detection.experiments.rules import Rule, Term

_POSITIONS = 256
# Of the mean variance of what is put in; holds weights small where inputs say the same.
_RIDGE = 1e-3


class Fit(Protocol):
  """What gathers sums over images, given one image's `p2` to `p6`, each [1, H, W, C]."""

  def add(self, features: dict[str, tf.Tensor], rng: np.random.Generator) -> None: ...


class SumFit:
  """Finds weights such that a sum of terms is nearest to a level.

  Args:
    level: to be predicted.
    terms: without weights.
  """

  def __init__(self, level: str, terms: Sequence[Term]):
    self._level, self._terms = level, tuple(terms)
    self._matrix = np.zeros((len(terms), len(terms)))
    self._vector = np.zeros(len(terms))

  def add(self, features: dict[str, tf.Tensor], rng: np.random.Generator) -> None:
    parts = [Rule(((self._level, (term,)),)).apply(features)[self._level] for term in self._terms]
    columns = np.stack([np.ravel(part) for part in parts], 1).astype(np.float64)
    self._matrix += columns.T @ columns
    self._vector += columns.T @ np.ravel(features[self._level])

  def solve(self) -> Rule:
    """Returns the rule; its weights have four significant digits."""
    weights = np.linalg.lstsq(self._matrix, self._vector, rcond=1e-9)[0]
    terms = (t._replace(weight=float(f"{w:.4g}")) for t, w in zip(self._terms, weights))
    return Rule(((self._level, tuple(terms)),))


class ConvolutionFit:
  """Finds the kernel and the bias such that a convolution is nearest to a level.

  Args:
    level: to be predicted.
    term: the convolution.
    channels: C.
  """

  def __init__(self, level: str, term: Term, channels: int):
    self._level, self._term, self._channels = level, term, channels
    inputs = term.number**2 * len(term.sources) * channels + 1
    self._matrix = np.zeros((inputs, inputs))
    self._vectors = np.zeros((inputs, channels))

  @property
  def name(self) -> str:
    """The name of the weights, as in `rules.Predictors`."""
    return rules.predictor_name(self._level, self._term)

  def add(self, features: dict[str, tf.Tensor], rng: np.random.Generator) -> None:
    x = rules.inputs(self._level, self._term.sources, features)[0].numpy()
    height, width, _ = x.shape
    chosen = np.arange(height * width)
    if len(chosen) > _POSITIONS:
      chosen = np.sort(rng.choice(chosen, _POSITIONS, replace=False))
    rows, columns = np.divmod(chosen, width)
    radius = self._term.number // 2
    x = np.pad(x, [(radius, radius), (radius, radius), (0, 0)])  # as the convolution pads
    window = range(self._term.number)
    patches = [x[rows + dy, columns + dx] for dy in window for dx in window]
    target = features[self._level][0].numpy()[rows, columns].astype(np.float64)
    values = np.concatenate([*patches, np.ones((len(chosen), 1))], 1).astype(np.float64)
    self._matrix += values.T @ values
    self._vectors += values.T @ target

  def solve(self) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns kernel [k, k, n C, C] and bias [C], float32."""
    inputs = len(self._matrix) - 1
    penalty = np.full(inputs + 1, _RIDGE * np.trace(self._matrix[:-1, :-1]) / inputs)
    penalty[-1] = 0.0  # the bias is free
    weights = np.linalg.solve(self._matrix + np.diag(penalty), self._vectors)
    shape = [self._term.number] * 2 + [-1, self._channels]
    return tuple(
      tf.constant(each, tf.float32) for each in (weights[:-1].reshape(shape), weights[-1])
    )


def fit(fits: Sequence[Fit], images: Iterable[dict[str, np.ndarray]], seed: int = 0) -> None:
  """Shows images to all that is to be fitted.

  Args:
    fits: each sees each image.
    images: the features of each, `p2` to `p6`, float32 [H, W, C].
    seed: of the positions that are drawn.
  """
  rng = np.random.default_rng(seed)
  for levels in images:
    features = {level: tf.constant(value[np.newaxis]) for level, value in levels.items()}
    for each in fits:
      each.add(features, rng)
