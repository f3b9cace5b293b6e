"""Training crops as a pure function of (seed, step), so that a run goes on where it was killed.

Example n of the whole run (n = step * batch size + position in the batch) is a crop of image
permutation_e(n mod N), where e = n // N is the epoch and N the number of images; scale, position
and flip are drawn from the stateless seed (seed, n). For codecs of several rates it has one draw
more, from a seed of its own, which chooses its quality (`training_draws`).

Images are decoded when they are drawn; at the start only their headers are read. Neither the size
of the cache nor the number of threads changes a batch.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import threading
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
import tqdm
from absl import logging

from khuvcm_tf import errors
from khuvcm_tf.data import DataError, image_files, tfds_images
from khuvcm_tf.data.image_cache import ImageCache
from khuvcm_tf.data.readable import Readable

_HEADER_THREADS = 16  # headers wait for the disk or the network, seldom for the processor
_HEADERS_AT_ONCE = 256
# Decoding takes up to 15 bytes for each pixel, those of the result among them, and machines with
# many cores would take them for as many images.
_DECODED_AT_ONCE = 8


@dataclasses.dataclass(frozen=True)
class TrainingImages:
  """Images that a pipeline draws from.

  Attributes:
    names: of the images, for messages.
    decode: number (index into `names`) -> [H, W, channels] of `dtype`; raises errors.Error. Many
      threads call it at once.
    cache: decoded images that are kept; one without room where None.
    channels, dtype: of what `decode` returns.
    flips: whether half of the crops are mirrored, left to right.
  """

  names: Sequence[str]
  decode: Callable[[int], np.ndarray]
  cache: ImageCache = dataclasses.field(default_factory=lambda: ImageCache(0))
  channels: int = 3
  dtype: str = "uint8"
  flips: bool = True

  @functools.cached_property
  def readable(self) -> Readable[np.ndarray]:
    """The images that can be decoded, in place of those that cannot."""
    return Readable(len(self.names), self._cached)

  def subset(self, numbers: Sequence[int]) -> TrainingImages:
    """Returns some of the images, in the order of `numbers`, with an empty cache of equal size."""
    numbers = np.asarray(numbers, np.int64)
    return dataclasses.replace(
      self,
      names=[self.names[number] for number in numbers],
      decode=lambda number: self.decode(int(numbers[number])),
      cache=ImageCache(self.cache.max_bytes),
    )

  @functools.cached_property
  def _room(self) -> threading.Semaphore:
    return threading.Semaphore(_DECODED_AT_ONCE)

  def _cached(self, number: int) -> np.ndarray:
    image = self.cache.get(number)
    if image is None:
      with self._room:
        image = self.decode(number)
      self.cache.add(number, image)
    return image


def from_arrays(names: Sequence[str], arrays: Sequence[np.ndarray]) -> TrainingImages:
  """Returns decoded uint8 [H, W, 3] images of any sizes as images to train on."""
  return TrainingImages(list(names), arrays.__getitem__)


def to_rgb(image: np.ndarray) -> np.ndarray:
  """Expands grey [H, W, 1] to RGB [H, W, 3]."""
  return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image


def load(pattern: str, crop_size: int, cache_bytes: int) -> TrainingImages:
  """Finds images in files.

  Reads all headers, and decodes only those images for which the header and the end of the file do
  not settle whether they can be read: images with an alpha channel, files without their end, and
  formats that do not mark it (TIFF, BMP, PPM, GIF). Broken images are named and left out; those
  with a side below `crop_size` are left out with a count. Damage in the middle of a file shows
  when the image is drawn, and leads to the next one (`Readable`).

  Args:
    pattern: a folder, a glob or a file.
    crop_size: smallest side that is of use, in pixels.
    cache_bytes: how much memory decoded images may take. Larger sets are trained on, too, but
      images beyond it are decoded anew each time that they are drawn.

  Raises:
    DataError, image_files.ImageError: no image is found, or none is usable.
  """
  paths = image_files.find_images(pattern)

  def shorter_side(number):
    header = image_files.read_header(paths[number])
    side = min(header.width, header.height)
    if side >= crop_size and not header.complete:
      image_files.read_image(paths[number], warn=_no_warning)
    return side

  kept = _usable(paths.__getitem__, len(paths), shorter_side, crop_size)
  names = [paths[number] for number in kept]
  warned = np.zeros(len(names), bool)

  def decode(number):
    # A conversion of colours is reported once, not in each epoch.
    warn = _no_warning if warned[number] else logging.warning
    warned[number] = True
    image = to_rgb(image_files.read_image(names[number], warn=warn))
    if min(image.shape[:2]) < crop_size:
      raise DataError(
        f"{names[number]}: has sides {image.shape[:2]}, expected at least {crop_size}"
      )
    return image

  return TrainingImages(names, decode, ImageCache(cache_bytes))


def load_tfds(name: str, crop_size: int, cache_bytes: int) -> TrainingImages:
  """Takes the `image` feature of a TFDS data set (`NAME` or `NAME:SPLIT`, default split train).

  Images are left out as those of `load` are; they are read in any order, whatever the set's size.

  Raises:
    DataError: no such data set or split, no feature `image`, or no image is usable.
  """
  found = tfds_images.find(name, ("train",))
  kept = _usable(found.name_of, len(found), found.shorter_side, crop_size)
  return TrainingImages(
    [found.name_of(number) for number in kept],
    lambda number: to_rgb(found.read(kept[number])),
    ImageCache(cache_bytes),
  )


def _usable(
  name_of: Callable[[int], str], count: int, shorter_side: Callable[[int], int], crop_size: int
) -> np.ndarray:
  """Leaves out images that are broken or smaller than a crop, and says so.

  Args:
    name_of: number -> name of the image.
    count: how many images there are.
    shorter_side: number -> the smaller side in pixels; raises errors.Error where broken.
    crop_size: smallest side in pixels.

  Returns:
    Numbers of the others in order, int64.

  Raises:
    DataError: none is left.
  """
  sides, broken = np.zeros(count, np.int32), []

  def measure(start):
    for number in range(start, min(start + _HEADERS_AT_ONCE, count)):
      try:
        sides[number] = shorter_side(number)
      except errors.Error as error:
        broken.append((number, error))

  with (
    concurrent.futures.ThreadPoolExecutor(_HEADER_THREADS) as pool,
    tqdm.tqdm(total=count, desc="headers", unit="image", leave=False, disable=None) as bar,
  ):
    for _ in pool.map(measure, range(0, count, _HEADERS_AT_ONCE)):
      bar.update(min(_HEADERS_AT_ONCE, count - bar.n))
  for _, error in sorted(broken, key=lambda each: each[0]):
    logging.warning("skipped: %s", error)
  kept = np.flatnonzero(sides >= crop_size)
  small = count - len(kept) - len(broken)
  if small:
    logging.warning("skipped %d images with a side below the crop size of %d", small, crop_size)
  if not len(kept):
    raise DataError(
      f"no training image is left: {len(broken)} are broken, {small} are smaller than the crop "
      f"size of {crop_size}; lower --crop_size or give other images"
    )
  return kept


def _no_warning(*unused) -> None:
  pass


def load_whole(pattern: str, most: int | None = None) -> list[np.ndarray]:
  """Reads whole images, as validation and calibration need them.

  Args:
    pattern: as `image_files.find_images` takes it.
    most: how many images at most; None: all.

  Returns:
    uint8 [H, W, 3] each.

  Raises:
    image_files.ImageError: there are none, or one cannot be read.
  """
  return [to_rgb(image_files.read_image(path)) for path in image_files.find_images(pattern)[:most]]


def load_tfds_validation(name: str, most: int) -> list[np.ndarray]:
  """Takes the first images of a TFDS data set, by default of its split validation or else test.

  Args:
    name: `NAME` or `NAME:SPLIT`.
    most: how many images at most.

  Returns:
    uint8 [H, W, 3] each.

  Raises:
    DataError: no such data set or split, or images of another kind.
  """
  found = tfds_images.find(name, ("validation", "test"))
  if not len(found):
    raise DataError(f"TFDS data set {name!r} has no images, expected some to validate on")
  return [to_rgb(found.read(number)) for number in range(min(most, len(found)))]


def held_out(images: TrainingImages, most: int) -> tuple[TrainingImages, list[np.ndarray]]:
  """Sets every twentieth image (at least one, at most `most`) aside for validation.

  Returns:
    Images without them (with all, where there is but one), and those of them that can be decoded.

  Raises:
    DataError: none of them can be decoded.
  """
  count = len(images.names)
  aside = np.arange(0, count, 20)[:most]
  kept = np.setdiff1d(np.arange(count), aside)
  rest = images.subset(kept if len(kept) else aside)
  of_aside = images.subset(aside).readable
  found = dict(of_aside.get(number) for number in range(len(aside)))
  return rest, list(found.values())


def training_batches(
  images: TrainingImages,
  batch_size: int,
  crop_size: int,
  seed: int,
  first_step: int,
  min_resize_scale: float = 1.0,
  shard: tuple[int, int] = (0, 1),
):
  """Returns an endless dataset of crops, from `first_step` of the run on.

  Args:
    images: to draw from; each at least crop_size high and wide.
    batch_size: of the whole run, over all shards.
    crop_size: height and width of a crop in pixels.
    seed: of order, scale, position and flip.
    first_step: step of the first batch.
    min_resize_scale: images are shrunk by a random factor from [min_resize_scale, 1] before they
      are cropped, where their size allows. A smaller value removes more of the artifacts of JPEG,
      and shows more of an image in a crop.
    shard: (index, count): which of `count` equal parts of each batch to give.

  Returns:
    tf.data.Dataset of [batch_size / count, crop_size, crop_size, channels].
  """
  count = len(images.names)
  least, span = np.float32(min_resize_scale), np.float32(1.0 - min_resize_scale)

  def cut(index, draws):
    """Cuts out what the crop needs; whole images are never copied into tensors."""
    _, image = images.readable.get(int(index))
    sides = np.array(image.shape[:2])
    scale = np.maximum(least + span * draws[0], np.float32(crop_size) / np.float32(sides.min()))
    side = min(int(np.ceil(np.float32(crop_size) / scale)), int(sides.min()))
    top, left = (draws[1:3] * (sides - side + 1).astype(np.float32)).astype(np.int64)
    return np.ascontiguousarray(image[top : top + side, left : left + side])

  def crop(n):
    epoch = n // count
    index = tf.random.experimental.index_shuffle(
      n % count, tf.cast([seed, epoch], tf.int64), count - 1
    )
    draws = tf.random.stateless_uniform([4], tf.cast([seed, n], tf.int64))
    image = tf.numpy_function(cut, [index, draws], images.dtype)
    image.set_shape((None, None, images.channels))
    is_cut = tf.shape(image)[0] == crop_size
    image = tf.cond(is_cut, lambda: image, lambda: _shrink(image, crop_size))
    if images.flips:
      image = tf.cond(draws[3] < 0.5, lambda: image[:, ::-1], lambda: image)
    return tf.ensure_shape(image, (crop_size, crop_size, images.channels))

  dataset = _example_numbers(batch_size, first_step, shard)
  dataset = dataset.map(crop, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
  return dataset.batch(batch_size // shard[1], drop_remainder=True).prefetch(2)


def training_draws(
  batch_size: int, seed: int, first_step: int, shard: tuple[int, int] = (0, 1)
) -> tf.data.Dataset:
  """Returns a draw for each example of `training_batches`, which takes the same arguments.

  Returns:
    tf.data.Dataset of float32 [batch_size / count], uniform in [0, 1).
  """

  def draw(n):
    # A seed of its own: those of (seed, n) are the crop's.
    folded = tf.random.experimental.stateless_fold_in(tf.cast([seed, n], tf.int64), 1)
    return tf.random.stateless_uniform([], folded)

  dataset = _example_numbers(batch_size, first_step, shard).map(draw)
  return dataset.batch(batch_size // shard[1], drop_remainder=True)


def _example_numbers(batch_size: int, first_step: int, shard: tuple[int, int]) -> tf.data.Dataset:
  """Returns the numbers n of the examples of a shard, int64 scalars, from `first_step` on."""
  per_shard = batch_size // shard[1]

  def of_step(step):
    start = step * batch_size + shard[0] * per_shard
    return tf.data.Dataset.range(start, start + per_shard)

  return tf.data.Dataset.range(first_step, np.iinfo(np.int64).max).flat_map(of_step)


def _shrink(image: tf.Tensor, side: int) -> tf.Tensor:
  """Resizes a square to `side`, bicubic with antialiasing."""
  resized = tf.image.resize(image, (side, side), "bicubic", antialias=True)
  if image.dtype != tf.uint8:
    return tf.cast(resized, image.dtype)
  return tf.cast(tf.clip_by_value(tf.round(resized), 0.0, 255.0), tf.uint8)
