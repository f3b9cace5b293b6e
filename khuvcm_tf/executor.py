"""Functions of one image, called for many: in this process, or by the workers of a cluster.

  for outcome in executor.map(function, items):  # in any order
    if outcome.error is None:
      use(items[outcome.index], outcome.result)

A function raises `errors.Error`, an `OSError` or a `MemoryError` for an item that cannot be used:
its outcome has the error, and the others are done all the same. What else is raised is a bug and
ends the run.

`khuvcm_tf.cluster` has the executor that calls a function elsewhere: the function is pickled, its
models as the calls that load them (`model_folders.Reloaded`), and items and results are small:
paths, not pixels.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import os
from collections.abc import Container, Iterator, Sequence
from concurrent import futures
from typing import Any, Callable, NamedTuple, Protocol

import tqdm

from khuvcm_tf import atomic_files, errors

FAILED = "failed.csv"
_COLUMNS = ("name", "error")


class Outcome(NamedTuple):
  """What a function gave for an item.

  Attributes:
    index: of the item.
    result: what was returned; None where there is an error.
    error: why there is no result.
  """

  index: int
  result: Any
  error: Exception | None


class Executor(Protocol):
  """Calls a function for many items.

  Attributes:
    resumes: whether a run goes on where it was ended: outputs that are there are not made again,
      and items that fail are listed in `FAILED`.
  """

  resumes: bool

  def map(self, function: Callable[[Any], Any], items: Sequence) -> Iterator[Outcome]:
    """Yields an outcome for each item as it comes."""


class Here:
  """Calls a function in this process, in the order of the items.

  Args:
    threads: calls at the same time.
  """

  resumes = False

  def __init__(self, threads: int = 1):
    self._threads = threads

  def map(self, function: Callable[[Any], Any], items: Sequence) -> Iterator[Outcome]:
    call = functools.partial(attempt, function)
    with contextlib.ExitStack() as stack:
      if self._threads == 1:
        found = map(call, items)
      else:
        found = stack.enter_context(futures.ThreadPoolExecutor(self._threads)).map(call, items)
      for index, (result, error) in enumerate(found):
        yield Outcome(index, result, error)


HERE = Here()


def attempt(function: Callable[[Any], Any], item: Any) -> tuple[Any, Exception | None]:
  """Returns what a function returns for an item, or None and why it cannot.

  Raises:
    atomic_files.NoRoomError: of the next item nothing could be written either.
  """
  try:
    return function(item), None
  except atomic_files.NoRoomError:
    raise
  except (errors.Error, OSError, MemoryError) as error:
    return None, error
  except Exception as error:
    text = errors.known_text(error)
    if text is None:
      raise
    return None, errors.Error(text)  # of TensorFlow's, which other processes may not unpickle


def reason(error: Exception, name: str) -> str:
  """Returns why an item failed, with its name."""
  text = errors.known_text(error) or str(error)  # of an encoder's own OSError
  return text if name in text else f"{name}: {text}"


class Progress:
  """The bar of a run, and the list of what failed.

  with Progress(len(items), "image", executor, "out") as progress:
    progress.add(size=1000)             # an image, and the bytes written for it
    progress.fail("a.png", "a.png: is damaged")

  Args:
    total: number of images.
    unit: what they are called.
    executor: that makes them. Where it resumes, FOLDER/failed.csv lists the failures as they come,
      with columns `name` and `error`; it is there only where there are any.
    folder: of the outputs; None where there is none.
    disable: no bar; None: none where stderr is no terminal.
    done: names that are not tried again; of these, what failed before is listed again.

  Attributes:
    num_failed: number of failures.
  """

  def __init__(
    self,
    total: int,
    unit: str,
    executor: Executor,
    folder: str | None,
    disable: bool | None = None,
    done: Container[str] = (),
  ):
    self._bar = tqdm.tqdm(total=total, unit=unit, disable=disable)
    self._path = os.path.join(folder, FAILED) if executor.resumes and folder else None
    self._size = self.num_failed = 0
    if self._path:
      before = [row for row in _read_rows(self._path) if row[0] in done]
      with contextlib.suppress(FileNotFoundError):
        os.unlink(self._path)
      for row in before:
        self._list(*row)

  def __enter__(self) -> Progress:
    return self

  def __exit__(self, *error: object) -> None:
    self._bar.close()

  def add(self, count: int = 1, size: int = 0) -> None:
    """Counts images that are done, and the bytes that were written for them."""
    self._size += size
    self._show(count)

  def fail(self, name: str, error: str) -> None:
    """Counts an image that failed, and lists it."""
    self._list(name, error)
    self._show(1)

  def _list(self, name: str, error: str) -> None:
    self.num_failed += 1
    if self._path:
      header = [] if os.path.exists(self._path) else [_COLUMNS]
      with open(self._path, "a", encoding="utf-8", errors="surrogateescape", newline="") as file:
        csv.writer(file).writerows([*header, (name, error)])

  def _show(self, count: int) -> None:
    size = tqdm.tqdm.format_sizeof(self._size, "B") if self._size else ""
    failed = f"{self.num_failed} failed" if self.num_failed else ""
    self._bar.set_postfix_str(", ".join(filter(None, (size, failed))), refresh=False)
    self._bar.update(count)


def _read_rows(path: str) -> list[list[str]]:
  """Returns the rows of a list of failures; none where there is no such list."""
  with contextlib.suppress(FileNotFoundError):
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
      return [row for row in csv.reader(file) if len(row) == len(_COLUMNS)][1:]
  return []
