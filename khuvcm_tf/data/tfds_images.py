"""Images of TensorFlow Datasets by number: each is read without reading those before it.

TFDS itself gives the examples of a TFRECORD data set only one after the other. Here its files are
indexed at the start by the position of each encoded image, so that training can draw images in any
order from sets of any size and can go on at any step. An image costs 20 bytes of index.

    file     = record, record, ...
    record   = length (u64), CRC of it (u32), length bytes of an Example, CRC of them (u32)
    Example  = features { feature { key: "image", value { bytes_list { value: PNG, JPEG } } } ... }

Reference: "TFRecord and tf.train.Example" in TensorFlow's guides; "Encoding" in the documentation
of Protocol Buffers.
"""

from __future__ import annotations

import io
import mmap
import struct
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from khuvcm_tf.data import DataError, image_files

_HEAD = 4096  # bytes, enough for the header of most images
_BYTES = 2  # wire type of Protocol Buffers
_BYTES_LIST = 1  # field of a Feature


class TfdsImages:
  """The feature `image` of the examples of one split, in the order in which they are stored.

  Attributes:
    name: of the data set, without the split.
  """

  def __init__(self, name: str, feature, instructions: Sequence):
    """Indexes the files.

    Args:
      name: of the data set, for messages.
      feature: a `tfds.features.Image`.
      instructions: TFDS's `FileInstruction`s of the split: which records of which files.

    Raises:
      DataError: a file is damaged.
    """
    self.name = name
    self._feature = feature
    self._paths = [instruction.filename for instruction in instructions]
    counts = [instruction.take for instruction in instructions]
    self._files = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    spans = [_spans(each.filename, each.skip, each.take) for each in instructions]
    self._spans = np.concatenate([np.zeros((0, 2), np.int64), *spans])

  def __len__(self) -> int:
    return len(self._files)

  def name_of(self, number: int) -> str:
    return f"{self.name}/{number}"

  def shorter_side(self, number: int) -> int:
    """Returns the smaller of height and width as `size` reads them."""
    return min(self.size(number))

  def size(self, number: int) -> tuple[int, int]:
    """Returns height and width in pixels, from the image's header.

    Raises:
      image_files.ImageError: the header is damaged.
    """
    name = self.name_of(number)
    try:
      header = image_files.read_header(name, file=io.BytesIO(self.encoded(number, _HEAD)))
    except image_files.ImageError:
      header = image_files.read_header(name, file=io.BytesIO(self.encoded(number)))
    return header.height, header.width

  def read(self, number: int) -> np.ndarray:
    """Decodes one image as TFDS does.

    Returns:
      uint8 [H, W, 1 or 3].

    Raises:
      DataError: the image is damaged, or of another kind.
    """
    name = self.name_of(number)
    try:
      with tf.device("CPU:0"):
        image = self._feature.decode_example(tf.constant(self.encoded(number))).numpy()
    except tf.errors.OpError as error:
      raise DataError(f"{name}: damaged: {error.message.splitlines()[0]}") from error
    if image.ndim != 3 or image.shape[2] not in (1, 3):
      raise DataError(f"{name}: image is {list(image.shape)}, expected [H, W, 1 or 3]")
    return image

  def encoded(self, number: int, most: int | None = None) -> bytes:
    """Reads an image as it is stored, PNG or JPEG, or its first bytes.

    Raises:
      DataError: the file cannot be read.
    """
    path, (start, stop) = self._paths[self._files[number]], self._spans[number]
    size = int(stop - start)
    try:
      with open(path, "rb") as file:
        file.seek(start)
        return file.read(size if most is None else min(size, most))
    except OSError as error:
      raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def find(name: str, splits: Sequence[str], data_dir: str | None = None) -> TfdsImages:
  """Prepares a data set where it is not, and indexes a split of it.

  Args:
    name: `NAME` or `NAME:SPLIT`, of TFDS or of this project (`builders`); SPLIT may be a part or a
      sum of splits, such as `train[:10%]`.
    splits: names of splits; the first that is there is taken where `name` has none.
    data_dir: folder of prepared data sets; None for TFDS's own.

  Raises:
    DataError: there is no such data set or split, it was not downloaded, or it has no feature
      `image` of uint8 with 1 or 3 channels.
  """
  import tensorflow_datasets as tfds  # Seconds to import: only where it is asked for.
  from tensorflow_datasets.core.download import download_manager

  from khuvcm_tf.data import builders  # noqa: F401  Importing it registers its data sets.

  name, _, split = name.partition(":")
  try:
    builder = tfds.builder(name, **({"data_dir": data_dir} if data_dir else {}))
    builder.download_and_prepare()
    info = builder.info
    split = split or next((each for each in splits if each in info.splits), "")
    if not split:
      raise DataError(
        f"TFDS data set {name!r} has splits {sorted(info.splits)}, expected {' or '.join(splits)}; "
        f"name one, as in '{name}:{min(info.splits, default='train')}'"
      )
    instructions = info.splits[split].file_instructions
  except AssertionError as error:
    # Files that people must download themselves: the first line names the folder, others the files.
    raise DataError(f"TFDS data set {name!r}: {' '.join(str(error).split())}") from error
  except (
    tfds.core.DatasetNotFoundError,
    tfds.download.DownloadError,
    download_manager.NonMatchingChecksumError,
    KeyError,
    ValueError,
    OSError,
  ) as error:
    first = str(error).strip().splitlines()[0]
    raise DataError(f"TFDS data set {name!r} was not loaded: {first}") from error
  if info.file_format.value != "tfrecord":
    raise DataError(
      f"TFDS data set {name!r} is stored as {info.file_format.value}, expected tfrecord; prepare "
      "it in another data_dir with file_format='tfrecord'"
    )
  feature = info.features["image"] if "image" in info.features else None
  if feature is None:
    raise DataError(
      f"TFDS data set {name!r} has features {sorted(info.features)}, expected one named 'image'"
    )
  if not isinstance(feature, tfds.features.Image) or not _is_usable(feature):
    raise DataError(
      f"TFDS data set {name!r} has the feature 'image' {feature!r}, expected an Image of uint8 "
      "[H, W, 1 or 3]"
    )
  return TfdsImages(name, feature, instructions)


