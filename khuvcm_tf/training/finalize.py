"""The end of a run: integers in place of floats, a check on real files, and the model's folder."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Sequence
from importlib import metadata

import tensorflow as tf
from absl import logging

from khuvcm_tf import (
  __version__,
  bitstream,
  codecs,
  coding,
  errors,
  model_files,
  model_folders,
)
from khuvcm_tf.codecs import codec as codec_lib
from khuvcm_tf.data.stored_features import ImageFeatures
from khuvcm_tf.model_inputs import Input
from khuvcm_tf.training.inputs import Inputs
from khuvcm_tf.training.options import CodecOptions

# Real files may exceed the tables' estimate by this share and this many bytes (header, ends).
_EXCESS_SHARE = 0.01
_EXCESS_BYTES = 64
_IMAGES_CHECKED = 4

# Options that the description has under other names, and paths of the machine.
_NOT_IN_TRAINING = (
  "workdir",
  "codec",
  "arguments",
  "lmbda",
  "lambda_range",
  "distortion",
  "train_images",
  "validation_images",
  "train_features",
  "validation_features",
)


class FinalizeError(errors.Error):
  """A model whose files are not what its tables say."""


def finalize(
  options: CodecOptions,
  trained: codec_lib.Codec,
  step: int,
  inputs: Inputs,
) -> str:
  """Converts a trained codec to integers, checks it on real files and writes its folder.

  Args:
    options: of the run.
    trained: its codec, with the weights to keep.
    step: steps that the run has made.
    inputs: what it was trained on; those of validation serve calibration and the check.

  Returns:
    The folder of the model, WORKDIR/model.

  Raises:
    coding.ModelError: integers would cost too much.
    FinalizeError: real bytes and the estimate disagree.
  """
  # Built anew: the trained one may live in a strategy's scope, or have a mixed precision.
  codec = codecs.create(options.codec, **options.arguments)
  codec.assign_weights({name: value.numpy() for name, value in trained.named_weights().items()})
  folder = os.path.join(options.workdir, "model")
  description = _description(options, step, inputs)
  model = model_files.save(folder, codec, description, inputs.validation, options.weights_dtype)
  loss = model.description["integer_loss"]
  logging.info("integers in place of floats change the bits by %+.3f %%", 100 * loss)
  check(model, inputs.validation[:_IMAGES_CHECKED])
  return folder


def check(model: coding.Model, images: Sequence[Input]) -> None:
  """Raises FinalizeError unless files decode, and are as long as the estimate says.

  Of a model of several rates these are files of the lowest, the default and the highest quality.
  """
  one_rate = model.codec.num_qualities is None
  qualities = (None,) if one_rate else (0.0, None, float(bitstream.MAX_QUALITY))
  for image, quality in itertools.product(images, qualities):
    data = model.compress(image, quality)
    estimate = sum(model.estimate(image, quality).values()) / 8
    most = (1 + _EXCESS_SHARE) * estimate + _EXCESS_BYTES
    if not estimate <= len(data) <= most:
      raise FinalizeError(
        f"a file has {len(data)} bytes, expected {estimate:.0f} to {most:.0f} by its estimate; "
        "this is a bug: please report it"
      )
    if _size(model.decompress(data)) != _size(image):
      raise FinalizeError("a file decodes to another size than its image's; please report it")


def _size(image: Input) -> tuple[int, ...]:
  return image.image_size if isinstance(image, ImageFeatures) else image.shape


def _description(options: CodecOptions, step: int, inputs: Inputs) -> dict[str, object]:
  several_rates = {"default_quality": model_folders.DEFAULT_QUALITY} if options.lambda_range else {}
  return {
    "codec": options.codec,
    "arguments": options.arguments,
    "lambda": options.lambda_range or options.lmbda,
    **several_rates,
    "distortion": options.distortion,
    "steps": step,
    "data": inputs.text,
    **({"detector": inputs.detector} if inputs.detector else {}),
    "training": {
      name: value
      for name, value in dataclasses.asdict(options).items()
      if name not in _NOT_IN_TRAINING
    },
    "versions": {
      "khuvcm_tf": __version__,
      "tensorflow": tf.__version__,
      "tensorflow_compression": metadata.version("tensorflow-compression"),
    },
  }
