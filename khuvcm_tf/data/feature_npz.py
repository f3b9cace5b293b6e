"""Features of one photo in an .npz file, which `numpy.load` reads too.

  p2 ... p6                     float32 or float16 [H, W, C]
  image_size, original_size     int32 [2], height and width
  name, digest, fingerprint     texts

The arrays are not compressed, so that nobody can make a reader allocate more than a file's size.
"""

from __future__ import annotations

import contextlib
import io
import os
import zipfile
from collections.abc import Iterator

import numpy as np

from khuvcm_tf import atomic_files, errors
from khuvcm_tf.data import stored_features
from khuvcm_tf.data.stored_features import FeatureError, Metadata, StoredFeatures
from khuvcm_tf.ops.pyramid import LEVELS

SUFFIX = ".npz"
_TEXTS = ("name", "digest", "fingerprint")
_SIZES = ("image_size", "original_size")
_MAX_TEXT = 2**15  # bytes; of paths that systems take, in 4 bytes a character


def write(path: str, stored: StoredFeatures) -> None:
  """Writes a file, whole or not at all.

  Raises:
    FeatureError: a value is not finite in the type that is to be stored.
    atomic_files.FileError: the file cannot be written.
  """
  atomic_files.write_bytes(path, encode(stored))


def encode(stored: StoredFeatures) -> bytes:
  """Returns what `write` writes."""
  metadata = stored.metadata
  arrays = {
    **stored_features.to_arrays(stored),
    **{key: np.array(getattr(metadata, key), "<i4") for key in _SIZES},
    **{key: np.array(getattr(metadata, key)) for key in _TEXTS},
  }
  content = io.BytesIO()
  with zipfile.ZipFile(content, "w") as archive:
    for name, array in arrays.items():
      with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array(file, array, version=(1, 0), allow_pickle=False)
  return content.getvalue()


def read_metadata(path: str) -> Metadata:
  """Returns what is known of the features in a file, which is checked but for their values.

  Raises:
    FeatureError: the file cannot be read, or is damaged.
  """
  with _opened(path) as archive:
    return _metadata(archive)


def read(path: str) -> StoredFeatures:
  """Returns what a file holds.

  Raises:
    FeatureError: the file cannot be read, or is damaged.
  """
  with _opened(path) as archive:
    metadata = _metadata(archive)
    return stored_features.from_arrays(
      metadata, {level: _array(archive, level) for level in LEVELS}
    )


@contextlib.contextmanager
def _opened(path: str) -> Iterator[zipfile.ZipFile]:
  """Opens a file; what fails within the block is told as damage of the file."""
  try:
    with zipfile.ZipFile(path) as archive:
      _check_entries(archive, os.path.getsize(path))
      yield archive
  except Exception as error:  # numpy, zipfile and zlib raise whatever damage leads them to.
    raise FeatureError(
      f"{path}: cannot be read: {errors.reason(error)}; expected features of a photo as "
      "bin/extract_features.py writes them; extract them again"
    ) from error


def _check_entries(archive: zipfile.ZipFile, file_size: int) -> None:
  entries = archive.infolist()
  expected = sorted(f"{name}.npy" for name in (*LEVELS, *_TEXTS, *_SIZES))
  if sorted(entry.filename for entry in entries) != expected:
    raise ValueError(f"it does not hold the arrays {', '.join(expected)}")
  if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
    raise ValueError("its arrays are compressed, which is not read")
  if sum(entry.file_size for entry in entries) > file_size:
    raise ValueError("its arrays are said to be larger than the file")


def _metadata(archive: zipfile.ZipFile) -> Metadata:
  headers = {name: _header(archive, name) for name in (*LEVELS, *_TEXTS, *_SIZES)}
  for name in _TEXTS:
    shape, dtype = headers[name]
    if shape != () or dtype.kind != "U" or dtype.itemsize > _MAX_TEXT:
      raise ValueError(f"{name} is {dtype} {list(shape)}, not a text")
  for name in _SIZES:
    if headers[name] != ((2,), np.dtype("<i4")):
      raise ValueError(f"{name} is {headers[name][1]} {list(headers[name][0])}, not int32 [2]")
  shape, dtype = headers["p2"]
  metadata = Metadata(
    **{name: _array(archive, name).item() for name in _TEXTS},
    **{name: tuple(_array(archive, name).tolist()) for name in _SIZES},
    dtype=dtype.name,
    channels=shape[-1] if shape else 0,
  )
  stored_features.check(metadata)
  for level, expected in stored_features.level_shapes(
    metadata.image_size, metadata.channels
  ).items():
    if headers[level] != (expected, dtype):
      shape, found = headers[level]
      raise ValueError(f"{level} is {found} {list(shape)}, not {dtype} {list(expected)}")
  return metadata


def _header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
  """Returns shape and type of an array, which fills its entry."""
  info = archive.getinfo(f"{name}.npy")
  with archive.open(info) as file:
    if np.lib.format.read_magic(file) != (1, 0):
      raise ValueError(f"{name} is no array of version 1.0")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject:
      raise ValueError(f"{name} holds Python objects, which are not read")
    if file.tell() + dtype.itemsize * np.prod(shape, dtype=object) != info.file_size:
      raise ValueError(f"{name} is cut short")
  return shape, dtype


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
  with archive.open(f"{name}.npy") as file:
    return np.lib.format.read_array(file, allow_pickle=False)
