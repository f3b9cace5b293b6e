"""The file that a user asks for, of a model of several rates: a quality, a size, or a PSNR.

Quality has 256 steps. For a size or a PSNR the step is found by bisection, on the tables' estimate
or on what the file would decode to, and settled on files: the analysis is done once. Both grow with
the step but for small images and flat ones; where bisection finds none, every eighth step is tried.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Callable

import numpy as np

from khuvcm_tf import bitstream, coding, errors, model_inputs
from khuvcm_tf.data import frames

_STEPS = bitstream.QUALITY_STEPS + 1
_ROWS_AT_ONCE = 256  # of which squared errors are summed, to save memory


class RateError(errors.Error):
  """A rate that no file can have."""


@dataclasses.dataclass(frozen=True)
class Rate:
  """What a file is to be, at most one of these; the model's default quality where all are None.

  Attributes:
    quality: 0 .. 100.
    bytes: the most that the file may have; the next step of quality would have more.
    bpp: likewise, in bits per pixel of the image (of luma).
    psnr: the least PSNR of the decoded image in dB, over all samples; the step below has less.

  Raises:
    RateError: two are given, or a target is not finite and above 0.
  """

  quality: float | None = None
  bytes: int | None = None
  bpp: float | None = None
  psnr: float | None = None

  def __post_init__(self):
    given = [name for name, value in dataclasses.asdict(self).items() if value is not None]
    if len(given) > 1:
      raise RateError(f"found {' and '.join(given)}, expected one of them at most")
    value = getattr(self, self.target) if self.target else 1
    if not (math.isfinite(value) and value > 0):
      raise RateError(f"the target of {self.target} is {value}, expected a finite number above 0")

  @property
  def target(self) -> str | None:
    """The attribute that the step is looked for by; None where it is known."""
    given = (name for name in ("bytes", "bpp", "psnr") if getattr(self, name) is not None)
    return next(given, None)


DEFAULT = Rate()


def check(model, rate: Rate) -> None:
  """Raises coding.ModelError where a model, whatever the image, has no file of a rate.

  Args:
    model: `coding.Model`, or `saved_model.ExportedModel`, which knows qualities alone.
    rate: what the file is to be.
  """
  if rate.target:
    model.check_qualities(f"a target of {rate.target}")
    if not isinstance(model, coding.Model):
      raise coding.ModelError(
        f"an exported model was given a target of {rate.target}, expected a quality; give "
        "--quality, or the model's folder"
      )
  elif rate.quality is not None:
    model.check_qualities(f"quality {rate.quality:g}")


def compress(model, image: np.ndarray | frames.Frame, rate: Rate) -> bytes:
  """Compresses an image as `rate` says.

  Args:
    model: as for `check`.
    image: as `coding.Model.compress` takes it; for a target of PSNR no frame.
    rate: what the file is to be.

  Returns:
    The content of a .kvc file.

  Raises:
    coding.ModelError: the image cannot be coded; the model has one rate, or no quality of it meets
      the target.
  """
  if rate.target is None:
    return model.compress(image, rate.quality)
  check(model, rate)
  prepared = model.prepare(image)
  if rate.target == "psnr":
    return _of_psnr(model, prepared, model_inputs.checked(image), rate.psnr)
  if rate.target == "bytes":
    return _of_bytes(model, prepared, rate.bytes, f"{rate.bytes} bytes")
  pixels = bitstream.source_pixels(prepared.header)
  return _of_bytes(model, prepared, rate.bpp * pixels / 8, f"{rate.bpp:g} bits per pixel")


def _of_bytes(model: coding.Model, prepared: coding.Prepared, most: float, target: str) -> bytes:
  """Returns the file of the greatest quality that has at most so many bytes."""
  file = functools.lru_cache(maxsize=4)(lambda step: model.file(prepared, step))
  size = functools.lru_cache(maxsize=None)(lambda step: len(file(step)))

  def estimate(step):
    return sum(model.bits(prepared, step).values()) / 8

  overhead = size(0) - estimate(0)  # header, checksum, ends of the substreams
  step = max(_first(lambda s: estimate(s) + overhead > most) - 1, 0)
  while step > 0 and size(step) > most:
    step -= 1
  while step < _STEPS - 1 and size(step + 1) <= most:
    step += 1
  if size(step) > most:
    step = _any(lambda s: size(s) <= most)
  if step is None:
    raise coding.ModelError(
      f"no quality gives at most {target}: found {size(0)} bytes at quality 0, "
      f"{size(_STEPS - 1)} at 100; ask for more, or make the image smaller"
    )
  return file(step)


def _of_psnr(
  model: coding.Model, prepared: coding.Prepared, image: np.ndarray, least: float
) -> bytes:
  """Returns the file of a quality that decodes to at least so many dB, the step below to less."""

  @functools.cache
  def psnr(step):
    decoded, total = model.decoded(prepared, step), 0
    for row in range(0, len(image), _ROWS_AT_ONCE):
      rows = slice(row, row + _ROWS_AT_ONCE)
      error = np.subtract(image[rows], decoded[rows], dtype=np.int32)
      total += int(np.sum(error * error, dtype=np.int64))
    return 10 * math.log10(255**2 * image.size / total) if total else math.inf

  step = _first(lambda s: psnr(s) >= least)
  if step == _STEPS:
    step = _any(lambda s: psnr(s) >= least)
  if step is None:
    raise coding.ModelError(
      f"no quality gives at least {least:g} dB: found {psnr(0):.2f} dB at quality 0, "
      f"{psnr(_STEPS - 1):.2f} at 100; ask for less"
    )
  return model.file(prepared, step)


def _first(holds: Callable[[int], bool]) -> int:
  """Returns by bisection a step for which `holds` and that before it does not; 256 if none seen."""
  low, high = 0, _STEPS
  while low < high:
    middle = (low + high) // 2
    if holds(middle):
      high = middle
    else:
      low = middle + 1
  return low


def _any(holds: Callable[[int], bool]) -> int | None:
  """Returns a step for which `holds`, of every eighth one; None where there is none."""
  return next(filter(holds, range(0, _STEPS, 8)), None)