def _is_usable(feature) -> bool:
  shape = feature.shape
  return feature.np_dtype == np.uint8 and len(shape) == 3 and shape[2] in (None, 1, 3)


def _spans(path: str, skip: int, take: int) -> np.ndarray:
  """Returns where encoded images start and stop in a TFRecord file: int64 [take, 2]."""
  spans, start, number = np.zeros((take, 2), np.int64), 0, 0
  try:
    with (
      open(path, "rb") as file,
      mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
      for number in range(skip + take):
        (length,) = struct.unpack_from("<Q", data, start)
        start += 12
        if start + length + 4 > len(data):
          raise ValueError("it ends behind the file's end")
        if number >= skip:
          spans[number - skip] = _find_image(data, start, start + length)
        start += length + 4
  except (OSError, ValueError, IndexError, struct.error) as error:
    reason = getattr(error, "strerror", None) or error
    raise DataError(
      f"{path}: record {number} cannot be read: {reason}; prepare the data set anew"
    ) from error
  return spans


def _find_image(data, start: int, stop: int) -> tuple[int, int]:
  """Returns where the bytes of the feature `image` start and stop within a serialized Example."""
  for features in _fields(data, start, stop):
    for feature in _fields(data, *features[1:]):
      (_, *key), (_, *value) = sorted(_fields(data, *feature[1:]))
      if data[slice(*key)] == b"image":
        ((kind, *values),) = _fields(data, *value)
        if kind != _BYTES_LIST:
          raise ValueError("it is not an Example with an encoded image")
        ((_, first, last),) = _fields(data, *values)
        return first, last
  raise ValueError("it has no feature `image`")


def _fields(data, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
  """Yields number, start and stop of the fields of a serialized message, all of them of bytes."""
  while start < stop:
    tag, start = _varint(data, start)
    length, start = _varint(data, start)
    if tag & 7 != _BYTES or start + length > stop:
      raise ValueError("it is not an Example with an encoded image")
    yield tag >> 3, start, start + length
    start += length


def _varint(data, start: int) -> tuple[int, int]:
  """Returns a number of 7 bits a byte, lowest first, and where it stops."""
  value = shift = 0
  while True:
    byte = data[start]
    value, shift, start = value | (byte & 127) << shift, shift + 7, start + 1
    if byte < 128:
      return value, start
