"""Photos on disk: found with names that tell them apart, and taken one after the other."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from typing import Callable, TypeVar

import numpy as np
import tqdm

from khuvcm_tf import atomic_files, errors
from khuvcm_tf.data import inputs
from khuvcm_tf.data.inputs import Input
from khuvcm_tf.executor import HERE, Executor, Progress, reason

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class PhotoError(errors.Error):
  """Photos that were not all used, or cannot be."""


class Photo(Input):
  """A photo's file, or a part of one."""

  __slots__ = ()

  def digest(self) -> str:
    """Returns SHA-256 of the file, 64 hexadecimal digits.

    Raises:
      PhotoError: the file cannot be read.
    """
    try:
      return hashlib.sha256(self.content()).hexdigest()
    except OSError as error:
      raise PhotoError(
        f"{self.label}: cannot be read: {error.strerror}; expected an image file"
      ) from error

  def read(self, alpha: str) -> np.ndarray:
    """Returns the pixels as `image_files.read_image` does; warnings do not tear a progress bar."""
    with tqdm.tqdm.external_write_mode(sys.stderr):
      return self.read_image(alpha)


def find(pattern: str) -> list[Photo]:
  """Finds photos as `data.inputs` names them, sorted by path.

  Raises:
    image_files.ImageError, DataError: there are none.
  """
  return [Photo(*each) for each in inputs.find_images(pattern)]


def attempt_all(
  items: Sequence[_Item],
  function: Callable[[_Item], _Result],
  names: Sequence[str],
  left_out: list[dict[str, str]],
  executor: Executor = HERE,
  output: str | None = None,
) -> Iterator[_Result]:
  """Yields a function's results; names what it fails for and goes on.

  Args:
    items: photos or their features. A progress bar is shown where there are several.
    function: called with each.
    names: of the items, for messages.
    left_out: is given "file_name" and "reason" of each failure.
    executor: calls the function.
    output: folder for the executor's list of failures; None for none.

  Raises:
    errors.Error: the function fails for the only item, or what it writes cannot be written.
  """
  is_quiet = len(items) == 1 or not sys.stderr.isatty()
  with Progress(len(items), "photo", executor, output, is_quiet) as progress:
    for index, result, error in executor.map(function, items):
      if error is None:
        progress.add()
        yield result
        continue
      leave_out(error, names[index], len(items) == 1, progress, left_out)


def leave_out(
  error: Exception,
  name: str,
  is_only: bool,
  progress: Progress,
  left_out: list[dict[str, str]],
) -> None:
  """Names a photo that failed; raises the error where it is the only one, or a `FileError`."""
  if isinstance(error, atomic_files.FileError):  # The next would not be written either.
    raise error
  text = reason(error, name)
  progress.fail(name, text)
  if is_only:
    raise (type(error) if isinstance(error, errors.Error) else PhotoError)(text) from error
  tqdm.tqdm.write(f"failed: {text}", file=sys.stderr)
  left_out.append({"file_name": name, "reason": text})


def check_complete(left_out: Sequence[dict[str, str]], count: int, output: str) -> None:
  """Raises PhotoError where some of `count` photos were left out; the others are in `output`."""
  if left_out:
    others = f"; the others are in {output}" if len(left_out) < count else ""
    raise PhotoError(f"{len(left_out)} of {count} photos failed, for the reasons above{others}")
