"""The end of a run: integers in place of floats, a check on real files, and the model's folder."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from importlib import metadata

import numpy as np
import tensorflow as tf
from absl import logging

import khuvcm_tf
from khuvcm_tf import codecs, coding, errors, model_files

# Real files may exceed the tables' estimate by this share and this many bytes (header, ends).
_SHARE = 0.01
_BYTES = 64
_CHECKED = 4

# Fields of a recipe that the description has under other names, and paths of the machine.
_ELSEWHERE = (
  "workdir",
  "codec",
  "arguments",
  "rate_distortion",
  "distortion",
  "train_images",
  "validation_images",
)


class FinishError(errors.Error):
  """A model whose files are not what its tables say."""


def finish(
  recipe, trained: tf.keras.Model, step: int, data: str, pictures: Sequence[np.ndarray]
) -> str:
  """Converts a trained codec to integers, checks it on real files and writes its folder.

  Args:
    recipe: `recipe.Recipe` of the run.
    trained: its codec, with the weights to keep.
    step: that these weights were reached at.
    data: what it was trained on, in words.
    pictures: uint8 [H, W, 3], for calibration and the check.

  Returns:
    The folder of the model, WORKDIR/model.

  Raises:
    coding.ModelError: integers would cost too much.
    FinishError: real bytes and the estimate disagree.
  """
  # Built anew: the trained one may live in a strategy's scope, or have a mixed precision.
  codec = codecs.create(recipe.codec, **recipe.arguments)
  codec.assign_weights({name: value.numpy() for name, value in trained.named_weights().items()})
  folder = os.path.join(recipe.workdir, "model")
  model = model_files.save(
    folder, codec, _description(recipe, step, data), pictures, recipe.weights_dtype
  )
  loss = model.description["integer_loss"]
  logging.info("integers in place of floats change the bits by %+.3f %%", 100 * loss)
  check(model, pictures[:_CHECKED])
  return folder


def check(model: coding.Model, pictures: Sequence[np.ndarray]) -> None:
  """Raises FinishError unless files decode, and are as long as the estimate says."""
  for picture in pictures:
    data = model.compress(picture)
    estimate = sum(model.estimate(picture).values()) / 8
    if not estimate <= len(data) <= (1 + _SHARE) * estimate + _BYTES:
      raise FinishError(
        f"a file has {len(data)} bytes, expected {estimate:.0f} to "
        f"{(1 + _SHARE) * estimate + _BYTES:.0f} by its estimate; this is a bug: please report it"
      )
    if model.decompress(data).shape != picture.shape:
      raise FinishError("a file decodes to another size than its picture's; please report it")


def _description(recipe, step: int, data: str) -> dict[str, object]:
  return {
    "codec": recipe.codec,
    "arguments": recipe.arguments,
    "lambda": recipe.rate_distortion,
    "distortion": recipe.distortion,
    "steps": step,
    "data": data,
    "training": {
      name: value for name, value in dataclasses.asdict(recipe).items() if name not in _ELSEWHERE
    },
    "versions": {
      "khuvcm_tf": khuvcm_tf.__version__,
      "tensorflow": tf.__version__,
      "tensorflow_compression": metadata.version("tensorflow-compression"),
    },
  }
