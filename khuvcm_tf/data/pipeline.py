"""Training crops as a pure function of (seed, step), so that a run goes on where it was killed.

Example n of the whole run (n = step * batch size + place in the batch) is a crop of picture
permutation_e(n mod P), where e = n // P is the epoch and P the number of pictures; scale, place and
flip are drawn from the stateless seed (seed, n).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Sequence
from typing import Callable, NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from khuvcm_tf import errors
from khuvcm_tf.data import DataError, images


class Photos(NamedTuple):
  """Pictures that a pipeline draws from.

  Attributes:
    names: of the pictures, for messages.
    read: int64 scalar tensor (place in `names`) -> uint8 [H, W, 3] tensor.
    failures: why `read` failed, as `failures_named` tells it.
  """

  names: list[str]
  read: Callable[[tf.Tensor], tf.Tensor]
  failures: Sequence[errors.Error] = ()


def from_arrays(names: Sequence[str], arrays: Sequence[np.ndarray]) -> Photos:
  """Keeps decoded uint8 [H, W, 3] pictures of any sizes in memory, as one flat tensor."""
  sizes = tf.constant([array.shape[:2] for array in arrays], tf.int64)
  starts = tf.math.cumsum(tf.reduce_prod(sizes, axis=1) * 3, exclusive=True)
  flat = tf.constant(np.concatenate([array.ravel() for array in arrays]))

  def read(place):
    height, width = sizes[place][0], sizes[place][1]
    start = starts[place]
    return tf.reshape(flat[start : start + height * width * 3], (height, width, 3))

  return Photos(list(names), read)


def from_files(paths: Sequence[str], crop_size: int) -> Photos:
  """Decodes pictures anew each time they are drawn: for sets that memory does not hold."""
  failures = []

  def read_rgb(place):
    try:
      picture = to_rgb(images.read_image(paths[int(place)]))
      if min(picture.shape[:2]) < crop_size:
        raise DataError(
          f"{paths[int(place)]}: has sides {picture.shape[:2]}, expected at least {crop_size}"
        )
    except errors.Error as error:
      failures.append(error)
      raise
    return picture

  def read(place):
    picture = tf.numpy_function(read_rgb, [place], tf.uint8)
    picture.set_shape((None, None, 3))
    return picture

  return Photos(list(paths), read, failures)


@contextlib.contextmanager
def failures_named(photos: Photos):
  """Within, a picture that can no longer be read ends in an error that names its file.

  Raises:
    DataError: in place of TensorFlow's, whose text is a traceback.
  """
  try:
    yield
  except tf.errors.OpError:
    if not photos.failures:
      raise
    raise DataError(
      f"a training picture has changed since the start: {photos.failures[0]}; restore or remove "
      "it and start again"
    ) from None


def to_rgb(picture: np.ndarray) -> np.ndarray:
  """Expands grey [H, W, 1] to RGB [H, W, 3]."""
  return np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture


def usable(found, crop_size: int):
  """Reads pictures and leaves out those that are broken or smaller than a crop, and says so.

  Args:
    found: iterable of (name, function that returns uint8 [H, W, C] or raises errors.Error).
    crop_size: smallest side in pixels.

  Yields:
    (name, uint8 [H, W, 3]).

  Raises:
    DataError: none was left.
  """
  kept = broken = small = 0
  for name, read in found:
    try:
      picture = to_rgb(read())
    except errors.Error as error:
      logging.warning("skipped: %s", error)
      broken += 1
      continue
    if min(picture.shape[:2]) < crop_size:
      small += 1
      continue
    kept += 1
    yield name, picture
  if small:
    logging.warning("skipped %d pictures with a side below the crop size of %d", small, crop_size)
  if not kept:
    raise DataError(
      f"no training picture is left: {broken} are broken, {small} are smaller than the crop size "
      f"of {crop_size}; lower --crop_size or give other pictures"
    )


def load(pattern: str, crop_size: int, cache_bytes: int) -> Photos:
  """Finds pictures and decodes them into memory, or leaves them on disk where memory is short.

  Args:
    pattern: a folder, a glob or a file.
    crop_size: smallest side that is of use, in pixels.
    cache_bytes: how much memory decoded pictures may take.

  Raises:
    DataError, images.ImageError: no picture is found, or none is usable.
  """
  paths = images.find_images(pattern)
  names, arrays, held = [], [], 0
  for name, array in usable(
    ((path, lambda path=path: images.read_image(path)) for path in paths), crop_size
  ):
    names.append(name)
    held += array.nbytes
    if held <= cache_bytes:
      arrays.append(array)
    else:
      arrays.clear()
  if held <= cache_bytes:
    return from_arrays(names, arrays)
  logging.info(
    "%d pictures need %.1f GiB decoded, more than the cache of %.1f GiB: read from disk each time",
    len(names),
    held / 2**30,
    cache_bytes / 2**30,
  )
  return from_files(names, crop_size)


def load_tfds(name: str, crop_size: int, cache_bytes: int) -> Photos:
  """Takes the `image` feature of a TFDS data set (`NAME` or `NAME:SPLIT`, default split train).

  Raises:
    DataError: no such data set or split, no feature `image`, or more than memory may hold.
  """
  found = _tfds_pictures(name, ("train",))
  name = name.partition(":")[0]
  names, arrays, held = [], [], 0
  for picture_name, array in usable(found, crop_size):
    held += array.nbytes
    if held > cache_bytes:
      raise DataError(
        f"TFDS data set {name!r} needs more than the cache of {cache_bytes / 2**30:.1f} GiB; "
        f"raise --cache_gib or name a part of it, as in '{name}:train[:10%]'"
      )
    names.append(picture_name)
    arrays.append(array)
  return from_arrays(names, arrays)


def load_whole(pattern: str, most: int | None = None) -> list[np.ndarray]:
  """Reads whole pictures, as validation and calibration need them.

  Args:
    pattern: as `images.find_images` takes it.
    most: how many pictures at most; None: all.

  Returns:
    uint8 [H, W, 3] each.

  Raises:
    images.ImageError: there are none, or one cannot be read.
  """
  return [to_rgb(images.read_image(path)) for path in images.find_images(pattern)[:most]]


def load_tfds_validation(name: str, most: int) -> list[np.ndarray]:
  """Takes the first pictures of a TFDS data set, by default of its split validation or else test.

  Args:
    name: `NAME` or `NAME:SPLIT`.
    most: how many pictures at most.

  Returns:
    uint8 [H, W, 3] each.

  Raises:
    DataError: no such data set or split, or pictures of another kind.
  """
  found = itertools.islice(_tfds_pictures(name, ("validation", "test")), most)
  pictures = [to_rgb(read()) for _, read in found]
  if not pictures:
    raise DataError(f"TFDS data set {name!r} has no pictures, expected some to validate on")
  return pictures


def _tfds_pictures(name: str, splits: Sequence[str]):
  """Finds the pictures of a TFDS data set, of those of this project (`builders`) too.

  Args:
    name: `NAME` or `NAME:SPLIT`.
    splits: names of splits; the first that is there is taken where `name` has none.

  Returns:
    Iterator over (name, function that returns uint8 [H, W, C] or raises DataError).

  Raises:
    DataError: no such data set or split, or no feature `image`.
  """
  import tensorflow_datasets as tfds  # Seconds to import: only where it is asked for.
  from tensorflow_datasets.core.download import download_manager

  from khuvcm_tf.data import builders  # noqa: F401  Importing it makes its data sets known.

  name, _, split = name.partition(":")
  try:
    parts, info = tfds.load(name, with_info=True)
    split = split or next((each for each in splits if each in parts), "")
    if not split:
      raise DataError(
        f"TFDS data set {name!r} has splits {sorted(parts)}, expected {' or '.join(splits)}; name "
        f"one, as in '{name}:{min(parts, default='train')}'"
      )
    if "image" not in info.features:
      raise DataError(
        f"TFDS data set {name!r} has features {sorted(info.features)}, expected one named 'image'"
      )
    # Other features, such as the frames of a video, are not decoded.
    only_image = tfds.decode.PartialDecoding({"image": True})
    examples = tfds.as_numpy(tfds.load(name, split=split, download=False, decoders=only_image))
  except AssertionError as error:
    # Files to be downloaded by hand: the first line names the folder, the others say which files.
    raise DataError(f"TFDS data set {name!r}: {' '.join(str(error).split())}") from error
  except (
    tfds.core.DatasetNotFoundError,
    tfds.download.DownloadError,
    download_manager.NonMatchingChecksumError,
    ValueError,
    OSError,
  ) as error:
    first = str(error).strip().splitlines()[0]
    raise DataError(f"TFDS data set {name!r} was not loaded: {first}") from error
  return (
    (f"{name}/{i}", functools.partial(_checked, f"{name}/{i}", example["image"]))
    for i, example in enumerate(examples)
  )


def _checked(name: str, picture: np.ndarray) -> np.ndarray:
  if picture.ndim != 3 or picture.shape[2] not in (1, 3) or picture.dtype != np.uint8:
    raise DataError(
      f"{name}: image is {picture.dtype} {list(picture.shape)}, expected uint8 [H, W, 1 or 3]"
    )
  return picture


def held_out(photos: Photos, most: int) -> tuple[Photos, list[np.ndarray]]:
  """Sets every twentieth picture (at least one, at most `most`) aside for validation.

  Returns:
    Photos without them (with all, where there is but one), and them.
  """
  number = len(photos.names)
  aside = list(range(0, number, 20))[:most]
  kept = [place for place in range(number) if place not in set(aside)] or aside
  places = tf.constant(kept, tf.int64)
  rest = photos._replace(
    names=[photos.names[place] for place in kept], read=lambda i: photos.read(places[i])
  )
  return rest, [photos.read(tf.constant(place, tf.int64)).numpy() for place in aside]


def training_batches(
  photos: Photos,
  batch_size: int,
  crop_size: int,
  seed: int,
  first_step: int,
  smallest_scale: float = 1.0,
  shard: tuple[int, int] = (0, 1),
):
  """Returns an endless dataset of crops, from `first_step` of the run on.

  Args:
    photos: to draw from; each at least crop_size high and wide.
    batch_size: of the whole run, over all shards.
    crop_size: height and width of a crop in pixels.
    seed: of order, scale, place and flip.
    first_step: step of the first batch.
    smallest_scale: pictures are shrunk by a random factor from [smallest_scale, 1] before they are
      cropped, where their size allows: this removes what a JPEG's quantization left in them.
    shard: (place, number): which equal part of each batch to give.

  Returns:
    tf.data.Dataset of uint8 [batch_size / number of shards, crop_size, crop_size, 3].
  """
  number = len(photos.names)
  per_shard = batch_size // shard[1]

  def crop(n):
    epoch, place = n // number, n % number
    place = tf.random.experimental.index_shuffle(
      place, tf.cast([seed, epoch], tf.int64), number - 1
    )
    picture = photos.read(place)
    draws = tf.random.stateless_uniform([4], tf.cast([seed, n], tf.int64))
    short = tf.reduce_min(tf.shape(picture)[:2])
    scale = tf.maximum(
      smallest_scale + (1.0 - smallest_scale) * draws[0], crop_size / tf.cast(short, tf.float32)
    )
    # Only what the crop needs is scaled.
    side = tf.minimum(tf.cast(tf.math.ceil(crop_size / scale), tf.int32), short)
    room = tf.cast(tf.shape(picture)[:2] - side + 1, tf.float32)
    corner = tf.cast(draws[1:3] * room, tf.int32)
    picture = picture[corner[0] : corner[0] + side, corner[1] : corner[1] + side]
    picture = tf.cond(side == crop_size, lambda: picture, lambda: _shrink(picture, crop_size))
    picture = tf.cond(draws[3] < 0.5, lambda: picture[:, ::-1], lambda: picture)
    return tf.ensure_shape(picture, (crop_size, crop_size, 3))

  def examples(step):
    start = step * batch_size + shard[0] * per_shard
    return tf.data.Dataset.range(start, start + per_shard)

  dataset = tf.data.Dataset.range(first_step, np.iinfo(np.int64).max).flat_map(examples)
  dataset = dataset.map(crop, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
  return dataset.batch(per_shard, drop_remainder=True).prefetch(2)


def _shrink(picture: tf.Tensor, side: int) -> tf.Tensor:
  """Resizes a uint8 square to `side`, bicubic with antialiasing."""
  resized = tf.image.resize(picture, (side, side), "bicubic", antialias=True)
  return tf.cast(tf.clip_by_value(tf.round(resized), 0.0, 255.0), tf.uint8)
