"""Masks as run lengths (RLE), as COCO's files store them.

An RLE is {"size": [H, W], "counts": text}: lengths of runs of 0 and 1 in turn, column by column,
each as the difference to the length two before, in characters of 5 bits.

Reference: maskApi.c of the COCO API, `rleToString`.
"""

from __future__ import annotations

import math

import numpy as np
from faster_coco_eval.core import mask as mask_api


def encode(masks: np.ndarray) -> list[dict]:
  """Returns the RLE of each mask.

  Args:
    masks: bool [n, H, W].
  """
  # One by one: together they would be copied, a byte a pixel.
  rles = [mask_api.encode(np.asfortranarray(mask, np.uint8)) for mask in masks]
  return [{**rle, "counts": _text(rle["counts"])} for rle in rles]


def decode(rle: dict) -> np.ndarray:
  """Returns the mask of an RLE that `encode` made or `check` accepts, as bool [H, W]."""
  return mask_api.decode(rle).astype(bool)


def area(rle: dict) -> int:
  """Returns the number of pixels of an RLE's mask."""
  return int(mask_api.area(rle))


def from_segmentation(segmentation: list | dict, height: int, width: int) -> dict:
  """Returns the RLE of an object's `segmentation` in an image.

  Args:
    segmentation: polygons [[x, y, x, y, ...], ...] in pixels, or an RLE, whose counts may also be a
      list of run lengths.
    height, width: of the image, in pixels.

  Raises:
    ValueError: as of `check`.
  """
  check(segmentation, height, width)
  rle = segmentation
  if isinstance(segmentation, list):
    rle = mask_api.merge(mask_api.frPyObjects(segmentation, height, width))
  elif isinstance(segmentation["counts"], list):
    rle = mask_api.frPyObjects(segmentation, height, width)
  return {"size": [height, width], "counts": _text(rle["counts"])}


def check(segmentation: list | dict, height: int, width: int) -> None:
  """Checks that an object's `segmentation` is what `from_segmentation` takes.

  Raises:
    ValueError: it is neither polygons nor an RLE, a polygon has fewer than three points, or the RLE
      is of another size or damaged.
  """
  if isinstance(segmentation, list):
    for polygon in segmentation:
      if not isinstance(polygon, list) or not all(map(_is_number, polygon)):
        raise ValueError("a polygon is no list of numbers")
      if len(polygon) < 6 or len(polygon) % 2:
        raise ValueError(f"a polygon has {len(polygon)} numbers, expected 6 or more, in pairs")
    return
  if not isinstance(segmentation, dict) or not {"size", "counts"} <= set(segmentation):
    raise ValueError("it has no size and counts")
  size, counts = segmentation["size"], segmentation["counts"]
  if size != [height, width]:
    raise ValueError(f"the RLE has size {size}, expected {[height, width]}")
  runs = _run_lengths(counts) if isinstance(counts, str) else counts
  if not isinstance(runs, list) or not all(type(each) is int and each >= 0 for each in runs):
    raise ValueError("the counts are no run lengths")
  if sum(runs) != height * width:
    raise ValueError(f"the run lengths sum to {sum(runs)}, expected {height * width}")


def _is_number(value: object) -> bool:
  return type(value) in (int, float) and math.isfinite(value)


def _run_lengths(text: str) -> list[int]:
  """Returns the run lengths of a text of counts, which may be damaged."""
  runs, value, shift = [], 0, 0
  for character in text:
    bits = ord(character) - 48
    if not 0 <= bits < 64:
      raise ValueError(f"the counts have the character {character!r}")
    value |= (bits & 31) << shift
    shift += 5
    if not bits & 32:  # the last character of a number, whose highest bit is the sign
      value -= (bits & 16) << (shift - 4)
      runs.append(value + (runs[-2] if len(runs) > 2 else 0))
      value = shift = 0
  if shift:
    raise ValueError("the counts end within a number")
  return runs


def _text(counts: str | bytes) -> str:
  return counts.decode("ascii") if isinstance(counts, bytes) else counts
