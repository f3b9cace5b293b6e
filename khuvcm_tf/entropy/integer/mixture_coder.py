"""Mixtures of Gaussians, exactly coded: a value is a sequence of binary decisions.

The first decides whether a latent is its mode, the integer at the mean of its heaviest component.
Most latents are. For the others, the second decides on which side of it they lie, and a bisection
of the 2^levels integers on that side, which extend beyond 6 sigma of each component, finds the
value. Probabilities are those of the mixture:

  F(v) = sum_k e_k Phi((v - 1/2 - mu_k) / sigma_k) + v - mode + 2^13     cumulative, below v
  p    = (F(middle) - F(low)) / (F(high) - F(low))                       of the lower half

in integers, with weights e_k in 1/4096 of the greatest, Phi in 2^-24 from a table in steps of
1/4096 sigma, and one unit for each integer, so that none has probability 0: F is below 2^39. The
outermost integers also carry the probability beyond, and are followed by escapes (`range_coder`).

p is a multiple of 1/65536, or of 1/4096 where it lies between 1/64 and 63/64, which costs less than
1e-6 bits: so the range coder's CDF rows stay in a cache that they share with networks' weights.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from khuvcm_tf.entropy import gaussian
from khuvcm_tf.entropy.integer import range_coder
from khuvcm_tf.entropy.integer import tables as tables_lib
from khuvcm_tf.entropy.integer.tables import SCALE

# Scales between two of `gaussian.scale_table()`.
SCALE_STEPS = 4
NUM_SCALES = (gaussian.NUM_SCALES - 1) * SCALE_STEPS + 1

SIGMAS = 6  # half-width of Phi's table
GRID_BITS = 12  # of Phi's table, steps for a sigma
CDF_BITS = 24  # of Phi
WEIGHT_BITS = 12
FACTOR_BITS = 15
# Windows of 2^_MIN_LEVELS integers on a side, or more.
_MIN_LEVELS = 4
_MAX_LEVELS = 12
# Above the largest distance from a mode within a window.
_OFFSET = 2 ** (_MAX_LEVELS + 1)

_WHOLE = 2**tables_lib.PRECISION


class MixtureTables(NamedTuple):
  """Tables that are computed once, with floats, when a model is converted (`calibration`).

  Attributes:
    cdf: int32, Phi on the grid from -6 to 6 sigma.
    max_abs: int32 [NUM_SCALES], 6 sigma in fixed point.
    factor: int32 [NUM_SCALES], from fixed point to steps of the grid, in 2^-15.
    weight: int32, e of a logit that is i/SCALE less than the greatest.
  """

  cdf: np.ndarray
  max_abs: np.ndarray
  factor: np.ndarray
  weight: np.ndarray

  def to_arrays(self) -> dict[str, np.ndarray]:
    return dict(zip(_ARRAY_NAMES, self))

  @classmethod
  def from_arrays(cls, arrays: dict[str, np.ndarray]) -> MixtureTables:
    return cls(*(arrays[name] for name in _ARRAY_NAMES))


# In a model's folder, in the order of the fields.
_ARRAY_NAMES = ("mass", "reach", "factor", "weight")


def _check(tables: MixtureTables):
  """Raises ValueError unless all probabilities that the tables give lie between 0 and 1."""
  grid = 2 * (SIGMAS << GRID_BITS) + 1
  lengths = grid, NUM_SCALES, NUM_SCALES, 10 * SCALE
  shapes = [(each.dtype, each.shape) for each in tables]
  good = shapes == [(np.int32, (length,)) for length in lengths]
  if good:
    cdf, max_abs, factor, weight = (each.astype(np.int64) for each in tables)
    steps = max_abs * factor + (1 << FACTOR_BITS - 1)
    good = cdf[0] >= 0 and cdf[-1] <= 2**CDF_BITS and (np.diff(cdf) >= 0).all()
    good = good and min(max_abs.min(), factor.min()) > 0
    good = good and steps.max() >> FACTOR_BITS <= SIGMAS << GRID_BITS
    good = good and weight.min() >= 0 and weight[0] == weight.max() == 2**WEIGHT_BITS
  if not good:
    raise ValueError("tables of mixtures are not those of a mixture coder")


class _Mixtures(NamedTuple):
  """K components of n latents."""

  mean: tf.Tensor  # int32 [K, 1, n]
  max_abs: tf.Tensor  # int32 [K, 1, n]
  factor: tf.Tensor  # int32 [K, 1, n]
  weight: tf.Tensor | None  # int64 [K, 1, n]; None where K is 1
  mode: tf.Tensor  # int32 [n]
  total: tf.Tensor  # int64 [n], CDF beyond all integers

  def at(self, positions: tf.Tensor) -> _Mixtures:
    """Returns the mixtures of some latents."""
    return _Mixtures(
      *(None if each is None else tf.gather(each, positions, axis=-1) for each in self)
    )


class _Interval(NamedTuple):
  """Integers from `low` int32 [n] on; `below` and `above` int64 [n] are the CDF at the edges."""

  low: tf.Tensor
  below: tf.Tensor
  above: tf.Tensor


class MixtureCoder:
  """Codes values by mixtures, whose parameters are integers.

  Args:
    tables: of `make_tables`, as stored with the model.
    num_mixtures: K.

  Attributes:
    parts: parameters of a component: logit (not where K is 1), mean and scale index.
  """

  def __init__(self, tables: MixtureTables, num_mixtures: int):
    _check(tables)
    self.tables, self.num_mixtures = tables, num_mixtures
    self.parts = 2 if num_mixtures == 1 else 3
    # Made here, not in graphs: these capture them, and hold them once however often they are used.
    self._tables = MixtureTables(*(tf.constant(each) for each in tables))
    self._lookup, self._start = tf.constant(_LOOKUP), tf.constant(_START)
    self._row_of = tf.constant(_ROW_OF)

  def code(self, coder, state, values: tf.Tensor, params: tf.Tensor):
    """Codes values.

    Args:
      coder, state: of `encoder`, `decoder` or `bit_counter`, and its state.
      values: int32 [n, M]; a decoder ignores them.
      params: int32 [n, 3 K M]: logits and means in fixed point, and indices of scales, each
        [n, K, M]; without logits where K is 1.

    Returns:
      The state, and values int32 [n, M].
    """
    shape = tf.shape(values)
    values, mixtures = tf.reshape(values, [-1]), self._mixtures(params, shape)
    mode = mixtures.mode
    edges = self._cdf_below(mixtures, tf.stack([mode, mode + 1]))
    at_mode = edges[1] - edges[0]
    state, other = self._decide(coder, state, at_mode, mixtures.total, tf.not_equal(values, mode))
    positions = tf.where(other)[:, 0]
    edges, values = tf.gather(edges, positions, axis=1), tf.gather(values, positions)
    state, found = self._code_others(coder, state, mixtures.at(positions), edges, values)
    found = tf.tensor_scatter_nd_update(mode, positions[:, tf.newaxis], found)
    return state, tf.reshape(found, shape)

  def _mixtures(self, params: tf.Tensor, shape: tf.Tensor) -> _Mixtures:
    params = tf.reshape(params, tf.stack([shape[0], self.parts, self.num_mixtures, shape[1]]))
    params = tf.reshape(tf.transpose(params, (1, 2, 0, 3)), [self.parts, self.num_mixtures, 1, -1])
    scale, mean = tf.clip_by_value(params[-1], 0, NUM_SCALES - 1), params[-2]
    heaviest = mean[0, 0]
    if self.num_mixtures == 1:
      weight = None
      total = tf.fill(tf.shape(heaviest), np.int64(2 ** (WEIGHT_BITS + CDF_BITS) + 2 * _OFFSET))
    else:
      logits = params[0]
      greatest = tf.reduce_max(logits, axis=0)
      behind = tf.minimum(greatest - logits, len(self.tables.weight) - 1)
      weight = tf.cast(tf.gather(self._tables.weight, behind), tf.int64)
      total = tf.reduce_sum(weight, axis=(0, 1)) * 2**CDF_BITS + 2 * _OFFSET
      for k in range(1, self.num_mixtures):
        heaviest = tf.where(tf.equal(logits[k, 0], greatest[0]), mean[k, 0], heaviest)
    return _Mixtures(
      mean,
      tf.gather(self._tables.max_abs, scale),
      tf.gather(self._tables.factor, scale),
      weight,
      (heaviest + SCALE // 2) // SCALE,
      total,
    )

  def _cdf_below(self, mixtures: _Mixtures, values: tf.Tensor) -> tf.Tensor:
    """Returns F of several values of each latent, int32 [p, n] -> int64 [p, n]."""
    distance = SCALE * values - SCALE // 2 - mixtures.mean
    distance = tf.clip_by_value(distance, -mixtures.max_abs, mixtures.max_abs)
    middle = (SIGMAS << GRID_BITS + FACTOR_BITS) + (1 << FACTOR_BITS - 1)
    step = tf.bitwise.right_shift(distance * mixtures.factor + middle, FACTOR_BITS)
    cdf = tf.cast(tf.gather(self._tables.cdf, step), tf.int64)
    if mixtures.weight is None:
      cdf = cdf[0] * 2**WEIGHT_BITS
    else:
      cdf = tf.reduce_sum(mixtures.weight * cdf, axis=0)
    return cdf + tf.cast(values - mixtures.mode + _OFFSET, tf.int64)

  def _code_others(self, coder, state, mixtures: _Mixtures, edges: tf.Tensor, values: tf.Tensor):
    """Codes values int32 [n] that are not their mode; `edges` int64 [2, n] is the CDF at both edges
    of the mode."""
    mode, levels = mixtures.mode, self._levels(mixtures)
    half = tf.bitwise.left_shift(1, levels)
    inside = tf.clip_by_value(values, mode - half, mode + half)
    below, above = edges[0], edges[1]
    state, is_above = self._decide(
      coder, state, below, below + mixtures.total - above, inside > mode
    )
    interval = _Interval(
      tf.where(is_above, mode + 1, mode - half),
      tf.where(is_above, above, 0),
      tf.where(is_above, mixtures.total, below),
    )
    state, interval = self._to_min_levels(coder, state, mixtures, levels, interval, inside)
    state, found = self._bisect(coder, state, mixtures, interval, inside)
    at_edge = tf.equal(tf.abs(found - mode), half)
    state, excess = range_coder.code_escapes(coder, state, at_edge, tf.abs(values - inside))
    return state, found + tf.where(found < mode, -excess, excess)

  def _levels(self, mixtures: _Mixtures) -> tf.Tensor:
    """Returns, for each latent, the levels of the smallest window that extends beyond 6 sigma."""
    distance = tf.abs(mixtures.mean - SCALE * mixtures.mode) + mixtures.max_abs
    if mixtures.weight is not None:
      distance = tf.where(mixtures.weight > 0, distance, 0)
    distance = tf.reduce_max(distance, axis=(0, 1)) // SCALE + 1
    return _MIN_LEVELS + tf.add_n(
      [tf.cast(distance >= 2**level, tf.int32) for level in range(_MIN_LEVELS, _MAX_LEVELS)]
    )

  def _to_min_levels(self, coder, state, mixtures, levels, interval, inside):
    """Halves wide intervals until all are of 2^_MIN_LEVELS integers."""
    positions = tf.where(levels > _MIN_LEVELS)[:, 0]
    levels, inside = tf.gather(levels, positions), tf.gather(inside, positions)
    mixtures = mixtures.at(positions)

    def halve(level, state, wide):
      level -= 1
      active = levels > level
      middle = wide.low + tf.bitwise.left_shift(1, level)
      cdf = tf.where(active, self._cdf_below(mixtures, middle[tf.newaxis])[0], wide.above)
      state, upper = self._decide(
        coder,
        state,
        cdf - wide.below,
        wide.above - wide.below,
        (inside >= middle) & active,
        active,
      )
      wide = _Interval(
        tf.where(upper, middle, wide.low),
        tf.where(upper, cdf, wide.below),
        tf.where(upper, wide.above, cdf),
      )
      return level, state, wide

    _, state, wide = range_coder.loop(
      lambda level, *_: level > _MIN_LEVELS,
      halve,
      (
        tf.reduce_max(tf.concat([[_MIN_LEVELS], levels], 0)),
        state,
        _Interval(*(tf.gather(each, positions) for each in interval)),
      ),
    )
    positions = positions[:, tf.newaxis]
    return state, _Interval(
      *(tf.tensor_scatter_nd_update(each, positions, new) for each, new in zip(interval, wide))
    )

  def _bisect(self, coder, state, mixtures, interval, inside):
    """Finds values in intervals of 2^_MIN_LEVELS integers; returns the state and int32 [n]."""
    low, below, above = interval
    for level in reversed(range(_MIN_LEVELS)):
      middle = low + 2**level
      cdf = self._cdf_below(mixtures, middle[tf.newaxis])[0]
      state, upper = self._decide(coder, state, cdf - below, above - below, inside >= middle)
      low = tf.where(upper, middle, low)
      below, above = tf.where(upper, cdf, below), tf.where(upper, above, cdf)
    return state, low

  def _decide(self, coder, state, part, whole, symbols, active=None):
    """Codes binary decisions: bool [n], False with probability part / whole, int64 [n]."""
    probability = tf.cast(tf.truncatediv(part * _WHOLE, whole), tf.int32)
    rows = tf.gather(self._row_of, probability)
    if active is not None:
      rows = tf.where(active, rows, _SURE)
    state, symbols = coder.code(state, rows, tf.cast(symbols, tf.int32))
    return state, symbols > 0

  def encoder(self) -> range_coder.RangeEncoder:
    return range_coder.RangeEncoder(self._lookup)

  def decoder(self, data: tf.Tensor) -> range_coder.RangeDecoder:
    return range_coder.RangeDecoder(self._lookup, data)

  def bit_counter(self) -> range_coder.BitCounter:
    return range_coder.BitCounter(self._lookup, self._start)


def _make_lookup() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns CDF rows (bytes, binary ones of rising probability, a sure one), their starts, and the
  row of each probability from 0 to _WHOLE."""
  precision, fine = tables_lib.PRECISION, _WHOLE // 64
  probabilities = np.concatenate(
    [np.arange(1, fine), np.arange(fine, _WHOLE - fine, 16), np.arange(_WHOLE - fine, _WHOLE)]
  )
  binary = np.stack(
    [
      np.full_like(probabilities, precision),
      0 * probabilities,
      probabilities,
      np.full_like(probabilities, _WHOLE),
    ],
    1,
  )
  bytes_row = np.concatenate([[precision], np.arange(257) * (_WHOLE // 256)])
  lookup = np.concatenate([bytes_row, binary.reshape(-1), [precision, 0, _WHOLE]])
  start = np.concatenate([[1], len(bytes_row) + 1 + 4 * np.arange(len(probabilities) + 1)])
  between = (probabilities[1:] + probabilities[:-1]) / 2
  rows = 1 + np.searchsorted(between, np.arange(_WHOLE + 1))
  return lookup.astype(np.int32), start.astype(np.int32), rows.astype(np.int32)


_LOOKUP, _START, _ROW_OF = _make_lookup()
_SURE = len(_START) - 1
