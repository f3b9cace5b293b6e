"""Layers in sequence, with their weights made at once."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

# Sides of the zeros that weights are made with: enough for any kernel and stride of this package.
_SIDE = 4


class Stack(tf.keras.layers.Layer):
  """Applies layers one after the other: [B, H, W, in_channels] -> [B, H', W', out_channels].

  Unlike `tf.keras.Sequential`, which traces each layer symbolically and reads its source code (a
  tenth of a second a layer), this makes the weights by one eager pass over a few zeros. Layers are
  applied by their `call`: they all have the type of this one, which casts inputs and weights.

  Args:
    layers: in the order in which they are applied; weights are named `LAYER/WEIGHT`.
    in_channels: channels of the input.
    name: of the stack.

  Attributes:
    out_channels: channels of the output.
  """

  def __init__(self, layers: Sequence[tf.keras.layers.Layer], in_channels: int, name: str):
    super().__init__(name=name)
    self.layers = list(layers)
    with tf.init_scope():
      y = self(tf.zeros((1, _SIDE, _SIDE, in_channels), self.compute_dtype))
    self.out_channels = y.shape[-1]

  def call(self, inputs: tf.Tensor) -> tf.Tensor:
    for layer in self.layers:
      if layer.built:
        inputs = layer.call(inputs)
      else:
        # An absolute scope: weights are named LAYER/WEIGHT, whatever is being built around them.
        with tf.name_scope(f"{layer.name}/"):
          layer.build(inputs.shape)
          inputs = layer.call(inputs)
    return inputs
