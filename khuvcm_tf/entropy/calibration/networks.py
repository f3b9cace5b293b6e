"""Float networks to integer networks: the formula, activation ranges and bit widths.

  W_int = rint(W / t_in * t_out * 2^s)       s: the largest shift per channel that keeps the bound
  b_int = rint(b * t_out * 2^s) + 2^(s-1)    rounding to nearest folded in
  sum_i |W_int[i, o]| * amax[i] + |b_int[o]| < bound

with t the steps per unit of each channel (`integer.network` has the rest).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Callable, NamedTuple

import numpy as np
import tensorflow_compression as tfc

from khuvcm_tf.entropy import gaussian
from khuvcm_tf.entropy.integer import network
from khuvcm_tf.layers import MaskedConv2D, Stack, Subpixel, signal

_MAX_SHIFT = 30

# Activations may exceed the calibrated range by this factor before they are clipped.
_MARGIN = 1.1

# Fixed point of sigma, for networks that predict it. Indices are few; sigma may be as large as the
# table's greatest.
_SIGMA_SCALE = 256
_MAX_INDEX = 2**15
_MAX_SIGMA = 2**17


class _OutOfRoom(ValueError):
  """Sums that no shift keeps within the bound."""


class FloatLayer(NamedTuple):
  """A convolution of the float network, as correlation with a kernel of odd size.

  Attributes:
    kernel: float64 [k, k, I, O].
    bias: float64 [O].
    up: 1, or 2 for a transposed convolution.
    shuffle: 1, or 2 where the outputs of a position become 2x2 positions (subpixel convolution).
    slope: of the rectifier behind it in 1/4096, None where there is none.
  """

  kernel: np.ndarray
  bias: np.ndarray
  up: int
  shuffle: int
  slope: int | None


def float_layers(stack: Stack) -> list[FloatLayer]:
  """Reads the convolutions and rectifiers of a stack of `khuvcm_tf.layers`."""
  found: list[FloatLayer] = []
  for layer in stack.layers:
    if isinstance(layer, tfc.SignalConv2D):
      kernel, bias = _arrays(layer)
      if not layer.corr:
        kernel = kernel[::-1, ::-1]
      found.append(FloatLayer(kernel, bias, layer.strides_up[0], 1, None))
    elif isinstance(layer, Subpixel):
      found.append(FloatLayer(*_arrays(layer.conv), 1, layer.stride, None))
    elif isinstance(layer, MaskedConv2D):
      # As a 1x1 layer: its input is the neighbourhood, one position behind the other.
      kernel, bias = _arrays(layer)
      found.append(FloatLayer(kernel.reshape(1, 1, -1, layer.filters), bias, 1, 1, None))
    elif isinstance(layer, signal.Rectifier):
      found[-1] = found[-1]._replace(slope=round(layer.slope * network.SLOPE_SCALE))
    else:
      raise TypeError(f"no integer form of layer {layer.name} ({type(layer).__name__})")
  return found


def _arrays(layer) -> tuple[np.ndarray, np.ndarray]:
  return layer.kernel.numpy().astype(np.float64), layer.bias.numpy().astype(np.float64)


def activation_ranges(stack: Stack, inputs) -> list[np.ndarray]:
  """Returns the largest magnitudes of each channel at a stack's input and behind each of its
  integer layers, which are a convolution and its rectifier."""
  found = None
  for x in inputs:
    seen = [np.abs(x).max(axis=(0, 1, 2))]
    for layer in stack.layers:
      x = layer(x)
      if isinstance(layer, signal.Rectifier):
        seen.append(np.abs(x).max(axis=(0, 1, 2)))
    seen.append(np.abs(x).max(axis=(0, 1, 2)))
    found = seen if found is None else [np.maximum(a, b) for a, b in zip(found, seen)]
  return found


def with_margin(max_abs: np.ndarray) -> np.ndarray:
  """Returns the largest magnitudes that are not clipped, for calibrated ones [C]."""
  return _MARGIN * np.maximum(max_abs, 1e-3 * max_abs.max() + 1e-9)


def input_limits(max_abs: np.ndarray, scale: int) -> np.ndarray:
  """Returns the largest magnitudes of fixed-point inputs that are not clipped, int32 [C]."""
  return np.ceil(_MARGIN * max_abs * scale).astype(np.int32) + 1


class ScaleOutput:
  """The last outputs of a network, which predict scales.

  Args:
    count: number of these outputs.
    log_scales: whether the float network predicts log(sigma).
    steps: indices from one scale of `gaussian.scale_table` to the next.
  """

  def __init__(self, count: int, log_scales: bool, steps: int = 1):
    self.count, self.log_scales, self.steps = count, log_scales, steps

  def prepared(self, layer: FloatLayer) -> FloatLayer:
    """Returns the network's last layer as it is to be converted."""
    if not self.log_scales:
      return layer
    bias = layer.bias.copy()
    bias[-self.count :] -= math.log(gaussian.MIN_SCALE)
    return layer._replace(bias=bias)

  @property
  def t_out(self) -> np.ndarray:
    """Steps per unit of the float network's outputs, [count]."""
    return np.full(self.count, self.steps / gaussian.LOG_STEP if self.log_scales else _SIGMA_SCALE)

  @property
  def limit(self) -> int:
    """The network's outputs are clipped to +-limit."""
    return _MAX_INDEX if self.log_scales else _MAX_SIGMA

  def thresholds(self) -> np.ndarray | None:
    """Returns the thresholds between indices, int32; None where indices are predicted."""
    if self.log_scales:
      return None
    between = np.arange((gaussian.NUM_SCALES - 1) * self.steps) + 0.5
    scales = gaussian.MIN_SCALE * np.exp(gaussian.LOG_STEP * between / self.steps)
    return np.rint(_SIGMA_SCALE * scales).astype(np.int32)


