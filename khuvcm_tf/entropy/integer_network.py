"""Networks of the entropy model in integers, equal on every machine.

Integers are held in floating point, in matrix products whose sums stay below 2^24 (float32) or
2^53 (float64): there every partial sum is exact, in any order, with any instruction set, and with
or without fused multiplication. The bound is proved when a network is converted, per layer:

  W_int = rint(W / t_in * t_out * 2^s)       s: the largest shift per channel that keeps the bound
  b_int = rint(b * t_out * 2^s) + 2^(s-1)    rounding to nearest folded in
  sum_i |W_int[i, o]| * amax[i] + |b_int[o]| < bound
  y = floor((x @ W_int + b_int) * 2^-s);  leaky slope m / 4096;  clipped to +-amax_out

with t the steps per unit of each channel. Convolutions are sums of matrix products, one for each
row of the kernel: a convolution kernel of a library (Winograd's, for one) need not be exact.
Transposed convolutions of stride 2 are the same, with the four phases of an output side by side.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Sequence
from typing import Callable, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_compression as tfc

from khuvcm_tf.layers import MaskedConv2D, Subpixel, signal

BOUNDS = {"float32": 2.0**24, "float64": 2.0**53}

# Denominator of rectifiers' slopes.
SLOPE_UNIT = 4096

_MOST_SHIFT = 30

# Activations may exceed what calibration saw by this much before they are clipped.
_MARGIN = 1.1


class _OutOfRoom(ValueError):
  """Sums that no shift keeps within the bound."""


Tap = tuple[int, int]  # Rows and columns from the output's place to the input's.


class FloatLayer(NamedTuple):
  """A convolution of the float network, as correlation with a kernel of odd size.

  Attributes:
    kernel: float64 [k, k, I, O].
    bias: float64 [O].
    up: 1, or 2 for a transposed convolution.
    shuffle: 1, or 2 where the outputs of a place become 2x2 places (a subpixel convolution).
    slope: of the rectifier behind it in 1/4096, None where there is none.
  """

  kernel: np.ndarray
  bias: np.ndarray
  up: int
  shuffle: int
  slope: int | None


def float_layers(network: tf.keras.Sequential) -> list[FloatLayer]:
  """Reads the convolutions and rectifiers of a network of `khuvcm_tf.layers`."""
  found: list[FloatLayer] = []
  for layer in network.layers:
    if isinstance(layer, tfc.SignalConv2D):
      kernel, bias = _arrays(layer)
      if not layer.corr:
        kernel = kernel[::-1, ::-1]
      found.append(FloatLayer(kernel, bias, layer.strides_up[0], 1, None))
    elif isinstance(layer, Subpixel):
      found.append(FloatLayer(*_arrays(layer.conv), 1, layer.stride, None))
    elif isinstance(layer, MaskedConv2D):
      # Seen as a 1x1 layer: its input is what stands at all its places, one behind the other.
      kernel, bias = _arrays(layer)
      found.append(FloatLayer(kernel.reshape(1, 1, -1, layer.filters), bias, 1, 1, None))
    elif isinstance(layer, signal.Rectifier):
      found[-1] = found[-1]._replace(slope=round(layer.slope * SLOPE_UNIT))
    else:
      raise TypeError(f"no integer form of layer {layer.name} ({type(layer).__name__})")
  return found


def _arrays(layer) -> tuple[np.ndarray, np.ndarray]:
  return layer.kernel.numpy().astype(np.float64), layer.bias.numpy().astype(np.float64)


def taps_of_phases(kernel: np.ndarray, up: int) -> list[list[tuple[Tap, tuple[int, int]]]]:
  """Lists, for each phase of the output (row by row), the input places and kernel places.

  Output n = up * m + phase is the sum over j of kernel[j] * input[m + (phase + j - k // 2) / up],
  where the quotient is whole.
  """
  centre = kernel.shape[0] // 2

  def along(phase):
    return [
      ((phase + j - centre) // up, j)
      for j in range(kernel.shape[0])
      if (phase + j - centre) % up == 0
    ]

  return [
    [((dy, dx), (jy, jx)) for dy, jy in along(py) for dx, jx in along(px)]
    for py, px in itertools.product(range(up), repeat=2)
  ]


def kernel_of_phases(kernel: np.ndarray, up: int) -> np.ndarray:
  """Returns a kernel whose outputs are those of all phases, one behind the other.

  Args:
    kernel: [k, k, I, O], of a transposed convolution where `up` is 2.
    up: 1 or 2.

  Returns:
    [j, j, I, up^2 O], of a correlation; zero where a phase does not see a place.
  """
  phases = taps_of_phases(kernel, up)
  reach = max(abs(step) for taps in phases for tap, _ in taps for step in tap)
  filters = kernel.shape[3]
  whole = np.zeros((2 * reach + 1,) * 2 + (kernel.shape[2], len(phases) * filters), kernel.dtype)
  for i, taps in enumerate(phases):
    for (dy, dx), place in taps:
      whole[reach + dy, reach + dx, :, i * filters : (i + 1) * filters] = kernel[place]
  return whole


class IntegerLayer(NamedTuple):
  """A layer in integers. All arrays are integers held in `dtype`.

  Attributes:
    kernel: [k, k, I, O].
    bias: [O].
    shift: [O], s.
    up, slope, shuffle: as in `FloatLayer`; slope -1 for none.
    limit: outputs are clipped to +-limit.
  """

  kernel: np.ndarray
  bias: np.ndarray
  shift: np.ndarray
  up: int
  slope: int
  limit: int
  shuffle: int = 1

  @property
  def filters(self) -> int:
    """Channels of the output."""
    return self.bias.size // self.shuffle**2

  def check(self, amax: np.ndarray):
    """Raises ValueError unless all sums stay within the bound for inputs within +-amax [I]."""
    bound = BOUNDS[str(self.kernel.dtype)]
    reach = _reach(self.kernel.astype(np.float64), self.bias.astype(np.float64), self.up, amax)
    if reach.max() >= bound:
      raise ValueError(f"sums of an integer layer reach {reach.max():.0f}, expected below {bound}")

  def __call__(self, x: tf.Tensor) -> tf.Tensor:
    """Applies the layer to integers [B, h, w, I]; returns [B, up h, up w, O]."""
    return self.finish(self.sums(x, 0))

  def sums(self, x: tf.Tensor, first: int) -> tf.Tensor:
    """Returns what the inputs from channel `first` on add to the sums, [B, h, w, up^2 O].

    Any part of the sums keeps the bound, so that parts may be added in any order.
    """
    batch, height, width = tf.unstack(tf.shape(x)[:3])
    inputs = x.shape[-1]
    kernel = kernel_of_phases(self.kernel[:, :, first : first + inputs], self.up)
    side, outputs = kernel.shape[0], kernel.shape[3]
    if side > 1:
      x = tf.pad(x, ((0, 0), (side // 2, side // 2), (side // 2, side // 2), (0, 0)))
      x = tf.concat([x[:, :, dx : dx + width] for dx in range(side)], axis=-1)

    def product(dy):
      row = x[:, dy : dy + height] if side > 1 else x
      return tf.matmul(
        tf.reshape(row, (-1, side * inputs)), tf.constant(kernel[dy].reshape(-1, outputs))
      )

    total = tf.add_n([product(dy) for dy in range(side)])
    return tf.reshape(total, tf.stack([batch, height, width, outputs]))

  def finish(self, sums: tf.Tensor) -> tf.Tensor:
    """Returns the outputs of given sums, [B, up h, up w, O]."""
    phases = self.up**2
    scale = tf.constant(np.tile(2.0**-self.shift, phases), sums.dtype)
    y = self._rectified(tf.floor((sums + np.tile(self.bias, phases)) * scale))
    sides = self.up * self.shuffle
    return tf.nn.depth_to_space(y, sides) if sides > 1 else y

  def _rectified(self, y: tf.Tensor) -> tf.Tensor:
    if self.slope >= 0:
      # So that the product with the slope keeps the bound.
      most = (BOUNDS[y.dtype.name] - SLOPE_UNIT) // max(self.slope, 1)
      y = tf.clip_by_value(y, -most, most)
      y = tf.maximum(y, tf.floor((y * self.slope + SLOPE_UNIT // 2) / SLOPE_UNIT))
    return tf.clip_by_value(y, -self.limit, self.limit)


def _reach(kernel, bias, up, amax) -> np.ndarray:
  """Returns the largest magnitude of any partial sum, for each output channel [O]."""
  sums = np.einsum("yxio,i->o", np.abs(kernel_of_phases(kernel, up)), amax)
  return np.abs(bias) + sums.reshape(up**2, -1).max(axis=0)


class IntegerNetwork(tf.Module):
  """A network in integers: inputs [B, h, w, I] are clipped to +-amax and pass all layers.

  It runs on the CPU: a GPU may round products to fewer bits (TF32).
  """

  def __init__(self, amax: np.ndarray, layers: Sequence[IntegerLayer]):
    super().__init__()
    self.amax, self.layers = amax, list(layers)
    limits = amax.astype(np.float64)
    for layer in self.layers:
      layer.check(limits)
      limits = np.full(layer.filters, layer.limit, np.float64)

  @property
  def filters(self) -> int:
    """Channels of the output."""
    return self.layers[-1].filters

  def __call__(self, x: tf.Tensor) -> tf.Tensor:
    """int32 [B, h, w, I] -> int32 [B, h', w', O]."""
    return self.finish(self.begin(x, 0))

  def begin(self, x: tf.Tensor, first: int) -> tf.Tensor:
    """Returns the first layer's sums over some of its inputs: int32 channels from `first` on."""
    with tf.device("CPU:0"):
      amax = self.amax[first : first + x.shape[-1]]
      x = tf.cast(tf.clip_by_value(x, -amax, amax), self.layers[0].kernel.dtype)
      return self.layers[0].sums(x, first)

  def finish(self, sums: tf.Tensor) -> tf.Tensor:
    """Returns the network's output, int32, for the first layer's sums over all inputs."""
    with tf.device("CPU:0"):
      x = self.layers[0].finish(sums)
      for layer in self.layers[1:]:
        x = layer(x)
      return tf.cast(x, tf.int32)

  def state(self) -> dict[str, np.ndarray]:
    """Returns all integers as arrays of integer types."""
    state = {"amax": self.amax}
    for i, layer in enumerate(self.layers):
      wide = layer.kernel.dtype == np.float64
      state[f"{i}/kernel"] = layer.kernel.astype(np.int64 if wide else np.int32)
      state[f"{i}/bias"] = layer.bias.astype(np.int64 if wide else np.int32)
      state[f"{i}/shift"] = layer.shift
      form = [layer.up, layer.slope, layer.limit, *([layer.shuffle] if layer.shuffle > 1 else [])]
      state[f"{i}/form"] = np.array(form, np.int32)
    return state

  @classmethod
  def from_state(cls, state: dict[str, np.ndarray]) -> IntegerNetwork:
    layers = []
    for i in itertools.count():
      if f"{i}/kernel" not in state:
        return cls(state["amax"], layers)
      kernel = state[f"{i}/kernel"]
      dtype = np.float64 if kernel.dtype == np.int64 else np.float32
      form = (int(value) for value in state[f"{i}/form"])
      layers.append(
        IntegerLayer(
          kernel.astype(dtype),
          state[f"{i}/bias"].astype(dtype),
          state[f"{i}/shift"],
          *form,
        )
      )


def reach_of(peak: np.ndarray) -> np.ndarray:
  """Returns the largest magnitudes that are not clipped, for the largest seen [C]."""
  return _MARGIN * np.maximum(peak, 1e-3 * peak.max() + 1e-9)


def whole_reach(peak: np.ndarray, units: int) -> np.ndarray:
  """Returns the largest magnitudes of inputs in 1/units that are not clipped, int32 [C]."""
  return np.ceil(_MARGIN * peak * units).astype(np.int32) + 1


def convert(
  layers: Sequence[FloatLayer],
  peaks: Sequence[np.ndarray],
  amax: np.ndarray,
  t_in: np.ndarray,
  bits: Sequence[int],
  t_out: np.ndarray,
  out_limit: int,
  dtype: str,
) -> IntegerNetwork:
  """Converts a float network to integers.

  Args:
    layers: of the float network.
    peaks: the largest magnitude seen of each channel behind each hidden layer (and its rectifier).
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
    next_steps = t_out if last else limit / reach_of(peaks[i])
    converted.append(_convert_layer(layer, limits, steps, next_steps, limit, dtype))
    limits, steps = np.full(next_steps.shape, float(limit)), next_steps
  return IntegerNetwork(amax.astype(np.int32), converted)


def _convert_layer(layer, amax, t_in, t_out, limit, dtype) -> IntegerLayer:
  t_out = np.tile(t_out, layer.shuffle**2)
  kernel = layer.kernel / t_in[:, np.newaxis] * t_out
  bias = layer.bias * t_out
  room = BOUNDS[dtype] / (_reach(kernel, bias, layer.up, amax) + 1e-30)
  shift = np.clip(np.floor(np.log2(room)), 0, _MOST_SHIFT).astype(np.int32)
  while True:
    # At a shift of 0 the half that rounds cannot be folded in, and floor would be used.
    if shift.min() < 1:
      raise _OutOfRoom("an integer layer's sums exceed the bound at any shift")
    factor = 2.0**shift
    rounded = np.rint(kernel * factor), np.rint(bias * factor) + factor / 2
    over = _reach(*rounded, layer.up, amax) >= BOUNDS[dtype]
    if not over.any():
      break
    shift = shift - over.astype(np.int32)
  slope = -1 if layer.slope is None else layer.slope
  return IntegerLayer(
    rounded[0].astype(dtype),
    rounded[1].astype(dtype),
    shift,
    layer.up,
    slope,
    limit,
    layer.shuffle,
  )


def narrowest(
  build: Callable[[Sequence[int], str], object],
  loss: Callable[[object], float],
  widths: Sequence[Sequence[int]],
  limit: float,
):
  """Chooses the widths of the hidden layers by the loss that they cost.

  Args:
    build: (bits of each hidden layer, dtype) -> what is converted.
    loss: of what is converted -> relative loss against floats.
    widths: bits of each hidden layer to try in float32; where all of these lose too much, float64
      with 13 bits is tried.
    limit: greatest acceptable loss.

  Returns:
    (what was converted, its loss).

  Raises:
    ValueError: no width is good enough.
  """
  best, least = None, math.inf
  for bits in widths:
    with contextlib.suppress(_OutOfRoom):
      candidate = build(bits, "float32")
      lost = loss(candidate)
      if lost < least:
        best, least = candidate, lost
  if least > limit:
    best = build((13,) * len(widths[0]), "float64")
    least = loss(best)
  check_loss(least, limit)
  return best, least


def check_loss(loss: float, limit: float) -> None:
  """Raises ValueError where integers cost more than a share of the bits of floats."""
  if not loss <= limit:
    raise ValueError(
      f"integers cost {loss:.2%} more bits than floats, expected at most {limit:.2%}"
    )
