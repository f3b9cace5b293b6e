"""Integer CDF tables: made once, when a model is converted, and stored with it.

A CDF row is the cumulative distribution of one alphabet of consecutive integers, in units of
1/65536. Its first and last symbol also carry the probability beyond it: a value there is followed
by its excess, 16 bits, in two symbols of the row of bytes (`integer.range_coder`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Bits of a CDF row's total.
PRECISION = 16

# Medians, means, logits and z_hat are in fixed point with 6 fractional bits: value * SCALE.
SCALE = 64


class Tables(NamedTuple):
  """CDF rows of several alphabets, as tfc's range coder takes them.

  Attributes:
    lookup: int32, rows [PRECISION, 0, ..., 65536] one behind the other.
    start: int32 [rows], position in `lookup` of a row's first 0.
    low, high: int32 [rows], first and last value of the alphabet.
  """

  lookup: np.ndarray
  start: np.ndarray
  low: np.ndarray
  high: np.ndarray

  def to_arrays(self) -> dict[str, np.ndarray]:
    return {"lookup": self.lookup, "low": self.low, "high": self.high}

  @classmethod
  def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Tables:
    lengths = arrays["high"] - arrays["low"] + 3
    ends = np.cumsum(lengths)
    start = ends - lengths + 1
    _check(arrays["lookup"], start, ends)
    return cls(arrays["lookup"], start.astype(np.int32), arrays["low"], arrays["high"])


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
