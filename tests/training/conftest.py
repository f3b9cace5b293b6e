"""The toy codec for all tests of training."""

from __future__ import annotations

import importlib.util
import pathlib

import pytest

from khuvcm_tf import codecs
from khuvcm_tf.training import finalize

_spec = importlib.util.spec_from_file_location(
  "training_toy", pathlib.Path(__file__).parent / "toy.py"
)
_toy = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_toy)


@pytest.fixture
def toy(monkeypatch):
  """The module `toy`, its codec registered as "toy"; runs end without conversion to integers."""
  monkeypatch.setitem(codecs._OF_IMAGES, "toy", _toy.build)
  monkeypatch.setattr(finalize, "finalize", lambda *_: None)
  return _toy


@pytest.fixture
def photos(toy, tmp_path) -> str:
  """A folder of six images of 80x96."""
  toy.write_images(tmp_path / "photos", 6)
  return str(tmp_path / "photos")
