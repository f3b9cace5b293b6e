"""Detections drawn on a photo: masks half-transparent with outlines, boxes, and labels.

What scores higher lies on top. A category has the same colour in all photos and all detectors that
number it alike.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from detection.postprocessing import Objects

_OPACITY = 0.45  # of masks
_HUE_STEP = 0.618034  # of the golden ratio: no two of the first categories look alike

_Box = tuple[float, float, float, float]


def colour(category: int) -> tuple[int, int, int]:
  """Returns red, green and blue of a category, 0..255.

  Example:
    >>> colour(0), colour(1)
    ((255, 38, 38), (27, 71, 178))
  """
  value = (1.0, 0.7, 0.85)[category % 3]
  return tuple(
    round(255 * each) for each in colorsys.hsv_to_rgb(category * _HUE_STEP % 1, 0.85, value)
  )


def draw(image: np.ndarray, objects: Objects, categories: Sequence[str]) -> Image.Image:
  """Returns a photo with the detections on it, of the same size, in RGB.

  Args:
    image: RGB or grey, uint8 [H, W, 3] or [H, W, 1].
    objects: in it, as arrays of NumPy, best first.
    categories: the name of each class.
  """
  height, width = image.shape[:2]
  font_size = max(12, round((height * width) ** 0.5 / 42))
  line = max(2, font_size // 7)
  pixels = np.array(np.broadcast_to(image, (height, width, 3)))
  worst_first = range(len(objects.boxes))[::-1]
  if objects.masks is not None:
    for i in worst_first:
      _draw_mask(pixels, objects.masks[i], colour(int(objects.classes[i])), max(1, line // 2))
  canvas = Image.fromarray(pixels)
  pen = ImageDraw.Draw(canvas)
  for i in worst_first:
    pen.rectangle(_whole_pixels(objects.boxes[i]), None, colour(int(objects.classes[i])), line)
  font, taken = ImageFont.load_default(font_size), []
  for box, score, category in zip(objects.boxes, objects.scores, objects.classes.tolist()):
    text = " ".join(f"{categories[category]} {score:.2f}".split())  # in one line
    size = (pen.textlength(text, font) + 2 * line, font_size * 1.1 + line)
    label = _place(size, box, taken, (width, height))
    taken.append(label)
    background = colour(category)
    pen.rectangle(label, background)
    pen.text(
      ((label[0] + label[2]) / 2, (label[1] + label[3]) / 2),
      text,
      "black" if np.dot(background, (0.299, 0.587, 0.114)) > 120 else "white",
      font,
      anchor="mm",
    )
  return canvas


def _whole_pixels(box: np.ndarray) -> list[int]:
  """Returns the first and the last pixel of a box, in x and y; at least one of each."""
  x1, y1, x2, y2 = np.round(box).astype(int).tolist()
  return [x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)]


def _draw_mask(
  pixels: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int], line: int
) -> None:
  """Draws a mask [H, W] on pixels [H, W, 3], and an outline of `line` pixels within it."""
  rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
  if not rows.size:
    return
  window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
  mask, part = mask[window], pixels[window]
  inner = np.pad(mask, line)
  for axis in (0, 1):
    inner = np.logical_and.reduce([np.roll(inner, step, axis) for step in range(-line, line + 1)])
  inner = inner[line:-line, line:-line]
  blended = (1 - _OPACITY) * part[mask] + _OPACITY * np.array(colour)
  part[mask] = np.round(blended).astype(np.uint8)
  part[mask & ~inner] = colour


def _place(
  size: tuple[float, float], box: np.ndarray, taken: Sequence[_Box], image_size: tuple[int, int]
) -> _Box:
  """Returns where a label goes: above its box, else in it or below it, where no other label is.

  Args:
    size: width and height of the label.
    box: of the object.
    taken: labels that are placed already.
    image_size: width and height of the image.
  """
  width, height = size
  x1, y1, _, y2 = box.tolist()
  left = max(0, min(x1, image_size[0] - width))
  inside = range(1, 6)  # rows of labels in the box, from its top
  tops = [y1 - height, y1, y2, y2 - height, *(y1 + row * height for row in inside)]
  tops = [top for top in tops if 0 <= top <= image_size[1] - height] or [max(0, y1)]
  places = [(left, top, left + width, top + height) for top in tops]
  return next((each for each in places if not any(_overlap(each, t) for t in taken)), places[0])


def _overlap(a: _Box, b: _Box) -> bool:
  return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
