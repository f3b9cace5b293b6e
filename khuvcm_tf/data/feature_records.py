"""Features of many photos in TFRecord files, which `tf.data` reads.

  features-00000.tfrecord ...   up to `IMAGES_PER_FILE` photos each
  index.jsonl                   a line of JSON for the whole, then one for each file

The index says which photos a file holds and where; a file counts once its line is complete. A
record is a `tf.train.Example`:

  p2 ... p6                     bytes: float32 or float16 [H, W, C], little-endian
  image_size, original_size     height and width
  name, digest, fingerprint     bytes: texts
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import struct
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.python.lib.io.tf_record import tf_record_random_reader

from khuvcm_tf import atomic_files, errors
from khuvcm_tf.data import stored_features
from khuvcm_tf.data.stored_features import FeatureError, Metadata, StoredFeatures
from khuvcm_tf.ops.pyramid import LEVELS, STRIDE, STRIDES

INDEX = "index.jsonl"
# Of 800 x 1216 pixels they take 1.3 GB in float32.
IMAGES_PER_FILE = 16
_FORMAT = 1
_FRAME = 16  # bytes of a record's length and of the two checksums
_SHARED = ("fingerprint", "dtype", "channels")
_NAME = re.compile(r"features-(\d{5,})\.tfrecord")
_OWN = ("name", "digest", "image_size", "original_size")


class Entry(NamedTuple):
  """A record: the file it is in, its first byte there, and what it holds."""

  path: str
  offset: int
  metadata: Metadata


class File(NamedTuple):
  """A file as the index lists it."""

  name: str
  size: int
  entries: tuple[Entry, ...]

  def is_whole(self, folder: str) -> bool:
    path = os.path.join(folder, self.name)
    return os.path.isfile(path) and os.path.getsize(path) == self.size


def read_index(folder: str) -> list[Entry]:
  """Returns what a folder holds, in the order in which it was written.

  Raises:
    FeatureError: the index is damaged, or a file that it lists is missing or of another size.
  """
  _, files = _parse_index(folder)
  for file in files:
    if not file.is_whole(folder):
      raise FeatureError(
        f"{os.path.join(folder, file.name)}: found no file of {file.size} bytes, as {INDEX} says; "
        "run bin/extract_features.py again, which makes it anew, or copy the whole folder again"
      )
  return [entry for file in files for entry in file.entries]


def read(entry: Entry) -> StoredFeatures:
  """Reads a record.

  Raises:
    FeatureError: it is missing, damaged, or not of the photo that the index says.
  """
  try:
    return _from_example(_read_record(entry), entry.metadata)
  except Exception as error:  # TensorFlow and protobuf raise whatever damage leads them to.
    raise FeatureError(
      f"{entry.path}: the record of {entry.metadata.name} cannot be read: "
      f"{errors.reason(error)}; extract the features again"
    ) from error


def parse(record: tf.Tensor, dtype: str, channels: int) -> dict[str, tf.Tensor]:
  """Parses a record in a graph, for `tf.data.TFRecordDataset(files).map(...)`.

  Args:
    record: string [].
    dtype, channels: of the features, as `index.jsonl` says in its first line.

  Returns:
    `name` string [], `image_size` and `original_size` int32 [2], `p2` to `p6` float32 [H, W, C].
  """
  text, size = tf.io.FixedLenFeature([], tf.string), tf.io.FixedLenFeature([2], tf.int64)
  kinds = {"name": text, "image_size": size, "original_size": size, **dict.fromkeys(LEVELS, text)}
  found = tf.io.parse_single_example(record, kinds)
  found.update({key: tf.cast(found[key], tf.int32) for key in ("image_size", "original_size")})
  padded = -(-found["image_size"] // STRIDE) * STRIDE
  for level in LEVELS:
    values = tf.io.decode_raw(found[level], tf.dtypes.as_dtype(dtype))
    height, width = tf.unstack(-(-padded // STRIDES[level]))
    found[level] = tf.cast(tf.reshape(values, [height, width, channels]), tf.float32)
  return found


def remove_all(folder: str) -> None:
  """Removes the index, then the files that its folder may have.

  Raises:
    OSError: the system refuses it.
  """
  with contextlib.suppress(FileNotFoundError):
    os.unlink(os.path.join(folder, INDEX))
    for name in os.listdir(folder):
      if _NAME.fullmatch(name):
        os.unlink(os.path.join(folder, name))


class RecordWriter:
  """Adds photos to a folder of TFRecords, which is made where it does not exist.

  Photos are in the folder once their file is complete, at the latest when the writer is left.

  Args:
    folder: to write to.
    fingerprint, dtype, channels: of all features, as in `Metadata`.
    images_per_file: photos in a file.
  """

  def __init__(
    self,
    folder: str,
    fingerprint: str,
    dtype: str,
    channels: int,
    images_per_file: int = IMAGES_PER_FILE,
  ):
    self._folder, self._images_per_file = folder, images_per_file
    self._shared = {"fingerprint": fingerprint, "dtype": dtype, "channels": channels}
    atomic_files.make_folder(folder)
    files = self._whole_files()
    self._found = {entry.metadata.name: entry.metadata for f in files for entry in f.entries}
    self._number = max((_number(file) + 1 for file in files), default=0)
    # Without the line that a kill has cut.
    lines = [{"format": _FORMAT, **self._shared}, *map(_to_line, files)]
    atomic_files.write_text(
      os.path.join(folder, INDEX), "".join(f"{json.dumps(line)}\n" for line in lines)
    )
    self._file = None

  def _whole_files(self) -> list[File]:
    """Returns the files that count; those of another size than the index says are removed."""
    if not os.path.exists(os.path.join(self._folder, INDEX)):
      return []
    shared, files = _parse_index(self._folder)
    for key, value in self._shared.items():
      if shared[key] != value:
        raise FeatureError(
          f"{self._folder} holds features of {key} {shared[key]}, expected {value}; give another "
          "--output, or --overwrite to replace them"
        )
    for file in files:
      if not file.is_whole(self._folder):
        with contextlib.suppress(FileNotFoundError):
          os.unlink(os.path.join(self._folder, file.name))
    return [file for file in files if file.is_whole(self._folder)]

  def find(self, name: str) -> Metadata | None:
    """Returns what is known of a photo's features; None where they are not there."""
    return self._found.get(name)

  def path_of(self, number: int) -> str:
    """Returns the path of a file that is to be added; 0 is the next."""
    return os.path.join(self._folder, f"features-{self._number + number:05}.tfrecord")

  def add(self, stored: StoredFeatures) -> None:
    """Adds the features of a photo.

    Raises:
      FeatureError: a value is not finite in the type that is to be stored.
      atomic_files.FileError: the file cannot be written.
    """
    if self._file is None:
      self._file = FileWriter(self.path_of(0)).__enter__()
    self._file.add(stored)
    if len(self._file.written.entries) == self._images_per_file:
      self.__exit__(None, None, None)

  def add_file(self, file: File) -> None:
    """Adds a file that a `FileWriter` has written to one of `path_of`.

    Raises:
      atomic_files.FileError: the index cannot be written.
    """
    _append(os.path.join(self._folder, INDEX), f"{json.dumps(_to_line(file))}\n")
    self._found.update({entry.metadata.name: entry.metadata for entry in file.entries})
    self._number = max(self._number, _number(file) + 1)

  def __enter__(self) -> RecordWriter:
    return self

  def __exit__(self, kind, error, trace) -> None:
    if self._file is not None:
      file, self._file = self._file, None
      file.__exit__(kind, error, trace)
      if kind is None:
        self.add_file(file.written)


