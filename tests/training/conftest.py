"""The toy codec for all tests of training."""

from __future__ import annotations

import importlib.util
import pathlib

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator

from khuvcm_tf import codecs

_spec = importlib.util.spec_from_file_location(
  "training_toy", pathlib.Path(__file__).parent / "toy.py"
)
_toy = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_toy)


@pytest.fixture
def toy(monkeypatch):
  """The module `toy`, its codec known as "toy"; runs end without the conversion to integers."""
  monkeypatch.setitem(codecs._BUILDERS, "toy", _toy.build)
  monkeypatch.setattr(_toy.recipe.finish_lib, "finish", lambda *_: None)
  return _toy


@pytest.fixture
def photos(toy, tmp_path) -> str:
  """A folder of six pictures of 80x96."""
  toy.write_pictures(tmp_path / "photos", 6)
  return str(tmp_path / "photos")


@pytest.fixture
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
