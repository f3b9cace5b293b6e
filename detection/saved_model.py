"""Detectors as SavedModels, which run without this package: a process needs TensorFlow alone.

  import tensorflow as tf
  model = tf.saved_model.load(folder)
  found = model.signatures["detect"](
    images=images, image_sizes=image_sizes, original_sizes=original_sizes
  )

Signature          Inputs                                      Outputs
detect             images, image_sizes, original_sizes         boxes, scores, classes, count, masks
extract_features   images, image_sizes                         p2 ... p6
from_features      p2 ... p6, image_sizes, original_sizes      as `detect`
paste_masks        masks, boxes, image_size                    pasted

  images           uint8 [B, H, W, 3], RGB, resized already; beyond an image's size of any value
  image_sizes      int32 [B, 2], height and width of each image in the batch
  original_sizes   int32 [B, 2], height and width before it was resized
  p2 ... p6        float32 [B, H / stride, W / stride, C]
  boxes            float32 [B, D, 4], x1, y1, x2, y2 in pixels of the original
  scores, classes  float32 and int32 [B, D], best first; classes are indices into the categories
  count            int32 [B], how many of the D are detections; the rest are zeros
  masks            float32 [B, D, 28, 28], the object's probability over its box
  pasted           bool [n, height, width], of masks [n, 28, 28] and boxes [n, 4] of one image of
                   image_size int32 [2]: where the objects are

masks and paste_masks are there where the detector has masks. Resizing is left to the caller, as
libraries differ in it by a level: the detector was measured with Pillow's bilinear filter, the
short side `short_side`, the long side at most `max_side`. These and the names of the categories
stand in the folder's `export.json`. Results are the bits that `Predictor` gives.
"""

from __future__ import annotations

import json
import os

import tensorflow as tf

from detection import postprocessing
from detection.box_head import Detections
from detection.predictor import Predictor
from khuvcm_tf import paths, saved_model
from khuvcm_tf.ops.pyramid import LEVELS

DESCRIPTION = "export.json"

_IMAGES = tf.TensorSpec([None, None, None, 3], tf.uint8, "images")
_IMAGE_SIZES = tf.TensorSpec([None, 2], tf.int32, "image_sizes")
_ORIGINAL_SIZES = tf.TensorSpec([None, 2], tf.int32, "original_sizes")


def export(predictor: Predictor, folder: str) -> None:
  """Writes a SavedModel with the signatures of this module's docstring.

  Args:
    predictor: a detector, its categories and its fingerprint.
    folder: to write; must not exist, or be empty.

  Raises:
    model_folders.ModelError: the folder is in use.
    atomic_files.FileError: the folder cannot be written.
  """
  module = tf.Module()
  module.weights = list(predictor.detector.named_weights().values())
  description = {
    "fingerprint": predictor.fingerprint,
    "categories": list(predictor.categories),
    "config": predictor.detector.config.to_json(),
  }
  with saved_model.new_folder(folder) as new:
    signatures = _signatures(predictor.detector)
    tf.saved_model.save(module, paths.for_tensorflow(new), signatures=signatures)
    with open(os.path.join(new, DESCRIPTION), "w", encoding="utf-8") as file:
      json.dump(description, file, indent=2)
      file.write("\n")


def _signatures(detector) -> dict[str, object]:
  channels = detector.config.fpn_channels
  levels = [tf.TensorSpec([None, None, None, channels], tf.float32, level) for level in LEVELS]

  def detect(images, image_sizes, original_sizes):
    return outputs(detector(images, image_sizes), image_sizes, original_sizes)

  def from_features(p2, p3, p4, p5, p6, image_sizes, original_sizes):
    features = dict(zip(LEVELS, (p2, p3, p4, p5, p6)))
    return outputs(detector.from_features(features, image_sizes), image_sizes, original_sizes)

  signatures = {
    "detect": _signature(detect, _IMAGES, _IMAGE_SIZES, _ORIGINAL_SIZES),
    "extract_features": _signature(detector.extract_features, _IMAGES, _IMAGE_SIZES),
    "from_features": _signature(from_features, *levels, _IMAGE_SIZES, _ORIGINAL_SIZES),
  }
  if detector.config.masks:
    side = 2 * detector.config.mask_pool_size
    signatures["paste_masks"] = _signature(
      lambda masks, boxes, image_size: {"pasted": postprocessing.paste(masks, boxes, image_size)},
      tf.TensorSpec([None, side, side], tf.float32, "masks"),
      tf.TensorSpec([None, 4], tf.float32, "boxes"),
      tf.TensorSpec([2], tf.int32, "image_size"),
    )
  return signatures


def _signature(function, *specs: tf.TensorSpec):
  return tf.function(function, specs, autograph=False).get_concrete_function()


def outputs(
  detections: Detections, image_sizes: tf.Tensor, original_sizes: tf.Tensor
) -> dict[str, tf.Tensor]:
  """Returns the outputs of a signature: of each image what `postprocessing.scale_boxes` gives."""
  limit = detections.boxes.shape[1]
  given = {name: value for name, value in detections._asdict().items() if value is not None}

  def scale(inputs):
    objects = postprocessing.scale_boxes(detections, *inputs)
    count = tf.shape(objects.boxes)[0]
    found = {
      name: tf.pad(value, [[0, limit - count], *[[0, 0]] * (value.shape.rank - 1)])
      for name, value in objects._asdict().items()
      if value is not None
    }
    return {**found, "count": count}

  numbers = tf.range(tf.shape(detections.boxes)[0])
  spec = {name: tf.TensorSpec(value.shape[1:], value.dtype) for name, value in given.items()}
  return tf.map_fn(scale, (numbers, image_sizes, original_sizes), fn_output_signature=spec)
