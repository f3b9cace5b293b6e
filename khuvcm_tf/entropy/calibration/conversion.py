"""Trained float models to integer models, calibrated and measured on latents of images."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from khuvcm_tf.entropy import context, entropy_model, factorized_model, hyperprior
from khuvcm_tf.entropy.calibration import networks, tables
from khuvcm_tf.entropy.integer.context import KERNEL, IntegerContext
from khuvcm_tf.entropy.integer.entropy_model import IntegerEntropyModel
from khuvcm_tf.entropy.integer.factorized import IntegerFactorized
from khuvcm_tf.entropy.integer.hyperprior import IntegerHyperprior
from khuvcm_tf.entropy.integer.mixture_coder import SCALE_STEPS, MixtureCoder
from khuvcm_tf.entropy.integer.tables import SCALE
from khuvcm_tf.layers import masked

# Bits of a decision of the smallest probability, and of two bytes.
_ESCAPE_BITS = 32.0


class Conversion(NamedTuple):
  """An integer model, and what integers cost: its further bits as a share of those of floats."""

  model: IntegerEntropyModel
  loss: float


@functools.singledispatch
def convert(
  floats: entropy_model.EntropyModel,
  latents: Sequence[np.ndarray],
  max_loss: float,
  qualities: int = 1,
  least_bits: float = 0.0,
) -> Conversion:
  """Converts a trained entropy model to integers.

  Args:
    floats: the trained model.
    latents: y [1, h, w, M] of several images, h and w multiples of 4.
    max_loss: the greatest acceptable relative loss of bits.
    qualities: of how many qualities the latents are, as many of each, one after the other. The
      loss is that of the quality where it is the greatest.
    least_bits: of the latents of a quality, of which the loss is a share where floats take fewer:
      a table gives no symbol more than 1 - 2^-16, which is much of next to nothing.

  Raises:
    ValueError: the loss is greater at any bit width.
  """
  raise TypeError(f"no integer model of {type(floats).__name__}")


@convert.register
def _(floats: factorized_model.FactorizedModel, latents, max_loss, qualities=1, least_bits=0.0):
  medians = tables.fixed_point_medians(floats.prior)
  model = IntegerFactorized(medians, tables.assemble(tables.z_alphabets(floats.prior, medians)))
  float_bits = [for_rate(floats.element_bits(y)[1]["y"]) for y in latents]
  loss = conversion_loss(model, latents, latents, float_bits, qualities, least_bits)
  networks.check_loss(loss, max_loss)
  return Conversion(model, loss)


@convert.register
def _(floats: hyperprior.Hyperprior, latents, max_loss, qualities=1, least_bits=0.0):
  medians, z, z_hat = rounded_side_information(floats, latents)
  cdf_tables = tables.assemble(
    tables.z_alphabets(floats.prior, medians) + tables.gaussian_alphabets()
  )
  z_max_abs, *max_abs = networks.activation_ranges(floats.h_s, z_hat)
  layers = networks.float_layers(floats.h_s)
  scales = networks.ScaleOutput(floats.latent_depth, floats.config.log_scales)
  layers[-1] = scales.prepared(layers[-1])
  means = floats.latent_depth if floats.has_means else 0
  t_out = np.append(np.full(means, float(SCALE)), scales.t_out)
  amax = networks.input_limits(z_max_abs, SCALE)

  def build(bits, dtype):
    network = networks.convert(
      layers, max_abs, amax, _full(amax, SCALE), bits, t_out, scales.limit, dtype
    )
    return IntegerHyperprior(medians, network, cdf_tables, floats.has_means, scales.thresholds())

  float_bits = bits_of_floats(floats, latents, medians)
  return Conversion(
    *networks.search_bit_widths(
      build,
      lambda model: conversion_loss(model, latents, z, float_bits, qualities, least_bits),
      list(itertools.product((9, 10), repeat=len(layers) - 1)),
      max_loss,
    )
  )


@convert.register
def _(floats: context.ContextModel, latents, max_loss, qualities=1, least_bits=0.0):
  medians, z, z_hat = rounded_side_information(floats, latents)
  cdf_tables = tables.assemble(tables.z_alphabets(floats.prior, medians))
  mixtures = MixtureCoder(tables.mixture_tables(), floats.num_mixtures)
  y_hat = [tf.round(tf.cast(y, tf.float32)) for y in latents]
  z_max_abs, *hyper_max_abs = networks.activation_ranges(floats.h_s, z_hat)
  y_max_abs, phi_max_abs = networks.activation_ranges(floats.context, y_hat)
  # One by one: they are the largest of all.
  phi_and_psi = (
    tf.concat([floats.context(y), floats.h_s(each)], axis=-1) for y, each in zip(y_hat, z_hat)
  )
  _, *parameter_max_abs = networks.activation_ranges(floats.entropy_parameters, phi_and_psi)
  hyper, masked_layer, parameters = (
    networks.float_layers(stack)
    for stack in (floats.h_s, floats.context, floats.entropy_parameters)
  )
  scales = networks.ScaleOutput(
    floats.num_mixtures * floats.latent_depth, floats.config.log_scales, SCALE_STEPS
  )
  parameters[-1] = scales.prepared(parameters[-1])
  logits_and_means = parameters[-1].bias.size - scales.count
  t_out = np.append(np.full(logits_and_means, float(SCALE)), scales.t_out)
  z_amax = networks.input_limits(z_max_abs, SCALE)
  neighbours = len(masked.causal_positions(KERNEL))
  y_amax = np.tile(networks.input_limits(y_max_abs, 1), neighbours)

  def build(bits, dtype):
    # Hidden layers of h_s; then of the parameters, with phi and psi as their inputs.
    hyper_bits, parameter_bits = bits[: len(hyper) - 1], bits[len(hyper) - 1 :]
    limit = 2 ** parameter_bits[0] - 1
    t_phi, t_psi = (limit / networks.with_margin(each) for each in (phi_max_abs, hyper_max_abs[-1]))
    z_steps, y_steps = _full(z_amax, SCALE), _full(y_amax, 1)
    return IntegerContext(
      medians,
      cdf_tables,
      networks.convert(hyper, hyper_max_abs, z_amax, z_steps, hyper_bits, t_psi, limit, dtype),
      networks.convert(masked_layer, [], y_amax, y_steps, [], t_phi, limit, dtype),
      networks.convert(
        parameters,
        parameter_max_abs,
        np.full(t_phi.size + t_psi.size, limit),
        np.append(t_phi, t_psi),
        parameter_bits[1:],
        t_out,
        scales.limit,
        dtype,
      ),
      mixtures,
      scales.thresholds(),
    )

  float_bits = bits_of_floats(floats, latents, medians)
  parameter_bits = (10,) * len(parameters)
  return Conversion(
    *networks.search_bit_widths(
      build,
      lambda model: conversion_loss(model, latents, z, float_bits, qualities, least_bits),
      [(width,) * (len(hyper) - 1) + parameter_bits for width in (9, 10)],
      max_loss,
    )
  )


def _full(like: np.ndarray, value: float) -> np.ndarray:
  return np.full(like.shape, float(value))


def rounded_side_information(floats: entropy_model.HyperpriorBase, latents):
  """Returns medians int32 [N] in fixed point, and for each image z and z_hat, in floats."""
  medians = tables.fixed_point_medians(floats.prior)
  z = [floats.side_information(y) for y in latents]
  return medians, z, [np.rint(each - medians / SCALE) + medians / SCALE for each in z]


def bits_of_floats(floats: entropy_model.EntropyModel, latents, medians: np.ndarray) -> list[float]:
  """Returns the bits of each image by the float model, rounded around a file's medians."""
  medians = tf.constant(medians / SCALE, tf.float32)
  bits = (floats.element_bits(y, medians=medians)[1] for y in latents)
  return [sum(map(for_rate, of_image.values())) for of_image in bits]


def for_rate(bits: tf.Tensor) -> float:
  """Returns the sum of bits by a float model.

  A latent counts at most what an escape costs: the tails of floats would hide what integers cost.
  """
  return float(tf.reduce_sum(tf.minimum(bits, _ESCAPE_BITS)))


def conversion_loss(
  model: IntegerEntropyModel,
  latents,
  side_information,
  float_bits: Sequence[float],
  qualities: int,
  least_bits: float = 0.0,
) -> float:
  """Returns by how much the integer model's bits exceed the float model's, as a share of them.

  Of several qualities it is the greatest share; where floats take fewer bits than `least_bits`, it
  is a share of those.
  """
  signature = [
    tf.TensorSpec((1, None, None, each[0].shape[-1]), each[0].dtype)
    for each in (latents, side_information)
  ]
  estimate = tf.function(model.estimate, signature, autograph=False)
  bits = [
    sum(float(each) for each in estimate(y, z).values()) for y, z in zip(latents, side_information)
  ]
  sums = (np.reshape(each, [qualities, -1]).sum(axis=1) for each in (bits, float_bits))
  of_integers, of_floats = sums
  return float(np.max((of_integers - of_floats) / np.maximum(of_floats, least_bits)))
