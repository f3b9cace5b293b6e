"""Images of drawn shapes on photos: a detection data set that needs no files.

  scene = draw(seed=0, split="train", index=7)

Eight categories of shapes, each at any angle, stretched, in one colour, a gradient, stripes or a
piece of a photo, lie on crops of scikit-image's photos. An image has 2 to 8 objects, about a third
each of COCO's small (area below 32^2 pixels), medium (to 96^2) and large ones. Objects hide others
in part: a mask is what can be seen, at least 60 % of the object, and a box fits the mask tightly.

Scene k of a split depends on the seed, the split and k alone, to the last bit, on every machine:
random numbers are raw words of Philox, which NumPy keeps (the distributions of its Generator may
change); arithmetic is whole numbers, or +, -, *, / and sqrt element by element, which IEEE 754
fixes; sine and cosine are rounded; photos are those that are stored without loss. All splits share
the photos, so a detector that does well here was not tested on backgrounds it never saw.

Coordinates: (u, v) of a shape are such that it fits the square -1..1; x and y are pixels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from khuvcm_tf.data import sample_photos

SIZE = (256, 320)  # height and width in pixels
SPLITS = ("train", "validation", "test")
CATEGORIES = ("disc", "square", "triangle", "star", "ring", "cross", "crescent", "bowtie")

_PHOTOS = ("astronaut", "chelsea", "coffee")  # PNG; decoders of JPEG may differ by a level
_CHANNELS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
_COUNTS = (2, 8)  # objects of an image
# Square roots of areas in pixels: small, medium, large; and of 16 objects, how many are drawn so.
# Large ones lose most to the border and to others, and turn smaller where there is no place.
_SIDES = ((10, 30), (36, 90), (108, 140))
_SHARES = (5, 3, 8)
_INSIDE = 0.75  # share of an object that lies in the image at least
_VISIBLE = 0.6  # share of an object that is seen at least, when all are drawn
_TRIES = 12  # places that are tried for an object


class Scene(NamedTuple):
  """An image and its objects, in the order in which they were drawn.

  Attributes:
    image: uint8 RGB [H, W, 3].
    boxes: float32 [n, 4], x1, y1, x2, y2 in pixels; pixel (0, 0) covers 0..1.
    classes: int32 [n], indices into `CATEGORIES`.
    masks: bool [n, H, W], the pixels where an object is seen; no pixel is in two masks.
  """

  image: np.ndarray
  boxes: np.ndarray
  classes: np.ndarray
  masks: np.ndarray


def draw(seed: int, split: str, index: int) -> Scene:
  """Draws one image.

  Args:
    seed: 0..2^64 - 1.
    split: one of `SPLITS`.
    index: number of the image in the split, 0..2^64 - 1.

  Raises:
    ValueError: there is no such split, or a number is out of range.
    SamplePhotosError: scikit-image is not installed.
  """
  if split not in SPLITS:
    raise ValueError(f"`split` is {split!r}, expected one of {', '.join(SPLITS)}")
  if not (0 <= seed < 2**64 and 0 <= index < 2**64):
    raise ValueError(f"`seed` is {seed} and `index` {index}, expected numbers from 0 to 2^64 - 1")
  numbers = _Numbers(seed, SPLITS.index(split), index)
  image = _crop(numbers, *SIZE)  # [3, H, W]: broadcasting over rows is faster than over channels
  labels = np.zeros(SIZE, np.uint8)  # 0, or 1 + the number of the object that is seen there
  classes, seen, least = [], [0], [0]  # pixels that are seen and that must be, by label
  for side in _draw_sides(numbers):
    kind = numbers.below(len(CATEGORIES))
    place = None
    while place is None:
      depth = _rasterize(numbers, kind, side)
      place = _find_place(numbers, depth >= 0, labels, seen, least)
      side = max(side / 2, _SIDES[0][0])
    target, source = place
    inside = depth[source] >= 0
    _paint(numbers, image[(slice(None), *target)], depth[source])
    covered = np.bincount(labels[target][inside], minlength=len(seen))
    seen = [*(seen - covered), np.count_nonzero(inside)]
    labels[target][inside] = len(classes) + 1
    classes.append(kind)
    least.append(math.ceil(_VISIBLE * np.count_nonzero(depth >= 0)))
  masks = labels == np.arange(1, len(seen), dtype=np.uint8)[:, np.newaxis, np.newaxis]
  pixels = np.ascontiguousarray(image.transpose(1, 2, 0))
  return Scene(pixels, _tight_boxes(masks), np.array(classes, np.int32), masks)


class _Numbers:
  """Random numbers of one image: no two images share any."""

  def __init__(self, *words: int):
    seed, split, index = (np.uint64(word) for word in words)
    key, counter = np.array([seed, split]), np.array([0, index, 0, 0], np.uint64)
    self._philox = np.random.Philox(key=key, counter=counter)

  def below(self, bound: int) -> int:
    """Returns a whole number of 0..bound - 1."""
    return (int(self._philox.random_raw()) >> 32) * bound >> 32

  def between(self, low: float, high: float) -> float:
    return low + (high - low) * (self.below(2**32) / 2**32)

  def direction(self) -> tuple[float, float]:
    """Returns cosine and sine of an angle, to 2^-20: libraries differ in the last bits."""
    angle = 2 * math.pi * self.between(0, 1)
    return round(math.cos(angle) * 2**20) / 2**20, round(math.sin(angle) * 2**20) / 2**20


def _draw_sides(numbers: _Numbers) -> list[float]:
  """Returns the objects' sizes, square roots of areas in pixels, mostly the large ones first."""
  sides = []
  for _ in range(_COUNTS[0] + numbers.below(_COUNTS[1] - _COUNTS[0] + 1)):
    number = numbers.below(sum(_SHARES))
    low, high = _SIDES[(number >= _SHARES[0]) + (number >= _SHARES[0] + _SHARES[1])]
    sides.append(low + (high - low) * numbers.between(0, 1) ** 2)
  order = [side * numbers.between(0.3, 1) for side in sides]
  return [side for _, side in sorted(zip(order, sides), reverse=True)]


