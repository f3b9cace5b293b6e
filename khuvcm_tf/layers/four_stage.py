"""The transforms of Ballé et al. (2018) and Minnen et al. (2018): four 5x5 stages of stride 2."""

from __future__ import annotations

from khuvcm_tf.layers import signal
from khuvcm_tf.layers.transform import Transform


def four_stage_analysis(
  filters: int, latent_depth: int, activation: str, planes: int = 3
) -> Transform:
  """g_a: [B, H, W, planes] -> [B, H/16, W/16, latent_depth]."""
  return Transform(
    [
      signal.conv_down(filters, 5, 2, name="conv0"),
      signal.activation(activation, name="act0"),
      signal.conv_down(filters, 5, 2, name="conv1"),
      signal.activation(activation, name="act1"),
      signal.conv_down(filters, 5, 2, name="conv2"),
      signal.activation(activation, name="act2"),
      signal.conv_down(latent_depth, 5, 2, name="conv3"),
    ],
    planes,
    name="analysis",
  )


def four_stage_synthesis(
  filters: int, latent_depth: int, activation: str, planes: int = 3
) -> Transform:
  """g_s: [B, h, w, latent_depth] -> [B, 16 h, 16 w, planes]."""
  return Transform(
    [
      signal.conv_up(filters, 5, 2, name="conv0"),
      signal.activation(activation, inverse=True, name="act0"),
      signal.conv_up(filters, 5, 2, name="conv1"),
      signal.activation(activation, inverse=True, name="act1"),
      signal.conv_up(filters, 5, 2, name="conv2"),
      signal.activation(activation, inverse=True, name="act2"),
      signal.conv_up(planes, 5, 2, name="conv3"),
    ],
    latent_depth,
    name="synthesis",
  )
