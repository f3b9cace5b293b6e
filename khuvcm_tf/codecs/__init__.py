"""The codecs by name. A new one is a file here and a line in `_BUILDERS`."""

from __future__ import annotations

import tensorflow as tf

from khuvcm_tf import errors
from khuvcm_tf.codecs import (
  bmshj2018,
  bmshj2018_factorized,
  cheng2020,
  cross_component,
  luma_chroma420,
  mbt2018,
  mbt2018_mean,
  ycbcr444,
)
from khuvcm_tf.codecs.codec import Codec

_BUILDERS = {
  "bmshj2018_factorized": bmshj2018_factorized.build,
  "bmshj2018": bmshj2018.build,
  "mbt2018_mean": mbt2018_mean.build,
  "mbt2018": mbt2018.build,
  "cheng2020": cheng2020.build,
  "ycbcr444": ycbcr444.build,
  "luma_chroma420": luma_chroma420.build,
  "cross_component": cross_component.build,
}

_SIZES = (
  "num_filters",
  "latent_depth",
  "num_mixtures",
  "chroma_filters",
  "chroma_depth",
  "prior_layers",
)


def names() -> list[str]:
  """Returns the names of all codecs."""
  return list(_BUILDERS)


def create(name: str, dtype: str = "float32", **arguments) -> Codec:
  """Builds a codec with fresh weights.

  Args:
    name: one of `names()`.
    dtype: of the transforms: "float32", "float64", or a Keras policy such as "mixed_bfloat16".
    **arguments: of the codec's `build`.

  Raises:
    errors.Error: no such codec, or an argument that it does not take.

  Example:
    >>> create("mbt2018_mean", num_filters=8, latent_depth=12).substreams
    ('z', 'y')
  """
  if name not in _BUILDERS:
    raise errors.Error(f"no codec is called {name!r}; there are {', '.join(names())}")
  for argument, value in arguments.items():
    whole = value is None or isinstance(value, int) and value >= 1
    if argument in _SIZES and not whole:
      raise errors.Error(
        f"codec {name}: `{argument}` is {value!r}, expected an integer of 1 or more"
      )
  policy = tf.keras.mixed_precision.global_policy()
  tf.keras.mixed_precision.set_global_policy(dtype)
  try:
    return _BUILDERS[name](**arguments)
  except (TypeError, ValueError) as error:
    raise errors.Error(f"codec {name} was not built from {arguments}: {error}") from error
  finally:
    tf.keras.mixed_precision.set_global_policy(policy)
