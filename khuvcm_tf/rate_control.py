"""The file that a user asks for, of a model of several rates: a quality, a size, or a PSNR.

Quality has 256 steps. For a size or a PSNR the step is found by bisection, on the tables' estimate
or on what the file would decode to, and settled on files: the analysis is done once.
"""

from __future__ import annotations

import functools
import math
from typing import Callable, NamedTuple

import numpy as np

from khuvcm_tf import bitstream, coding
from khuvcm_tf.data import frames

_STEPS = bitstream.QUALITY_STEPS + 1


class Rate(NamedTuple):
  """What a file is to be, at most one of these; the model's default quality where all are None.

  Attributes:
    quality: 0 .. 100.
    bytes: the most that the file may have; the next step of quality would have more.
    bpp: likewise, in bits per pixel of the image (of luma).
    psnr: the least PSNR of the decoded image in dB, over all samples; the step below has less.
  """

  quality: float | None = None
  bytes: int | None = None
  bpp: float | None = None
  psnr: float | None = None

  @property
  def target(self) -> str | None:
    """The attribute that the step is looked for by; None where it is known."""
    given = (name for name in ("bytes", "bpp", "psnr") if getattr(self, name) is not None)
    return next(given, None)


DEFAULT = Rate()


def compress(model, image: np.ndarray | frames.Frame, rate: Rate) -> bytes:
  """Compresses an image as `rate` says.

  Args:
    model: `coding.Model`, or `saved_model.ExportedModel`, which knows qualities alone.
    image: as `coding.Model.compress` takes it.
    rate: what the file is to be.

  Returns:
    The content of a .kvc file.

  Raises:
    coding.ModelError: the image cannot be coded; the model has one rate, or no quality of it meets
      the target.
  """
  if rate.target is None:
    return model.compress(image, rate.quality)
  if not isinstance(model, coding.Model):
    raise coding.ModelError(
      f"an exported model was given a target of {rate.target}, expected a quality; give --quality, "
      "or the model's folder"
    )
  model.check_qualities(f"a target of {rate.target}")
  is_frame = isinstance(image, frames.Frame)
  if rate.target == "psnr":
    if is_frame:
      raise coding.ModelError("found a raw frame, expected an image for a target of PSNR")
    return _of_psnr(model, image, rate.psnr)
  if rate.target == "bytes":
    return _of_bytes(model, image, rate.bytes, f"{rate.bytes} bytes")
  pixels = math.prod(image.y.shape if is_frame else image.shape[:2])
  return _of_bytes(model, image, int(rate.bpp * pixels / 8), f"{rate.bpp:g} bits per pixel")


def _of_bytes(model: coding.Model, image, most: int, target: str) -> bytes:
  """Returns the file of the greatest quality that has at most so many bytes."""
  prepared = model.prepare(image)
  file = functools.lru_cache(maxsize=None)(lambda step: model.file(prepared, step))
  step = max(_first(lambda s: sum(model.bits(prepared, s).values()) > 8 * most) - 1, 0)
  # Header and checksum are not in the estimate.
  while step > 0 and len(file(step)) > most:
    step -= 1
  while step < _STEPS - 1 and len(file(step + 1)) <= most:
    step += 1
  if len(file(step)) > most:
    sizes = f"{len(file(0))} bytes at quality 0, {len(file(_STEPS - 1))} at 100"
    raise coding.ModelError(
      f"no quality gives at most {target}: found {sizes}; ask for more, or make the image smaller"
    )
  return file(step)


def _of_psnr(model: coding.Model, image: np.ndarray, least: float) -> bytes:
  """Returns the file of the least quality that decodes to at least so many dB."""
  prepared = model.prepare(image)

  def psnr(step):
    error = np.subtract(coding.checked(image), model.decoded(prepared, step), dtype=np.float64)
    mse = np.mean(np.square(error))
    return 10 * math.log10(255**2 / mse) if mse else math.inf

  step = _first(lambda s: psnr(s) >= least)
  if step == _STEPS:
    raise coding.ModelError(
      f"no quality gives at least {least:g} dB: found {psnr(0):.2f} dB at quality 0, "
      f"{psnr(_STEPS - 1):.2f} at 100; ask for less"
    )
  return model.file(prepared, step)


def _first(holds: Callable[[int], bool]) -> int:
  """Returns a step for which `holds`, while the one before it does not; 256 where none does."""
  low, high = 0, _STEPS
  while low < high:
    middle = (low + high) // 2
    if holds(middle):
      high = middle
    else:
      low = middle + 1
  return low
