"""Keras layers from which transforms are built; the one place where tfc's layers get arguments."""

from khuvcm_tf.layers.four_stage import four_stage_analysis, four_stage_synthesis
from khuvcm_tf.layers.gain import Gain, first_log_gains
from khuvcm_tf.layers.initializers import weights_assigned
from khuvcm_tf.layers.luma import LumaDown, LumaUp
from khuvcm_tf.layers.masked import MaskedConv2D
from khuvcm_tf.layers.residual import Attention, ResidualBlock, ResidualDown, ResidualUp, Subpixel
from khuvcm_tf.layers.signal import Rectifier, activation, conv, conv_down, conv_up
from khuvcm_tf.layers.stack import Stack
from khuvcm_tf.layers.transform import Transform
from khuvcm_tf.layers.weights import assign_by_name

__all__ = [
  "Attention",
  "Gain",
  "LumaDown",
  "LumaUp",
  "MaskedConv2D",
  "Rectifier",
  "ResidualBlock",
  "ResidualDown",
  "ResidualUp",
  "Stack",
  "Subpixel",
  "Transform",
  "activation",
  "assign_by_name",
  "conv",
  "conv_down",
  "conv_up",
  "first_log_gains",
  "four_stage_analysis",
  "four_stage_synthesis",
  "weights_assigned",
]
