"""The one base class of errors that are the caller's to mend, and what other errors say."""

from __future__ import annotations

import errno
import os
import re
import sys

# What TensorFlow's errors end in where the system has refused something. It tells a full disk, too,
# as "resource exhausted".
_OF_SYSTEM = [
  os.strerror(code)
  for code in (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG),
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EMFILE, errno.ENFILE),
  )
]


class Error(Exception):
  """An error that a person can act on: what was found, what was expected, what to do.

  Programs print it as one line and exit with 1 (`khuvcm_tf.program`). Each room derives its own
  class from it, next to the code that raises it; anything else that is raised is a bug of ours.
  """


def known_text(error: BaseException) -> str | None:
  """Returns what is wrong where that is no bug: an `Error`, what the system said, or no memory.

  Returns:
    One line; None of any other error.
  """
  text = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
  if isinstance(error, Error):
    return text
  if isinstance(error, OSError) and error.strerror:
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
  # Where TensorFlow is not imported, the error is not one of its own.
  tf = sys.modules.get("tensorflow")
  if tf is not None and isinstance(error, tf.errors.OpError):
    if any(each in text for each in _OF_SYSTEM):
      return re.sub(r"\{\{.*?\}\} | \[Op:.*", "", text)  # names of TensorFlow's own
    if isinstance(error, tf.errors.ResourceExhaustedError):
      error = MemoryError()
  if isinstance(error, MemoryError):
    return f"out of memory: {text or 'no details'}: give it less at once, or more memory"
  return None


def reason(error: Exception) -> str:
  """Returns the text of whatever a file's damage has raised, on one line."""
  if isinstance(error, OSError) and error.strerror:
    return f"{os.path.basename(error.filename or '')}: {error.strerror}"
  return " ".join(str(error).split()) or type(error).__name__
