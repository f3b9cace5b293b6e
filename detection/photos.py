"""Photos on disk: found with names that tell them apart, and taken one after the other."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Callable, NamedTuple, TypeVar

import numpy as np
import tensorflow as tf
import tqdm

from khuvcm_tf import atomic_files, errors
from khuvcm_tf.data import image_files

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class PhotoError(errors.Error):
  """Photos that were not all used, or cannot be."""


class Photo(NamedTuple):
  """A photo's file.

  Attributes:
    path: of the file.
    name: its path below the folder of all photos, with slashes.
  """

  path: str
  name: str

  def digest(self) -> str:
    """Returns SHA-256 of the file, 64 hexadecimal digits.

    Raises:
      PhotoError: the file cannot be read.
    """
    try:
      with open(self.path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()
    except OSError as error:
      raise PhotoError(
        f"{self.path}: cannot be read: {error.strerror}; expected an image file"
      ) from error

  def read(self, alpha: str) -> np.ndarray:
    """Returns the pixels as `image_files.read_image` does; warnings do not tear a progress bar."""
    with tqdm.tqdm.external_write_mode(sys.stderr):
      return image_files.read_image(self.path, alpha)


def find(pattern: str) -> list[Photo]:
  """Finds a photo, those of a folder with its subfolders, or those of a glob, sorted by path.

  Raises:
    image_files.ImageError: there are none.
  """
  paths = image_files.find_images(pattern)
  root = pattern
  if not os.path.isdir(pattern):
    root = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
  return [Photo(path, os.path.relpath(path, root).replace(os.sep, "/")) for path in paths]


def attempt_all(
  items: Sequence[_Item],
  function: Callable[[_Item], _Result],
  names: Sequence[str],
  left_out: list[dict[str, str]],
) -> Iterator[_Result]:
  """Yields a function's results; names what it fails for and goes on.

  Args:
    items: photos or their features. A progress bar is shown where there are several.
    function: called with each.
    names: of the items, for messages.
    left_out: is given "file_name" and "reason" of each failure.

  Raises:
    errors.Error: the function fails for the only item, or what it writes cannot be written.
  """
  is_quiet = len(items) == 1 or not sys.stderr.isatty()
  for item, name in zip(tqdm.tqdm(items, unit="photo", disable=is_quiet), names):
    try:
      result = function(item)
    except atomic_files.FileError:  # The next would not be written either.
      raise
    except (errors.Error, MemoryError, tf.errors.OpError) as error:
      reason = errors.known_text(error)
      if reason is None:
        raise
      reason = reason if name in reason else f"{name}: {reason}"
      if len(items) == 1:
        raise (type(error) if isinstance(error, errors.Error) else PhotoError)(reason) from error
      tqdm.tqdm.write(f"failed: {reason}", file=sys.stderr)
      left_out.append({"file_name": name, "reason": reason})
      continue
    yield result


def check_complete(left_out: Sequence[dict[str, str]], count: int, output: str) -> None:
  """Raises PhotoError where some of `count` photos were left out; the others are in `output`."""
  if left_out:
    others = f"; the others are in {output}" if len(left_out) < count else ""
    raise PhotoError(f"{len(left_out)} of {count} photos failed, for the reasons above{others}")
