"""CDF tables from probability distributions, which are floats: made once, never on load."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tensorflow_compression.python.ops import gen_ops

from khuvcm_tf.entropy import factorized, gaussian
from khuvcm_tf.entropy.integer import mixture_coder
from khuvcm_tf.entropy.integer.mixture_coder import CDF_BITS, FACTOR_BITS, GRID_BITS, WEIGHT_BITS
from khuvcm_tf.entropy.integer.tables import PRECISION, SCALE, Tables

# Half-width of a Gaussian's alphabet. Wide ones cost nothing, narrow ones cost escapes.
_SIGMAS = 6.5
_MIN_HALF_WIDTH = 5

# An alphabet of the factorized prior ends where less than this probability is left beyond it, but
# holds at least so many values on each side: or else a prior that is sure of 0 makes each 1 an
# escape, twice as dear.
_TAIL_PROBABILITY = 1e-9
_MIN_VALUES = 3
_MAX_VALUES = 1024

_MAX_MEDIAN = 2**14

# First value of an alphabet, and the probabilities of its consecutive values, float [n].
Alphabet = tuple[int, np.ndarray]


def assemble(alphabets: Sequence[Alphabet]) -> Tables:
  """Quantizes distributions to 1/65536, each symbol at least 1/65536."""
  rows: list[np.ndarray] = []
  for _, pmf in alphabets:
    cdf = gen_ops.pmf_to_quantized_cdf(tf.constant(pmf, tf.float32), precision=PRECISION)
    rows.append(np.concatenate([[PRECISION], cdf.numpy()]))
  low = np.array([first for first, _ in alphabets], np.int32)
  high = low + np.array([len(pmf) - 1 for _, pmf in alphabets], np.int32)
  return Tables.from_arrays(
    {"lookup": np.concatenate(rows).astype(np.int32), "low": low, "high": high}
  )


def byte_alphabet() -> Alphabet:
  """256 symbols of 8 bits each: what escapes are written with."""
  return 0, np.full(256, 1 / 256)


def gaussian_alphabets() -> list[Alphabet]:
  """N(0, scale^2) on the integers, for each scale of `gaussian.scale_table()`."""
  alphabets = []
  for scale in gaussian.scale_table():
    half = max(_MIN_HALF_WIDTH, int(np.ceil(_SIGMAS * scale)))
    # Lower edges of all symbols but the first; erfc keeps the far tails.
    edges = np.arange(-half, half) + 0.5
    below = tf.math.erfc(tf.constant(-edges / (scale * np.sqrt(2)), tf.float64)).numpy() / 2
    alphabets.append((-half, np.diff(below, prepend=0.0, append=1.0)))
  return alphabets


def mixture_tables() -> mixture_coder.MixtureTables:
  """Evaluates the Gaussian and the exponential for `mixture_coder`."""
  half = mixture_coder.SIGMAS << GRID_BITS
  points = np.arange(-half, half + 1) / 2**GRID_BITS
  below = tf.math.erfc(tf.constant(-points / np.sqrt(2), tf.float64)).numpy() / 2
  steps = np.arange(mixture_coder.NUM_SCALES) / mixture_coder.SCALE_STEPS
  scales = gaussian.MIN_SCALE * np.exp(gaussian.LOG_STEP * steps)
  factor = np.rint(2 ** (GRID_BITS + FACTOR_BITS) / (SCALE * scales)).astype(np.int64)
  max_abs = np.minimum(
    np.floor(mixture_coder.SIGMAS * scales * SCALE), (half << FACTOR_BITS) // factor
  )
  weight = np.rint(2**WEIGHT_BITS * np.exp(-np.arange(10 * SCALE) / SCALE))
  weight[-1] = 0
  cdf = np.rint(below * 2**CDF_BITS)
  return mixture_coder.MixtureTables(
    *(values.astype(np.int32) for values in (cdf, max_abs, factor, weight))
  )


def z_alphabets(prior: factorized.FactorizedPrior, medians: np.ndarray) -> list[Alphabet]:
  """Returns the alphabets that tables begin with: bytes, and those of the prior's channels.

  Args:
    prior: of z, or of y where it has no side information.
    medians: int32 [C] in fixed point, of `fixed_point_medians`.
  """
  return [byte_alphabet(), *factorized_alphabets(prior, medians / SCALE)]


def factorized_alphabets(prior: factorized.FactorizedPrior, medians: np.ndarray) -> list[Alphabet]:
  """The prior's density on the integers around each channel's median, float [C]."""
  steps = np.arange(-_MAX_VALUES, _MAX_VALUES) + 0.5
  points = tf.constant(steps[:, np.newaxis] + medians, tf.float32)
  below = tf.cast(prior.noisy.base.cdf(points), tf.float64).numpy()
  above = tf.cast(prior.noisy.base.survival_function(points), tf.float64).numpy()
  alphabets = []
  for channel in range(len(medians)):
    both = np.minimum(below[:, channel], above[:, channel])
    # Symbols between the outermost edges with probability beyond them, and one for each side.
    wide = (both > _TAIL_PROBABILITY) | (np.abs(steps) < _MIN_VALUES)
    first, last = np.flatnonzero(wide)[[0, -1]]
    edges = below[first : last + 1, channel]
    pmf = np.maximum(np.diff(edges, prepend=0.0, append=1.0), 1e-9)
    alphabets.append((int(first) - _MAX_VALUES, pmf / pmf.sum()))
  return alphabets


def fixed_point_medians(prior: factorized.FactorizedPrior) -> np.ndarray:
  """Returns the medians that values are rounded around, int32 [C] in fixed point.

  Raises:
    ValueError: one is too large.
  """
  medians = np.rint(prior.medians().numpy().astype(np.float64) * SCALE)
  if np.abs(medians).max() > _MAX_MEDIAN * SCALE:
    raise ValueError(
      f"a median of the factorized prior is {np.abs(medians).max() / SCALE:g}, expected at most "
      f"{_MAX_MEDIAN}"
    )
  return medians.astype(np.int32)
