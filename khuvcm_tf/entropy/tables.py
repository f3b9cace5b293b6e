"""Integer probability tables: made once, when a model is converted, and stored with it.

A row is the cumulative distribution of one alphabet of consecutive integers, in 1/65536. Its first
and last symbol also carry the mass beyond it: a value there is followed by its excess, 16 bits,
in two symbols of the row of bytes (`khuvcm_tf.entropy.range_coder`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow_compression.python.ops import gen_ops

from khuvcm_tf.entropy import factorized, gaussian

PRECISION = 16

# The entropy model's medians, means, logits and z_hat are whole numbers of 1/64.
UNITS = 64

# Half-width of a Gaussian's alphabet. Wide ones cost nothing, narrow ones cost escapes.
_SIGMAS = 6.5
_LEAST = 5

# An alphabet of the factorized prior ends where less than this is left beyond it, but reaches this
# far to each side: or else a prior that is sure of 0 makes each 1 an escape, twice as dear.
_TAIL_MASS = 1e-9
_LEAST_REACH = 3
_MOST = 1024


class Tables(NamedTuple):
  """Rows of several alphabets, as tfc's range coder takes them.

  Attributes:
    lookup: int32, rows [PRECISION, 0, ..., 65536] one behind the other.
    start: int32 [rows], where a row's first 0 stands in `lookup`.
    low, high: int32 [rows], first and last value of the alphabet.
  """

  lookup: np.ndarray
  start: np.ndarray
  low: np.ndarray
  high: np.ndarray

  def state(self) -> dict[str, np.ndarray]:
    return {"lookup": self.lookup, "low": self.low, "high": self.high}

  @classmethod
  def from_state(cls, state: dict[str, np.ndarray]) -> Tables:
    lengths = state["high"] - state["low"] + 3
    ends = np.cumsum(lengths)
    start = ends - lengths + 1
    _check(state["lookup"], start, ends)
    return cls(state["lookup"], start.astype(np.int32), state["low"], state["high"])


def _check(lookup: np.ndarray, start: np.ndarray, ends: np.ndarray):
  """Raises ValueError unless rows are [PRECISION, 0, ..., 65536], each greater than before."""
  good = lookup.dtype == np.int32 and lookup.shape == (ends[-1],)
  if good:
    first, last = lookup[start], lookup[ends - 1]
    good = (lookup[start - 1] == PRECISION).all() and not first.any()
    good = good and (last == 2**PRECISION).all()
    # The first of a row is below its precision, which is below the last of the row before.
    good = good and np.count_nonzero(np.diff(lookup) <= 0) == 2 * len(start) - 1
  if not good:
    raise ValueError(
      f"`lookup` is {lookup.dtype} {list(lookup.shape)}, expected int32 [{ends[-1]}] in rows "
      f"[{PRECISION}, 0, ..., {2**PRECISION}] that rise"
    )


def assemble(alphabets: Sequence[tuple[int, np.ndarray]]) -> Tables:
  """Quantizes distributions to 1/65536, each symbol at least 1/65536.

  Args:
    alphabets: (first value, probabilities float [n]) of each row.
  """
  rows: list[np.ndarray] = []
  for _, pmf in alphabets:
    cdf = gen_ops.pmf_to_quantized_cdf(tf.constant(pmf, tf.float32), precision=PRECISION)
    rows.append(np.concatenate([[PRECISION], cdf.numpy()]))
  low = np.array([first for first, _ in alphabets], np.int32)
  high = low + np.array([len(pmf) - 1 for _, pmf in alphabets], np.int32)
  return Tables.from_state(
    {"lookup": np.concatenate(rows).astype(np.int32), "low": low, "high": high}
  )


def byte_alphabet() -> tuple[int, np.ndarray]:
  """256 symbols of 8 bits each: what escapes are written with."""
  return 0, np.full(256, 1 / 256)


def gaussian_alphabets() -> list[tuple[int, np.ndarray]]:
  """N(0, scale^2) on the integers, for each scale of `gaussian.scale_table()`."""
  alphabets = []
  for scale in gaussian.scale_table():
    half = max(_LEAST, int(np.ceil(_SIGMAS * scale)))
    # Lower edges of all symbols but the first; erfc keeps the far tails.
    edges = np.arange(-half, half) + 0.5
    below = tf.math.erfc(tf.constant(-edges / (scale * np.sqrt(2)), tf.float64)).numpy() / 2
    alphabets.append((-half, np.diff(below, prepend=0.0, append=1.0)))
  return alphabets


def factorized_alphabets(
  prior: factorized.FactorizedPrior, medians: np.ndarray
) -> list[tuple[int, np.ndarray]]:
  """The prior's density on the integers around each channel's median [C]."""
  steps = np.arange(-_MOST, _MOST) + 0.5
  points = tf.constant(steps[:, np.newaxis] + medians, tf.float32)
  below = tf.cast(prior.noisy.base.cdf(points), tf.float64).numpy()
  above = tf.cast(prior.noisy.base.survival_function(points), tf.float64).numpy()
  alphabets = []
  for channel in range(len(medians)):
    both = np.minimum(below[:, channel], above[:, channel])
    # Symbols between the outermost edges with mass beyond them, and one for each side.
    first, last = np.flatnonzero((both > _TAIL_MASS) | (np.abs(steps) < _LEAST_REACH))[[0, -1]]
    edges = below[first : last + 1, channel]
    pmf = np.maximum(np.diff(edges, prepend=0.0, append=1.0), 1e-9)
    alphabets.append((int(first) - _MOST, pmf / pmf.sum()))
  return alphabets
