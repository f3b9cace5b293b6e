"""Models in processes that were forked: an error in place of a hang."""

from __future__ import annotations

import os
import pathlib
import signal

import numpy as np
import pytest

from detection.predictor import Predictor
from khuvcm_tf import forks, model_files, saved_model

MODEL = str(pathlib.Path(__file__).parent / "golden" / "mbt2018_mean" / "model")
IMAGE = np.full((16, 16, 3), 90, np.uint8)


def _text_in_child(call) -> str:
  """Returns the text of the ForkError that a call ends in, in a forked process."""
  reader, writer = os.pipe()
  child = os.fork()
  if not child:
    signal.alarm(60)  # ends what hangs
    try:
      call()
    except forks.ForkError as error:
      os.write(writer, str(error).encode())
    finally:
      os._exit(0)
  os.close(writer)
  os.waitpid(child, 0)
  with open(reader) as file:
    return file.read()


@pytest.fixture(scope="module")
def model():
  return model_files.load(MODEL)


def test_models_and_detectors_end_in_an_error_in_a_forked_process(model, tiny_detector):
  data = model.compress(IMAGE)
  detect = Predictor(tiny_detector, ("a", "b", "c"))
  features = detect.extract_features(IMAGE)
  for call in (
    lambda: model.compress(IMAGE),
    lambda: model.decompress(data),
    lambda: model.estimate(IMAGE),
    lambda: model_files.load(MODEL),
    lambda: saved_model.ExportedModel("absent"),
    lambda: detect(IMAGE),
    lambda: detect.from_features(features),
  ):
    assert _text_in_child(call) == (
      "found a process that was forked after TensorFlow had been used, in which it would hang; "
      'expected one that was started anew: use multiprocessing.get_context("spawn"), and load the '
      "model in each process"
    )
  assert model.compress(IMAGE) == data


def test_a_fork_before_the_first_use_is_as_good_as_a_new_process(monkeypatch):
  monkeypatch.setattr(forks, "_user", [])

  def use():
    forks.check()
    forks.check()
    raise forks.ForkError("fine")

  assert _text_in_child(use) == "fine"
