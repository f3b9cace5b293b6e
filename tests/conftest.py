"""Fixtures that tests of several rooms share."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import hypothesis
import pytest

# No test fails because the machine is busy: time-outs are there to end what hangs.
hypothesis.settings.register_profile(
  "no deadline", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("no deadline")

_ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def run_program():
  """A function that runs a program of bin/ in a folder; returns exit code, stdout and stderr."""

  def run(program: str, *arguments: str, cwd: object) -> tuple[int, str, str]:
    process = subprocess.run(
      [sys.executable, str(_ROOT / "bin" / program), *arguments],
      cwd=cwd,
      env={**os.environ, "PYTHONPATH": str(_ROOT)},
      capture_output=True,
      text=True,
      timeout=1800,
    )
    return process.returncode, process.stdout, process.stderr

  return run


@pytest.fixture
def count_calls(monkeypatch):
  """A function from a transform to a list, which grows by one with each call of the transform."""

  def count(transform):
    calls, plain = [], type(transform).call

    def call(self, *arguments, **named):
      calls.append(1)
      return plain(self, *arguments, **named)

    monkeypatch.setattr(type(transform), "call", call)
    return calls

  return count


@pytest.fixture
def backwards():
  """An executor that resumes as a cluster does, and gives its outcomes in another order."""
  from khuvcm_tf.executor import Here

  class Backwards(Here):
    resumes = True

    def map(self, function, items):
      return reversed(list(super().map(function, items)))

  return Backwards()


class _CodedRows:
  """A coder that collects the CDF rows that symbols are coded with."""

  def __init__(self):
    self.rows = set()

  def init(self):
    return 0

  def finalize(self, state):
    return state

  def code(self, state, rows, symbols):
    self.rows.update(rows.numpy().tolist())
    return state, symbols

  def within_limits(self, excess):
    return excess


@pytest.fixture(scope="session")
def rows_seen():
  """A class of coders whose `rows` are those of the tables that symbols are coded with."""
  return _CodedRows


@pytest.fixture(scope="session")
def tiny_config():
  """Of a Mask R-CNN with three classes, for images of about 64 pixels."""
  from detection.config import Config

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
  """A detector with random weights, which gives detections of all classes."""
  import tensorflow as tf

  from detection.detector import Detector

  tf.keras.utils.set_random_seed(1)
  detector = Detector(tiny_config)
  for name, weight in detector.named_weights().items():
    if name.endswith("conv2.norm.weight"):
      weight.assign(0.3 * tf.ones_like(weight))  # else activations grow from block to block
    if name == "roi_heads.box_predictor.cls_score.weight":
      weight.assign(tf.random.stateless_normal(weight.shape, [1, 2], stddev=0.03))
  return detector
