"""Resampling: OpenCV does the same; limits that are known without computing."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from detection.experiments import resampling


def _map(height: int, width: int, seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).normal(size=(1, height, width, 3)).astype(np.float32)


@pytest.mark.parametrize("size", [(25, 38), (13, 19), (1, 1), (50, 76), (200, 7)])
def test_resizing_is_opencvs_inter_linear(size):
  feature = _map(50, 76)
  expected = cv2.resize(feature[0], size[::-1], interpolation=cv2.INTER_LINEAR)
  np.testing.assert_allclose(resampling.resize(feature, *size)[0], expected, atol=5e-5)


@pytest.mark.parametrize("factor", [2, 4, 8, 16, 32, 64])
def test_degrading_is_opencvs_inter_linear_twice(factor):
  feature = _map(50, 76)
  small = cv2.resize(feature[0], (-(-76 // factor), -(-50 // factor)), interpolation=1)
  expected = cv2.resize(small, (76, 50), interpolation=cv2.INTER_LINEAR)
  expected = expected.reshape(50, 76, 3)
  np.testing.assert_allclose(resampling.degrade(feature, factor)[0], expected, atol=5e-5)


def test_degrading_by_1_changes_nothing():
  feature = _map(5, 7)
  np.testing.assert_array_equal(resampling.degrade(feature, 1), feature)


@pytest.mark.parametrize("factor", [2, 3, 8, 64])
def test_a_constant_map_stays(factor):
  feature = np.full((2, 33, 20, 4), -3.25, np.float32)
  np.testing.assert_allclose(resampling.degrade(feature, factor), feature, atol=5e-5)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_ramp_stays_a_ramp_between_the_outer_centres(factor):
  ramp = np.arange(32, dtype=np.float32)
  feature = np.broadcast_to(ramp[np.newaxis, :, np.newaxis, np.newaxis], (1, 32, 16, 1))
  got = np.asarray(resampling.degrade(feature, factor))[0, :, 0, 0]
  # The centres of the shrunk elements; beyond the outer two, their values go on.
  first, last = (factor - 1) / 2, 31 - (factor - 1) / 2
  np.testing.assert_allclose(got, np.clip(ramp, first, last), atol=1e-4)


def test_picking_takes_every_second_element():
  feature = _map(5, 6)
  np.testing.assert_array_equal(resampling.pick(feature, 2), feature[:, [0, 2, 4]][:, :, [0, 2, 4]])
