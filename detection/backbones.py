"""Backbones by name. An FPN asks of one its taps at strides 4, 8, 16 and 32, and their channels."""

from __future__ import annotations

import functools

import tensorflow as tf

from detection.config import ConfigError
from detection.layers import NORMS
from detection.resnet import ResNet
from detection.trunks import NanoDetG

_RESNETS = {
  # Small: two blocks of two 3x3 convolutions in each stage.
  "resnet18": functools.partial(ResNet, (2, 2, 2, 2), bottleneck=False),
  # Trained by MSRA: the stride is in the 1x1 convolution.
  "resnet50": functools.partial(ResNet, (3, 4, 6, 3), stride_in_1x1=True),
  "resnet101": functools.partial(ResNet, (3, 4, 23, 3), stride_in_1x1=True),
  "resnext101_32x8d": functools.partial(ResNet, (3, 4, 23, 3), groups=32, width_per_group=8),
}


def create(name: str, width: int, norm: str) -> tf.keras.layers.Layer:
  """Returns a new backbone.

  Args:
    name: of it.
    width: channels of the stem, where it is a ResNet.
    norm: which of `layers.NORMS` a ResNet has.

  Raises:
    ConfigError: there is none of this name, or no such norm.
  """
  if norm not in NORMS:
    raise ConfigError(f"found norm {norm!r}, expected one of {', '.join(NORMS)}")
  if name in _RESNETS:
    return _RESNETS[name](width=width, norm=norm)
  if name == "nanodet_g":
    return NanoDetG()
  raise ConfigError(
    f"found backbone {name!r}, expected one of {', '.join(sorted([*_RESNETS, 'nanodet_g']))}"
  )
