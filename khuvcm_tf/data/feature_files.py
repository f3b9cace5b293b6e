"""Features of photos on disk: written photo by photo, read in order or by number.

There are two formats: a file for each photo (`feature_npz`), and TFRecords
(`feature_records`). Features stored as float32 lead to the same detections as the photo,
bit for bit. float16 takes half the room; a value is then off by 1/2048 of itself at most.

  for stored in feature_files.open_features("features", predictor.made_by):
    objects = predictor.from_features(stored.features)
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Callable

import tensorflow as tf

from khuvcm_tf import atomic_files, paths
from khuvcm_tf.data import feature_npz, feature_records
from khuvcm_tf.data.stored_features import FeatureError, Metadata, StoredFeatures
from khuvcm_tf.ops.pyramid import LEVELS


class FeatureSet(Sequence):
  """Features of photos, in the order of their names; TFRecords in the order they were written in.

  A photo's features are read when they are asked for: `features[i]`, or one after the other in a
  loop. A slice is a `FeatureSet` too, which shares nothing but the files.

  Args:
    metadata: of each photo.
    readers: for each photo a function that reads its features.

  Attributes:
    metadata: of each photo.
  """

  def __init__(self, metadata: Sequence[Metadata], readers: Sequence[Callable[[], StoredFeatures]]):
    self.metadata, self._readers = tuple(metadata), tuple(readers)

  def __len__(self) -> int:
    return len(self.metadata)

  def __getitem__(self, index: int | slice) -> StoredFeatures | FeatureSet:
    """Returns the features of a photo, or a `FeatureSet` of several.

    Raises:
      FeatureError: the file is damaged.
    """
    if isinstance(index, slice):
      return FeatureSet(self.metadata[index], self._readers[index])
    return self._readers[index]()

  def to_dataset(self) -> tf.data.Dataset:
    """Returns a data set of dictionaries, read one after the other.

    Each has `name` string [], `image_size` and `original_size` int32 [2], `p2` to `p6` float32
    [H, W, C]. `feature_records.parse` gives the same of TFRecords without Python.
    """
    size = tf.TensorSpec([2], tf.int32)
    spec = {"name": tf.TensorSpec([], tf.string), "image_size": size, "original_size": size}
    channels = self.metadata[0].channels if self.metadata else None
    spec.update(dict.fromkeys(LEVELS, tf.TensorSpec([None, None, channels], tf.float32)))

    def generate():
      for metadata, features in self:
        yield {
          "name": os.fsencode(metadata.name),
          "image_size": features.image_size,
          "original_size": features.original_size,
          **features.levels,
        }

    return tf.data.Dataset.from_generator(generate, output_signature=spec)


def open_features(path: str, made_by: tuple[str, int] | None = None) -> FeatureSet:
  """Opens stored features.

  Args:
    path: an .npz file, a folder of such (with its subfolders), or a folder of TFRecords.
    made_by: fingerprint and channels of the detector that is to go on from them; None where any
      may have made them.

  Raises:
    FeatureError: there are none, they are damaged, or another detector made them.
  """
  if os.path.isfile(os.path.join(path, feature_records.INDEX)):
    entries = feature_records.read_index(path)
    metadata = [entry.metadata for entry in entries]
    readers = [functools.partial(feature_records.read, entry) for entry in entries]
  else:
    found = sorted((feature_npz.read_metadata(each), each) for each in npz_files(path))
    metadata = [each for each, _ in found]
    readers = [functools.partial(feature_npz.read, file) for _, file in found]
  if not metadata:
    raise FeatureError(
      f"{path}: no features found; expected an .npz file, a folder of such, or a folder of "
      f"TFRecords with {feature_records.INDEX}, as bin/extract_features.py writes them"
    )
  _check_alike(path, metadata, made_by or (metadata[0].fingerprint, metadata[0].channels))
  return FeatureSet(metadata, readers)


def npz_files(path: str) -> list[str]:
  """Returns the .npz file, or those of a folder and its subfolders; none where there are none."""
  if not os.path.isdir(path):
    return [path] if os.path.exists(path) else []
  return paths.list_files(path, (feature_npz.SUFFIX,)).files


def _check_alike(path: str, metadata: Sequence[Metadata], made_by: tuple[str, int]) -> None:
  """Raises FeatureError unless the detector that is expected has made those of each photo."""
  names = sorted(each.name for each in metadata)
  for one, other in zip(names, names[1:]):
    if one == other:
      raise FeatureError(
        f"{path}: found features of {one} twice, expected photos of different names; take one "
        "folder at a time, or extract the photos from the folder that holds them all"
      )
  fingerprint, channels = made_by
  for each in metadata:
    if (each.fingerprint, each.channels) != made_by:
      raise FeatureError(
        f"{path}: the features of {each.name} have {each.channels} channels and were made by "
        f"detector {each.fingerprint}, expected {channels} channels and detector {fingerprint}; "
        "use the detector that made them, or extract them again"
      )


class NpzWriter:
  """Adds photos to a folder of .npz files, or writes the file of one photo.

  Args:
    path: a file's name that ends in .npz, or a folder, made where it does not exist.
  """

  def __init__(self, path: str):
    self._path, self._is_file = path, path.endswith(feature_npz.SUFFIX)
    atomic_files.make_folder(os.path.dirname(path) or "." if self._is_file else path)

  def _path_of(self, name: str) -> str:
    # With the photo's suffix: a.jpg and a.png may lie side by side.
    return self._path if self._is_file else os.path.join(self._path, name + feature_npz.SUFFIX)

  def find(self, name: str) -> Metadata | None:
    """Returns what is known of a photo's features; None where no whole file has them.

    Raises:
      FeatureError: the file that was named holds something else.
    """
    path = self._path_of(name)
    try:
      return feature_npz.read_metadata(path)
    except FeatureError as error:
      if self._is_file and os.path.exists(path):
        raise FeatureError(f"{error}, with --overwrite, or give another --output") from error
      return None

  def add(self, stored: StoredFeatures) -> None:
    """Writes the features of a photo.

    Raises:
      FeatureError: a value is not finite in the type that is to be stored.
      atomic_files.FileError: the file cannot be written.
    """
    path = self._path_of(stored.metadata.name)
    atomic_files.make_folder(os.path.dirname(path) or ".")
    feature_npz.write(path, stored)

  def __enter__(self) -> NpzWriter:
    return self

  def __exit__(self, *error: object) -> None:
    pass