class FileWriter:
  """Writes a file of photos, whole or not at all; `RecordWriter.add_file` then lists it.

  Args:
    path: of the file.

  Attributes:
    written: the file as the index lists it.
  """

  def __init__(self, path: str):
    self._path, self._stack = path, contextlib.ExitStack()
    self.written = File(os.path.basename(path), 0, ())

  def __enter__(self) -> FileWriter:
    new = self._stack.enter_context(atomic_files.new_file(self._path))
    self._writer = self._call(tf.io.TFRecordWriter, new)
    return self

  def add(self, stored: StoredFeatures) -> None:
    """As `RecordWriter.add`."""
    record, (name, size, entries) = _to_example(stored), self.written
    self._call(self._writer.write, record)
    entries = (*entries, Entry(self._path, size, stored.metadata))
    self.written = File(name, size + len(record) + _FRAME, entries)

  def __exit__(self, kind, error, trace) -> None:
    if kind is None:
      with self._stack:  # Takes the temporary file away where it cannot be completed.
        self._call(self._writer.close)
    else:
      with contextlib.suppress(Exception):  # The error that led here is told.
        self._writer.close()
      self._stack.__exit__(kind, error, trace)

  def _call(self, function, *arguments):
    """Calls a function of TensorFlow's that writes."""
    try:
      return function(*arguments)
    except tf.errors.OpError as error:
      raise atomic_files.FileError(
        f"{self._path}: cannot be written: {' '.join(error.message.split())}; expected a writable "
        "folder with space left; run again to go on"
      ) from error


