"""Images of TensorFlow Datasets by number: each is read without reading those before it.

TFDS itself gives the examples of a TFRECORD data set only one after the other. Here its files are
indexed at the start by the position of each encoded image, so that training can draw images in any
order from sets of any size and can go on at any step. An image costs 20 bytes of index.

`khuvcm_tf.data.records` has the format.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from khuvcm_tf.data import DataError, image_files, records

_HEAD = 4096  # bytes, enough for the header of most images


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
    self._spans = np.zeros((len(self._files), 2), np.int64)
    found = (
      records.spans(each.filename, ("image",), each.skip, each.take) for each in instructions
    )
    for number, spans in enumerate(itertools.chain.from_iterable(found)):
      self._spans[number] = spans["image"]

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
    path, start, stop = self.span(number)
    try:
      with open(path, "rb") as file:
        file.seek(start)
        return file.read(stop - start if most is None else min(stop - start, most))
    except OSError as error:
      raise DataError(f"{path}: cannot be read: {error.strerror}") from error

  def span(self, number: int) -> tuple[str, int, int]:
    """Returns in which file an image is stored, and where its bytes start and stop there."""
    return self._paths[self._files[number]], *map(int, self._spans[number])


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
