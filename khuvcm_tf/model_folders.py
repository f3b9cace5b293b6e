"""Folders of models: found by path, by name or by fingerprint, and described without TensorFlow.

  model.json     codec, its arguments, and how it was trained
  weights.npz    float weights (float16 or float32)
  integer.npz    integer weights and tables of the entropy coder
  fingerprint    16 hexadecimal digits

`khuvcm_tf.model_files` writes these folders and loads models from them.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import json
import os
from collections.abc import Mapping
from typing import Callable

import numpy as np

from khuvcm_tf import bitstream, errors

FORMAT = 1  # of model.json and the files beside it
DESCRIPTION = "model.json"
DEFAULT = "mbt2018_variable"  # the shipped model of programs that are given none
DEFAULT_QUALITY = 50.0  # of models of several rates whose description names no other
OWN_QUALITY = 50.0  # of models of several rates that were trained for one


class ModelError(errors.Error):
  """A model that cannot be used, or not for this file or image."""


class Reloaded:
  """What is loaded from a folder; pickled, it is the call that loads it.

  So a process that is sent a function with a model in it loads a model of its own.

  Attributes:
    fingerprint: what is loaded has it.
    reload: the call, which is set by what loads the model.
  """

  reload: Callable[[], Reloaded] | None = None

  def __reduce__(self):
    if self.reload is None:
      raise TypeError(f"{type(self).__name__} was not loaded from a folder, and is not pickled")
    return _load_again, (self.reload, self.fingerprint)


def _load_again(reload: Callable[[], Reloaded], fingerprint: object) -> Reloaded:
  model = reload()
  if model.fingerprint != fingerprint:
    raise ModelError(
      f"{os.uname().nodename} has another model under the same name, expected the same on all "
      "machines; install the same version of the package, or give a folder that all of them see"
    )
  return model


def default_quality(description: dict[str, object]) -> float | None:
  """Returns the quality at which a model codes where none is given; None of a model of one rate.

  Raises:
    ModelError: it is none.
  """
  has_gains = description["arguments"].get("num_qualities") is not None
  if not has_gains and "default_quality" not in description:
    return None
  quality = description.get("default_quality", DEFAULT_QUALITY)
  is_number = isinstance(quality, (int, float)) and not isinstance(quality, bool)
  if not is_number or not 0 <= quality <= bitstream.MAX_QUALITY:
    raise ModelError(
      f"{DESCRIPTION} has default_quality={quality!r}, expected a number of 0 to "
      f"{bitstream.MAX_QUALITY}; correct it"
    )
  return float(quality)


def find(path_or_name: str) -> str:
  """Returns the folder of a model.

  Args:
    path_or_name: a model's folder, a training workdir, or the name of a shipped model.

  Raises:
    ModelError: there is no such model.
  """
  for folder in (path_or_name, os.path.join(path_or_name, "model")):
    if os.path.isfile(os.path.join(folder, "model.json")):
      return folder
  if path_or_name in shipped():
    return shipped()[path_or_name]
  if os.path.isdir(os.path.join(path_or_name, "checkpoints")):
    raise ModelError(
      f"{path_or_name} holds a run that has not ended: run bin/train.py on it to its end first"
    )
  raise ModelError(
    f"no model at {path_or_name!r}, expected a model's folder, a training workdir, or one of "
    f"the shipped: {', '.join(names()) or 'none'}"
  )


def shipped(description: str = DESCRIPTION) -> dict[str, str]:
  """Returns what is shipped, name: folder: that in $KHUVCM_MODELS, then that of the package.

  The first of two with the same name hides the other.

  Args:
    description: file that a folder of the kind looked for has.
  """
  found = {}
  for root in _roots():
    if os.path.isdir(root):
      for name in sorted(os.listdir(root)):
        if os.path.isfile(os.path.join(root, name, description)):
          found.setdefault(name, os.path.join(root, name))
  return found


def names() -> list[str]:
  """Returns the names of shipped models."""
  return list(shipped())


def find_by_fingerprint(fingerprint: bytes) -> str | None:
  """Returns the name of the shipped model that wrote a file, or None."""
  for name, folder in shipped().items():
    # A damaged model must not hide the others.
    with contextlib.suppress(OSError, ValueError):
      if read_fingerprint(folder) == fingerprint:
        return name
  return None


def read_fingerprint(folder: str) -> bytes:
  """Returns the 8 bytes stored in a folder."""
  with open(os.path.join(folder, "fingerprint"), encoding="ascii") as file:
    return bytes.fromhex(file.read().strip())


def write_fingerprint(folder: str, fingerprint: bytes) -> None:
  """Stores 8 bytes in a folder, as 16 hexadecimal digits."""
  with open(os.path.join(folder, "fingerprint"), "w", encoding="ascii") as file:
    file.write(fingerprint.hex() + "\n")


def as_stored(weights: Mapping[str, object], dtype: str) -> dict[str, np.ndarray]:
  """Returns weights in the type in which they are stored.

  Args:
    weights: TensorFlow's variables by name.
    dtype: "float32" or "float16".

  Raises:
    ModelError: one of them is not finite in it.
  """
  with np.errstate(over="ignore"):  # What overflows is found below.
    found = {name: value.numpy().astype(dtype) for name, value in weights.items()}
  odd = [name for name, value in found.items() if not np.isfinite(value).all()]
  if odd:
    raise ModelError(
      f"weights {', '.join(odd[:3])} hold values that are not finite in {dtype}, expected trained "
      "weights; store them as float32, or train again at a lower learning rate"
    )
  return found


def read_arrays(path: str) -> dict[str, np.ndarray]:
  """Returns the arrays of an .npz file by name; no objects.

  Raises:
    FileNotFoundError: there is none.
    ValueError: it is damaged.
  """
  try:
    with np.load(path, allow_pickle=False) as arrays:
      return {name: arrays[name] for name in arrays.files}
  except FileNotFoundError:
    raise
  except Exception as error:  # numpy, zipfile and zlib raise whatever damage leads them to.
    raise ValueError(f"{os.path.basename(path)}: {errors.reason(error)}") from error


def add_to_digest(digest, arrays: dict[str, np.ndarray]) -> None:
  """Adds names, types, shapes and contents of arrays to a digest of hashlib, in names' order."""
  for name in sorted(arrays):
    array = np.ascontiguousarray(arrays[name])
    array = array.astype(array.dtype.newbyteorder("<"))
    digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
    digest.update(array.tobytes())


