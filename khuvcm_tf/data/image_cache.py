"""Decoded images in memory, up to a number of bytes."""

from __future__ import annotations

import threading

import numpy as np


class ImageCache:
  """Keeps the first images that it is given, as long as they fit; none is ever replaced.

  An epoch of training draws every image once, in an order of its own. A cache that holds a share s
  of the images then serves the share s of all draws, and no rule that replaces images serves more.
  A larger cache changes how fast images come, never which.

  Attributes:
    max_bytes: upper bound of `held_bytes`.
    held_bytes: bytes of the samples that are kept.
  """

  def __init__(self, max_bytes: int):
    self.max_bytes = max_bytes
    self.held_bytes = 0
    self._images: dict[int, np.ndarray] = {}
    self._lock = threading.Lock()

  def get(self, number: int) -> np.ndarray | None:
    """Returns the image that was added as `number`; None where it is not kept."""
    return self._images.get(number)

  def add(self, number: int, image: np.ndarray) -> None:
    """Keeps an image, which must not be written to from then on, if it fits."""
    with self._lock:
      if number not in self._images and self.held_bytes + image.nbytes <= self.max_bytes:
        self._images[number] = image
        self.held_bytes += image.nbytes
