"""Distortions against closed forms and against the metrics of `evaluation`."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from khuvcm_tf.evaluation import metrics
from khuvcm_tf.training import losses

_RNG = np.random.default_rng(0)


def _smooth(height: int, width: int) -> np.ndarray:
  y, x = np.mgrid[:height, :width]
  return np.stack([128 + 90 * np.sin(x / 9 + c) * np.cos(y / 13) for c in range(3)], axis=-1)


def test_mse_of_a_constant_difference_is_its_square():
  original = tf.constant(_RNG.integers(0, 200, (2, 5, 7, 3)), tf.uint8)
  decoded = tf.cast(original, tf.float32) + tf.constant([3.0, -4.0])[:, None, None, None]
  np.testing.assert_allclose(losses.mse(original, decoded), [9.0, 16.0], rtol=1e-6)


@pytest.mark.parametrize("size", [(176, 176), (181, 203)])
def test_ms_ssim_is_that_of_the_evaluation(size):
  x = _smooth(*size)
  pairs = [(x, x + _RNG.normal(0, sigma, x.shape)) for sigma in (1, 10, 40)]
  pairs.append((x, np.full_like(x, 100.0)))
  originals, decoded = (np.stack(each).astype(np.float32) for each in zip(*pairs))
  expected = [1 - metrics.ms_ssim(x, y) for x, y in zip(originals, decoded)]
  np.testing.assert_allclose(losses.ms_ssim(originals, decoded), expected, atol=1e-5)


def test_ms_ssim_of_equal_images_is_no_loss():
  x = tf.constant(_smooth(176, 176)[None], tf.float32)
  np.testing.assert_allclose(losses.ms_ssim(x, x), [0.0], atol=1e-6)


def test_the_gradient_of_ms_ssim_is_finite_where_images_are_each_others_negatives():
  x = tf.constant(_RNG.integers(0, 256, (1, 176, 176, 3)), tf.float32)
  for y in (255.0 - x, tf.zeros_like(x), x):
    with tf.GradientTape() as tape:
      tape.watch(y)
      loss = losses.ms_ssim(x, y)
    assert np.isfinite(tape.gradient(loss, y)).all()


def test_following_its_gradient_lowers_the_ms_ssim_loss():
  x = tf.constant(_smooth(176, 176)[None], tf.float32)
  y = x + tf.constant(_RNG.normal(0, 20, x.shape), tf.float32)
  with tf.GradientTape() as tape:
    tape.watch(y)
    before = losses.ms_ssim(x, y)
  gradient = tape.gradient(before, y)
  after = losses.ms_ssim(x, y - 10 * gradient / tf.reduce_max(tf.abs(gradient)))
  assert float(after) < 0.9 * float(before)
