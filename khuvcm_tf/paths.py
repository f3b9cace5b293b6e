"""Paths as people name them and as TensorFlow takes them."""

from __future__ import annotations

import atexit
import functools
import os
import re
import shutil
import tempfile


def for_tensorflow(folder: str) -> str:
  """Returns a path of a folder under which TensorFlow finds what is in it.

  TensorFlow searches checkpoints and the variables of SavedModels as patterns, finds nothing in
  `run[lambda=0.01]`, and takes no names but those of UTF-8. Such a folder gets a link in the
  system's folder for temporary files, which is gone when the process ends.

  Args:
    folder: need not exist yet.
  """
  path = os.path.abspath(folder)
  is_plain = not re.search(r"[*?[\]\\]", path) and path.isprintable()
  return folder if is_plain else _link(path)


@functools.cache
def _link(path: str) -> str:
  """Returns a link to a path, the same one each time."""
  temporary = tempfile.mkdtemp(prefix="khuvcm-")
  atexit.register(shutil.rmtree, temporary, ignore_errors=True)
  link = os.path.join(temporary, "folder")
  os.symlink(path, link)
  return link
