"""Validation images and latents as they are drawn."""

from __future__ import annotations

import numpy as np
import pytest

from khuvcm_tf.training import summaries


@pytest.mark.parametrize("number", [1, 3, 8])
def test_latents_are_laid_out_in_one_image_each_scaled_by_itself(number):
  rng = np.random.default_rng(0)
  channels = rng.normal(size=(4, 5, number))
  mosaic = summaries.mosaic(channels)
  columns = int(np.ceil(np.sqrt(number)))
  for c in range(number):
    top, left = c // columns * 6 + 1, c % columns * 7 + 1
    tile = mosaic[top : top + 4, left : left + 5, 0].astype(float)
    assert (tile.min(), tile.max()) == (0, 255)
    order = np.argsort(channels[..., c], axis=None)
    assert (np.diff(tile.ravel()[order]) >= 0).all()


class _Writer:
  """Keeps the images that it is given."""

  def __init__(self):
    self.images = {}

  def image(self, step, name, image):
    self.images[step, name] = image


def test_images_show_original_decoded_and_their_difference_side_by_side():
  writer, original = _Writer(), np.full((4, 6, 3), 100, np.uint8)
  summaries.write_comparison(writer, 5, "photo", original, np.full((4, 6, 3), 103.4, np.float32))
  shown = writer.images[5, "photo"]
  assert (shown.dtype, shown.shape) == (np.uint8, (4, 18, 3))
  assert shown[0, ::6, 0].tolist() == [100, 103, 140]
