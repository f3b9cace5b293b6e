"""The task that all tests of runs train, and how they read what a run has logged."""

from __future__ import annotations

import importlib.util
import pathlib

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator

_spec = importlib.util.spec_from_file_location(
  "runs_line", pathlib.Path(__file__).parent / "line.py"
)
_line = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_line)


@pytest.fixture(scope="session")
def line():
  """The module `line`."""
  return _line


@pytest.fixture(scope="session")
def curve():
  """A function: folder of event files, name -> [(step, value)], as TensorBoard shows it."""

  def curve_(logdir, name: str) -> list[tuple[int, float]]:
    everything = {event_accumulator.TENSORS: 0}
    events = event_accumulator.EventAccumulator(str(logdir), size_guidance=everything)
    events.Reload()
    return [
      (event.step, float(tf.make_ndarray(event.tensor_proto))) for event in events.Tensors(name)
    ]

  return curve_
