"""What all anchors have in common: their interface and the checks at its door."""

from __future__ import annotations

import abc
import importlib
import types
from typing import Union

import numpy as np

from khuvcm_tf import errors

RatePoint = Union[int, float]


class AnchorError(errors.Error):
  """An anchor that is unknown, not installed, or that cannot code an image."""


class Anchor(abc.ABC):
  """A classic codec. It holds no state: one object serves all images and rate points.

  Attributes:
    name: as `anchors.create` takes it.
    default_rate_points: of the codec's own scale, the lowest rate first.
    conversion: how RGB becomes what is coded, and who converts.
    suffix: of its files, without a dot.
    scale: name of the codec's scale of rate points.
    unit: prefix of a rate point's number in `label`.
    limits: the smallest and the largest rate point.
    whole: whether rate points are integers.
    longest: pixels of the longest side that the format holds; None where it is out of reach.
  """

  suffix: str
  scale: str = "quality"
  unit: str = "q"
  limits: tuple[RatePoint, RatePoint] = (1, 100)
  whole: bool = True
  longest: int | None = None
  codes_grey: bool = False  # whether `_encode` takes [H, W, 1]

  def __init__(self, name: str, conversion: str, default_rate_points: tuple[RatePoint, ...]):
    self.name, self.conversion, self.default_rate_points = name, conversion, default_rate_points

  @abc.abstractmethod
  def missing(self) -> str | None:
    """Returns one line on what this anchor lacks and what to install; None where it can run."""

  @abc.abstractmethod
  def version(self) -> str:
    """Returns encoder and library with their versions, such as "libwebp 1.6.0 by Pillow 13.0.0".

    Raises:
      AnchorError: the anchor cannot run (`missing`).
    """

  @abc.abstractmethod
  def options(self, rate_point: RatePoint) -> str:
    """Returns the encoder's options at a rate point, as text."""

  @abc.abstractmethod
  def conversion_psnr(self, rgb: np.ndarray) -> float:
    """Returns the PSNR_RGB that the conversion alone leaves, without coding.

    Args:
      rgb: uint8 [H, W, 3].

    Returns:
      dB; `inf` where nothing is lost or nothing is rounded between RGB and the transform.

    Raises:
      AnchorError: a library is asked for its conversion and is missing.
    """

  def label(self, rate_point: RatePoint) -> str:
    """Returns a rate point's short name.

    Example:
      >>> from khuvcm_tf.evaluation import anchors
      >>> anchors.create("jpeg").label(50), anchors.create("jpeg2000").label(0.35)
      ('q50', 'bpp0.35')
    """
    return f"{self.unit}{rate_point:g}"

  def encode(self, image: np.ndarray, rate_point: RatePoint) -> bytes:
    """Codes an image.

    Args:
      image: uint8 [H, W, 3], or [H, W, 1], which formats other than JPEG code as equal R, G and B.
      rate_point: within `limits`.

    Returns:
      The whole file or stream, headers included.

    Raises:
      AnchorError: the anchor is not installed, the rate point is off its scale, a side is too long
        for the format, or the encoder refuses the image.
      ValueError: `image` is of another dtype or shape.
    """
    self._check_installed()
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
      raise ValueError(
        f"`image` is {image.dtype} {image.shape}; expected uint8 [H, W, 3] or [H, W, 1]; round, "
        "clip and cast it first"
      )
    if self.longest and max(image.shape) > self.longest:
      raise AnchorError(
        f"{self.name} holds sides up to {self.longest}; found {image.shape[1]}x{image.shape[0]}; "
        "leave this anchor out or cut the image into parts"
      )
    rate_point = self._checked(rate_point)
    if image.shape[2] == 1 and not self.codes_grey:
      image = np.repeat(image, 3, axis=2)
    return self._encode(np.ascontiguousarray(image), rate_point)

  def decode(self, data: bytes, height: int, width: int) -> np.ndarray:
    """Decodes what `encode` returned.

    Args:
      data: the whole file or stream.
      height, width: of the image; raw streams are padded and do not contain it.

    Returns:
      uint8 [H, W, 3], RGB.

    Raises:
      AnchorError: the anchor is not installed, or the data is damaged or of another size.
    """
    self._check_installed()
    decoded = self._decode(data, height, width)
    if decoded.shape != (height, width, 3):
      raise AnchorError(
        f"{self.name}: decoded an image of {decoded.shape[1]}x{decoded.shape[0]}; expected "
        f"{width}x{height}; give the size of the image that was coded"
      )
    return decoded

  @abc.abstractmethod
  def _encode(self, image: np.ndarray, rate_point: RatePoint) -> bytes: ...

  @abc.abstractmethod
  def _decode(self, data: bytes, height: int, width: int) -> np.ndarray: ...

  def _check_installed(self) -> None:
    missing = self.missing()
    if missing:
      raise AnchorError(missing)

  def _checked(self, rate_point: RatePoint) -> RatePoint:
    low, high = self.limits
    # Also false for nan.
    if not low <= rate_point <= high or (self.whole and rate_point != int(rate_point)):
      kind = "a whole number" if self.whole else "a number"
      raise AnchorError(
        f"{self.name}: {self.scale} {rate_point!r}; expected {kind} from {low:g} to {high:g}"
      )
    return int(rate_point) if self.whole else float(rate_point)


def optional_module(name: str) -> types.ModuleType | None:
  """Imports a module that need not be installed; None where it is not, or cannot be loaded."""
  try:
    return importlib.import_module(name)
  except ImportError:
    return None
