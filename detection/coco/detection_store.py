"""Detections on disk, image by image as they are found, so that an evaluation can be resumed.

The file has a line for each image:

    {"key": ..., "digest": ..., "values": {...}}

The key says what the values depend on. A line that was cut by a kill or damaged is passed over, and
its values are made again. Lines are only ever appended: those of another detector do no harm.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json

from khuvcm_tf import atomic_files


class DetectionStore:
  """A file of JSON lines by key.

  with DetectionStore("out/detections.jsonl") as store:
    if store.get(key) is None:
      store.add(key, {"detections": [...]})
  """

  def __init__(self, path: str):
    """Reads what is there.

    Args:
      path: of the file, in a folder that exists.

    Raises:
      FileError: the file cannot be opened.
    """
    self._path = path
    self._values: dict[str, dict] = {}
    self._separator = ""
    try:
      with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        for line in file:
          self._values.update(_parse(line))
          # What follows a line that was cut begins on a line of its own.
          self._separator = "" if line.endswith(b"\n") else "\n"
      # Without a buffer, so that a line is written when `add` returns.
      self._file = open(path, "ab", buffering=0)
    except OSError as error:
      raise atomic_files.FileError(
        f"{path}: cannot be opened: {error.strerror}; expected a file in a writable folder"
      ) from error

  def __enter__(self) -> DetectionStore:
    return self

  def __exit__(self, *error: object) -> None:
    self._file.close()

  def get(self, key: str) -> dict | None:
    """Returns the values of a key; None where they are not there."""
    return self._values.get(key)

  def keys(self) -> frozenset[str]:
    """Returns the keys that are there."""
    return frozenset(self._values)

  def add(self, key: str, values: dict) -> None:
    """Appends the values of a key; ending the program afterwards does not lose them.

    Raises:
      FileError: the file cannot be written.
    """
    content = {"key": key, "digest": _digest(key, values), "values": values}
    data = f"{self._separator}{json.dumps(content)}\n".encode()
    self._separator = "\n"  # where this line is cut
    try:
      if self._file.write(data) != len(data):
        raise OSError(errno.ENOSPC, "No space left on device")
    except OSError as error:
      raise atomic_files.FileError(
        f"{self._path}: cannot be written: {error.strerror}; expected space for {len(data)} bytes; "
        "run again to go on"
      ) from error
    self._separator = ""
    self._values[key] = values


def _parse(line: bytes) -> dict[str, dict]:
  """Returns the values of a line by its key; nothing where it is damaged."""
  try:
    content = json.loads(line)
    key, values = content["key"], content["values"]
    return {key: values} if content["digest"] == _digest(key, values) else {}
  except (ValueError, KeyError, TypeError):
    return {}


def _digest(key: str, values: dict) -> str:
  return hashlib.sha256(json.dumps([key, values], sort_keys=True).encode()).hexdigest()[:16]