# Depth below the outline at (u, v), about in units of u and v; negative outside.


def _disc(u, v):
  return 1 - np.sqrt(u * u + v * v)


def _square(u, v):
  return 1 - np.maximum(np.abs(u), np.abs(v))


def _triangle(u, v):
  return np.minimum(0.5 + v, 0.5 - 0.5 * v - 0.8660254 * np.abs(u))


def _star(u, v):
  """A pentagram: a point in it lies on the outer side of at most one of its five lines."""
  u = np.abs(u)
  lines = (
    0.3090170 - v,
    0.3090170 + 0.8090170 * v - 0.5877853 * u,
    0.3090170 + 0.8090170 * v + 0.5877853 * u,
    0.3090170 - 0.3090170 * v - 0.9510565 * u,
    0.3090170 - 0.3090170 * v + 0.9510565 * u,
  )
  least, second = lines[0], np.inf
  for depth in lines[1:]:
    second = np.minimum(second, np.maximum(least, depth))
    least = np.minimum(least, depth)
  return second


def _ring(u, v):
  radius = np.sqrt(u * u + v * v)
  return np.minimum(1 - radius, radius - 0.55)


def _cross(u, v):
  u, v = np.abs(u), np.abs(v)
  return np.minimum(1 - np.maximum(u, v), 0.3 - np.minimum(u, v))


def _crescent(u, v):
  return np.minimum(_disc(u, v), np.sqrt((u - 0.5) * (u - 0.5) + v * v) - 0.8)


def _bowtie(u, v):
  u = np.abs(u)
  return np.minimum(1 - u, 0.8 * (0.12 + 0.75 * u - np.abs(v)))


# In the order of CATEGORIES: the depth, and the area in units of u and v.
_SHAPES = (
  (_disc, 3.1416),
  (_square, 4.0),
  (_triangle, 1.2990),
  (_star, 1.1226),
  (_ring, 2.1913),
  (_cross, 2.04),
  (_crescent, 1.5295),
  (_bowtie, 1.98),
)


