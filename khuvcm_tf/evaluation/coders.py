"""Models and anchors behind one interface, to be evaluated: each codes images at a rate point.

A model is named as for `model_files.load`, one of several rates also at qualities: PATH@30 or
PATH@30,50,80. Without any it codes at its default.
"""

from __future__ import annotations

import abc
import copy
import functools
import math
import os
import re
from collections.abc import Sequence

import numpy as np

from khuvcm_tf import bitstream, coding, errors, model_files, model_folders, paths
from khuvcm_tf.evaluation import anchors


class CoderError(errors.Error):
  """Models that cannot be evaluated as they are named."""


class Coder(abc.ABC):
  """Codes images at one rate point.

  Attributes:
    kind: "model" or "anchor".
    suffix: of its files, with a dot.
    key: identifies what files and decoded images depend on.
    notes: what the rate point is, for people.
    version: of the codec.
    conversion: how RGB becomes what is coded.
    description: of a model, its model.json; {} of an anchor.
    quality: at which a model of several rates codes, 0 .. 100; None of other coders.
  """

  quality: float | None = None

  def warm_up(self, image: np.ndarray) -> None:  # noqa: B027
    """Does once, before anything is timed, what the first image would pay for."""

  @abc.abstractmethod
  def compress(self, image: np.ndarray) -> bytes:
    """Codes uint8 [H, W, 3] or [H, W, 1]."""

  @abc.abstractmethod
  def decompress(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Decodes what `compress` made of an image of this shape."""

  def estimated_bits(self, image: np.ndarray) -> float:
    """Returns the bits that the coder's tables give to the symbols alone; nan where unknown."""
    return math.nan

  def conversion_psnr(self, image: np.ndarray) -> float:
    """Returns the PSNR of the colour conversion alone, dB; nan where a codec has none apart."""
    return math.nan

  def unload(self) -> None:  # noqa: B027
    """Frees memory; what is needed again is loaded again."""


class _Shared:
  """A model that coders at several qualities share: loaded and warmed up once."""

  def __init__(self, path: str, precision: str):
    self._path, self._precision, self.is_warm = path, precision, False

  def __getstate__(self) -> dict[str, object]:
    return {**self.__dict__, "is_warm": False}  # A model that was loaded is loaded again.

  @functools.cached_property
  def model(self) -> coding.Model:
    return model_files.load(self._path, self._precision)


class ModelCoder(Coder):
  """A trained model at one quality, loaded when it is first asked to code."""

  kind, suffix = "model", ".kvc"

  def __init__(self, path: str, precision: str = "float32"):
    self.path, self._precision = path, precision
    folder = model_folders.find(path)
    self.description = model_folders.read_description(folder)
    self.fingerprint = model_folders.read_fingerprint(folder).hex()
    versions = self.description.get("versions", {})
    self.version = f"khuvcm_tf {versions.get('khuvcm_tf', 'unknown')}"
    self.conversion = f"codec {self.description['codec']}"
    self.quality = model_folders.default_quality(self.description)
    self._shared = _Shared(path, precision)

  def at(self, quality: float) -> ModelCoder:
    """Returns a coder at another quality, 0 .. 100, that shares the model.

    Raises:
      CoderError: the model has one rate.
    """
    if self.quality is None:
      raise CoderError(f"{self.path}: {coding.one_rate_text(f'quality {quality:g}')}")
    other = copy.copy(self)
    other.quality = quality
    return other

  @property
  def key(self):
    at_quality = "" if self.quality is None else f" quality {self.quality:g}"
    return f"{self.fingerprint} {self._precision}{at_quality}"

  @property
  def notes(self):
    lmbda = f"lambda {self.description.get('lambda', 'unknown')}"
    rate = lmbda if self.quality is None else f"quality {self.quality:g}"
    return f"{rate}, model {self.fingerprint}"

  def load(self) -> coding.Model:
    """Returns the model; `coding.ModelError` is raised where it is damaged."""
    return self._shared.model

  def unload(self):
    # The model is freed with the last coder that shares it.
    self._shared = _Shared(self.path, self._precision)

  def warm_up(self, image):
    if not self._shared.is_warm:
      self.decompress(self.compress(image), image.shape)  # TensorFlow builds its graphs
      self._shared.is_warm = True

  def compress(self, image):
    return self.load().compress(image, self.quality)

  def decompress(self, data, shape):
    del shape  # is in the file
    return self.load().decompress(data)

  def estimated_bits(self, image):
    return sum(self.load().estimate(image, self.quality).values())


class AnchorCoder(Coder):
  """A classic codec at one of its rate points."""

  kind = "anchor"

  def __init__(self, anchor: anchors.Anchor, rate_point: anchors.RatePoint):
    self._anchor, self._rate_point = anchor, rate_point
    self.suffix, self.conversion, self.description = f".{anchor.suffix}", anchor.conversion, {}
    self.notes, self.version = anchor.options(rate_point), _version(anchor)
    self.key = f"{anchor.name} {self.notes} {self.version}"

  def compress(self, image):
    return self._anchor.encode(image, self._rate_point)

  def decompress(self, data, shape):
    return self._anchor.decode(data, *shape[:2])

  def conversion_psnr(self, image):
    return self._anchor.conversion_psnr(image)


def model_coders(texts: Sequence[str], precision: str) -> list[tuple[str, dict[str, Coder]]]:
  """Returns the coders that `--models` names.

  Args:
    texts: each PATH, or NAME=PATH1:PATH2:... for several rate points of one curve; each path as in
      this module's docstring, its qualities joined or as the next texts (`joined_qualities`).
    precision: of the transforms.

  Returns:
    For each model or NAME its name, that of the first path where none is given, and coders by rate
    point: in the order of the paths, those of one path by rising quality.

  Raises:
    CoderError: two rate points of one curve have the same name, or a model has no such quality.
    coding.ModelError: there is no such model.
  """
  curves = []
  for text in joined_qualities(texts):
    name, of_curve = _named_paths(text)
    own = [coder for path in of_curve for coder in coders_at(path, precision)]
    coders = {_label(coder, is_alone=len(of_curve) == 1): coder for coder in own}
    if len(coders) < len(own):
      raise CoderError(f"{text} names models of the same name; expected different folders' names")
    curves.append((name or _basename(own[0].path), coders))
  return curves


def coders_at(text: str, precision: str) -> list[ModelCoder]:
  """Returns the coders that PATH, PATH@30 or PATH@30,50,80 names, by rising quality.

  Raises:
    CoderError: the model has no such quality.
    coding.ModelError: there is no such model.
  """
  path, texts = _split(text)
  coder, qualities = ModelCoder(path, precision), sorted({_quality(path, each) for each in texts})
  if len({coding.step_of(quality) for quality in qualities}) < len(qualities):
    raise CoderError(
      f"{text} names qualities that are the same of 256 steps, expected others; leave one out"
    )
  return [coder.at(quality) for quality in qualities] or [coder]


def joined_qualities(texts: Sequence[str]) -> list[str]:
  """Returns texts of which the numbers behind one with @, split at its commas, are joined to it.

  Example:
    >>> joined_qualities(["a@10", "30", "b", "mine=c@50", "80"])
    ['a@10,30', 'b', 'mine=c@50,80']
  """
  joined: list[str] = []
  for text in texts:
    if joined and _is_number(text) and _split(_named_paths(joined[-1])[1][-1])[1]:
      joined[-1] += f",{text}"
    else:
      joined.append(text)
  return joined


def anchor_coders(anchor: anchors.Anchor) -> dict[str, Coder]:
  """Returns an anchor's coders by rate point."""
  return {anchor.label(each): AnchorCoder(anchor, each) for each in anchor.default_rate_points}


def _named_paths(text: str) -> tuple[str, list[str]]:
  """Returns the name, "" where there is none, and the paths of NAME=PATH1:PATH2."""
  has_name = "=" in text and not _is_model(_split(text)[0])
  name, text = text.split("=", 1) if has_name else ("", text)
  return name, [paths.expanded(path) for path in _paths(text)]


def _paths(text: str) -> list[str]:
  """Splits at colons, but for those in the path of a model.

  Example:
    >>> _paths("W1:W2@10")
    ['W1', 'W2@10']
  """
  parts, found = text.split(":"), []
  while parts:
    count = next(n for n in range(len(parts), 0, -1) if n == 1 or _is_whole(":".join(parts[:n])))
    found.append(":".join(parts[:count]))
    parts = parts[count:]
  return found


def _is_whole(text: str) -> bool:
  """Returns whether all colons of PATH@10 are those of a model's path."""
  path, _ = _split(text)
  return path.count(":") == text.count(":") and _is_model(path)


def _split(text: str) -> tuple[str, list[str]]:
  """Returns the path and the qualities, none where there is no @ or where it is the path's."""
  path, at, qualities = text.rpartition("@")
  return (path, qualities.split(",")) if at and not _is_model(text) else (text, [])


def _is_model(path: str) -> bool:
  """Returns whether a path is that of a model; another folder may have its name by chance."""
  try:
    return bool(model_folders.find(path))
  except model_folders.ModelError:
    return False


def _quality(path: str, text: str) -> float:
  if _is_number(text) and 0 <= float(text) <= bitstream.MAX_QUALITY:
    return float(text)
  raise CoderError(
    f"{text!r} behind the @ of {path} is no quality, expected numbers of 0 to "
    f"{bitstream.MAX_QUALITY}, as in {model_folders.DEFAULT}@30,50"
  )


def _is_number(text: str) -> bool:
  try:
    return bool(text) and math.isfinite(float(text))
  except ValueError:
    return False


def _label(coder: ModelCoder, is_alone: bool) -> str:
  """Returns the name of a rate point, which is also that of a folder."""
  name = re.sub(r"^\W|[^\w.+-]", "_", _basename(coder.path))
  if coder.quality is None:
    return name
  return f"q{coder.quality:g}" if is_alone else f"{name}-q{coder.quality:g}"


def _basename(path: str) -> str:
  return os.path.basename(os.path.normpath(path))


@functools.cache
def _version(anchor: anchors.Anchor) -> str:
  """Returns an anchor's version; some ask a process for it."""
  return anchor.version()
