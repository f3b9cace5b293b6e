"""A detector as the task of a run: from images with objects to a detector's folder."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import tensorflow as tf
from absl import logging

from detection import detector_files, drawing, trunks
from detection.coco import detections as detections_lib
from detection.coco import evaluation, run, sources
from detection.coco.dataset import Dataset
from detection.coco.options import DatasetOptions
from detection.config import Config, ConfigError
from detection.detector import Detector
from detection.predictor import Predictor
from detection.training import examples as examples_lib
from detection.training import model as model_lib
from detection.training.options import DetectorOptions
from khuvcm_tf.options import OptionsError
from khuvcm_tf.results import provenance
from khuvcm_tf.runs import checkpoints, loop
from khuvcm_tf.runs import task as task_lib

_IMAGES_SHOWN = 4
_LEAST_SCORE_SHOWN = 0.5


def train(options: DetectorOptions) -> str | None:
  """Trains a detector to `max_steps`, from the last checkpoint in `workdir` on if there is one.

  Returns:
    The folder of the detector; None in workers that are not the chief.

  Raises:
    errors.Error: what the caller can mend.
  """
  return loop.train(options, lambda: DetectorTask(options))


class DetectorTask(task_lib.Task):
  """A detector, its training images and its validation images.

  Args:
    options: of the run.
  """

  def __init__(self, options: DetectorOptions):
    self._options = options
    datasets = training_datasets(options)
    start = detector_files.read_config(options.init_from) if options.init_from else None
    has_masks = bool(options.arguments.get("masks", start.masks if start else False))
    self.categories, self._examples = examples_lib.load(options, datasets, has_masks)
    self.detector = Detector(make_config(options, start, len(self.categories)))
    if not checkpoints.exist(options.workdir):
      assign_first_weights(options, self.detector)
    for name in options.frozen:
      for layer in _layers(self.detector, name):
        layer.trainable = False
    self.model = model_lib.DetectorModel(self.detector, options)
    self._validation = validation_dataset(options)
    self._category_ids = run.match(self.categories, self._validation)
    for record in self._validation:
      record.read()  # What is damaged is named now, not when the first validation comes.
    self._predictor = Predictor(self.detector, self.categories)

  @property
  def checkpointed(self):
    return {"detector": self.detector}

  def batches(self, first_step, shard):
    return self._examples.batches(first_step, shard)

  def failures_named(self):
    return self._examples.failures_named()

  def validate(self, step, writer):
    """Returns COCO's numbers of boxes, and of masks; "loss" is 1 - AP, so that the best is kept.

    Shows the detections of some images.
    """
    found, category_ids = [], self._category_ids
    for number, record in enumerate(self._validation):
      image = record.read()
      objects = self._predictor(image)
      found += detections_lib.to_coco(
        objects, record.image_id, record.height, record.width, category_ids
      )
      if number < _IMAGES_SHOWN:
        seen = int((objects.scores >= _LEAST_SCORE_SHOWN).sum())
        shown = type(objects)(*(None if each is None else each[:seen] for each in objects))
        drawn = np.asarray(drawing.draw(image, shown, self.categories))
        writer.image(step, f"validation/{number}", drawn)
    numbers = evaluation.evaluate(
      self._validation.ground_truth,
      found,
      category_ids=set(category_ids.values()),
      with_masks=self.detector.config.masks and self._validation.has_masks,
    )
    metrics = {name: value for name, value in numbers.items() if isinstance(value, float)}
    # AP is nan where the validation images have no object.
    return {"loss": 1.0 - np.nan_to_num(metrics["ap"]), **metrics}

  def summary(self, metrics):
    if "ap50" in metrics:
      return "AP {ap:.3f}, AP50 {ap50:.3f}".format_map(metrics)
    return f"loss {metrics['loss']:.3f}"

  def finalize(self, step):
    folder = os.path.join(self._options.workdir, "detector")
    description = {
      "training": {
        "steps": step,
        "images": len(self._examples),
        "options": _described(self._options),
        "date": provenance.describe()["date"],
        "commit": provenance.commit(),
        "machine": provenance.machine(),
      }
    }
    detector_files.save(
      folder, self.detector, self.categories, description, self._options.weights_dtype
    )
    return folder


def _described(options: DetectorOptions) -> dict[str, object]:
  """Returns the options without folders, of which others know nothing: files by their names."""
  values = dataclasses.asdict(options)
  for name in ("workdir", "data_dir", "train_images", "validation_images"):
    del values[name]
  for name in ("init_from", "trunk_weights", "validation_annotations"):
    values[name] = values[name] and os.path.basename(values[name])
  values["train_annotations"] = [os.path.basename(each) for each in values["train_annotations"]]
  return values


def training_datasets(options: DetectorOptions) -> list[Dataset]:
  """Returns the data sets that the options name."""
  if options.train_dataset:
    name, _, split = options.train_dataset.partition(":")
    given = DatasetOptions(dataset=name, split=split or "train", data_dir=options.data_dir)
    return [sources.load(given)]
  return [
    sources.load(DatasetOptions(annotations=annotations, images=images))
    for annotations, images in zip(options.train_annotations, options.train_images)
  ]


def validation_dataset(options: DetectorOptions) -> Dataset:
  """Returns the data set to validate on, of `validation_limit` images."""
  if options.validation_dataset:
    name, _, split = options.validation_dataset.partition(":")
    return sources.load(
      DatasetOptions(
        dataset=name,
        split=split or "validation",
        data_dir=options.data_dir,
        limit=options.validation_limit,
      )
    )
  return sources.load(
    DatasetOptions(
      annotations=options.validation_annotations,
      images=options.validation_images,
      limit=options.validation_limit,
    )
  )


def make_config(options: DetectorOptions, start: Config | None, num_classes: int) -> Config:
  """Returns the config that the options ask for.

  Without another detector to start from, and unless the options say otherwise, images are resized
  for validation and later so that their long side is that of a training image.

  Raises:
    OptionsError: an argument is no field of a config, or its value does not fit.
  """
  fields = {**options.arguments, "num_classes": num_classes}
  if options.arguments.get("num_classes", num_classes) != num_classes:
    raise OptionsError(
      f"found --argument=num_classes={options.arguments['num_classes']}, expected {num_classes}, "
      "the number of categories; drop it, and choose by --categories"
    )
  side = {"short_side": options.image_side, "max_side": options.image_side}
  try:
    return Config.from_json({**(start.to_json() if start else side), **fields})
  except ConfigError as error:
    raise OptionsError(f"--argument: {error}; `Config` in detection/config.py lists all") from error


def assign_first_weights(options: DetectorOptions, detector: Detector) -> None:
  """Gives a detector what it starts with, where names and shapes agree.

  Raises:
    OptionsError: nothing agrees.
  """
  values = {}
  if options.trunk_weights:
    trunk = trunks.nanodet_g_weights(options.trunk_weights)
    values.update({f"backbone.bottom_up.{name}": value for name, value in trunk.items()})
  if options.init_from:
    values.update(detector_files.read_weights(options.init_from))
  if not values:
    return
  weights = detector.named_weights()
  taken = [
    name
    for name, weight in weights.items()
    if name in values and tuple(weight.shape) == values[name].shape
  ]
  if not taken:
    raise OptionsError(
      f"{options.init_from or options.trunk_weights} has none of this detector's weights, expected "
      "one of the same backbone; check --argument"
    )
  for name in taken:
    weights[name].assign(tf.cast(values[name], tf.float32))
  logging.info("starts with %d of %d weights", len(taken), len(weights))


def _layers(detector: Detector, name: str) -> list[tf.keras.layers.Layer]:
  """Returns the layers that a name leads to: one, or the blocks of a stage as res2 of a ResNet.

  Raises:
    OptionsError: it leads to none.
  """
  found = detector
  try:
    for part in name.split("."):
      found = found[int(part)] if isinstance(found, (list, tuple)) else getattr(found, part)
  except (AttributeError, IndexError, ValueError):
    found = None
  found = list(found) if isinstance(found, (list, tuple)) else [found]
  if not all(isinstance(each, tf.keras.layers.Layer) for each in found):
    raise OptionsError(f"--frozen={name} leads to no layer, expected one as in backbone.bottom_up")
  return found
