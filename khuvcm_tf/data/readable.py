"""Images that turn out to be broken when a run draws them: named, counted, and passed over."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import tensorflow as tf
from absl import logging

from khuvcm_tf import errors
from khuvcm_tf.data import DataError

_Image = TypeVar("_Image")


class Readable(Generic[_Image]):
  """Reads images by number, those that cannot be read apart. Several threads may read at once.

  Which image takes the place of a broken one depends on the files alone, so that a run that is
  resumed draws what an unbroken one would have drawn.

  Args:
    count: how many images there are, numbered from 0.
    read: number -> image; raises errors.Error where it cannot be read.

  Attributes:
    failures: error of each image that could not be read, by number.
  """

  def __init__(self, count: int, read: Callable[[int], _Image]):
    self._count, self._read, self._lock = count, read, threading.Lock()
    self.failures: dict[int, errors.Error] = {}

  def get(self, number: int) -> tuple[int, _Image]:
    """Returns the first image from `number` on that can be read, behind its number.

    Raises:
      DataError: there is none.
    """
    for each in (*range(number, self._count), *range(number)):
      if each not in self.failures:
        try:
          return each, self._read(each)
        except errors.Error as error:
          self._note(each, error)
    raise DataError(
      f"none of {self._count} training images can be read, expected some; the first: "
      f"{next(iter(self.failures.values()))}; restore them and start again"
    )

  def _note(self, number: int, error: errors.Error) -> None:
    with self._lock:
      if number not in self.failures:
        self.failures[number] = error
        counts = len(self.failures), self._count
        logging.warning("skipped, as number %d of %d training images: %s", *counts, error)

  @contextlib.contextmanager
  def failures_named(self) -> Iterator[None]:
    """Within, `get` ends a pipeline in its own error.

    Raises:
      DataError: in place of TensorFlow's error, whose text is a traceback.
    """
    try:
      yield
    except tf.errors.OpError:
      if len(self.failures) == self._count:
        self.get(0)
      raise
