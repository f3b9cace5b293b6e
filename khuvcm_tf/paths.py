"""Paths as people name them, the files that they lead to, and paths as TensorFlow takes them."""

from __future__ import annotations

import atexit
import collections
import functools
import glob
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from typing import NamedTuple


def expanded(path: str) -> str:
  """Returns a path as a person means it: with the home folder for its `~`."""
  return os.path.expanduser(path)


def is_url(path: str) -> bool:
  """Returns whether a path is an address as in gs://bucket/run, NAME= before it or not."""
  return bool(re.match(r"([^/=]*=)?[A-Za-z][A-Za-z0-9+.-]*://", path))


def is_same_file(path: str, other: str) -> bool:
  """Returns whether two paths lead to one file, by whatever links; a folder is none."""
  return os.path.isfile(path) and os.path.isfile(other) and os.path.samefile(path, other)


class Listing(NamedTuple):
  """What a pattern leads to.

  Attributes:
    files: paths, sorted.
    left_out: how many others there are, by reason.
  """

  files: list[str]
  left_out: dict[str, int]


def list_files(pattern: str, suffixes: tuple[str, ...]) -> Listing:
  """Lists files by their suffixes, each once, also where links lead to it again.

  Args:
    pattern: one file (taken whatever its suffix), a folder (searched with its subfolders), or a
      glob in which `**` crosses folders. Folders and globs yield the suffixes given, in upper or
      lower case. Hidden files are neither listed nor counted.
    suffixes: in lower case, with their dots.
  """
  if os.path.isfile(pattern):
    return Listing([pattern], {})
  if os.path.isdir(pattern):
    pattern = os.path.join(glob.escape(pattern), "**", "*")
  left_out, files = collections.Counter(), {}
  real_folder = functools.lru_cache(None)(os.path.realpath)
  found = {path for path in _matches(pattern, left_out) if not os.path.isdir(path)}
  for path in sorted(found, key=lambda path: (os.path.islink(path), path)):
    if not path.lower().endswith(suffixes):
      left_out[f"of {os.path.splitext(path)[1].lower() or 'no suffix'}"] += 1
    elif not os.path.isfile(path):
      left_out["no files, or links to none"] += 1
    elif os.path.islink(path):
      if files.setdefault(os.path.realpath(path), path) != path:
        left_out["links to others"] += 1
    else:
      real = os.path.join(real_folder(os.path.dirname(path)), os.path.basename(path))
      files.setdefault(real, path)
  return Listing(sorted(files.values()), dict(sorted(left_out.items())))


def _matches(pattern: str, left_out: dict[str, int]) -> Iterator[str]:
  """Yields what a glob matches; `**` enters each folder once, so that links make no loops."""
  parts = pattern.split(os.sep)
  if "**" not in parts:
    yield from glob.iglob(pattern)
    return
  index = parts.index("**")
  head, tail = os.sep.join(parts[:index]), os.path.join("", *parts[index + 1 :]) or "*"
  bases = glob.glob(head) if head else [os.sep if index else ""]
  for base in bases:
    for folder in _folders(base, set(), left_out):
      yield from _matches(os.path.join(glob.escape(folder), tail), left_out)


def _folders(folder: str, seen: set[str], left_out: dict[str, int]) -> Iterator[str]:
  """Yields a folder and those within it that are not hidden, each once; links come last."""
  real = os.path.realpath(folder or os.curdir)
  if real in seen:
    return
  seen.add(real)
  try:
    with os.scandir(real) as entries:
      inner = sorted(
        (entry.is_symlink(), entry.name)
        for entry in entries
        if entry.is_dir() and not entry.name.startswith(".")
      )
  except NotADirectoryError:
    return
  except OSError:
    left_out["folders that cannot be read"] += 1
    return
  yield folder
  for _, name in inner:
    yield from _folders(os.path.join(folder, name), seen, left_out)


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
