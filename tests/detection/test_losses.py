"""Losses where what is drawn ends: padding neither counts nor spoils the gradient."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from detection import losses

_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def test_empty_boxes_that_are_not_drawn_change_neither_losses_nor_gradients():
  boxes = np.array([[0, 0, 4, 4], [2, 1, 9, 8], [0, 0, 0, 0], [3, 3, 3, 3]], np.float32)
  matched = np.array([[0, 0, 5, 4], [0] * 4, [0] * 4, [0, 0, 5, 4]], np.float32)
  classes, is_drawn = np.array([1, 2, 2, 2], np.int32), np.array([True, True, False, False])
  found = []
  for count in (2, 4):
    logits = tf.Variable(np.ones((count, 3)), dtype=tf.float32)
    deltas = tf.Variable(np.linspace(-1, 1, 32).reshape(4, 2, 4)[:count], dtype=tf.float32)
    with tf.GradientTape() as tape:
      given = (tf.constant(each[:count]) for each in (boxes, classes, matched, is_drawn))
      total = tf.add_n(losses.box_losses(logits, deltas, *given, _WEIGHTS))
    gradients = tape.gradient(total, [logits, deltas])
    found.append([total.numpy(), *(each.numpy()[:2] for each in gradients)])
    assert not any(each.numpy()[2:].any() for each in gradients)
  for alone, padded in zip(*found):
    np.testing.assert_allclose(padded, alone, rtol=1e-6)
