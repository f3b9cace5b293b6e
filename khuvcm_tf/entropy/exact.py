"""Which integer coder stands for which latent coder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from khuvcm_tf.entropy import (
  context,
  factorized_coder,
  hyperprior,
  integer_coder,
  integer_context,
  integer_factorized,
  integer_hyperprior,
  latent_coder,
)

_TWINS = {
  factorized_coder.FactorizedCoder: (
    integer_factorized.convert,
    integer_factorized.IntegerFactorized,
  ),
  hyperprior.Hyperprior: (integer_hyperprior.convert, integer_hyperprior.IntegerHyperprior),
  context.ContextModel: (integer_context.convert, integer_context.IntegerContext),
}


def convert(
  floats: latent_coder.LatentCoder, latents: Sequence[np.ndarray], limit: float
) -> integer_coder.Conversion:
  """Converts a trained latent coder to integers, calibrated and measured on latents of pictures.

  Args:
    floats: the trained part.
    latents: y [1, h, w, M] of several pictures, h and w multiples of 4.
    limit: the greatest acceptable relative loss of bits.

  Raises:
    ValueError: the loss is greater at any width.
  """
  convert_one, _ = _TWINS[type(floats)]
  return convert_one(floats, latents, limit)


def from_state(
  floats: latent_coder.LatentCoder, state: dict[str, np.ndarray]
) -> integer_coder.IntegerCoder:
  """Restores the integers that `state()` of a latent coder's twin has given."""
  _, twin = _TWINS[type(floats)]
  return twin.from_state(state)
