"""The levels of a feature pyramid: their names, strides and sizes."""

from __future__ import annotations

BOX_LEVELS = ("p2", "p3", "p4", "p5")  # that the box and mask heads see
LEVELS = (*BOX_LEVELS, "p6")  # that the proposals come from
STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}  # pixels of an element
# Images are padded to a multiple of it, the stride of P5 (FPN.size_divisibility of detectron2).
STRIDE = 32


def level_sizes(image_size: tuple[int, int]) -> dict[str, tuple[int, int]]:
  """Returns height and width of P2 to P6 of an image, whose sides are padded to `STRIDE` first.

  Example:
    >>> level_sizes((60, 90))
    {'p2': (16, 24), 'p3': (8, 12), 'p4': (4, 6), 'p5': (2, 3), 'p6': (1, 2)}
  """
  height, width = (-(-side // STRIDE) * STRIDE for side in image_size)
  return {level: (-(-height // each), -(-width // each)) for level, each in STRIDES.items()}
