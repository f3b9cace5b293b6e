"""ResNet and ResNeXt as detectron2 builds them: the bottom-up path of an FPN.

He et al., Deep Residual Learning for Image Recognition, CVPR 2016; Xie et al., Aggregated Residual
Transformations for Deep Neural Networks, CVPR 2017. Source:
`detectron2/modeling/backbone/resnet.py`.

Letters: B images, H and W their height and width in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from detection.layers import Conv2D, max_pool_3x3

STAGES = ("res2", "res3", "res4", "res5")


class Stem(tf.keras.layers.Layer):
  """7x7 convolution and 3x3 maxima, each of stride 2: [B, H, W, 3] to [B, H/4, W/4, width]."""

  def __init__(self, width: int, norm: str):
    super().__init__()
    self.conv1 = Conv2D(3, width, 7, stride=2, norm=norm, activation=tf.nn.relu)

  def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
    return max_pool_3x3(self.conv1(x, training=training))


class _Block(tf.keras.layers.Layer):
  """A residual block; `convolutions` are applied in turn, all but the last with ReLU."""

  def _add_shortcut(self, in_channels: int, out_channels: int, stride: int, norm: str):
    self.shortcut = None
    if in_channels != out_channels:
      self.shortcut = Conv2D(in_channels, out_channels, 1, stride, norm=norm)

  def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
    y = x
    for convolution in self._convolutions:
      y = convolution(y, training=training)
    return tf.nn.relu(y + (x if self.shortcut is None else self.shortcut(x, training=training)))


class BasicBlock(_Block):
  """Two 3x3 convolutions, as in ResNet-18."""

  def __init__(self, in_channels: int, out_channels: int, stride: int, norm: str):
    super().__init__()
    self._add_shortcut(in_channels, out_channels, stride, norm)
    self.conv1 = Conv2D(in_channels, out_channels, 3, stride, norm=norm, activation=tf.nn.relu)
    self.conv2 = Conv2D(out_channels, out_channels, 3, norm=norm)
    self._convolutions = [self.conv1, self.conv2]


class BottleneckBlock(_Block):
  """1x1, 3x3 and 1x1 convolutions; the 3x3 one has groups in ResNeXt.

  Args:
    in_channels, inner_channels, out_channels: of the input, the 3x3 convolution and the output.
    stride: of the block.
    groups: of the 3x3 convolution.
    stride_in_1x1: whether the first convolution carries the stride (RESNETS.STRIDE_IN_1X1), as in
      the original ResNet; otherwise the second.
    norm: which of `layers.NORMS` follows each convolution.
  """

  def __init__(
    self,
    in_channels: int,
    inner_channels: int,
    out_channels: int,
    stride: int,
    groups: int,
    stride_in_1x1: bool,
    norm: str = "frozen",
  ):
    super().__init__()
    self._add_shortcut(in_channels, out_channels, stride, norm)
    first, second = (stride, 1) if stride_in_1x1 else (1, stride)
    relu = {"norm": norm, "activation": tf.nn.relu}
    self.conv1 = Conv2D(in_channels, inner_channels, 1, first, **relu)
    self.conv2 = Conv2D(inner_channels, inner_channels, 3, second, groups, **relu)
    self.conv3 = Conv2D(inner_channels, out_channels, 1, norm=norm)
    self._convolutions = [self.conv1, self.conv2, self.conv3]


class ResNet(tf.keras.layers.Layer):
  """Stem and four stages; a stage halves the size, but the first, and doubles the channels.

  Args:
    blocks: of each stage.
    width: channels of the stem.
    bottleneck: whether blocks are `BottleneckBlock`s, which give out four times the channels.
    groups, width_per_group: of the 3x3 convolutions in the first stage's bottlenecks; by default
      one group as wide as the stem.
    stride_in_1x1: of the bottlenecks.
    norm: which of `layers.NORMS` follows each convolution.

  Attributes:
    channels: of each tap, `res2` (stride 4) to `res5` (stride 32).
  """

  def __init__(
    self,
    blocks: Sequence[int],
    width: int = 64,
    bottleneck: bool = True,
    groups: int = 1,
    width_per_group: int | None = None,
    stride_in_1x1: bool = False,
    norm: str = "frozen",
  ):
    super().__init__()
    self.stem = Stem(width, norm)
    self.channels = {
      stage: width * 2**number * (4 if bottleneck else 1) for number, stage in enumerate(STAGES)
    }
    inputs, inner = width, groups * (width_per_group or width)
    for number, (stage, count) in enumerate(zip(STAGES, blocks)):
      outputs, stage_blocks = self.channels[stage], []
      for index in range(count):
        stride = 2 if number > 0 and index == 0 else 1
        if bottleneck:
          bottleneck_inner = inner * 2**number
          block = BottleneckBlock(
            inputs, bottleneck_inner, outputs, stride, groups, stride_in_1x1, norm
          )
        else:
          block = BasicBlock(inputs, outputs, stride, norm)
        stage_blocks.append(block)
        inputs = outputs
      setattr(self, stage, stage_blocks)

  def call(self, x: tf.Tensor, training: bool | None = None) -> dict[str, tf.Tensor]:
    """Returns the outputs of the stages.

    Args:
      x: float32 [B, H, W, 3], normalized, H and W multiples of 32.
      training: whether gradients will be asked for.

    Returns:
      `{"res2": [B, H/4, W/4, C2], ..., "res5": [B, H/32, W/32, C5]}`.
    """
    taps, y = {}, self.stem(x, training=training)
    for stage in STAGES:
      for block in getattr(self, stage):
        y = block(y, training=training)
      taps[stage] = y
    return taps
