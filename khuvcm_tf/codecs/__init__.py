"""The codecs by name. A new one is a file here and a line in `_OF_RGB` or `_OF_IMAGES`.

Nothing here imports TensorFlow before a codec is built, so that programs can list the names.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import typing

from khuvcm_tf import errors

if typing.TYPE_CHECKING:
  from khuvcm_tf.codecs.codec import Codec


def _build(name: str, *args, **arguments) -> Codec:
  """Calls `build` of a codec's file; arguments declared as integers have to be 1 or more."""
  build = importlib.import_module(f"khuvcm_tf.codecs.{name}").build
  kinds = {key: each.annotation for key, each in inspect.signature(build).parameters.items()}
  for key, value in arguments.items():
    allowed = {"int": (int,), "int | None": (int, type(None))}.get(kinds.get(key))
    if allowed and (type(value) not in allowed or value is not None and value < 1):
      raise ValueError(f"`{key}` is {value!r}, expected an integer of 1 or more")
  return build(*args, **arguments)


_OF_RGB = {
  name: functools.partial(_build, name)
  for name in ("bmshj2018_factorized", "bmshj2018", "mbt2018_mean", "mbt2018", "cheng2020")
}
_OF_IMAGES = {
  **_OF_RGB,
  "ycbcr444": functools.partial(_build, "ycbcr444", _OF_RGB),
  "luma_chroma420": functools.partial(_build, "luma_chroma420"),
  "cross_component": functools.partial(_build, "cross_component"),
}
_OF_FEATURES = {"feature": functools.partial(_build, "feature", _OF_RGB)}


def names() -> list[str]:
  """Returns the names of all codecs of images."""
  return list(_OF_IMAGES)


def all_names() -> list[str]:
  """Returns the names of all codecs, those of feature maps too."""
  return [*_OF_IMAGES, *_OF_FEATURES]


def create(
  name: str, dtype: str = "float32", num_qualities: int | None = None, **arguments
) -> Codec:
  """Builds a codec with fresh weights.

  Args:
    name: one of `all_names()`.
    dtype: of the transforms: "float32", "float64", or a Keras policy such as "mixed_bfloat16".
    num_qualities: K, anchor qualities of a codec of several rates, 2 or more (`layers.Gain`); None
      for one rate.
    **arguments: of the codec's `build`. Fields of its `entropy_config` may be given one by one, as
      models of earlier versions have them.

  Raises:
    errors.Error: no such codec, or an argument that it does not take.

  Example:
    >>> create("mbt2018_mean", num_filters=8, latent_depth=12).substreams
    ('z', 'y')
  """
  import tensorflow as tf  # Seconds to import.

  from khuvcm_tf.entropy.entropy_model import EntropyModelConfig

  builders = {**_OF_IMAGES, **_OF_FEATURES}
  if name not in builders:
    raise errors.Error(f"no codec is called {name!r}; there are {', '.join(builders)}")
  config = {key: arguments.pop(key) for key in EntropyModelConfig._fields if key in arguments}
  if config:
    arguments["entropy_config"] = {**config, **(arguments.get("entropy_config") or {})}
  if num_qualities is not None and (type(num_qualities) is not int or num_qualities < 2):
    raise errors.Error(
      f"`num_qualities` is {num_qualities!r}, expected an integer of 2 or more; leave it out for a "
      "codec of one rate"
    )
  policy = tf.keras.mixed_precision.global_policy()
  tf.keras.mixed_precision.set_global_policy(dtype)
  try:
    codec = builders[name](**arguments)
    if num_qualities is not None:
      codec.add_gains(num_qualities)
    return codec
  except (TypeError, ValueError) as error:
    raise errors.Error(f"codec {name} was not built from {arguments}: {error}") from error
  finally:
    tf.keras.mixed_precision.set_global_policy(policy)