def convert(
  layers: Sequence[FloatLayer],
  max_abs: Sequence[np.ndarray],
  amax: np.ndarray,
  t_in: np.ndarray,
  bits: Sequence[int],
  t_out: np.ndarray,
  out_limit: int,
  dtype: str,
) -> network.IntegerNetwork:
  """Converts a float network to integers.

  Args:
    layers: of the float network.
    max_abs: calibrated range of each channel behind each hidden layer (and its rectifier).
    amax: int32 [I], the network's input is clipped to +-amax.
    t_in: [I] steps per unit of the network's input.
    bits: width of each hidden layer's outputs, beside the sign.
    t_out: [O] steps per unit of the network's output.
    out_limit: outputs are clipped to +-out_limit.
    dtype: that holds the integers.

  Raises:
    ValueError: the bound cannot be kept.
  """
  limits, steps = amax.astype(np.float64), t_in
  converted = []
  for i, layer in enumerate(layers):
    last = i == len(layers) - 1
    limit = out_limit if last else 2 ** bits[i] - 1
    next_steps = t_out if last else limit / with_margin(max_abs[i])
    converted.append(_convert_layer(layer, limits, steps, next_steps, limit, dtype))
    limits, steps = np.full(next_steps.shape, float(limit)), next_steps
  return network.IntegerNetwork(amax.astype(np.int32), converted)


def _convert_layer(layer, amax, t_in, t_out, limit, dtype) -> network.IntegerLayer:
  t_out = np.tile(t_out, layer.shuffle**2)
  kernel = layer.kernel / t_in[:, np.newaxis] * t_out
  bias = layer.bias * t_out
  bound = network.BOUNDS[dtype]
  room = bound / (network.max_abs_sums(kernel, bias, layer.up, amax) + 1e-30)
  shift = np.clip(np.floor(np.log2(room)), 0, _MAX_SHIFT).astype(np.int32)
  while True:
    # At a shift of 0 the half that rounds cannot be folded in, and floor would be used.
    if shift.min() < 1:
      raise _OutOfRoom("an integer layer's sums exceed the bound at any shift")
    factor = 2.0**shift
    rounded = np.rint(kernel * factor), np.rint(bias * factor) + factor / 2
    over = network.max_abs_sums(*rounded, layer.up, amax) >= bound
    if not over.any():
      break
    shift = shift - over.astype(np.int32)
  slope = -1 if layer.slope is None else layer.slope
  return network.IntegerLayer(
    rounded[0].astype(dtype),
    rounded[1].astype(dtype),
    shift,
    layer.up,
    slope,
    limit,
    layer.shuffle,
  )


def search_bit_widths(
  build: Callable[[Sequence[int], str], object],
  loss: Callable[[object], float],
  widths: Sequence[Sequence[int]],
  max_loss: float,
):
  """Chooses the bit widths of the hidden layers by the loss that they cause.

  Args:
    build: (bits of each hidden layer, dtype) -> an integer model.
    loss: integer model -> its relative loss against floats.
    widths: bits of each hidden layer to try in float32; where all of these lose too much, float64
      with 13 bits is tried.
    max_loss: greatest acceptable loss.

  Returns:
    (the integer model, its loss).

  Raises:
    ValueError: no width is good enough.
  """
  best, smallest = None, math.inf
  for bits in widths:
    with contextlib.suppress(_OutOfRoom):
      candidate = build(bits, "float32")
      lost = loss(candidate)
      if lost < smallest:
        best, smallest = candidate, lost
  if smallest > max_loss:
    best = build((13,) * len(widths[0]), "float64")
    smallest = loss(best)
  check_loss(smallest, max_loss)
  return best, smallest


def check_loss(loss: float, max_loss: float) -> None:
  """Raises ValueError where integers cost more than a share `max_loss` of the bits of floats."""
  if not loss <= max_loss:
    raise ValueError(
      f"integers cost {loss:.2%} more bits than floats, expected at most {max_loss:.2%}"
    )
