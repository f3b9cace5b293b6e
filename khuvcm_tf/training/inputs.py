"""What a codec is trained and validated on: images, or features of a detector."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from khuvcm_tf import errors
from khuvcm_tf.codecs import input_format as input_format_lib
from khuvcm_tf.data import feature_files, pipeline
from khuvcm_tf.data.image_cache import ImageCache
from khuvcm_tf.model_inputs import Input
from khuvcm_tf.ops.pyramid import BOX_LEVELS
from khuvcm_tf.options import OptionsError
from khuvcm_tf.runs import checkpoints
from khuvcm_tf.training.options import CodecOptions

# From which the numbers of a normalization are taken, at most.
_NORMALIZED_BY = 64


class Inputs(NamedTuple):
  """What a run trains and validates on.

  Attributes:
    training: examples to crop.
    validation: whole inputs, as `coding.Model.compress` takes them.
    text: says how many there are.
    detector: that the features are of, its fingerprint; None of images.
  """

  training: pipeline.TrainingImages
  validation: list[Input]
  text: str
  detector: str | None = None


def load(options: CodecOptions, form: input_format_lib.InputFormat) -> Inputs:
  """Finds what the options name.

  Args:
    options: of the run.
    form: of the codec; the normalization of one of features is set here, where a run begins.

  Raises:
    errors.Error: there is nothing, or it is not of the codec's kind.
  """
  if bool(options.train_features) == form.has_images:
    expected = "--train_images or --train_tfds" if form.has_images else "--train_features"
    raise OptionsError(f"expected {expected} for codec {options.codec}; give it")
  if form.has_images:
    training, validation = _images(options)
    text = f"{len(training.names)} training images, {len(validation)} for validation"
    return Inputs(training, validation, text)
  return _features(options, form)


def _images(options: CodecOptions):
  """Returns training images, and a list of validation images, uint8 [H, W, 3]."""
  cache = int(options.cache_gib * 2**30)
  if options.train_tfds:
    images = pipeline.load_tfds(options.train_tfds, options.crop_size, cache)
  else:
    images = pipeline.load(options.train_images, options.crop_size, cache)
  if options.validation_images:
    return images, pipeline.load_whole(options.validation_images, options.validation_limit)
  if options.eval_tfds:
    return images, pipeline.load_tfds_validation(options.eval_tfds, options.validation_limit)
  return pipeline.held_out(images, options.validation_limit)


def _features(options: CodecOptions, form: input_format_lib.FeatureMaps) -> Inputs:
  found = feature_files.open_features(options.train_features)
  first = found.metadata[0]
  made_by = first.fingerprint, first.channels
  if first.channels != form.channels:
    raise OptionsError(
      f"{options.train_features} has features of {first.channels} channels, expected "
      f"{form.channels}; give --argument=channels={first.channels}"
    )
  if options.validation_features:
    held = feature_files.open_features(options.validation_features, made_by)
    training, validation = list(range(len(found))), held[: options.validation_limit]
  else:
    aside = list(range(0, len(found), 20))[: options.validation_limit]
    training = [number for number in range(len(found)) if number not in aside] or aside
    validation = [found[number] for number in aside]
  usable = [
    number
    for number in training
    if min(form.canvas_size(found.metadata[number].image_size, BOX_LEVELS)) >= options.crop_size
  ]
  if not usable:
    raise OptionsError(
      f"no canvas of {options.train_features} has sides of --crop_size={options.crop_size} or "
      "more; give a smaller one"
    )
  is_new = not checkpoints.exist(options.workdir)
  if is_new and (options.normalization != "none" or not options.init_from):
    step = -(-len(usable) // _NORMALIZED_BY)
    sample = [found[number].features.levels for number in usable[::step]]
    form.normalization.set(*_normalization(options.normalization, sample, form.channels))
  examples = pipeline.TrainingImages(
    [found.metadata[number].name for number in usable],
    lambda number: form.example(found[usable[number]].features),
    ImageCache(int(options.cache_gib * 2**30)),
    channels=form.example_channels,
    dtype=form.example_dtype,
    flips=False,  # A mirrored canvas has its tiles in another order.
  )
  text = f"features of {len(usable)} photos, {len(validation)} for validation"
  return Inputs(examples, [each.features for each in validation], text, first.fingerprint)


def _normalization(kind: str, sample: list[dict[str, np.ndarray]], channels: int):
  """Returns offset and scale, float32 [4, channels] each.

  Args:
    kind: as --normalization has it.
    sample: levels of some photos.
    channels: C.
  """
  shape = len(BOX_LEVELS), channels
  if kind == "none":
    return np.zeros(shape), np.ones(shape)
  if kind == "unit":
    values = [each[level] for each in sample for level in BOX_LEVELS]
    low, high = min(each.min() for each in values), max(each.max() for each in values)
    return np.full(shape, low), np.full(shape, 1.0 / max(high - low, 1e-9))
  if kind == "standard":
    rows = [
      np.concatenate([each[level].reshape(-1, channels) for each in sample]) for level in BOX_LEVELS
    ]
    deviations = np.stack([np.std(each, axis=0, dtype=np.float64) for each in rows])
    means = np.stack([np.mean(each, axis=0, dtype=np.float64) for each in rows])
    return means, 1.0 / np.maximum(deviations, 1e-6)
  return _from_file(kind, shape)


def _from_file(path: str, shape: tuple[int, int]):
  try:
    with np.load(path, allow_pickle=False) as arrays:
      offset, scale = (np.asarray(arrays[name], np.float64) for name in ("offset", "scale"))
  except Exception as error:  # numpy and zipfile raise whatever damage leads them to.
    raise OptionsError(
      f"--normalization={path} is none of none, unit and standard, nor an .npz file with offset "
      f"and scale: {errors.reason(error)}; see bin/feature_weights.py"
    ) from error
  if offset.shape != shape or scale.shape != shape or not (scale > 0).all():
    raise OptionsError(
      f"{path} holds offset {list(offset.shape)} and scale {list(scale.shape)}, expected "
      f"{list(shape)} each, scales above 0"
    )
  return offset, scale
