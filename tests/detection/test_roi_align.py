"""ROIAlign beside a plain loop over its samples, and the level that a box is pooled from."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from detection import roi_align

_HEIGHT, _WIDTH = 6, 9
_FEATURES = np.random.default_rng(0).normal(size=(2, _HEIGHT, _WIDTH, 3)).astype(np.float32)


def _bilinear(feature, y, x):
  """A sample of [H, W, C]: zero beyond one element outside, the border's value until there."""
  height, width, channels = feature.shape
  if not (-1 <= y <= height and -1 <= x <= width):
    return np.zeros(channels)
  y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
  top, left = int(y), int(x)
  bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
  upper = feature[top, left] * (1 - (x - left)) + feature[top, right] * (x - left)
  lower = feature[bottom, left] * (1 - (x - left)) + feature[bottom, right] * (x - left)
  return upper * (1 - (y - top)) + lower * (y - top)


def plain_roi_align(feature, box, size, scale):
  x1, y1, x2, y2 = (side * scale - 0.5 for side in box)
  bin_height, bin_width = (y2 - y1) / size, (x2 - x1) / size
  rows, columns = math.ceil(bin_height), math.ceil(bin_width)
  pooled = np.zeros([size, size, feature.shape[-1]])
  for i in range(size):
    for j in range(size):
      samples = [
        _bilinear(
          feature,
          y1 + i * bin_height + (k + 0.5) * bin_height / rows,
          x1 + j * bin_width + (n + 0.5) * bin_width / columns,
        )
        for k in range(rows)
        for n in range(columns)
      ]
      pooled[i, j] = np.mean(samples, 0) if samples else 0.0
  return pooled


# Multiples of 1/8: sums and products of them are exact, so that both sides count samples alike.
_sides = st.integers(-160, 480).map(lambda n: n / 8)


@settings(max_examples=40)
@given(st.lists(st.tuples(_sides, _sides, _sides, _sides), min_size=1, max_size=5))
def test_pooling_is_the_mean_over_the_samples(corners):
  boxes = np.array([(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in corners])
  image = np.arange(len(boxes)) % 2
  got = roi_align.roi_align(_FEATURES, boxes.astype(np.float32), image.astype(np.int32), 2, 0.25)
  want = [plain_roi_align(_FEATURES[n], box, 2, 0.25) for n, box in zip(image, boxes)]
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_no_boxes_give_nothing():
  got = roi_align.roi_align(_FEATURES, np.zeros([0, 4], np.float32), np.zeros([0], np.int32), 7, 1)
  assert got.shape == (0, 7, 7, 3)


@pytest.mark.parametrize("box", [(3, 3, 3, 9), (1e6, 1e6, 2e6, 2e6), (-1e6, -1e6, -5e5, -5e5)])
def test_a_box_that_is_empty_or_elsewhere_gives_zeros(box):
  boxes, image = np.array([box], np.float32), np.zeros([1], np.int32)
  got = tf.function(roi_align.roi_align)(_FEATURES, boxes, image, 2, 0.25)
  np.testing.assert_array_equal(got, np.zeros([1, 2, 2, 3]))


def test_a_plane_is_sampled_exactly():
  rows, columns = np.mgrid[:20, :30].astype(np.float32)
  plane = np.stack([rows, columns], -1)[np.newaxis]
  got = roi_align.roi_align(plane, np.array([[8, 4, 48, 36]], np.float32), np.array([0]), 4, 0.5)
  # Bins of 5 x 4 elements that begin at (1.5, 3.5): their centres.
  np.testing.assert_allclose(got[0, :, 0, 0], 1.5 + 4 * np.arange(4) + 2, atol=1e-5)
  np.testing.assert_allclose(got[0, 0, :, 1], 3.5 + 5 * np.arange(4) + 2.5, atol=1e-5)


@pytest.mark.parametrize(
  "side, level", [(0, 2), (1, 2), (111.9, 2), (112, 3), (223.9, 3), (224, 4), (448, 5), (5e3, 5)]
)
@pytest.mark.parametrize("canonical_size", [224.0, 112.0])
def test_levels_change_at_octaves_of_the_canonical_size(side, level, canonical_size):
  end = 10 + side * canonical_size / 224
  box = np.array([[10, 10, end, end]], np.float32)
  assert roi_align.assign_levels(box, canonical_size) == level


def test_each_box_is_pooled_from_its_level_and_image():
  features = {
    f"p{n}": tf.constant(np.stack([np.full([50, 50, 1], n), np.full([50, 50, 1], 10 + n)]))
    for n in (2, 3, 4, 5)
  }
  features = {level: tf.cast(feature, tf.float32) for level, feature in features.items()}
  sides = np.array([500, 30, 120, 240, 40], np.float32)
  boxes = tf.constant(np.stack([0 * sides, 0 * sides, sides, sides], -1))
  image = tf.constant([0, 1, 0, 1, 0])
  pooled = roi_align.pool_levels(features, boxes, image, 3, 224.0)
  np.testing.assert_allclose(pooled[:, 1, 1, 0], [5, 12, 3, 14, 2], atol=1e-5)
