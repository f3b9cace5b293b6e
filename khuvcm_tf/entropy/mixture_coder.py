"""Mixtures of Gaussians, exactly coded: a value is told by binary decisions.

The first says whether a latent is its mode, the integer at the mean of its heaviest component. Most
latents are. For the others, the second says on which side of it they lie, and a bisection of the
2^levels integers on that side, which reach beyond 6 sigma of each component, says where. Chances
are those that the mixture gives:

  F(v)   = sum_k e_k Phi((v - 1/2 - mu_k) / sigma_k) + v - mode + 2^13     the mass below v
  chance = (F(middle) - F(low)) / (F(high) - F(low))                       of the lower half

in whole numbers, with weights e_k in 1/4096 of the greatest, Phi in 2^-24 from a table in 1/4096
sigma, and one unit for each integer, so that none is without mass: F is below 2^39. The outermost
integers also carry the mass beyond, and are followed by escapes (`range_coder`).

Chances are whole numbers of 1/65536; those between 1/64 and 63/64 of 1/4096, which costs less than
1e-6 bits: so the range coder's rows stay in a cache that the networks' weights pass through too.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from khuvcm_tf.entropy import gaussian, range_coder
from khuvcm_tf.entropy import tables as tables_lib
from khuvcm_tf.entropy.tables import UNITS

# Scales between two of `gaussian.scale_table()`.
SCALE_STEPS = 4
NUM_SCALES = (gaussian.NUM_SCALES - 1) * SCALE_STEPS + 1

_REACH = 6  # sigma
_GRID_BITS = 12  # of Phi's table, steps for a sigma
_MASS_BITS = 24  # of Phi
_WEIGHT_BITS = 12
_FACTOR_BITS = 15
# Windows of 2^_LEAST_LEVELS integers on a side, or more.
_LEAST_LEVELS = 4
_MOST_LEVELS = 12
# Above the largest distance from a mode within a window.
_OFFSET = 2 ** (_MOST_LEVELS + 1)

_WHOLE = 2**tables_lib.PRECISION


class MixtureTables(NamedTuple):
  """What is computed once, with floats, when a model is converted.

  Attributes:
    mass: int32, Phi on the grid from -6 to 6 sigma.
    reach: int32 [NUM_SCALES], 6 sigma in 1/UNITS.
    factor: int32 [NUM_SCALES], from 1/UNITS to steps of the grid, in 2^-15.
    weight: int32, e of a logit that is i/UNITS less than the greatest.
  """

  mass: np.ndarray
  reach: np.ndarray
  factor: np.ndarray
  weight: np.ndarray


def make_tables() -> MixtureTables:
  """Evaluates the Gaussian and the exponential."""
  half = _REACH << _GRID_BITS
  points = np.arange(-half, half + 1) / 2**_GRID_BITS
  below = tf.math.erfc(tf.constant(-points / np.sqrt(2), tf.float64)).numpy() / 2
  scales = gaussian.MIN_SCALE * np.exp(gaussian.LOG_STEP * np.arange(NUM_SCALES) / SCALE_STEPS)
  factor = np.rint(2 ** (_GRID_BITS + _FACTOR_BITS) / (UNITS * scales)).astype(np.int64)
  reach = np.minimum(np.floor(_REACH * scales * UNITS), (half << _FACTOR_BITS) // factor)
  weight = np.rint(2**_WEIGHT_BITS * np.exp(-np.arange(10 * UNITS) / UNITS))
  weight[-1] = 0
  return MixtureTables(
    *(values.astype(np.int32) for values in (np.rint(below * 2**_MASS_BITS), reach, factor, weight))
  )


def _check(tables: MixtureTables):
  """Raises ValueError unless the tables are such that all chances lie between 0 and 1."""
  grid = 2 * (_REACH << _GRID_BITS) + 1
  lengths = grid, NUM_SCALES, NUM_SCALES, 10 * UNITS
  shapes = [(each.dtype, each.shape) for each in tables]
  good = shapes == [(np.int32, (length,)) for length in lengths]
  if good:
    mass, reach, factor, weight = (each.astype(np.int64) for each in tables)
    steps = reach * factor + (1 << _FACTOR_BITS - 1)
    good = mass[0] >= 0 and mass[-1] <= 2**_MASS_BITS and (np.diff(mass) >= 0).all()
    good = good and min(reach.min(), factor.min()) > 0
    good = good and steps.max() >> _FACTOR_BITS <= _REACH << _GRID_BITS
    good = good and weight.min() >= 0 and weight[0] == weight.max() == 2**_WEIGHT_BITS
  if not good:
    raise ValueError("tables of mixtures are not those of a mixture coder")


class _Mixtures(NamedTuple):
  """K components of n latents."""

  mean: tf.Tensor  # int32 [K, 1, n]
  reach: tf.Tensor  # int32 [K, 1, n]
  factor: tf.Tensor  # int32 [K, 1, n]
  weight: tf.Tensor | None  # int64 [K, 1, n]; None where K is 1
  mode: tf.Tensor  # int32 [n]
  mass: tf.Tensor  # int64 [n], of all integers

  def at(self, places: tf.Tensor) -> _Mixtures:
    """Returns the mixtures of some latents."""
    return _Mixtures(*(None if each is None else tf.gather(each, places, axis=-1) for each in self))


class _Interval(NamedTuple):
  """Where a value lies: from `low` int32 [n], between the masses int64 [n] `below` and `above`."""

  low: tf.Tensor
  below: tf.Tensor
  above: tf.Tensor


class MixtureCoder:
  """Codes values by mixtures that a network has told in integers.

  Args:
    tables: of `make_tables`, as stored with the model.
    num_mixtures: K.

  Attributes:
    parts: numbers that tell a component: logit (not where K is 1), mean and scale's index.
  """

  def __init__(self, tables: MixtureTables, num_mixtures: int):
    _check(tables)
    self.tables, self.num_mixtures = tables, num_mixtures
    self.parts = 2 if num_mixtures == 1 else 3
    # Made here, not in graphs: these capture them, and hold them once however often they are used.
    self._tables = MixtureTables(*(tf.constant(each) for each in tables))
    self._lookup, self._start = tf.constant(_LOOKUP), tf.constant(_START)
    self._row_of_chance = tf.constant(_ROW_OF_CHANCE)

  def code(self, stream, state, values: tf.Tensor, told: tf.Tensor):
    """Codes values.

    Args:
      stream, state: what codes (`writer`, `reader`, `counter`), and where it is.
      values: int32 [n, M]; a reader ignores them.
      told: int32 [n, 3 K M]: logits in 1/UNITS, means in 1/UNITS, and indices of scales, each
        [n, K, M]; without logits where K is 1.

    Returns:
      The state, and values int32 [n, M].
    """
    shape = tf.shape(values)
    values, mixtures = tf.reshape(values, [-1]), self._mixtures(told, shape)
    mode = mixtures.mode
    edges = self._mass_below(mixtures, tf.stack([mode, mode + 1]))
    at_mode = edges[1] - edges[0]
    state, other = self._decide(stream, state, at_mode, mixtures.mass, tf.not_equal(values, mode))
    places = tf.where(other)[:, 0]
    edges, values = tf.gather(edges, places, axis=1), tf.gather(values, places)
    state, found = self._code_others(stream, state, mixtures.at(places), edges, values)
    found = tf.tensor_scatter_nd_update(mode, places[:, tf.newaxis], found)
    return state, tf.reshape(found, shape)

  def _mixtures(self, told: tf.Tensor, shape: tf.Tensor) -> _Mixtures:
    told = tf.reshape(told, tf.stack([shape[0], self.parts, self.num_mixtures, shape[1]]))
    told = tf.reshape(tf.transpose(told, (1, 2, 0, 3)), [self.parts, self.num_mixtures, 1, -1])
    scale, mean = tf.clip_by_value(told[-1], 0, NUM_SCALES - 1), told[-2]
    heaviest = mean[0, 0]
    if self.num_mixtures == 1:
      weight = None
      mass = tf.fill(tf.shape(heaviest), np.int64(2 ** (_WEIGHT_BITS + _MASS_BITS) + 2 * _OFFSET))
    else:
      logits = told[0]
      greatest = tf.reduce_max(logits, axis=0)
      behind = tf.minimum(greatest - logits, len(self.tables.weight) - 1)
      weight = tf.cast(tf.gather(self._tables.weight, behind), tf.int64)
      mass = tf.reduce_sum(weight, axis=(0, 1)) * 2**_MASS_BITS + 2 * _OFFSET
      for k in range(1, self.num_mixtures):
        heaviest = tf.where(tf.equal(logits[k, 0], greatest[0]), mean[k, 0], heaviest)
    return _Mixtures(
      mean,
      tf.gather(self._tables.reach, scale),
      tf.gather(self._tables.factor, scale),
      weight,
      (heaviest + UNITS // 2) // UNITS,
      mass,
    )

  def _mass_below(self, mixtures: _Mixtures, values: tf.Tensor) -> tf.Tensor:
    """Returns F of several values of each latent, int32 [p, n] -> int64 [p, n]."""
    distance = UNITS * values - UNITS // 2 - mixtures.mean
    distance = tf.clip_by_value(distance, -mixtures.reach, mixtures.reach)
    middle = (_REACH << _GRID_BITS + _FACTOR_BITS) + (1 << _FACTOR_BITS - 1)
    step = tf.bitwise.right_shift(distance * mixtures.factor + middle, _FACTOR_BITS)
    mass = tf.cast(tf.gather(self._tables.mass, step), tf.int64)
    if mixtures.weight is None:
      mass = mass[0] * 2**_WEIGHT_BITS
    else:
      mass = tf.reduce_sum(mixtures.weight * mass, axis=0)
    return mass + tf.cast(values - mixtures.mode + _OFFSET, tf.int64)

  def _code_others(self, stream, state, mixtures: _Mixtures, edges: tf.Tensor, values: tf.Tensor):
    """Codes values int32 [n] that are not their mode, of which `edges` int64 [2, n] are the masses
    below it and below what is above it."""
    mode, levels = mixtures.mode, self._levels(mixtures)
    half = tf.bitwise.left_shift(1, levels)
    inside = tf.clip_by_value(values, mode - half, mode + half)
    below, above = edges[0], edges[1]
    state, is_above = self._decide(
      stream, state, below, below + mixtures.mass - above, inside > mode
    )
    interval = _Interval(
      tf.where(is_above, mode + 1, mode - half),
      tf.where(is_above, above, 0),
      tf.where(is_above, mixtures.mass, below),
    )
    state, interval = self._to_least_levels(stream, state, mixtures, levels, interval, inside)
    state, found = self._bisect(stream, state, mixtures, interval, inside)
    at_edge = tf.equal(tf.abs(found - mode), half)
    state, excess = range_coder.code_escapes(stream, state, at_edge, tf.abs(values - inside))
    return state, found + tf.where(found < mode, -excess, excess)

  def _levels(self, mixtures: _Mixtures) -> tf.Tensor:
    """Returns, for each latent, the levels of the least window that reaches beyond 6 sigma."""
    distance = tf.abs(mixtures.mean - UNITS * mixtures.mode) + mixtures.reach
    if mixtures.weight is not None:
      distance = tf.where(mixtures.weight > 0, distance, 0)
    distance = tf.reduce_max(distance, axis=(0, 1)) // UNITS + 1
    return _LEAST_LEVELS + tf.add_n(
      [tf.cast(distance >= 2**level, tf.int32) for level in range(_LEAST_LEVELS, _MOST_LEVELS)]
    )

  def _to_least_levels(self, stream, state, mixtures, levels, interval, inside):
    """Halves wide intervals until all are of 2^_LEAST_LEVELS integers."""
    places = tf.where(levels > _LEAST_LEVELS)[:, 0]
    levels, inside = tf.gather(levels, places), tf.gather(inside, places)
    mixtures = mixtures.at(places)

    def halve(level, state, wide):
      level -= 1
      active = levels > level
      middle = wide.low + tf.bitwise.left_shift(1, level)
      mass = tf.where(active, self._mass_below(mixtures, middle[tf.newaxis])[0], wide.above)
      state, upper = self._decide(
        stream,
        state,
        mass - wide.below,
        wide.above - wide.below,
        (inside >= middle) & active,
        active,
      )
      wide = _Interval(
        tf.where(upper, middle, wide.low),
        tf.where(upper, mass, wide.below),
        tf.where(upper, wide.above, mass),
      )
      return level, state, wide

    _, state, wide = range_coder.loop(
      lambda level, *_: level > _LEAST_LEVELS,
      halve,
      (
        tf.reduce_max(tf.concat([[_LEAST_LEVELS], levels], 0)),
        state,
        _Interval(*(tf.gather(each, places) for each in interval)),
      ),
    )
    places = places[:, tf.newaxis]
    return state, _Interval(
      *(tf.tensor_scatter_nd_update(each, places, new) for each, new in zip(interval, wide))
    )

  def _bisect(self, stream, state, mixtures, interval, inside):
    """Finds values in intervals of 2^_LEAST_LEVELS integers; returns the state and int32 [n]."""
    low, below, above = interval
    for level in reversed(range(_LEAST_LEVELS)):
      middle = low + 2**level
      mass = self._mass_below(mixtures, middle[tf.newaxis])[0]
      state, upper = self._decide(stream, state, mass - below, above - below, inside >= middle)
      low = tf.where(upper, middle, low)
      below, above = tf.where(upper, mass, below), tf.where(upper, above, mass)
    return state, low

  def _decide(self, stream, state, share, whole, symbols, active=None):
    """Codes binary decisions: bool [n], whose chance to be False is share / whole, int64 [n]."""
    chance = tf.cast(tf.truncatediv(share * _WHOLE, whole), tf.int32)
    rows = tf.gather(self._row_of_chance, chance)
    if active is not None:
      rows = tf.where(active, rows, _SURE)
    state, symbols = stream.code(state, rows, tf.cast(symbols, tf.int32))
    return state, symbols > 0

  def writer(self) -> range_coder.Writer:
    return range_coder.Writer(self._lookup)

  def reader(self, data: tf.Tensor) -> range_coder.Reader:
    return range_coder.Reader(self._lookup, data)

  def counter(self) -> range_coder.Counter:
    return range_coder.Counter(self._lookup, self._start)


def _make_lookup() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns rows (bytes, binary ones of rising chance, a sure one), where they start, and the row
  of each chance from 0 to _WHOLE."""
  precision, fine = tables_lib.PRECISION, _WHOLE // 64
  chances = np.concatenate(
    [np.arange(1, fine), np.arange(fine, _WHOLE - fine, 16), np.arange(_WHOLE - fine, _WHOLE)]
  )
  binary = np.stack(
    [np.full_like(chances, precision), 0 * chances, chances, np.full_like(chances, _WHOLE)], 1
  )
  bytes_row = np.concatenate([[precision], np.arange(257) * (_WHOLE // 256)])
  lookup = np.concatenate([bytes_row, binary.reshape(-1), [precision, 0, _WHOLE]])
  start = np.concatenate([[1], len(bytes_row) + 1 + 4 * np.arange(len(chances) + 1)])
  between = (chances[1:] + chances[:-1]) / 2
  rows = 1 + np.searchsorted(between, np.arange(_WHOLE + 1))
  return lookup.astype(np.int32), start.astype(np.int32), rows.astype(np.int32)


_LOOKUP, _START, _ROW_OF_CHANCE = _make_lookup()
_SURE = len(_START) - 1
