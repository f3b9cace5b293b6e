"""Exported detectors: in a process that has none of our code, the bits of the Python code."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from detection import postprocessing, saved_model
from detection.config import Config
from detection.detector import Detector
from detection.fpn import FPN
from detection.predictor import Predictor
from detection.resnet import ResNet
from khuvcm_tf import atomic_files
from khuvcm_tf.model_folders import ModelError
from khuvcm_tf.ops.pyramid import LEVELS

_CATEGORIES = ("cat", "dog", "cup")

# Of any size: in a graph for one size, TensorFlow folds constants and rounds some boxes otherwise.
_SIGNATURE = [tf.TensorSpec([None, None, None, 3], tf.uint8), tf.TensorSpec([None, 2], tf.int32)]

# Runs the export in the current folder on inputs.npz; no Python of ours can be imported.
_CHILD = """
import sys

class Blocked:
  def find_spec(self, name, path=None, target=None):
    if name.split(".")[0] in ("detection", "khuvcm_tf", "tensorflow_compression"):
      raise ImportError(name + " is blocked")

sys.meta_path.insert(0, Blocked())
import numpy as np
import tensorflow as tf

inputs = {name: tf.constant(value) for name, value in np.load("inputs.npz").items()}
sizes = {name: inputs[name] for name in ("image_sizes", "original_sizes")}
signatures = tf.saved_model.load("export").signatures
run = lambda name, **given: {k: v.numpy() for k, v in signatures[name](**given).items()}
found = run("detect", **inputs)
features = run("extract_features", images=inputs["images"], image_sizes=sizes["image_sizes"])
again = run("from_features", **{k: tf.constant(v) for k, v in features.items()}, **sizes)
results = {**found, **features, **{"again_" + name: value for name, value in again.items()}}
for i, count in enumerate(found["count"]):
  parts = {name: tf.constant(found[name][i, :count]) for name in ("masks", "boxes")}
  pasted = run("paste_masks", **parts, image_size=sizes["original_sizes"][i])
  results["pasted%d" % i] = pasted["pasted"]
np.savez("found.npz", **results)
"""


@pytest.fixture(scope="module")
def predictor(tiny_config):
  """With a small ResNeXt: native grouped convolutions, and split ones where the stride is 2."""
  tf.keras.utils.set_random_seed(2)
  detector = Detector(dataclasses.replace(tiny_config, min_score=0.2))
  backbone = ResNet((1, 1, 1, 1), width=8, groups=2, width_per_group=16)
  detector.backbone = FPN(backbone, tiny_config.fpn_channels)
  return Predictor(detector, _CATEGORIES, "0123456789abcdef")


@pytest.fixture(scope="module")
def inputs():
  """Two images of different sizes in a batch; beyond the second is what padding may hold."""
  return {
    "images": np.random.default_rng(0).integers(0, 256, (2, 64, 100, 3)).astype(np.uint8),
    "image_sizes": np.array([[64, 100], [50, 70]], np.int32),
    "original_sizes": np.array([[131, 203], [33, 47]], np.int32),
  }


@pytest.fixture(scope="module")
def folder(predictor, inputs, tmp_path_factory):
  """The folder that holds the export alone, before it is run."""
  folder = tmp_path_factory.mktemp("exported")
  saved_model.export(predictor, str(folder / "export"))
  assert [path.name for path in folder.iterdir()] == ["export"]
  return folder


@pytest.fixture(scope="module")
def found(folder, inputs):
  """What the export gives in a process of its own."""
  np.savez(folder / "inputs.npz", **inputs)
  environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
  child = subprocess.run(
    [sys.executable, "-c", _CHILD],
    cwd=folder,
    env={**environment, "TF_CPP_MIN_LOG_LEVEL": "3"},
    capture_output=True,
    text=True,
    timeout=1800,
  )
  assert child.returncode == 0, child.stderr[-3000:]
  return dict(np.load(folder / "found.npz"))


def test_features_and_detections_are_those_of_the_detector_bit_for_bit(found, predictor, inputs):
  detector = predictor.detector

  def both(images, image_sizes):
    features = detector.extract_features(images, image_sizes)
    return features, detector.from_features(features, image_sizes)

  features, detections = tf.function(both, _SIGNATURE)(inputs["images"], inputs["image_sizes"])
  for level in LEVELS:
    np.testing.assert_array_equal(found[level], features[level].numpy(), level)
  for i, sizes in enumerate(zip(inputs["image_sizes"], inputs["original_sizes"])):
    expected = postprocessing.to_original(detections, i, *map(tf.constant, sizes))
    count = found["count"][i]
    assert count == len(expected.boxes) > 3
    for key in ("boxes", "scores", "classes"):
      np.testing.assert_array_equal(found[key][i, :count], getattr(expected, key).numpy())
      assert not found[key][i, count:].any()
    np.testing.assert_array_equal(found[f"pasted{i}"], expected.masks.numpy())


def test_features_lead_to_the_detections_of_the_images_bit_for_bit(found):
  for key in ("boxes", "scores", "classes", "count", "masks"):
    np.testing.assert_array_equal(found[f"again_{key}"], found[key], key)


def test_boxes_that_are_empty_in_the_original_leave_no_gap():
  detections = saved_model.Detections(
    boxes=tf.constant([[[8.0, 0, 9, 9], [3, 0, 3, 9], [2, 2, 6, 4], [0, 0, 0, 0]]]),
    scores=tf.constant([[0.9, 0.8, 0.7, 0.0]]),
    classes=tf.constant([[2, 1, 0, 0]]),
    count=tf.constant([3]),
  )
  found = saved_model.outputs(detections, tf.constant([[10, 10]]), tf.constant([[10, 5]]))
  assert found["count"].numpy().tolist() == [2]
  assert found["boxes"].numpy().tolist() == [
    [[4, 0, 4.5, 9], [1, 2, 3, 4], [0, 0, 0, 0], [0, 0, 0, 0]]
  ]
  np.testing.assert_allclose(found["scores"], [[0.9, 0.7, 0, 0]], rtol=1e-6)
  assert found["classes"].numpy().tolist() == [[2, 0, 0, 0]]
  assert "masks" not in found


def test_an_export_describes_itself(folder, predictor):
  content = json.loads((folder / "export" / "export.json").read_text())
  assert content["categories"] == list(_CATEGORIES)
  assert content["fingerprint"] == predictor.fingerprint
  assert Config.from_json(content["config"]) == predictor.detector.config


def test_a_folder_in_use_and_a_file_are_refused(predictor, tmp_path):
  (tmp_path / "notes.txt").write_text("mine")
  for folder in (tmp_path, tmp_path / "notes.txt"):
    with pytest.raises(ModelError, match=rf"^{folder} exists and is not empty; give a new --o"):
      saved_model.export(predictor, str(folder))
  assert os.listdir(tmp_path) == ["notes.txt"]


def test_an_export_that_cannot_be_written_says_so_and_leaves_nothing(
  predictor, tmp_path, monkeypatch
):
  def fail(module, folder, **_):
    raise tf.errors.ResourceExhaustedError(None, None, "No space left on device\nmore")

  monkeypatch.setattr(tf.saved_model, "save", fail)
  monkeypatch.setattr(saved_model, "_signatures", lambda _: {})  # Graphs take seconds.
  with pytest.raises(
    atomic_files.FileError, match=r"new was not written: No space left on device; expected a writ"
  ):
    saved_model.export(predictor, str(tmp_path / "new"))
  assert os.listdir(tmp_path) == []
