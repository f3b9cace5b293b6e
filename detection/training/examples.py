"""Images with their objects as a training step takes them: on one square, in one shape.

An example is a pure function of (seed, its number), so that a run that is resumed sees what an
unbroken one would have seen.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import tensorflow as tf
from absl import logging
from PIL import Image

from detection.coco import CocoError, masks
from detection.coco.dataset import Dataset, Record
from detection.training.options import DetectorOptions
from khuvcm_tf.data.readable import Readable

_LEAST_SIDE = 2.0  # pixels of a box that is trained on
_LEAST_VISIBLE = 0.3  # of a box's area, where the square cuts it


class Batch(NamedTuple):
  """B images of S x S pixels, with G objects each at most.

  Attributes:
    images: RGB, uint8 [B, S, S, 3].
    sizes: int32 [B, 2], height and width of what is not padding.
    boxes: float32 [B, G, 4], x1, y1, x2, y2 in pixels.
    classes: int32 [B, G], -1 of what is no object.
    masks: uint8 [B, G, S, S], 0 or 1; without a mask head [B, G, 1, 1].
    has_mask: bool [B, G].
    seed: int32 [B, 2], for what a step draws.
  """

  images: tf.Tensor
  sizes: tf.Tensor
  boxes: tf.Tensor
  classes: tf.Tensor
  masks: tf.Tensor
  has_mask: tf.Tensor
  seed: tf.Tensor


class Examples:
  """Draws examples from data sets.

  Args:
    datasets: with the same names of categories as far as they are asked for.
    categories: names of the classes.
    options: of the run.
    with_masks: whether masks are trained.

  Raises:
    CocoError: no image has an object of these categories.
  """

  def __init__(
    self,
    datasets: Sequence[Dataset],
    categories: Sequence[str],
    options: DetectorOptions,
    with_masks: bool,
  ):
    self._options, self._with_masks = options, with_masks
    self._records: list[tuple[Record, dict[int, int]]] = []
    for dataset in datasets:
      classes = {
        category.id: categories.index(category.name)
        for category in dataset.categories
        if category.name in categories
      }
      for record in dataset:
        if any(each["category_id"] in classes for each in _objects(record)):
          self._records.append((record, classes))
    if not self._records:
      raise CocoError(
        f"no training image has an object of {', '.join(categories[:5])}; expected some; give "
        "--categories that the data has"
      )
    self._readable = Readable(len(self._records), lambda number: self._records[number][0].read())
    # A random order of the records of each epoch; epochs come one after the other.
    self._order = functools.lru_cache(2)(
      lambda epoch: np.random.default_rng([options.seed, epoch]).permutation(len(self._records))
    )

  def __len__(self) -> int:
    return len(self._records)

  @property
  def has_masks(self) -> bool:
    """Whether some object has a mask."""
    return any("segmentation" in each for record, _ in self._records for each in _objects(record))

  def draw(self, number: int) -> Batch:
    """Returns example `number` of the run, as a batch without its first axis, of NumPy."""
    epoch, position = divmod(number, len(self._records))
    index, image = self._readable.get(int(self._order(epoch)[position]))
    rng = np.random.default_rng([self._options.seed, 1, number])
    return self._transformed(*self._records[index], image, rng)

  def _transformed(self, record: Record, classes: dict[int, int], image, rng) -> Batch:
    options, side = self._options, self._options.image_side
    fit = side / max(image.shape[:2]) * rng.uniform(options.min_scale, options.max_scale)
    height, width = (max(1, round(each * fit)) for each in image.shape[:2])
    scale = np.array([width / image.shape[1], height / image.shape[0]])
    # A window of the resized image where it is larger than the square.
    top, left = (int(rng.integers(0, max(1, each - side + 1))) for each in (height, width))
    flip = rng.random() < 0.5
    seed = rng.integers(0, 2**31, 2)
    high, wide = min(side, height - top), min(side, width - left)
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    window = np.asarray(resized)[top : top + high, left : left + wide]
    canvas = np.zeros((side, side, 3), np.uint8)
    canvas[:high, :wide] = window[:, ::-1] if flip else window

    limit, mask_side = options.max_objects, side if self._with_masks else 1
    boxes, class_of = np.zeros((limit, 4), np.float32), np.full(limit, -1, np.int32)
    drawn, has_mask = np.zeros((limit, mask_side, mask_side), np.uint8), np.zeros(limit, bool)
    found = []
    for each in _objects(record):
      if each["category_id"] in classes:
        x, y, w, h = each["bbox"]
        whole = np.array([x, y, x + w, y + h]) * np.tile(scale, 2) - [left, top, left, top]
        box = np.clip(whole, 0, [wide, high, wide, high])
        sides, whole_sides = box[2:] - box[:2], whole[2:] - whole[:2]
        visible = sides.prod() / max(whole_sides.prod(), 1e-9)
        if sides.min() >= _LEAST_SIDE and visible >= _LEAST_VISIBLE:
          found.append((sides.prod(), box, each))
    found.sort(key=lambda item: -item[0])
    for i, (_, box, each) in enumerate(found[:limit]):
      x1, y1, x2, y2 = box
      boxes[i] = (wide - x2, y1, wide - x1, y2) if flip else box
      class_of[i] = classes[each["category_id"]]
      if self._with_masks and "segmentation" in each:
        mask = _mask(each["segmentation"], record, (height, width))
        mask = mask[top : top + high, left : left + wide]
        drawn[i, :high, :wide] = mask[:, ::-1] if flip else mask
        has_mask[i] = True
    size = np.array([high, wide], np.int32)
    return Batch(canvas, size, boxes, class_of, drawn, has_mask, seed.astype(np.int32))

  def batches(self, first_step: int, shard: tuple[int, int]) -> tf.data.Dataset:
    """Returns the endless data set of batches from a step on; see `runs.task.Task.batches`."""
    options, (index, count) = self._options, shard
    per_shard = options.batch_size // count
    side, limit = options.image_side, options.max_objects
    mask_side = side if self._with_masks else 1
    shapes = Batch(
      (side, side, 3), (2,), (limit, 4), (limit,), (limit, mask_side, mask_side), (limit,), (2,)
    )
    types = Batch(tf.uint8, tf.int32, tf.float32, tf.int32, tf.uint8, tf.bool, tf.int32)

    def numbers(step):
      start = step * options.batch_size + index * per_shard
      return tf.data.Dataset.range(start, start + per_shard)

    def draw(number):
      values = tf.numpy_function(lambda n: tuple(self.draw(int(n))), [number], list(types))
      return Batch(*(tf.ensure_shape(value, shape) for value, shape in zip(values, shapes)))

    dataset = tf.data.Dataset.range(first_step, np.iinfo(np.int64).max).flat_map(numbers)
    dataset = dataset.map(draw, num_parallel_calls=2, deterministic=True)
    return dataset.batch(per_shard, drop_remainder=True).prefetch(2)

  def failures_named(self):
    """Returns a context in which `batches` ends in the error of `Readable` where it must end."""
    return self._readable.failures_named()


def _objects(record: Record) -> list[dict]:
  """Returns the objects of an image that stand alone; crowds are not trained on."""
  return [each for each in record.annotations if not each.get("iscrowd")]


def _mask(segmentation, record: Record, size: tuple[int, int]) -> np.ndarray:
  """Returns an object's mask in the resized image, uint8 [height, width] of `size`."""
  height, width = size
  if isinstance(segmentation, list):
    scale = np.array([width / record.width, height / record.height])
    polygons = [np.reshape(each, (-1, 2)) * scale for each in segmentation]
    rle = masks.from_segmentation([each.ravel().tolist() for each in polygons], height, width)
    return masks.decode(rle).astype(np.uint8)
  rle = masks.from_segmentation(segmentation, record.height, record.width)
  return cv2.resize(
    masks.decode(rle).astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT
  )


def load(options: DetectorOptions, datasets: Sequence[Dataset], with_masks: bool):
  """Returns the names of the classes and the examples that the options ask for.

  Raises:
    CocoError: a category that is asked for is in none of the data sets.
  """
  names = list(dict.fromkeys(each.name for dataset in datasets for each in dataset.categories))
  unknown = [name for name in options.categories if name not in names]
  if unknown:
    raise CocoError(
      f"--categories names {', '.join(unknown[:5])}, which the data has not; expected some of "
      f"{', '.join(names[:10])}"
    )
  categories = tuple(dict.fromkeys(options.categories or names))
  examples = Examples(datasets, categories, options, with_masks)
  logging.info("%d training images with objects of %d categories", len(examples), len(categories))
  if with_masks and not examples.has_masks:
    logging.warning("no object of the training images has a mask: the mask head is not trained")
  return categories, examples
