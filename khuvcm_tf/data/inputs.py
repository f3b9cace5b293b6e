"""What programs work on, by name: files, and records of TFRecord files and of TFDS's data sets.

  photo.png, photos, 'photos/*.png'         a file, a folder with its subfolders, a quoted glob
  photos.tfrecord, 'photos.tfrecord-*'      a TFRecord file, a quoted glob of such, or their folder
  tfds:coco/2017, tfds:coco/2017:train      a data set of TFDS, and a split of it

An `Input` says where the bytes are, and is small: another process can read them by it.
"""

from __future__ import annotations

import glob
import io
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from khuvcm_tf.data import DataError, image_files, records

_TFDS = "tfds:"
_RECORDS = ".tfrecord"
_SPLITS = ("validation", "test", "train")
IMAGE_FEATURES = ("image", "image/encoded")


class Input(NamedTuple):
  """A file, or a part of one.

  Attributes:
    path: of the file.
    name: its own among the inputs of a run: the path below the folder of all, with its suffix.
    start, stop: first byte, and the one behind the last; of a whole file: 0 and None.
  """

  path: str
  name: str
  start: int = 0
  stop: int | None = None

  @property
  def label(self) -> str:
    """What messages call it."""
    return self.path if self.stop is None else f"{self.path}: {self.name}"

  @property
  def size(self) -> int:
    """Number of bytes."""
    return os.path.getsize(self.path) if self.stop is None else self.stop - self.start

  def content(self) -> bytes:
    with open(self.path, "rb") as file:
      file.seek(self.start)
      return file.read(-1 if self.stop is None else self.stop - self.start)

  def read_image(self, alpha: str | None) -> np.ndarray:
    """Returns the pixels as `image_files.read_image` does."""
    file = None if self.stop is None else io.BytesIO(self.content())
    return image_files.read_image(self.label, alpha, file=file)


def find_images(pattern: str) -> list[Input]:
  """Lists images, sorted by path, as in this module's docstring.

  Raises:
    image_files.ImageError, DataError: there are none.
  """
  return find(pattern, image_files.SUFFIXES, "images", IMAGE_FEATURES)


def find(
  pattern: str, suffixes: tuple[str, ...], what: str, features: Sequence[str]
) -> list[Input]:
  """Lists files as `image_files.find_files` does, or records.

  Args:
    pattern: as in this module's docstring.
    suffixes, what: of files, as `image_files.find_files` takes them.
    features: of records: names that the bytes may have.

  Raises:
    image_files.ImageError, DataError: there are none.
  """
  if pattern.startswith(_TFDS):
    return _of_tfds(pattern[len(_TFDS) :])
  if _RECORDS in os.path.basename(pattern):
    return _of_records(image_files.find_files(pattern, ("",), "TFRecord files"), features)
  try:
    return find_files(pattern, suffixes, what)
  except image_files.ImageError:
    shards = glob.glob(os.path.join(glob.escape(pattern), "**", f"*{_RECORDS}*"), recursive=True)
    if not shards:
      raise
    return _of_records(sorted(shards), features)


def find_files(pattern: str, suffixes: tuple[str, ...], what: str) -> list[Input]:
  """Lists files as `image_files.find_files` does."""
  found = image_files.find_files(pattern, suffixes, what)
  return of_files(found, pattern if os.path.isdir(pattern) else None)


def of_files(paths: Sequence[str], folder: str | None = None) -> list[Input]:
  """Returns whole files, named below a folder; None: the one that they have in common."""
  folder = folder or os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
  return [Input(path, os.path.relpath(path, folder).replace(os.sep, "/")) for path in paths]


def _of_records(paths: Sequence[str], features: Sequence[str]) -> list[Input]:
  """Returns the records of files; their names are those in them, else file and number."""
  found = []
  for path in paths:
    for number, spans in enumerate(records.spans(path, (*features, "name"))):
      if not spans.keys() & set(features):
        raise DataError(
          f"{path}: record {number} has no feature `{'` or `'.join(features)}`, expected one"
        )
      span = next(spans[feature] for feature in features if feature in spans)
      name = f"{os.path.basename(path)}/{number:06}"
      if "name" in spans:
        name = _checked(path, Input(path, name, *spans["name"]).content())
      found.append(Input(path, name, *span))
  if not found:
    raise DataError(f"{paths[0]}: no records found, expected some with {' or '.join(features)}")
  return found


def _checked(path: str, name: bytes) -> str:
  """Returns a name from a record, which is not to lead out of the folder that it is put into."""
  text = os.fsdecode(name)
  if not name or b"\0" in name or os.path.isabs(text) or ".." in text.split("/"):
    raise DataError(f"{path}: a record has the name {text!r}, expected a path below a folder")
  return text


def _of_tfds(name: str) -> list[Input]:
  from khuvcm_tf.data import tfds_images  # TensorFlow takes seconds to import

  images = tfds_images.find(name, _SPLITS)
  return [
    Input(path, images.name_of(number), start, stop)
    for number, (path, start, stop) in enumerate(map(images.span, range(len(images))))
  ]
