"""The context model in integers, coded in wavefronts: what files are written and read with.

  z    as in `integer.entropy_model`
  h_s  integers from z_hat, in fixed point, to psi
  y    symbol = rint(y); its mixture, in integers, predicted from psi and earlier symbols

The mixture at a position depends on 12 positions of its 5x5 neighbourhood: those above it, and two
to its left. So all positions (row r, column x) with the same x + 3 r can be coded at once, one such
wavefront after the other: W + 3 (H - 1) steps in place of W H.

        step of a position:  0  1  2  3  4  5      neighbours (o) of x:  o o o o o
                             3  4  5  6  7  8                            o o o o o
                             6  7  8  9 10 11                            o o x

Encoder, decoder and estimate take the very same path; only the coder differs.
"""

from __future__ import annotations

import functools

import numpy as np
import tensorflow as tf

from khuvcm_tf.entropy.integer import entropy_model, mixture_coder, network, range_coder, scales
from khuvcm_tf.entropy.integer import tables as tables_lib
from khuvcm_tf.entropy.integer.tables import SCALE
from khuvcm_tf.layers import masked

KERNEL = 5
_RADIUS = KERNEL // 2
# A row is that many steps behind the row above it.
SKEW = _RADIUS + 1


class IntegerContext(entropy_model.IntegerEntropyModel):
  """A mixture of Gaussians for each latent, predicted from side information and earlier latents.

  Args:
    medians: int32 [N], in fixed point.
    tables: CDF rows of bytes and of N channels.
    hyper: integer h_s, z_hat in fixed point to psi.
    context: the 12 M symbols of the neighbourhood to phi.
    parameters: (phi, psi) to the parameters of mixtures.
    mixtures: the coder of y's symbols.
    thresholds: between scale indices (`integer.scales`); None where indices are predicted.
    checksum: as in `IntegerEntropyModel`.
  """

  def __init__(
    self,
    medians: np.ndarray,
    tables: tables_lib.Tables,
    hyper: network.IntegerNetwork,
    context: network.IntegerNetwork,
    parameters: network.IntegerNetwork,
    mixtures: mixture_coder.MixtureCoder,
    thresholds: np.ndarray | None = None,
    checksum: int | None = None,
  ):
    super().__init__(medians, tables, checksum)
    scales.check(thresholds, mixture_coder.SCALE_STEPS)
    self.thresholds = thresholds
    self._thresholds = None if thresholds is None else tf.constant(thresholds)
    self.hyper, self.context, self.parameters = hyper, context, parameters
    self.y_coder = mixtures
    self.positions = masked.causal_positions(KERNEL)
    self.depth = len(context.amax) // len(self.positions)
    if parameters.filters != mixtures.parts * mixtures.num_mixtures * self.depth:
      raise ValueError(
        f"the parameters have {parameters.filters} channels, expected {mixtures.parts} for each of "
        f"{mixtures.num_mixtures} mixtures of {self.depth} latents"
      )

  def sample_parameters(self):
    psi = self.hyper(self.sample_z(1, 1, self.hyper.amax.max() // SCALE + 1))
    shape = 1, *psi.shape[1:3], len(self.context.amax)
    neighbourhood = np.resize([-2, 3, 0, 0, 1, -3, 2, 0], shape)
    neighbourhood = tf.constant(neighbourhood * (self.context.amax + 3) // 3, tf.int32)
    return [self.mixture_parameters(self.context(neighbourhood), self.psi_sums(psi))]

  def psi_sums(self, psi: tf.Tensor) -> tf.Tensor:
    """Returns what psi [1, h, w, F] adds to the first layer's sums of `parameters`."""
    return self.parameters.first_sums(psi, self.context.filters)

  def mixture_parameters(self, phi: tf.Tensor, psi_sums: tf.Tensor) -> tf.Tensor:
    """Returns the parameters of mixtures, int32 [1, h, w, 3 K M], from phi and `psi_sums`."""
    params = self.parameters.finalize(self.parameters.first_sums(phi, 0) + psi_sums)
    if self._thresholds is None:
      return params
    gaussians = self.y_coder.num_mixtures * self.depth
    others, sigma = tf.split(params, [params.shape[-1] - gaussians, gaussians], axis=-1)
    return tf.concat([others, scales.indices(sigma, self._thresholds)], axis=-1)

  def y_hat(self, y, z):
    return tf.cast(entropy_model.rounded(y), tf.float32)

  def code_y(self, coder, state, y: tf.Tensor | None, z: tf.Tensor):
    psi = self.hyper(self.z_hat(z))
    height, width = tf.shape(psi)[1], tf.shape(psi)[2]
    if y is None:
      symbols = tf.zeros(tf.stack([height, width, self.depth]), tf.int32)
    else:
      symbols = entropy_model.rounded(y)[0]
    state, symbols = self.in_order(
      functools.partial(self.y_coder.code, coder), state, symbols, psi, SKEW
    )
    return state, tf.cast(symbols, tf.float32)[tf.newaxis]

  def in_order(self, code, state, symbols: tf.Tensor, psi: tf.Tensor, skew):
    """Codes all positions, those of a wavefront at once.

    Args:
      code: (state, values int32 [n, M], params int32 [n, 3 K M]) -> (state, values).
      state: its first state.
      symbols: int32 [h, w, M], values that `code` is given; predictions use those it returns.
      psi: int32 [1, h, w, F].
      skew: steps between a position and the one below it: 3 for wavefronts, w for raster order.

    Returns:
      The last state, and the symbols that `code` has returned.
    """
    height, width = tf.shape(psi)[1], tf.shape(psi)[2]
    sums = tf.reshape(self.psi_sums(psi), tf.stack([height * width, -1]))
    symbols = tf.reshape(symbols, (-1, self.depth))
    # Each of the 12 neighbours: how many steps ago it was coded, and how many rows above it lies.
    steps_ago = tf.stack([-dx - skew * dy for dy, dx in self.positions])
    rows_above = tf.constant([-dy for dy, _ in self.positions])
    # Values of the last steps, each step's rows one below the other, with zeros for neighbours that
    # lie outside: up to two rows above and three below.
    steps_kept = _RADIUS * skew + _RADIUS
    rows_kept = tf.minimum(height, (width + skew - 1) // skew) + 5

    def first_row(step):
      return tf.maximum(0, (step - width + skew) // skew)

    def one_step(step, state, recent, found):
      rows = tf.range(first_row(step), tf.minimum(height - 1, step // skew) + 1)
      neighbours = rows[:, tf.newaxis] - rows_above - first_row(step - steps_ago) + 2
      neighbours += (steps_kept - steps_ago) * rows_kept
      neighbourhood = tf.gather(tf.reshape(recent, (-1, self.depth)), neighbours)
      phi = self.context(tf.reshape(neighbourhood, (1, -1, 1, len(self.context.amax))))
      positions = rows * width + step - skew * rows
      psi_sums = tf.gather(sums, positions)[tf.newaxis, :, tf.newaxis]
      params = self.mixture_parameters(phi, psi_sums)[0, :, 0]
      state, values = code(state, tf.gather(symbols, positions), params)
      padded = tf.pad(values, ((2, rows_kept - 2 - tf.shape(rows)[0]), (0, 0)))
      recent = tf.concat([recent[1:], padded[tf.newaxis]], axis=0)
      return step + 1, state, recent, found.write(step, values)

    steps = width + skew * (height - 1)
    found = tf.TensorArray(tf.int32, steps, infer_shape=False, element_shape=(None, self.depth))
    _, state, _, found = range_coder.loop(
      lambda step, *_: step < steps,
      one_step,
      (0, state, tf.zeros(tf.stack([steps_kept, rows_kept, self.depth]), tf.int32), found),
    )
    rows, columns = tf.meshgrid(tf.range(height), tf.range(width), indexing="ij")
    order = tf.reshape((columns + skew * rows) * height + rows, [-1])
    found = tf.gather(found.concat(), tf.argsort(tf.argsort(order)))
    return state, tf.reshape(found, tf.stack([height, width, self.depth]))

  def to_arrays(self) -> dict[str, np.ndarray]:
    return {
      **super().to_arrays(),
      "num_mixtures": np.array(self.y_coder.num_mixtures),
      **scales.to_arrays(self.thresholds),
      **entropy_model.prefixed("mixtures", self.y_coder.tables.to_arrays()),
      **entropy_model.prefixed("hyper", self.hyper.to_arrays()),
      **entropy_model.prefixed("context", self.context.to_arrays()),
      **entropy_model.prefixed("parameters", self.parameters.to_arrays()),
    }

  @classmethod
  def from_arrays(cls, arrays: dict[str, np.ndarray]) -> IntegerContext:
    def read_network(name):
      return network.IntegerNetwork.from_arrays(entropy_model.within(arrays, name))

    return cls(
      arrays["medians"],
      tables_lib.Tables.from_arrays(entropy_model.within(arrays, "tables")),
      read_network("hyper"),
      read_network("context"),
      read_network("parameters"),
      mixture_coder.MixtureCoder(
        mixture_coder.MixtureTables.from_arrays(entropy_model.within(arrays, "mixtures")),
        int(arrays["num_mixtures"]),
      ),
      arrays.get("thresholds"),
      int(arrays["known_answer"]),
    )
