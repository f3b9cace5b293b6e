"""Small float networks as entropy models have them, inputs, and their conversion to integers."""

from __future__ import annotations

import numpy as np

from khuvcm_tf import layers
from khuvcm_tf.entropy.calibration import networks
from khuvcm_tf.layers import signal


def create(kind="transposed", slope=0.2):
  """A small h_s with larger weights than new ones have: two stages that enlarge and a plain one."""
  enlarging = {
    "transposed": [layers.conv_up(6, 5, 2, name="conv0"), layers.conv_up(7, 3, 2, name="conv1")],
    "subpixel": [layers.Subpixel(6, 3, 2, name="up0"), layers.Subpixel(7, 1, 2, name="up1")],
  }[kind]
  network = layers.Stack(
    [
      enlarging[0],
      layers.Rectifier(slope, name="act0"),
      enlarging[1],
      layers.Rectifier(slope, name="act1"),
      layers.conv(5, 3, name="conv2"),
    ],
    4,
    name="network",
  )
  rng = np.random.default_rng(8)
  # An output of a transposed convolution takes a quarter of its kernel.
  gain = {"transposed": 2, "subpixel": 1}[kind]
  for weight in network.trainable_weights:
    fan_in = np.prod(weight.shape[:-1]) or 1
    weight.assign(rng.normal(scale=gain * fan_in**-0.5, size=weight.shape))
  return network


def inputs(seed=0, size=6, max_abs=300):
  """Returns int32 [1, size, size + 1, 4]."""
  return np.random.default_rng(seed).integers(
    -max_abs, max_abs + 1, (1, size, size + 1, 4), np.int32
  )


def max_abs_of_hidden(network, x):
  """Returns the largest magnitudes of each channel behind each rectifier."""
  found = []
  for layer in network.layers:
    x = layer(x)
    if isinstance(layer, signal.Rectifier):
      found.append(np.abs(x).max(axis=(0, 1, 2)))
  return found


def converted(network, dtype="float32", bits=(10, 10), scale=64.0):
  """Converts a network, calibrated on `inputs()`, whose outputs are in steps of 1/scale."""
  return networks.convert(
    networks.float_layers(network),
    max_abs_of_hidden(network, inputs() / 64),
    networks.input_limits(np.abs(inputs() / 64).max(axis=(0, 1, 2)), 64),
    np.full(4, 64.0),
    bits,
    np.full(5, scale),
    2**15,
    dtype,
  )
