"""The mask head: where in its box an object is.

He et al., Mask R-CNN, ICCV 2017, section 3. Source: `detectron2/modeling/roi_heads/mask_head.py`.
"""

from __future__ import annotations

import tensorflow as tf

from detection.config import Config
from detection.layers import Conv2D, ConvTranspose2x2, normal


class MaskHead(tf.keras.layers.Layer):
  """Four convolutions, one to twice the size, and a mask for each class."""

  def __init__(self, config: Config):
    super().__init__()
    inputs, channels = config.fpn_channels, config.mask_channels
    self.mask_fcn1 = Conv2D(inputs, channels, 3, activation=tf.nn.relu)
    self.mask_fcn2 = Conv2D(channels, channels, 3, activation=tf.nn.relu)
    self.mask_fcn3 = Conv2D(channels, channels, 3, activation=tf.nn.relu)
    self.mask_fcn4 = Conv2D(channels, channels, 3, activation=tf.nn.relu)
    self.deconv = ConvTranspose2x2(channels, channels)
    self.predictor = Conv2D(channels, config.num_classes, 1, initializer=normal(0.001))

  def call(self, pooled: tf.Tensor) -> tf.Tensor:
    """Returns logits [N, 2 S, 2 S, K] of what ROIAlign gave [N, S, S, C]."""
    count = tf.shape(pooled)[0]
    # At least one: a convolution of an empty batch gives the shape of its input (TensorFlow 2.14
    # with oneDNN).
    x = tf.pad(pooled, [[0, tf.cast(count == 0, tf.int32)], [0, 0], [0, 0], [0, 0]])
    for layer in (self.mask_fcn1, self.mask_fcn2, self.mask_fcn3, self.mask_fcn4):
      x = layer(x)
    return self.predictor(self.deconv(x))[:count]


def of_classes(logits: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
  """Returns the logits [N, H, W] of one class each of [N, H, W, K], by int32 [N]."""
  return tf.gather(tf.transpose(logits, [0, 3, 1, 2]), classes, batch_dims=1)