def _rasterize(numbers: _Numbers, kind: int, side: float) -> np.ndarray:
  """Returns the depth of pixels below a shape's outline, in pixels, float32 [h, w].

  Args:
    kind: index into `CATEGORIES`.
    side: square root of the area in pixels.
  """
  depth, area = _SHAPES[kind]
  stretch = numbers.between(0.8, 1.25)
  cosine, sine = numbers.direction()
  # x = ax * u + bx * v and y = ay * u + by * v, but for the origin.
  unit = side / math.sqrt(area)
  ax, ay = unit * stretch * cosine, unit * stretch * sine
  bx, by = -unit / stretch * sine, unit / stretch * cosine
  reach_x, reach_y = abs(ax) + abs(bx), abs(ay) + abs(by)  # pixels
  columns, rows = (np.arange(2 * math.ceil(reach) + 3) for reach in (reach_x, reach_y))
  x = (columns - math.ceil(reach_x) - 1 + numbers.between(-0.5, 0.5)).astype(np.float32)
  y = (rows - math.ceil(reach_y) - 1 + numbers.between(-0.5, 0.5)).astype(np.float32)[:, None]
  scale = np.float32(1 / (unit * unit))  # 1 / (ax * by - ay * bx)
  u = x * (np.float32(by) * scale) - y * (np.float32(bx) * scale)
  v = y * (np.float32(ax) * scale) - x * (np.float32(ay) * scale)
  pixels = depth(u, v) * np.float32(unit)
  top, bottom = _span((pixels > -1).any(axis=1))
  left, right = _span((pixels > -1).any(axis=0))
  return pixels[top:bottom, left:right]


def _find_place(
  numbers: _Numbers,
  inside: np.ndarray,
  labels: np.ndarray,
  seen: Sequence[int],
  least: Sequence[int],
) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
  """Returns where an object lies in the image and the part of it that does; None if nowhere.

  It may reach over the image's border, and cover others, as long as enough of each is seen.

  Args:
    inside: bool [h, w], the object's pixels.
    labels: uint8 [H, W], which object is seen, from 1 on.
    seen, least: numbers of pixels by label: those that are seen, and that must be.
  """
  height, width = inside.shape
  for _ in range(_TRIES):
    top = numbers.below(SIZE[0] + 1) - height // 2
    left = numbers.below(SIZE[1] + 1) - width // 2
    target = (
      slice(max(top, 0), min(top + height, SIZE[0])),
      slice(max(left, 0), min(left + width, SIZE[1])),
    )
    source = tuple(slice(t.start - o, t.stop - o) for t, o in zip(target, (top, left)))
    part = inside[source]
    if np.count_nonzero(part) < _INSIDE * np.count_nonzero(inside):
      continue
    covered = np.bincount(labels[target][part], minlength=len(seen))
    if all(s - c >= enough for s, c, enough in zip(seen[1:], covered[1:], least[1:])):
      return target, source
  return None


def _paint(numbers: _Numbers, image: np.ndarray, depth: np.ndarray) -> None:
  """Draws an object into a part of the image, uint8 [3, h, w], with soft edges."""
  cover = np.clip(depth * 256 + 128, 0, 256).astype(np.int32)  # 0..256
  image[:] = image + ((_texture(numbers, image) - image) * cover >> 8)


def _texture(numbers: _Numbers, behind: np.ndarray) -> np.ndarray:
  """Returns an object's colours, int32 [3, h, w] or [3, 1, 1], that differ from what is behind."""
  height, width = behind.shape[1:]
  mean = behind.sum(axis=(1, 2), keepdims=True, dtype=np.int64) // (height * width)
  first = _colour(numbers, mean)
  kind = numbers.below(4)
  if kind == 0:
    return first
  if kind == 1:
    return (2 * _crop(numbers, height, width).astype(np.int32) + 3 * first) // 5
  second = _colour(numbers, first)
  cosine, sine = numbers.direction()
  columns, rows = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
  along = columns * np.float32(cosine) + rows[:, np.newaxis] * np.float32(sine)  # pixels
  along -= along.min()
  if kind == 2:
    weight = (along * (np.float32(256) / (along.max() + 1))).astype(np.int32)  # 0..255
  else:
    period = numbers.between(0.12, 0.4) * math.sqrt(height * width)
    stripes = along / np.float32(max(period, 4))
    weight = ((stripes - np.floor(stripes)) < 0.5).astype(np.int32) << 8
  return first + ((second - first) * weight >> 8)


