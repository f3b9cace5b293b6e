"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets

from khuvcm_tf import errors


class FileError(errors.Error):
  """A file that cannot be written."""


def write_text(path: str, text: str) -> None:
  """Writes text as UTF-8 with the guarantees of `write_bytes`."""
  write_bytes(path, text.encode("utf-8"))


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
  target = os.path.realpath(path)
  if os.path.exists(target) and not os.path.isfile(target):
    raise FileError(f"{path}: is not a regular file and cannot be replaced; give a file's name")
  # Opened by name rather than by `tempfile`, whose files only their owner may read.
  temporary = os.path.join(os.path.dirname(target), f".{secrets.token_hex(8)}.tmp")
  try:
    try:
      with open(temporary, "xb") as file:
        file.write(data)
      os.replace(temporary, target)
    finally:
      with contextlib.suppress(OSError):
        os.unlink(temporary)
  except OSError as error:
    raise FileError(
      f"{path}: cannot be written: {error.strerror}; expected an existing, writable folder with "
      f"space for {len(data)} bytes"
    ) from error
