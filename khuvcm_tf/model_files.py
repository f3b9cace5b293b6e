"""A model's folder: written at the end of training, found by path, by name or by fingerprint.

  model.json     codec, its arguments, and how it was trained
  weights.npz    float weights (float16 or float32)
  integer.npz    integer weights and tables of the entropy coder
  fingerprint    16 hexadecimal digits

The fingerprint is the first 5 bytes of SHA-256 over the codec's name and `integer.npz`'s arrays,
then the first 3 of SHA-256 over the synthesis weights as stored. Files carry it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from khuvcm_tf import atomic_files, codecs, coding, errors, forks, layers
from khuvcm_tf.codecs import codec as codec_lib
from khuvcm_tf.entropy import calibration
from khuvcm_tf.entropy.integer.entropy_model import InexactArithmetic, within
from khuvcm_tf.model_folders import (
  FORMAT,
  OWN_QUALITY,
  add_to_digest,
  as_stored,
  check_replaceable,
  find,
  read_arrays,
  read_description,
  read_fingerprint,
  write_fingerprint,
)

# Greatest loss of bits that integers may cost against floats: a share of them, but of at least so
# many bits per pixel. Models that code next to nothing would not pass without that floor.
MAX_LOSS = 0.005
LEAST_BPP = 0.1


def save(
  folder: str,
  codec: codec_lib.Codec,
  description: dict[str, object],
  images: Sequence[np.ndarray],
  weights_dtype: str = "float32",
  shifts: bool = False,
) -> coding.Model:
  """Converts a trained codec and writes its folder, whole or not at all.

  Args:
    folder: to write; an earlier one is replaced.
    codec: trained; its weights are rounded to `weights_dtype` in place.
    description: at least "codec" and "arguments"; what `model.json` will say.
    images: uint8 [H, W, 3], or features, on which integers are calibrated and their loss is
      measured.
    weights_dtype: "float32" or "float16".
    shifts: whether a model of one rate takes qualities around it, where its entropy models can.

  Returns:
    The model, as `load` would give it.

  Raises:
    coding.ModelError: a weight is not finite, integers would cost more than MAX_LOSS, `folder`
      holds something else than a model.
    atomic_files.FileError: the folder cannot be written.
  """
  check_replaceable(folder)
  weights = as_stored(codec.named_weights(), weights_dtype)
  codec.assign_weights(weights)
  qualities = codec.qualities
  examples = [codec.input_format.example(image) for image in images]
  latents = [
    codec.latents(codec.planes(example[np.newaxis]), quality)
    for quality in qualities
    for example in examples
  ]
  least_bits = LEAST_BPP * sum(math.prod(example.shape[:2]) for example in examples)
  try:
    conversions = [
      calibration.convert(branch.entropy_model, y, MAX_LOSS, len(qualities), least_bits)
      for branch, y in zip(codec.branches, zip(*latents))
    ]
  except (ValueError, tf.errors.InvalidArgumentError) as error:
    is_ours = isinstance(error, ValueError)
    raise coding.ModelError(
      f"the model was not converted to integers: {error if is_ours else coding.assertion(error)}; "
      "train it longer, on more varied images, or for a higher rate"
    ) from error
  entropy_models = [conversion.model for conversion in conversions]
  # Of the branch, and of the quality, where it is the greatest.
  loss = max(conversion.loss for conversion in conversions)
  description = {"format": FORMAT, **description, "integer_loss": loss}
  if shifts:
    entropy_models = [model.with_shifts() for model in entropy_models]
    if all(model.max_shift for model in entropy_models):
      description["default_quality"] = OWN_QUALITY
  arrays = dict(zip(codec.branches, (model.to_arrays() for model in entropy_models)))
  integers = codec.prefixed(arrays.get)
  fingerprint = _fingerprint(description["codec"], integers, weights)
  _write(folder, description, weights, integers, fingerprint)
  return coding.Model(codec, entropy_models, fingerprint, description)


def load(path_or_name: str, precision: str = "float32") -> coding.Model:
  """Loads a model.

  Args:
    path_or_name: a model's folder, a training workdir, or the name of a shipped model.
    precision: of the transforms: "float32", or "float64" where pixels have to be equal on all
      machines too (twice the time).

  Raises:
    coding.ModelError: there is no such model, or it is damaged.
    forks.ForkError: TensorFlow would hang in this process.
  """
  forks.check()
  folder = find(path_or_name)
  try:
    description = read_description(folder)
    weights = read_arrays(os.path.join(folder, "weights.npz"))
    integers = read_arrays(os.path.join(folder, "integer.npz"))
    stored = read_fingerprint(folder)
    fingerprint = _fingerprint(description["codec"], integers, weights)
    if stored != fingerprint:
      raise coding.ModelError(
        f"{folder} is damaged: its fingerprint is {fingerprint.hex()}, expected {stored.hex()} as "
        "stored with it; copy it again from its source"
      )
    with layers.weights_assigned():
      codec = codecs.create(description["codec"], precision, **description["arguments"])
    codec.assign_weights(weights)
    entropy_models = _entropy_models(codec, integers)
    for model in entropy_models:
      model.check_arithmetic()
  except (coding.ModelError, InexactArithmetic):
    raise
  except Exception as error:  # numpy, zipfile and zlib raise whatever damage leads them to.
    raise coding.ModelError(
      f"{folder} is not a whole model: {errors.reason(error)}; copy it again from its source"
    ) from error
  model = coding.Model(codec, entropy_models, fingerprint, description)
  model.reload = functools.partial(load, path_or_name, precision)
  return model


def read_weights(path_or_name: str) -> dict[str, np.ndarray]:
  """Returns the float weights of a model that is named as for `load`, by name."""
  folder = find(path_or_name)
  try:
    return read_arrays(os.path.join(folder, "weights.npz"))
  except (OSError, ValueError) as error:
    raise coding.ModelError(
      f"{folder} is not a whole model: {errors.reason(error)}; copy it again from its source"
    ) from error


def _entropy_models(codec: codec_lib.Codec, integers: dict[str, np.ndarray]):
  """Returns the integer entropy model of each branch."""
  alone = len(codec.branches) == 1
  return [
    branch.entropy_model.integer_class.from_arrays(
      integers if alone else within(integers, branch.name)
    )
    for branch in codec.branches
  ]


def _fingerprint(
  name: str, integers: dict[str, np.ndarray], weights: dict[str, np.ndarray]
) -> bytes:
  entropy = hashlib.sha256(name.encode())
  synthesis = hashlib.sha256()
  add_to_digest(entropy, integers)
  add_to_digest(synthesis, {key: v for key, v in weights.items() if _is_of_synthesis(key)})
  return entropy.digest()[: coding.ENTROPY_BYTES] + synthesis.digest()[: 8 - coding.ENTROPY_BYTES]


def _is_of_synthesis(name: str) -> bool:
  """Tells whether a weight, by its name, is one that a decoder's transforms need."""
  return any(part.startswith("synthesis") for part in name.split("/")[:2])


def _write(folder: str, description, weights, integers, fingerprint: bytes):
  with atomic_files.new_folder(folder) as new:
    np.savez_compressed(os.path.join(new, "weights.npz"), **weights)
    np.savez_compressed(os.path.join(new, "integer.npz"), **integers)
    with open(os.path.join(new, "model.json"), "w", encoding="utf-8") as file:
      json.dump(description, file, indent=2)
      file.write("\n")
    write_fingerprint(new, fingerprint)
