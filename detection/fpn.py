"""Feature pyramid network: P2-P6 of a backbone's taps.

Lin et al., Feature Pyramid Networks for Object Detection, CVPR 2017, section 3. Source:
`detectron2/modeling/backbone/fpn.py`.
"""

from __future__ import annotations

import tensorflow as tf

from detection.layers import XAVIER, Conv2D
from detection.resnet import STAGES


class FPN(tf.keras.layers.Layer):
  """The bottom-up path, the top-down path, and P6.

  Args:
    bottom_up: a backbone: a call that gives its taps `res2` to `res5`, and by tap its `channels`
      and, where they are known and far from 1, the `magnitudes` of its values; first weights are as
      much larger as these are smaller.
    channels: C of all levels.
  """

  def __init__(self, bottom_up: tf.keras.layers.Layer, channels: int):
    super().__init__()
    self.bottom_up = bottom_up
    magnitudes = getattr(bottom_up, "magnitudes", {})
    for number, stage in enumerate(STAGES, 2):
      initializer = XAVIER(1.0 / magnitudes.get(stage, 1.0) ** 2)
      lateral = Conv2D(bottom_up.channels[stage], channels, 1, initializer=initializer)
      setattr(self, f"fpn_lateral{number}", lateral)
      setattr(self, f"fpn_output{number}", Conv2D(channels, channels, 3, initializer=XAVIER()))

  def call(self, x: tf.Tensor, training: bool | None = None) -> dict[str, tf.Tensor]:
    """Returns the levels of the pyramid.

    Args:
      x: float32 [B, H, W, 3], normalized, H and W multiples of 32.
      training: whether gradients will be asked for.

    Returns:
      `{"p2": [B, H/4, W/4, C], ..., "p5": [B, H/32, W/32, C], "p6": P5 at every other element}`.
    """
    taps, merged, levels = self.bottom_up(x, training=training), None, {}
    for number, stage in reversed(list(enumerate(STAGES, 2))):
      lateral = getattr(self, f"fpn_lateral{number}")(taps[stage])
      # What goes down is the merged map, before the output convolution.
      merged = lateral if merged is None else merge(merged, lateral)
      levels[f"p{number}"] = getattr(self, f"fpn_output{number}")(merged)
    levels["p6"] = levels["p5"][:, ::2, ::2]
    return dict(sorted(levels.items()))


def merge(coarse: tf.Tensor, lateral: tf.Tensor) -> tf.Tensor:
  """Enlarges a map twice, each element to 2x2 equal ones, and adds a map of that size."""
  batch, height, width, channels = tf.unstack(tf.shape(coarse))
  halves = tf.reshape(lateral, [batch, height, 2, width, 2, channels])
  merged = tf.reshape(halves + coarse[:, :, tf.newaxis, :, tf.newaxis], tf.shape(lateral))
  return tf.ensure_shape(merged, lateral.shape)
