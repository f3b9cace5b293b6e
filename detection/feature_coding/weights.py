"""How much the detector's loss changes with an error of each channel of each level.

An error e of the features changes the loss by g e + ..., g its gradient; over many errors of mean 0
and of images, by about half of E[g^2] e^2 (the Gauss-Newton approximation of the loss's curvature:
a detector that is trained has gradients of mean 0). So E[g^2] of a channel is the weight of its
squared error, and a codec that is trained on maps which are scaled by the root of it minimizes the
weighted error by its plain MSE.

Source: L. Theis, I. Korshunova, A. Tejani, F. Huszar: Faster gaze prediction with dense networks
and Fisher pruning. 2018. https://arxiv.org/abs/1801.05787 (section 2.1).
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import tqdm

from detection import predictor
from detection.coco import sources
from detection.feature_coding.options import WeightOptions
from detection.training.examples import Batch, Examples
from detection.training.model import DetectorModel
from detection.training.options import DetectorOptions
from khuvcm_tf import atomic_files
from khuvcm_tf.ops.pyramid import BOX_LEVELS
from khuvcm_tf.options import check

# Of the mean weight: less would let a channel's errors grow without bounds.
_LEAST_WEIGHT = 0.01


def write(options: WeightOptions) -> str:
  """Writes the .npz file that --normalization takes; returns a table of the levels' weights.

  Raises:
    errors.Error: the detector or the data cannot be used, or the file not be written.
  """
  check(options)
  dataset, model = sources.load(options), predictor.load(options.detector)
  config, first = model.detector.config, dataset.records[0]
  seen = predictor.resized_shape(first.height, first.width, config.short_side, config.max_side)
  side = -(-max(seen) // 64) * 64
  fit = max(seen) / side
  drawn = DetectorOptions(
    workdir=".",
    init_from=options.detector,
    train_annotations=(options.detector,),
    train_images=(options.detector,),
    validation_dataset="none",
    image_side=side,
    min_scale=fit,
    max_scale=fit,
  )
  with_masks = config.masks and dataset.has_masks
  examples = Examples([dataset], model.categories, drawn, with_masks)
  training = DetectorModel(model.detector, drawn)
  squared = _mean_squared_gradients(training, examples)
  weights = np.stack([squared[level] for level in BOX_LEVELS])
  if options.by == "level":
    weights = np.broadcast_to(weights.mean(1, keepdims=True), weights.shape)
  elements = 0.25 ** np.arange(len(BOX_LEVELS))  # of a level, against those of P2
  mean = np.average(weights.mean(1), weights=elements)
  weights = np.maximum(weights / mean, _LEAST_WEIGHT)
  path = options.output
  with atomic_files.new_file(path) as new, open(new, "wb") as file:
    np.savez(file, offset=np.zeros_like(weights), scale=np.sqrt(weights))
  lines = [
    f"{level}: mean weight {row.mean():.3g}, of channels {row.min():.3g} to {row.max():.3g}"
    for level, row in zip(BOX_LEVELS, weights)
  ]
  return "\n".join([*lines, f"{len(examples)} images; written to {path}"])


def _mean_squared_gradients(model: DetectorModel, examples: Examples) -> dict[str, np.ndarray]:
  """Returns E[g^2] of each level's channels, float64 [C], over all examples."""
  detector = model.detector

  @tf.function(autograph=False)
  def gradients(batch: Batch):
    features = detector.extract_features(batch.images, batch.sizes)
    levels = [features[level] for level in BOX_LEVELS]
    with tf.GradientTape() as tape:
      tape.watch(levels)
      given = dict(zip(BOX_LEVELS, levels))
      given["p6"] = given["p5"][:, ::2, ::2]
      loss = model.losses_of(given, batch)["loss"]
    found = tape.gradient(loss, levels)
    return [tf.reduce_mean(tf.square(each), axis=(0, 1, 2)) for each in found]

  sums = {level: 0.0 for level in BOX_LEVELS}
  for number in tqdm.tqdm(range(len(examples)), unit="image", disable=None):
    example = examples.draw(number)
    found = gradients(Batch(*(tf.constant(each[np.newaxis]) for each in example)))
    for level, each in zip(BOX_LEVELS, found):
      sums[level] = sums[level] + each.numpy().astype(np.float64)
  return {level: value / len(examples) for level, value in sums.items()}
