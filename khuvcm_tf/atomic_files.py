"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from typing import Callable

from khuvcm_tf import errors


class FileError(errors.Error):
  """A file that cannot be written."""


class NoRoomError(FileError):
  """A file that cannot be written, as no other can be: work that goes on would be lost."""


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def write_text(path: str, text: str) -> None:
  r"""Writes text as UTF-8 with the guarantees of `write_bytes`.

  Bytes of a file's name that are not UTF-8 are written as `\udce9`, which JSON reads back.
  """
  write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: str, data: bytes) -> None:
  """Writes a file under a temporary name beside it and renames it.

  A killed program, a full disk or a reader at the wrong moment never see half a file, and a file
  that was there before stays until the new one is complete.

  Args:
    path: of the file, in a folder that exists; a link stays a link to the new contents.
    data: the contents.

  Raises:
    FileError: the file cannot be written; nothing is left behind.
  """
  with new_file(path, f"space for {len(data)} bytes") as new, open(new, "xb") as file:
    file.write(data)


@contextlib.contextmanager
def new_file(path: str, room: str = "space left") -> Iterator[str]:
  """Gives the name of a temporary file to write, which takes the place of `path` at the end.

  Args:
    path: as `write_bytes` takes it.
    room: what the place must have, in the words of the error.

  Yields:
    The path of a file beside it that does not exist; what is written there is gone where the block
    raises an error.

  Raises:
    FileError: the system refuses the file, within the block too; NoRoomError where it would refuse
      any.
  """
  target = os.path.realpath(path)
  if os.path.exists(target) and not os.path.isfile(target):
    raise FileError(f"{path}: is not a regular file and cannot be replaced; give a file's name")
  # Opened by name rather than by `tempfile`, whose files only their owner may read.
  temporary = os.path.join(os.path.dirname(target), f".{secrets.token_hex(8)}.tmp")
  with _refused(path, room):
    try:
      yield temporary
      os.replace(temporary, target)
    finally:
      with contextlib.suppress(OSError):
        os.unlink(temporary)


def check_writable(path: str) -> None:
  """Tries whether a file or a folder can be written, before work whose results it is to hold.

  Args:
    path: of it, and of folders above it, all of which need not exist yet.

  Raises:
    FileError: the system refuses it.
  """
  place = os.path.realpath(path)
  while not os.path.lexists(place):
    place = os.path.dirname(place)
  if os.path.isfile(place) and place == os.path.realpath(path):
    place = os.path.dirname(place)
  try:
    tempfile.TemporaryFile(dir=place).close()
  except OSError as error:
    raise FileError(
      f"{path}: cannot be written: {error.strerror}; expected a writable place; give another one"
    ) from error


def check_targets(
  targets: Iterable[str], sources: Iterable[str] = (), overwrite: bool = True
) -> None:
  """Checks files that are to be written.

  Args:
    targets: paths of the files.
    sources: of files that are read, none of which may be replaced.
    overwrite: whether other files that exist may be replaced.

  Raises:
    FileError: one exists, and may not be replaced.
  """
  sources = {os.path.realpath(source): source for source in sources}
  for target in targets:
    source = sources.get(os.path.realpath(target))
    if source is not None:
      raise FileError(
        f"{target} would replace {source}, from which it is made, expected another file; give "
        "another --output"
      )
    if os.path.exists(target) and not overwrite:
      raise FileError(f"{target} exists; give another --output, or --overwrite to replace it")


def make_folder(folder: str) -> None:
  """Makes a folder, and those above it, where they do not exist.

  Raises:
    FileError: the system refuses it.
  """
  try:
    os.makedirs(folder, exist_ok=True)
  except OSError as error:
    raise FileError(
      f"{folder}: cannot be made: {error.strerror}; expected a writable place for a folder; give "
      "another one"
    ) from error


@contextlib.contextmanager
def kept_lines(path: str) -> Iterator[Callable[[object], None]]:
  """Keeps what long work finds, as it is found, until the work has written its results.

  Args:
    path: of a file of JSON lines, in a folder that exists. It goes when the block ends, and stays
      where that ends in an error.

  Yields:
    A function that appends a value as a line.

  Raises:
    FileError: a line cannot be written.
  """
  is_done = False
  with _refused(path):
    file = open(path, "w", encoding="ascii", buffering=1)

  def keep(value):
    with _refused(path):
      print(json.dumps(value), file=file)

  try:
    yield keep
    is_done = True
  finally:
    with contextlib.suppress(OSError):
      file.close()
      if is_done or not os.path.getsize(path):
        os.unlink(path)


@contextlib.contextmanager
def _refused(path: str, room: str = "space left") -> Iterator[None]:
  """Within, what the system refuses becomes a FileError that names the file."""
  try:
    yield
  except OSError as error:
    kind = NoRoomError if error.errno in _NO_ROOM else FileError
    raise kind(
      f"{path}: cannot be written: {error.strerror}; expected an existing, writable folder with "
      f"{room}"
    ) from error


@contextlib.contextmanager
def new_folder(folder: str) -> Iterator[str]:
  """Gives a temporary folder to fill, which takes the place of `folder` at the end.

  Args:
    folder: to write; one that is there already stays until the new one is complete, then goes.

  Yields:
    The path of an empty folder beside it, gone where the block raises an error.

  Raises:
    FileError: the system refuses a file within the block, or the folder itself.
  """
  target = os.path.abspath(folder)
  new, old = f"{target}.tmp-{os.getpid()}", f"{target}.old-{os.getpid()}"
  try:
    os.makedirs(new)
    yield new
    _replace_folder(target, new, old)
  except OSError as error:
    raise FileError(
      f"{folder} was not written: {error.strerror}; expected a writable place with space left"
    ) from error
  finally:
    shutil.rmtree(new, ignore_errors=True)


def _replace_folder(folder: str, new: str, old: str) -> None:
  """Moves `new` to `folder`; what was there waits at `old`, and comes back where that fails."""
  if not os.path.isdir(folder):
    os.rename(new, folder)
    return
  os.rename(folder, old)
  try:
    os.rename(new, folder)
  except OSError:
    os.rename(old, folder)
    raise
  shutil.rmtree(old, ignore_errors=True)
