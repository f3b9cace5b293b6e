"""A cache never holds more than its bytes, and gives back what it was given."""

from __future__ import annotations

import concurrent.futures

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from khuvcm_tf.data.image_cache import ImageCache


@given(
  sizes=st.lists(st.integers(1, 50), max_size=30),
  draws=st.lists(st.integers(0, 29), max_size=60),
  max_bytes=st.integers(0, 300),
)
def test_it_keeps_the_first_images_that_fit(sizes, draws, max_bytes):
  cache, kept = ImageCache(max_bytes), {}
  for number in draws:
    if number >= len(sizes):
      continue
    image = np.full(sizes[number], number, np.uint8)
    cache.add(number, image)
    if number not in kept and sum(map(len, kept.values())) + len(image) <= max_bytes:
      kept[number] = image
    assert cache.held_bytes == sum(map(len, kept.values())) <= max_bytes
  for number in range(len(sizes)):
    assert cache.get(number) is kept.get(number)


def test_threads_that_add_at_once_do_not_exceed_it():
  cache = ImageCache(1000)
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    list(pool.map(lambda i: cache.add(i % 150, np.zeros(10, np.uint8)), range(3000)))
  held = [image for image in map(cache.get, range(150)) if image is not None]
  assert cache.held_bytes == sum(image.nbytes for image in held) == 1000
