"""The context model in integers, coded in wavefronts: what files are written and read with.

  z    as in `integer_coder`
  h_s  integers from z_hat in 1/64 to psi
  y    symbol = rint(y); its mixture, in whole numbers, from psi and the symbols before it

A place's mixture depends on 12 places of its 5x5 neighbourhood: those above it, and two to its
left. So all places (row r, column x) with the same x + 3 r can be coded at once, one such wavefront
after the other: W + 3 (H - 1) steps in place of W H.

        step of a place:   0  1  2  3  4  5      the places before x at (2, 4):  1 . . . .
                           3  4  5  6  7  8                                      o o o o o
                           6  7  8  9 10 11                                      o o x

Encoder, decoder and estimate take the very same way; only the stream differs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from khuvcm_tf.entropy import (
  context,
  integer_coder,
  integer_network,
  integer_scales,
  mixture_coder,
  range_coder,
)
from khuvcm_tf.entropy import tables as tables_lib
from khuvcm_tf.entropy.tables import UNITS
from khuvcm_tf.layers import masked

_KERNEL = 5
_REACH = _KERNEL // 2
# A row is that many steps behind the row above it.
SKEW = _REACH + 1


class IntegerContext(integer_coder.IntegerCoder):
  """A mixture of Gaussians for each latent, told by side information and decoded latents.

  Args:
    medians: int32 [N], in 1/64.
    tables: rows of bytes and of N channels.
    hyper: integer h_s, z_hat in 1/64 to psi.
    context: phi of the 12 M symbols before a place.
    parameters: (phi, psi) to what `mixture_coder` codes by, but for scales.
    mixtures: the coder of y's symbols.
    thresholds: how scales are told (`integer_scales`).
    known_answer: as in `IntegerCoder`.
  """

  def __init__(
    self,
    medians: np.ndarray,
    tables: tables_lib.Tables,
    hyper: integer_network.IntegerNetwork,
    context: integer_network.IntegerNetwork,
    parameters: integer_network.IntegerNetwork,
    mixtures: mixture_coder.MixtureCoder,
    thresholds: np.ndarray | None = None,
    known_answer: int | None = None,
  ):
    super().__init__(medians, tables, known_answer)
    integer_scales.check(thresholds, mixture_coder.SCALE_STEPS)
    self.thresholds = thresholds
    self.hyper, self.context, self.parameters = hyper, context, parameters
    self.y_coder = mixtures
    self.places = masked.causal_places(_KERNEL)
    self.depth = len(context.amax) // len(self.places)
    if parameters.filters != mixtures.parts * mixtures.num_mixtures * self.depth:
      raise ValueError(
        f"the parameters have {parameters.filters} channels, expected {mixtures.parts} for each of "
        f"{mixtures.num_mixtures} mixtures of {self.depth} latents"
      )

  def sample_parameters(self):
    psi = self.hyper(self.sample_z(1, 1, self.hyper.amax.max() // UNITS + 1))
    around = np.resize([-2, 3, 0, 0, 1, -3, 2, 0], (1, *psi.shape[1:3], len(self.context.amax)))
    around = tf.constant(around * (self.context.amax + 3) // 3, tf.int32)
    return [self.mixtures_of(self.context(around), self.psi_sums(psi))]

  def psi_sums(self, psi: tf.Tensor) -> tf.Tensor:
    """Returns what psi [1, h, w, F] adds to the first layer of the parameters."""
    return self.parameters.begin(psi, self.context.filters)

  def mixtures_of(self, phi: tf.Tensor, psi_sums: tf.Tensor) -> tf.Tensor:
    """Returns what tells mixtures, int32 [1, h, w, 3 K M], from phi and `psi_sums`."""
    told = self.parameters.finish(self.parameters.begin(phi, 0) + psi_sums)
    if self.thresholds is None:
      return told
    gaussians = self.y_coder.num_mixtures * self.depth
    others, scales = tf.split(told, [told.shape[-1] - gaussians, gaussians], axis=-1)
    return tf.concat([others, integer_scales.indices(scales, self.thresholds)], axis=-1)

  def y_hat(self, y, z):
    return tf.cast(integer_coder.rounded(y), tf.float32)

  def code_y(self, stream, state, y: tf.Tensor | None, z: tf.Tensor):
    psi = self.hyper(self.z_hat(z))
    height, width = tf.shape(psi)[1], tf.shape(psi)[2]
    if y is None:
      symbols = tf.zeros(tf.stack([height, width, self.depth]), tf.int32)
    else:
      symbols = integer_coder.rounded(y)[0]
    state, symbols = self.in_order(
      lambda state, values, told: self.y_coder.code(stream, state, values, told),
      state,
      symbols,
      psi,
      SKEW,
    )
    return state, tf.cast(symbols, tf.float32)[tf.newaxis]

  def in_order(self, code, state, symbols: tf.Tensor, psi: tf.Tensor, skew):
    """Passes all places, those of a wavefront at once.

    Args:
      code: (state, values int32 [n, M], told int32 [n, 3 K M]) -> (state, values), of n places.
      state: its first state.
      symbols: int32 [h, w, M], what values `code` is given; later ones see what it has returned.
      psi: int32 [1, h, w, F].
      skew: steps between a place and the one below it: 3 for wavefronts, w for raster order.

    Returns:
      The last state, and the symbols that `code` has returned.
    """
    height, width = tf.shape(psi)[1], tf.shape(psi)[2]
    sums = tf.reshape(self.psi_sums(psi), tf.stack([height * width, -1]))
    symbols = tf.reshape(symbols, (-1, self.depth))
    # How many steps back each of the 12 neighbours stands, and in which row above.
    back = tf.stack([-dx - skew * dy for dy, dx in self.places])
    above = tf.constant([-dy for dy, _ in self.places])
    # Values of the last steps, each step's rows one below the other, with zeros around them for
    # what lies outside: up to two rows above and three below are looked at.
    steps_kept = _REACH * skew + _REACH
    rows_kept = tf.minimum(height, (width + skew - 1) // skew) + 5

    def first_row(step):
      return tf.maximum(0, (step - width + skew) // skew)

    def one_step(step, state, recent, found):
      rows = tf.range(first_row(step), tf.minimum(height - 1, step // skew) + 1)
      neighbours = rows[:, tf.newaxis] - above - first_row(step - back) + 2
      neighbours += (steps_kept - back) * rows_kept
      around = tf.gather(tf.reshape(recent, (-1, self.depth)), neighbours)
      phi = self.context(tf.reshape(around, (1, -1, 1, len(self.context.amax))))
      places = rows * width + step - skew * rows
      told = self.mixtures_of(phi, tf.gather(sums, places)[tf.newaxis, :, tf.newaxis])[0, :, 0]
      state, values = code(state, tf.gather(symbols, places), told)
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

  def state(self) -> dict[str, np.ndarray]:
    return {
      **super().state(),
      "num_mixtures": np.array(self.y_coder.num_mixtures),
      **integer_scales.state(self.thresholds),
      **integer_coder.folder("mixtures", self.y_coder.tables._asdict()),
      **integer_coder.folder("hyper", self.hyper.state()),
      **integer_coder.folder("context", self.context.state()),
      **integer_coder.folder("parameters", self.parameters.state()),
    }

  @classmethod
  def from_state(cls, state: dict[str, np.ndarray]) -> IntegerContext:
    def network(name):
      return integer_network.IntegerNetwork.from_state(integer_coder.within(state, name))

    return cls(
      state["medians"],
      tables_lib.Tables.from_state(integer_coder.within(state, "tables")),
      network("hyper"),
      network("context"),
      network("parameters"),
      mixture_coder.MixtureCoder(
        mixture_coder.MixtureTables(**integer_coder.within(state, "mixtures")),
        int(state["num_mixtures"]),
      ),
      state.get("thresholds"),
      int(state["known_answer"]),
    )


def convert(
  floats: context.ContextModel, latents: Sequence[np.ndarray], limit: float
) -> integer_coder.Conversion:
  """Converts a trained context model to integers, as `exact.convert` says."""
  medians, z, z_hat = integer_coder.rounded_side_information(floats, latents)
  tables = tables_lib.assemble(integer_coder.z_alphabets(floats.prior, medians))
  mixtures = mixture_coder.MixtureCoder(mixture_coder.make_tables(), floats.num_mixtures)
  y_hat = [tf.round(tf.cast(y, tf.float32)) for y in latents]
  z_peak, *hyper_peaks = integer_coder.peaks(floats.h_s, z_hat)
  y_peak, phi_peak = integer_coder.peaks(floats.context, y_hat)
  phi_and_psi = [
    tf.concat([floats.context(y), floats.h_s(each)], axis=-1) for y, each in zip(y_hat, z_hat)
  ]
  _, *parameter_peaks = integer_coder.peaks(floats.parameter_layers, phi_and_psi)
  hyper, masked_layer, parameters = (
    integer_network.float_layers(network)
    for network in (floats.h_s, floats.context, floats.parameter_layers)
  )
  scales = integer_scales.ScaleOutput(
    floats.num_mixtures * floats.latent_depth, floats.form.log_scales, mixture_coder.SCALE_STEPS
  )
  parameters[-1] = scales.prepared(parameters[-1])
  units = np.full(parameters[-1].bias.size - scales.count, float(UNITS))
  t_out = np.append(units, scales.t_out)
  z_amax = integer_network.whole_reach(z_peak, UNITS)
  y_amax = np.tile(integer_network.whole_reach(y_peak, 1), len(masked.causal_places(_KERNEL)))

  def build(bits, dtype):
    # Hidden layers of h_s; of the parameters, with phi and psi as their inputs.
    of_hyper, of_parameters = bits[: len(hyper) - 1], bits[len(hyper) - 1 :]
    largest = 2 ** of_parameters[0] - 1
    t_phi, t_psi = (
      largest / integer_network.reach_of(peak) for peak in (phi_peak, hyper_peaks[-1])
    )
    convert_network = integer_network.convert
    return IntegerContext(
      medians,
      tables,
      convert_network(
        hyper, hyper_peaks, z_amax, _full(z_amax, UNITS), of_hyper, t_psi, largest, dtype
      ),
      convert_network(masked_layer, [], y_amax, _full(y_amax, 1), [], t_phi, largest, dtype),
      convert_network(
        parameters,
        parameter_peaks,
        np.full(t_phi.size + t_psi.size, largest),
        np.append(t_phi, t_psi),
        of_parameters[1:],
        t_out,
        scales.limit,
        dtype,
      ),
      mixtures,
      scales.thresholds(),
    )

  bits_of_floats = integer_coder.float_bits(floats, latents, z_hat)
  of_parameters = (10,) * len(parameters)
  return integer_coder.Conversion(
    *integer_network.narrowest(
      build,
      lambda coder: integer_coder.loss_of(coder, latents, z, bits_of_floats),
      [(width,) * (len(hyper) - 1) + of_parameters for width in (9, 10)],
      limit,
    )
  )


def _full(like: np.ndarray, value: float) -> np.ndarray:
  return np.full(like.shape, float(value))