def _colour(numbers: _Numbers, other: np.ndarray) -> np.ndarray:
  """Returns the colour, int32 [3, 1, 1], of three that is farthest from another one."""
  levels = np.array([numbers.below(256) for _ in range(9)], np.int32)
  colours = levels.reshape(3, 3, 1, 1)
  return colours[np.abs(colours - other).sum(axis=(1, 2, 3)).argmax()]


def _crop(numbers: _Numbers, height: int, width: int) -> np.ndarray:
  """Returns a part of a photo, flipped, zoomed and with other colours, uint8 [3, height, width]."""
  photo = _photos()[numbers.below(len(_PHOTOS))]
  most = min(photo.shape[1] / height, photo.shape[2] / width, 2.0)  # photo's pixels a pixel
  step = numbers.between(most / 3, most)
  rows = _positions(numbers, height, step, photo.shape[1])
  columns = _positions(numbers, width, step, photo.shape[2])
  channels = _CHANNELS[numbers.below(len(_CHANNELS))]
  return np.stack([_levels(numbers)[_resample(photo[c], rows, columns)] for c in channels])


def _positions(numbers: _Numbers, count: int, step: float, size: int) -> np.ndarray:
  """Returns where to sample a photo's side of `size` pixels, in 1/256 pixels, int64 [count]."""
  step = max(int(step * 256), 1)
  room = (size - 1) * 256 - step * (count - 1)
  positions = numbers.below(max(room, 0) + 1) + step * np.arange(count)
  positions = np.minimum(positions, (size - 1) * 256 - 1)
  return positions[::-1] if numbers.below(2) else positions


def _resample(channel: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
  """Interpolates between pixels of a channel; positions are 1/256 pixels: uint8 [h, w]."""
  low = int(columns.min()) >> 8
  part = channel[:, low : (int(columns.max()) >> 8) + 2]
  for axis, positions in enumerate((rows, columns - 256 * low)):
    weight = (positions & 255).astype(np.uint16).reshape([-1, 1] if axis == 0 else [1, -1])
    before = part.take(positions >> 8, axis)
    after = part.take((positions >> 8) + 1, axis)
    part = (before * (256 - weight) + after * weight >> 8).astype(np.uint8)
  return part


def _levels(numbers: _Numbers) -> np.ndarray:
  """Returns a table of a channel's new levels, uint8 [256]: another contrast and brightness."""
  gain, middle = 128 + numbers.below(160), 96 + numbers.below(64)  # gain in 1/256
  return np.clip(middle + ((np.arange(256) - 128) * gain >> 8), 0, 255).astype(np.uint8)


@functools.cache
def _photos() -> tuple[np.ndarray, ...]:
  """Returns photos, each uint8 [3, H, W]."""
  photos = sample_photos.load()
  return tuple(np.ascontiguousarray(photos[name].transpose(2, 0, 1)) for name in _PHOTOS)


def _tight_boxes(masks: np.ndarray) -> np.ndarray:
  """Returns the boxes around masks [n, H, W], float32 [n, 4]."""
  boxes = []
  for rows, columns in zip(masks.any(axis=2), masks.any(axis=1)):
    (top, bottom), (left, right) = _span(rows), _span(columns)
    boxes.append((left, top, right, bottom))
  return np.array(boxes, np.float32).reshape(-1, 4)


def _span(values: np.ndarray) -> tuple[int, int]:
  """Returns the index of the first true value, and that behind the last one."""
  return int(values.argmax()), len(values) - int(values[::-1].argmax())
