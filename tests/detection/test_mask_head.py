"""The mask head where nothing was detected."""

from __future__ import annotations

import tensorflow as tf

from detection.mask_head import MaskHead


def test_of_no_boxes_there_are_no_masks(tiny_config):
  head = MaskHead(tiny_config)
  spec = tf.TensorSpec([None, 14, 14, tiny_config.fpn_channels])
  for call in (head, tf.function(head, input_signature=[spec])):
    assert call(tf.zeros([0, 14, 14, tiny_config.fpn_channels])).shape == (0, 28, 28, 3)
