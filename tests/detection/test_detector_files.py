"""Folders of detectors: whole or not at all, found by path and name, or refused in one line."""

from __future__ import annotations

import json
import os
import re
import shutil

import numpy as np
import pytest

from detection import detector_files, predictor
from khuvcm_tf import model_folders

_NAMES = ("cat", "dog", "cup")


@pytest.fixture(scope="module")
def saved(tiny_detector, tmp_path_factory):
  folder = tmp_path_factory.mktemp("detectors") / "tiny"
  detector_files.save(str(folder), tiny_detector, _NAMES, {"source": "a test"})
  return folder


@pytest.fixture
def folder(saved, tmp_path):
  shutil.copytree(saved, tmp_path / "tiny")
  return tmp_path / "tiny"


def test_a_detector_comes_back(saved, tiny_detector):
  detector, description, fingerprint = detector_files.load(str(saved))
  assert description["source"] == "a test" and description["categories"] == list(_NAMES)
  assert len(fingerprint) == 16 and detector.config == tiny_detector.config
  for name, weight in tiny_detector.named_weights().items():
    np.testing.assert_array_equal(detector.named_weights()[name], weight)


def test_half_precision_takes_half_the_bytes(saved, tiny_detector, tmp_path):
  detector_files.save(str(tmp_path / "half"), tiny_detector, _NAMES, {}, "float16")
  sizes = [os.path.getsize(path / "weights.npz") for path in (tmp_path / "half", saved)]
  assert sizes[0] < 0.6 * sizes[1]


def test_fields_of_the_config_can_be_changed(saved):
  changed = predictor.load(str(saved), min_score=0.9, short_side=48)
  assert changed.detector.config.min_score == 0.9
  assert changed.extract_features(np.zeros([10, 10, 3], np.uint8)).image_size == (48, 48)
  assert changed.fingerprint == predictor.load(str(saved)).fingerprint


def test_a_name_is_looked_up_among_what_is_shipped(saved, monkeypatch):
  monkeypatch.setenv("KHUVCM_MODELS", str(saved.parent))
  assert detector_files.find("tiny") == str(saved)


def test_a_detector_that_is_not_there_is_refused(tmp_path):
  with pytest.raises(detector_files.DetectorError, match=r"^no detector at '.*nowhere', expected"):
    detector_files.load(str(tmp_path / "nowhere"))


def test_what_is_no_detector_is_not_replaced(tiny_detector, tmp_path):
  (tmp_path / "photo.png").write_bytes(b"")
  with pytest.raises(model_folders.ModelError, match=r"holds something else than a detector"):
    detector_files.save(str(tmp_path), tiny_detector, _NAMES, {})


def test_weights_that_overflow_half_precision_are_refused(tiny_config, tmp_path):
  detector = detector_files.Detector(tiny_config)
  detector.named_weights()["backbone.fpn_lateral2.bias"].assign(np.full(16, 1e6))
  with pytest.raises(model_folders.ModelError, match=r"fpn_lateral2\.bias hold values that"):
    detector_files.save(str(tmp_path / "a"), detector, _NAMES, {}, "float16")
  assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
  "name, content, message",
  [
    ("fingerprint", "0" * 16, "its fingerprint is .*, expected 0000000000000000 as stored"),
    ("fingerprint", "zz", "non-hexadecimal"),
    ("detector.json", "[]", "detector.json has no format"),
    ("detector.json", "{", "Expecting property name"),
    ("weights.npz", "PK", "weights.npz: "),
  ],
)
def test_damage_is_told_in_one_line(folder, name, content, message):
  (folder / name).write_text(content)
  with pytest.raises(detector_files.DetectorError) as raised:
    detector_files.load(str(folder))
  assert str(raised.value).startswith(f"{folder} is not a whole detector: ")
  assert re.search(message, str(raised.value))
  assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
  "key, value, message",
  [
    ("format", 2, r"has detector format 2, expected 1"),
    ("categories", ["cat"], r"it has not one category for each class"),
    ("categories", [1, 2, 3], r"categories that are no names"),
    ("config", {"backbone": "resnet18"}, r"its fingerprint is"),
    ("config", {"backbone": 1}, r"found backbone = 1"),
  ],
)
def test_a_description_of_something_else_is_refused(folder, key, value, message):
  description = json.loads((folder / "detector.json").read_text())
  (folder / "detector.json").write_text(json.dumps({**description, key: value}))
  with pytest.raises(detector_files.DetectorError, match=message):
    detector_files.load(str(folder))