def check_replaceable(folder: str, description: str = DESCRIPTION) -> None:
  """Raises ModelError where writing a folder would destroy something of another kind.

  Args:
    folder: to write.
    description: file that a folder of its kind has.
  """
  is_kind = os.path.isfile(os.path.join(folder, description))
  if os.path.exists(folder) and not is_kind and (not os.path.isdir(folder) or os.listdir(folder)):
    raise ModelError(
      f"{folder} holds something else than a {os.path.splitext(description)[0]}, expected a "
      f"{os.path.splitext(description)[0]}, an empty folder or none; name another folder"
    )


def describe(path_or_name: str) -> dict[str, object]:
  """Returns the contents of `model.json` of a model that is named as for `find`.

  Raises:
    ModelError: there is no such model, or it is damaged.
  """
  folder = find(path_or_name)
  try:
    return read_description(folder)
  except (OSError, ValueError, RecursionError) as error:
    raise ModelError(
      f"{folder} is not a whole model: {errors.reason(error)}; copy it again from its source"
    ) from error


def read_description(folder: str) -> dict[str, object]:
  """Returns the contents of a folder's `model.json`.

  Raises:
    OSError, ValueError, RecursionError: it cannot be read, or is not a description.
    ModelError: it was written by another version of the package.
  """
  with open(os.path.join(folder, "model.json"), encoding="utf-8") as file:
    description = json.load(file)
  if not isinstance(description, dict):
    raise ValueError("model.json holds no object")
  missing = [key for key in ("format", "codec", "arguments") if key not in description]
  if missing:
    raise ValueError(f"model.json has no {', '.join(missing)}")
  if not isinstance(description["codec"], str) or not isinstance(description["arguments"], dict):
    raise ValueError("model.json names no codec or no arguments")
  if description["format"] != FORMAT:
    raise ModelError(
      f"{folder} has model format {description['format']}, expected {FORMAT}; use the version of "
      "the package that wrote it"
    )
  return description


def _roots() -> list[str]:
  roots = [os.environ["KHUVCM_MODELS"]] if os.environ.get("KHUVCM_MODELS") else []
  try:
    return roots + [str(importlib.resources.files("khuvcm_tf.models"))]
  except ModuleNotFoundError:  # a checkout that is not installed
    return roots + [os.path.join(os.path.dirname(os.path.dirname(__file__)), "models")]