def _number(file: File) -> int:
  return int(_NAME.fullmatch(file.name)[1])


def _append(path: str, line: str) -> None:
  try:
    with open(path, "a", encoding="ascii") as file:
      file.write(line)
  except OSError as error:
    raise atomic_files.FileError(
      f"{path}: cannot be written: {error.strerror}; expected space left; run again to go on"
    ) from error


def _to_line(file: File) -> dict[str, object]:
  images = [
    {**{key: getattr(entry.metadata, key) for key in _OWN}, "offset": entry.offset}
    for entry in file.entries
  ]
  return {"file": file.name, "bytes": file.size, "images": images}


def _parse_index(folder: str) -> tuple[dict[str, object], list[File]]:
  """Returns what the index says of all features, and its files; a line that was cut is left out."""
  path = os.path.join(folder, INDEX)
  try:
    with open(path, encoding="ascii") as file:
      first, *lines = file.read().split("\n")
    shared = json.loads(first)
    if shared["format"] != _FORMAT:
      raise ValueError(f"its format is {shared['format']!r}, not {_FORMAT}")
    shared = {key: shared[key] for key in _SHARED}
    # What follows the last line break is empty, or was cut.
    return shared, [_parse_line(folder, shared, json.loads(line)) for line in lines[:-1]]
  except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
    raise FeatureError(
      f"{path}: is no index of features: {errors.reason(error)}; expected one as "
      "bin/extract_features.py writes it; copy it again, or extract the features again"
    ) from error


def _parse_line(folder: str, shared: dict[str, object], line: dict) -> File:
  name, entries = line["file"], []
  if not _NAME.fullmatch(name):
    raise ValueError(f"it lists a file {name!r}")
  for image in line["images"]:
    own = {key: image[key] for key in _OWN}
    own.update({key: tuple(image[key]) for key in ("image_size", "original_size")})
    metadata = Metadata(**own, **shared)
    stored_features.check(metadata)
    if type(image["offset"]) is not int or image["offset"] < 0:
      raise ValueError(f"it has offset {image['offset']!r}")
    entries.append(Entry(os.path.join(folder, name), image["offset"], metadata))
  return File(name, line["bytes"], tuple(entries))


def _to_example(stored: StoredFeatures) -> bytes:
  metadata, example = stored.metadata, tf.train.Example()
  feature = example.features.feature  # Filled in place: a message in another is copied into it.
  for level, array in stored_features.to_arrays(stored).items():
    feature[level].bytes_list.value.append(array.tobytes())
  for key in ("image_size", "original_size"):
    feature[key].int64_list.value.extend(getattr(metadata, key))
  for key in ("name", "digest", "fingerprint"):
    feature[key].bytes_list.value.append(os.fsencode(getattr(metadata, key)))
  return example.SerializeToString()


def _read_record(entry: Entry) -> bytes:
  """Returns a record whose checksums are right, of a length that the file has."""
  with open(entry.path, "rb") as file:
    left = os.path.getsize(entry.path) - entry.offset - _FRAME
    file.seek(entry.offset)
    (length,) = struct.unpack("<Q", file.read(8))
  if length > left:
    raise ValueError("it ends behind the file's end")
  record, _ = tf_record_random_reader(entry.path).read(entry.offset)
  return record


def _from_example(record: bytes, metadata: Metadata) -> StoredFeatures:
  feature = tf.train.Example.FromString(record).features.feature
  for key in ("name", "digest", "fingerprint"):
    if [os.fsencode(getattr(metadata, key))] != list(feature[key].bytes_list.value):
      raise ValueError(f"its {key} is not that of the index")
  for key in ("image_size", "original_size"):
    if getattr(metadata, key) != tuple(feature[key].int64_list.value):
      raise ValueError(f"its {key} is not that of the index")
  arrays, dtype = {}, np.dtype(metadata.dtype).newbyteorder("<")
  for level, shape in stored_features.level_shapes(metadata.image_size, metadata.channels).items():
    (data,) = feature[level].bytes_list.value
    if len(data) != np.prod(shape) * dtype.itemsize:
      raise ValueError(f"{level} has {len(data)} bytes, not those of {metadata.dtype} {shape}")
    # A copy, which may be written to.
    arrays[level] = np.frombuffer(data, dtype).reshape(shape).astype(metadata.dtype)
  return stored_features.from_arrays(metadata, arrays)
