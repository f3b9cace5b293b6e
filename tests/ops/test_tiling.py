"""Tiling against a slow plain version, and its inverse."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given

from khuvcm_tf.ops import pyramid, tiling


def _maps(batch, height, width, channels):
  return np.random.default_rng(0).normal(size=(batch, height, width, channels)).astype(np.float32)


def _slow(maps, planes):
  batch, height, width, channels = maps.shape
  rows, columns = tiling.grid(channels, planes)
  made = np.zeros((batch, rows * height, columns * width, planes), maps.dtype)
  for channel in range(channels):
    plane, number = divmod(channel, channels // planes)
    y, x = divmod(number, columns)
    tile = made[:, y * height : (y + 1) * height, x * width : (x + 1) * width, plane]
    tile[...] = maps[..., channel]
  return made


@pytest.mark.parametrize("planes", [1, 2, 4, 8, 16, 32, 64, 128, 256])
def test_256_channels_become_any_power_of_two_of_planes_and_come_back(planes):
  maps = _maps(1, 3, 2, 256)
  tiles = tiling.tile(tf.constant(maps), planes)
  np.testing.assert_array_equal(tiles, _slow(maps, planes))
  np.testing.assert_array_equal(tiling.untile(tiles, 256), maps)


@given(
  st.integers(1, 2), st.integers(1, 5), st.integers(1, 5), st.integers(1, 6), st.integers(1, 12)
)
def test_tiles_come_back_whatever_the_sizes(batch, height, width, planes, each):
  maps = _maps(batch, height, width, planes * each)
  tiles = tiling.tile(tf.constant(maps), planes)
  np.testing.assert_array_equal(tiles, _slow(maps, planes))
  np.testing.assert_array_equal(tiling.untile(tiles, planes * each), maps)


def test_the_studys_planes_are_squares_of_eight_by_eight():
  assert tiling.grid(256, 4) == (8, 8)
  assert tiling.tile(tf.zeros([1, 256, 256, 256]), 4).shape == (1, 2048, 2048, 4)


@pytest.mark.parametrize("planes", [0, 3, 257])
def test_planes_share_the_channels_equally(planes):
  with pytest.raises(ValueError, match=f"found {planes} planes, expected a divisor of the 256"):
    tiling.grid(256, planes)


def test_maps_are_padded_with_zeros_and_cropped_back():
  maps = _maps(1, 3, 5, 2)
  padded = tiling.pad(tf.constant(maps), (8, 8)).numpy()
  assert padded.shape == (1, 8, 8, 2)
  np.testing.assert_array_equal(padded[:, :3, :5], maps)
  assert not padded[:, 3:].any() and not padded[:, :, 5:].any()


@pytest.mark.parametrize("levels", [("p2", "p3", "p4", "p5"), ("p3", "p5"), ("p4",)])
@pytest.mark.parametrize("size", [(320, 480), (33, 470), (1, 1)])
def test_levels_share_a_canvas_and_come_back(levels, size):
  sizes = [pyramid.level_sizes(size)[level] for level in levels]
  planes = [_maps(1, *each, 3) + 1 for each in sizes]
  canvas = tiling.to_canvas([tf.constant(each) for each in planes])
  assert canvas.shape[1:3] == tiling.canvas_size(sizes)
  for found, expected in zip(tiling.from_canvas(canvas, sizes), planes):
    np.testing.assert_array_equal(found, expected)
  # Nothing but the planes is on it.
  assert np.count_nonzero(canvas) <= sum(each.size for each in planes)


def test_it_is_one_graph_for_all_sizes():
  @tf.function(input_signature=[tf.TensorSpec([1, None, None, 16])])
  def there_and_back(maps):
    return tiling.untile(tiling.tile(maps, 4), 16)

  for size in ((2, 3), (5, 1)):
    maps = _maps(1, *size, 16)
    np.testing.assert_array_equal(there_and_back(maps), maps)
