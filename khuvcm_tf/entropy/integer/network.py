"""Networks of an entropy model in integers, equal on every machine.

Integers are held in floating point, in matrix products whose sums stay below 2^24 (float32) or
2^53 (float64): there every partial sum is exact, in any order, with any instruction set, and with
or without fused multiplication. The bound is proved when a network is converted, and checked when
it is loaded, per layer:

  sum_i |W_int[i, o]| * amax[i] + |b_int[o]| < bound
  y = floor((x @ W_int + b_int) * 2^-s);  leaky slope m / 4096;  clipped to +-limit

(`calibration.networks` makes W_int, b_int and s.) Convolutions are sums of matrix products, one for
each row of the kernel: a convolution kernel of a library (Winograd's, for one) need not be exact.
Transposed convolutions of stride 2 are the same, with the four phases of an output side by side.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

BOUNDS = {"float32": 2.0**24, "float64": 2.0**53}

# Denominator of rectifiers' slopes.
SLOPE_SCALE = 4096

Tap = tuple[int, int]  # Rows and columns from the output's position to the input's.


def taps_of_phases(kernel: np.ndarray, up: int) -> list[list[tuple[Tap, tuple[int, int]]]]:
  """Lists, for each phase of the output (row by row), the taps and their positions in the kernel.

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
    [j, j, I, up^2 O], of a correlation; zero where a phase does not depend on a position.
  """
  phases = taps_of_phases(kernel, up)
  radius = max(abs(step) for taps in phases for tap, _ in taps for step in tap)
  filters = kernel.shape[3]
  whole = np.zeros((2 * radius + 1,) * 2 + (kernel.shape[2], len(phases) * filters), kernel.dtype)
  for i, taps in enumerate(phases):
    for (dy, dx), position in taps:
      whole[radius + dy, radius + dx, :, i * filters : (i + 1) * filters] = kernel[position]
  return whole


def max_abs_sums(kernel: np.ndarray, bias: np.ndarray, up: int, amax: np.ndarray) -> np.ndarray:
  """Returns the largest magnitude of any partial sum of a layer, for each output channel [O].

  Args:
    kernel, bias, up: of the layer.
    amax: [I], the largest magnitude of each input channel.
  """
  # One position of the kernel belongs to one tap of one phase: no phases are laid out for this.
  sums = np.tensordot(np.abs(kernel), amax, (2, 0))
  phases = taps_of_phases(kernel, up)
  by_phase = [sum(sums[position] for _, position in taps) for taps in phases]
  return np.abs(bias) + np.max(by_phase, axis=0)


class IntegerLayer:
  """A layer in integers. All arrays are integers held in one float type.

  Args:
    kernel: [k, k, I, O].
    bias: [O].
    shift: [O], s.
    up: 1, or 2 for a transposed convolution.
    slope: of the rectifier behind it in 1/4096; -1 for none.
    limit: outputs are clipped to +-limit.
    shuffle: 1, or 2 where the outputs of a position become 2x2 positions (subpixel convolution).
  """

  def __init__(
    self,
    kernel: np.ndarray,
    bias: np.ndarray,
    shift: np.ndarray,
    up: int,
    slope: int,
    limit: int,
    shuffle: int = 1,
  ):
    self.kernel, self.bias, self.shift = kernel, bias, shift
    self.up, self.slope, self.limit, self.shuffle = up, slope, limit, shuffle
    self._matrices: dict[tuple[int, int], list[tf.Tensor]] = {}

  @property
  def filters(self) -> int:
    """Channels of the output."""
    return self.bias.size // self.shuffle**2

  def check(self, amax: np.ndarray):
    """Raises ValueError unless all sums stay within the bound for inputs within +-amax [I]."""
    bound = BOUNDS[str(self.kernel.dtype)]
    largest = max_abs_sums(
      self.kernel.astype(np.float64), self.bias.astype(np.float64), self.up, amax
    ).max()
    if largest >= bound:
      raise ValueError(f"sums of an integer layer reach {largest:.0f}, expected below {bound}")

  def __call__(self, x: tf.Tensor) -> tf.Tensor:
    """Applies the layer to integers [B, h, w, I]; returns [B, up h, up w, O]."""
    return self.finalize(self.sums(x, 0))

  def sums(self, x: tf.Tensor, first: int) -> tf.Tensor:
    """Returns the part of the sums [B, h, w, up^2 O] that is due to inputs from `first` on.

    Any part of the sums keeps the bound, so that parts may be added in any order.
    """
    batch, height, width = tf.unstack(tf.shape(x)[:3])
    inputs = x.shape[-1]
    matrices = self._matrices_of(first, inputs)
    side, outputs = len(matrices), matrices[0].shape[1]
    if side > 1:
      x = tf.pad(x, ((0, 0), (side // 2, side // 2), (side // 2, side // 2), (0, 0)))
      x = tf.concat([x[:, :, dx : dx + width] for dx in range(side)], axis=-1)

    def product(dy):
      row = x[:, dy : dy + height] if side > 1 else x
      return tf.matmul(tf.reshape(row, (-1, side * inputs)), matrices[dy])

    total = tf.add_n([product(dy) for dy in range(side)])
    return tf.reshape(total, tf.stack([batch, height, width, outputs]))

  def finalize(self, sums: tf.Tensor) -> tf.Tensor:
    """Returns the outputs for given sums, [B, up h, up w, O]."""
    phases = self.up**2
    scale = tf.constant(np.tile(2.0**-self.shift, phases), sums.dtype)
    y = self._rectified(tf.floor((sums + np.tile(self.bias, phases)) * scale))
    sides = self.up * self.shuffle
    return tf.nn.depth_to_space(y, sides) if sides > 1 else y

  def _matrices_of(self, first: int, inputs: int) -> list[tf.Tensor]:
    """Returns a matrix [k I, up^2 O] for each row of the kernel, for some of the input channels."""
    if (first, inputs) not in self._matrices:
      kernel = kernel_of_phases(self.kernel[:, :, first : first + inputs], self.up)
      with tf.init_scope():  # Not in the graph, which would copy them each time it is optimized.
        self._matrices[first, inputs] = [
          tf.constant(row.reshape(-1, kernel.shape[3])) for row in kernel
        ]
    return self._matrices[first, inputs]

  def _rectified(self, y: tf.Tensor) -> tf.Tensor:
    if self.slope >= 0:
      # So that the product with the slope keeps the bound.
      largest = (BOUNDS[y.dtype.name] - SLOPE_SCALE) // max(self.slope, 1)
      y = tf.clip_by_value(y, -largest, largest)
      y = tf.maximum(y, tf.floor((y * self.slope + SLOPE_SCALE // 2) / SLOPE_SCALE))
    return tf.clip_by_value(y, -self.limit, self.limit)


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
    return self.finalize(self.first_sums(x, 0))

  def first_sums(self, x: tf.Tensor, first: int) -> tf.Tensor:
    """Returns the first layer's sums over some of its inputs: int32 channels from `first` on."""
    with tf.device("CPU:0"):
      amax = self.amax[first : first + x.shape[-1]]
      x = tf.cast(tf.clip_by_value(x, -amax, amax), self.layers[0].kernel.dtype)
      return self.layers[0].sums(x, first)

  def finalize(self, sums: tf.Tensor) -> tf.Tensor:
    """Returns the network's output, int32, for the first layer's sums over all inputs."""
    with tf.device("CPU:0"):
      x = self.layers[0].finalize(sums)
      for layer in self.layers[1:]:
        x = layer(x)
      return tf.cast(x, tf.int32)

  def to_arrays(self) -> dict[str, np.ndarray]:
    """Returns all integers as arrays of integer types."""
    arrays = {"amax": self.amax}
    for i, layer in enumerate(self.layers):
      wide = layer.kernel.dtype == np.float64
      arrays[f"{i}/kernel"] = layer.kernel.astype(np.int64 if wide else np.int32)
      arrays[f"{i}/bias"] = layer.bias.astype(np.int64 if wide else np.int32)
      arrays[f"{i}/shift"] = layer.shift
      form = [layer.up, layer.slope, layer.limit, *([layer.shuffle] if layer.shuffle > 1 else [])]
      arrays[f"{i}/form"] = np.array(form, np.int32)
    return arrays

  @classmethod
  def from_arrays(cls, arrays: dict[str, np.ndarray]) -> IntegerNetwork:
    layers = []
    for i in itertools.count():
      if f"{i}/kernel" not in arrays:
        return cls(arrays["amax"], layers)
      kernel = arrays[f"{i}/kernel"]
      dtype = np.float64 if kernel.dtype == np.int64 else np.float32
      form = (int(value) for value in arrays[f"{i}/form"])
      layers.append(
        IntegerLayer(
          kernel.astype(dtype),
          arrays[f"{i}/bias"].astype(dtype),
          arrays[f"{i}/shift"],
          *form,
        )
      )
