"""From a resized image to the original: boxes in its pixels, and masks of its size.

Source: `detectron2/modeling/postprocessing.py`, `detectron2/layers/mask_ops.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from detection import boxes as boxes_lib
from detection.box_head import Detections


class Objects(NamedTuple):
  """What was detected in one image, best first.

  Attributes:
    boxes: float32 [n, 4], x1, y1, x2, y2 in the image's pixels.
    scores: float32 [n], 0..1.
    classes: int32 [n].
    masks: bool [n, H, W]; None without a mask head.
  """

  boxes: tf.Tensor
  scores: tf.Tensor
  classes: tf.Tensor
  masks: tf.Tensor | None = None


def to_original(
  detections: Detections, number: int, image_size: tf.Tensor, original_size: tf.Tensor
) -> Objects:
  """Returns the objects of one image, in pixels of the original.

  Args:
    detections: of a batch of resized images.
    number: of the image in the batch.
    image_size: int32 [2], height and width of the resized image without padding.
    original_size: int32 [2], height and width of the original.
  """
  objects = scale_boxes(detections, number, image_size, original_size)
  if objects.masks is None:
    return objects
  return objects._replace(masks=paste(objects.masks, objects.boxes, original_size))


def scale_boxes(
  detections: Detections, number: int, image_size: tf.Tensor, original_size: tf.Tensor
) -> Objects:
  """Returns what `to_original` does, but masks as probabilities over each box, [n, M, M]."""
  count = detections.count[number]
  ratio = tf.cast(original_size, tf.float32) / tf.cast(image_size, tf.float32)
  boxes = detections.boxes[number, :count] * tf.gather(ratio, [1, 0, 1, 0])
  boxes = boxes_lib.clip(boxes, original_size)
  kept = tf.where(boxes_lib.are_nonempty(boxes))[:, 0]
  boxes = tf.gather(boxes, kept)
  masks = None
  if detections.masks is not None:
    masks = tf.gather(detections.masks[number, :count], kept)
  scores = tf.gather(detections.scores[number, :count], kept)
  return Objects(boxes, scores, tf.gather(detections.classes[number, :count], kept), masks)


def paste(masks: tf.Tensor, boxes: tf.Tensor, image_size: tf.Tensor) -> tf.Tensor:
  """Returns where the objects are, at a probability of 1/2 and above.

  A pixel's probability is sampled bilinearly where its centre lies in the box. Beyond the mask's
  outer elements it fades to 0 over half an element.

  Args:
    masks: float32 [n, M, M], probabilities over each box.
    boxes: float32 [n, 4], in pixels.
    image_size: int32 [2], height and width of the image.

  Returns:
    bool [n, height, width].
  """

  def paste_one(mask_and_box):
    mask, box = mask_and_box
    rows = _weights(box[1], box[3], mask.shape[0], image_size[0])
    columns = _weights(box[0], box[2], mask.shape[1], image_size[1])
    return tf.matmul(tf.matmul(rows, mask), columns, transpose_b=True) >= 0.5

  spec = tf.TensorSpec([None, None], tf.bool)
  return tf.cond(
    tf.shape(masks)[0] > 0,
    lambda: tf.map_fn(paste_one, (masks, boxes), fn_output_signature=spec),
    lambda: tf.zeros([0, image_size[0], image_size[1]], tf.bool),
  )


def _weights(start: tf.Tensor, end: tf.Tensor, count: int, length: tf.Tensor) -> tf.Tensor:
  """Returns the weights of a mask's rows (or columns) at those of an image: [length, count]."""
  centres = tf.range(tf.cast(length, tf.float32)) + 0.5
  position = (centres - start) / (end - start) * count - 0.5
  distance = tf.abs(position[:, tf.newaxis] - tf.range(count, dtype=tf.float32))
  return tf.maximum(0.0, 1.0 - distance)
