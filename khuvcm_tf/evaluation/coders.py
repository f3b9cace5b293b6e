"""Models and anchors behind one interface, to be evaluated: each codes images at a rate point."""

from __future__ import annotations

import abc
import functools
import math
import os
import re
from collections.abc import Sequence

import numpy as np

from khuvcm_tf import coding, errors, model_files, model_folders
from khuvcm_tf.evaluation import anchors


class CoderError(errors.Error):
  """Models that cannot be evaluated together."""


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
  """

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


class ModelCoder(Coder):
  """A trained model, loaded when it is first asked to code."""

  kind, suffix = "model", ".kvc"

  def __init__(self, path: str, precision: str = "float32"):
    self._path, self._precision, self._model = path, precision, None
    folder = model_folders.find(path)
    self.description = model_folders.read_description(folder)
    self.fingerprint = model_folders.read_fingerprint(folder).hex()
    self.key = f"{self.fingerprint} {precision}"
    self.notes = f"lambda {self.description.get('lambda', 'unknown')}, model {self.fingerprint}"
    versions = self.description.get("versions", {})
    self.version = f"khuvcm_tf {versions.get('khuvcm_tf', 'unknown')}"
    self.conversion = f"codec {self.description['codec']}"

  def load(self) -> coding.Model:
    """Returns the model; `coding.ModelError` is raised where it is damaged."""
    if self._model is None:
      self._model = model_files.load(self._path, self._precision)
    return self._model

  def unload(self):
    self._model = None

  def warm_up(self, image):
    self.decompress(self.compress(image), image.shape)  # TensorFlow builds its graphs

  def compress(self, image):
    return self.load().compress(image)

  def decompress(self, data, shape):
    del shape  # is in the file
    return self.load().decompress(data)

  def estimated_bits(self, image):
    return sum(self.load().estimate(image).values())


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
    texts: each PATH, or NAME=PATH1:PATH2:... for several rate points of one curve, each path as
      `model_files.load` takes it.
    precision: of the transforms.

  Returns:
    For each text its name, that of the first path where none is given, and coders by rate point.

  Raises:
    CoderError: two rate points of one curve have the same name.
    coding.ModelError: there is no such model.
  """
  curves = []
  for text in texts:
    has_name = "=" in text and not os.path.exists(text)
    name, paths = text.split("=", 1) if has_name else ("", text)
    paths = paths.split(":")
    coders = {_label(path): ModelCoder(path, precision) for path in paths}
    if len(coders) < len(paths):
      raise CoderError(f"{text} names models of the same name; expected different folders' names")
    curves.append((name or _basename(paths[0]), coders))
  return curves


def anchor_coders(anchor: anchors.Anchor) -> dict[str, Coder]:
  """Returns an anchor's coders by rate point."""
  return {anchor.label(each): AnchorCoder(anchor, each) for each in anchor.default_rate_points}


def _label(path: str) -> str:
  """Returns the name of a rate point, which is also that of a folder."""
  return re.sub(r"^\W|[^\w.+-]", "_", _basename(path))


def _basename(path: str) -> str:
  return os.path.basename(os.path.normpath(path))


@functools.cache
def _version(anchor: anchors.Anchor) -> str:
  """Returns an anchor's version; some ask a process for it."""
  return anchor.version()
