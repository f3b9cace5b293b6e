"""Padding against numpy's "edge" mode."""

from __future__ import annotations

import numpy as np
import pytest

from khuvcm_tf.ops import padding


def _image(height, width):
  return np.random.default_rng(height * 71 + width).integers(
    0, 256, (1, height, width, 3), np.uint8
  )


class TestPadding:
  @pytest.mark.parametrize("multiple", [16, 64])
  def test_equals_edge_padding_of_numpy_and_crop_undoes_it_for_all_sizes_up_to_70(self, multiple):
    for height in range(1, 71):
      # Every width comes up too, beside another height.
      width = 71 - height
      image = _image(height, width)
      padded = padding.pad_to_multiple(image, multiple).numpy()
      below, beside = -height % multiple, -width % multiple
      expected = np.pad(image, ((0, 0), (0, below), (0, beside), (0, 0)), "edge")
      np.testing.assert_array_equal(padded, expected)
      np.testing.assert_array_equal(padding.crop(padded, height, width), image)

  @pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
  def test_keeps_the_type(self, dtype):
    assert padding.pad_to_multiple(_image(3, 5).astype(dtype), 4).dtype == dtype

  def test_a_multiple_stays_as_it_is(self):
    image = _image(64, 128)
    np.testing.assert_array_equal(padding.pad_to_multiple(image, 64), image)

  def test_padded_size_is_the_least_multiple_that_is_not_smaller(self):
    for size in range(1, 200):
      assert padding.padded_size(size, 64) == min(m for m in range(64, 300, 64) if m >= size)
