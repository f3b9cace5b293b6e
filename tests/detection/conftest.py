"""A detector that is built in a moment, for tests of what is around it."""

from __future__ import annotations

import pytest
import tensorflow as tf

from detection.config import Config
from detection.detector import Detector


@pytest.fixture(scope="session")
def tiny_config():
  """Of a Mask R-CNN with three classes, for images of about 64 pixels."""
  return Config(
    "resnet18",
    width=8,
    masks=True,
    num_classes=3,
    fpn_channels=16,
    box_fc_channels=16,
    mask_channels=8,
    rpn_top_k=30,
    num_proposals=20,
    max_detections=20,
    short_side=64,
    max_side=128,
  )


@pytest.fixture(scope="session")
def tiny_detector(tiny_config):
  """With random weights, which give detections of all classes."""
  tf.keras.utils.set_random_seed(1)
  detector = Detector(tiny_config)
  for name, weight in detector.named_weights().items():
    if name.endswith("conv2.norm.weight"):
      weight.assign(0.3 * tf.ones_like(weight))  # else activations grow from block to block
    if name == "roi_heads.box_predictor.cls_score.weight":
      weight.assign(tf.random.stateless_normal(weight.shape, [1, 2], stddev=0.3))
  return detector
