"""Drawing boxes to train on, where there are few."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from detection import matching
from detection.matching import IGNORED, NEGATIVE, POSITIVE


@pytest.mark.parametrize(
  "labels, count, expected",
  [
    # A quarter of what is drawn may be objects; background fills up, and what is ignored never.
    ([POSITIVE] * 6 + [NEGATIVE] * 6, 8, [POSITIVE] * 2 + [NEGATIVE] * 6),
    ([POSITIVE] * 6 + [NEGATIVE] * 2 + [IGNORED] * 4, 8, [POSITIVE] * 2 + [NEGATIVE] * 2),
    ([POSITIVE] + [NEGATIVE] * 9, 8, [POSITIVE] + [NEGATIVE] * 7),
    ([NEGATIVE] * 3 + [IGNORED], 8, [NEGATIVE] * 3),
    ([IGNORED] * 4, 8, []),
    # Of two boxes one may still be an object.
    ([NEGATIVE, POSITIVE], 8, [POSITIVE, NEGATIVE]),
  ],
)
def test_objects_come_first_and_background_fills_up(labels, count, expected):
  drawn, is_drawn = matching.sample(tf.constant([labels]), count, 0.25, tf.constant([1, 2]))
  assert np.array(labels)[drawn[0].numpy()[is_drawn[0].numpy()]].tolist() == expected
  assert len(set(drawn[0].numpy().tolist())) == min(count, len(labels))
