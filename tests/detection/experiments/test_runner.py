"""Rules on a data set: equal to evaluating images, kept, resumed, and what is left out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from detection.coco import CocoError, annotation_files, run
from detection.coco.detection_store import DetectionStore
from detection.experiments import ExperimentError
from detection.experiments.features import FeatureSource
from detection.experiments.rules import NONE, parse
from detection.experiments.runner import Runner
from detection.postprocessing import Objects
from detection.predictor import Predictor
from khuvcm_tf.atomic_files import FileError
from khuvcm_tf.data.stored_features import FeatureError

_DAMAGED = parse("p2=p2:degrade64, p3=p3:degrade32, p4=p4:degrade16")


class _Counted(Predictor):
  """A detector that counts how often its trunk runs."""

  def __init__(self, model: Predictor):
    super().__init__(model.detector, model.categories, model.fingerprint)
    self.calls = 0

  def extract_features(self, image):
    self.calls += 1
    return super().extract_features(image)


@pytest.fixture
def counted(model):
  return _Counted(model)


def _runner(model, dataset, output, folder=None, dtype="float32") -> Runner:
  source = FeatureSource(model, folder and str(folder), dtype)
  output.mkdir(exist_ok=True)
  return Runner(model, dataset, DetectionStore(str(output / "found")), source, num_draws=20)


def test_features_lead_to_the_numbers_of_the_images(model, dataset, tmp_path):
  expected = run.run_evaluation(
    model, dataset, str(tmp_path / "images"), categories=model.categories, fingerprint="f"
  ).metrics
  assert 0.05 < expected["ap"] < 0.95
  stored = tmp_path / "features"
  for output in ("fresh", "stored", "again"):
    folder = None if output == "fresh" else stored
    (outcome,) = _runner(model, dataset, tmp_path / output, folder).evaluate([NONE])
    for key, value in outcome.metrics.items():
      assert value == pytest.approx(expected[key], abs=1e-9, nan_ok=True), (output, key)
  assert len(list(stored.iterdir())) == len(dataset)
  assert outcome.elements == outcome.all_elements > 0 and outcome.factor == 1.0
  assert outcome.draws.shape == (20, 6) and outcome.draws[:, 0].std() > 0


def test_damage_is_seen_and_rules_are_evaluated_together(counted, dataset, tmp_path):
  wanted = [NONE, _DAMAGED, parse("p2=p3:up"), _DAMAGED]
  together = _runner(counted, dataset, tmp_path / "a").evaluate(wanted)
  assert counted.calls == len(dataset)
  assert together[1] is together[3]
  assert together[1].metrics["ap"] < together[0].metrics["ap"] - 0.02
  for rule, outcome in zip(wanted[:3], together):
    (alone,) = _runner(counted, dataset, tmp_path / str(rule)[:8].strip()).evaluate([rule])
    assert alone.metrics["ap"] == pytest.approx(outcome.metrics["ap"], abs=0.02)
    assert alone.elements == outcome.elements
  assert together[1].factor > 1.3


def test_a_run_that_was_ended_goes_on(counted, dataset, tmp_path, monkeypatch):
  first = _runner(counted, dataset, tmp_path)
  plain, calls = Runner._detect, []

  def dying(self, *arguments):
    calls.append(1)
    if len(calls) == 3:
      raise KeyboardInterrupt
    return plain(self, *arguments)

  monkeypatch.setattr(Runner, "_detect", dying)
  with pytest.raises(KeyboardInterrupt):
    first.evaluate([NONE])
  monkeypatch.undo()
  counted.calls = 0
  (resumed,) = _runner(counted, dataset, tmp_path).evaluate([NONE])
  assert counted.calls == len(dataset) - 2
  (whole,) = _runner(counted, dataset, tmp_path / "whole").evaluate([NONE])
  assert resumed.metrics == whole.metrics
  np.testing.assert_array_equal(resumed.draws, whole.draws)


def test_stored_features_are_not_made_again(counted, dataset, tmp_path):
  for output in ("a", "b"):
    _runner(counted, dataset, tmp_path / output, tmp_path / "features", "float16").evaluate([NONE])
    assert counted.calls == len(dataset)


def test_features_of_another_detector_are_refused(model, dataset, tmp_path):
  folder = tmp_path / "features"
  _runner(model, dataset, tmp_path / "a", folder).evaluate([NONE])
  other = Predictor(model.detector, model.categories, "another")
  with pytest.raises(FeatureError, match="by detector tiny, float32, .*expected detector another"):
    _runner(other, dataset, tmp_path / "b", folder).evaluate([NONE])
  image = dataset.records[0].read()
  with pytest.raises(FeatureError, match="by detector tiny, float32, .*expected detector tiny, fl"):
    FeatureSource(model, str(folder), "float16").get(dataset.records[0], image)


def test_an_image_that_cannot_be_read_is_left_out_for_all_rules(model, folder, tmp_path):
  copy = _copied(folder, tmp_path / "images")
  data = (copy / "2.png").read_bytes()
  (copy / "2.png").write_bytes(data[: len(data) // 2])
  damaged = annotation_files.load(str(copy / "annotations.json"), str(copy))
  runner = _runner(model, damaged, tmp_path / "out")
  none, other = runner.evaluate([NONE]) + runner.evaluate([parse("p6=p5:pick")])
  assert [each["file_name"] for each in runner.left_out] == ["2.png"]
  # P6 is every second element of P5: nothing changes.
  assert none.metrics == pytest.approx(other.metrics, abs=0.02, nan_ok=True)
  assert none.all_elements == other.all_elements
  whole = _runner(
    model, annotation_files.load(str(folder / "annotations.json"), str(folder)), tmp_path / "whole"
  ).evaluate([NONE])[0]
  assert whole.all_elements > none.all_elements


def test_weights_of_convolutions_are_part_of_what_detections_depend_on(model, dataset, tmp_path):
  rule, aps = parse("p2=conv1(p3)"), []
  runner = _runner(model, dataset, tmp_path)
  for scale in (0.0, 1.0):
    kernel = scale * tf.eye(16)[tf.newaxis, tf.newaxis]
    weights = {"p2=conv1(p3)": (kernel, tf.zeros(16))}
    aps.append(runner.evaluate([rule], weights)[0].metrics["ap"])
  (up,) = runner.evaluate([parse("p2=p3:up")])
  assert aps[1] == pytest.approx(up.metrics["ap"], abs=0.02) and aps[0] != aps[1]


def _copied(folder, copy):
  copy.mkdir()
  for path in folder.iterdir():
    (copy / path.name).write_bytes(path.read_bytes())
  return copy


def test_an_image_that_is_lost_later_ends_the_run(model, folder, tmp_path):
  copy = _copied(folder, tmp_path / "images")
  runner = _runner(
    model, annotation_files.load(str(copy / "annotations.json"), str(copy)), tmp_path
  )
  runner.evaluate([NONE])
  (copy / "3.png").unlink()
  with pytest.raises(ExperimentError, match="3.png.*; it could be read before: start again"):
    runner.evaluate([_DAMAGED])


def test_a_disk_that_is_full_is_not_an_image_left_out(model, dataset, tmp_path, monkeypatch):
  def refuse(self, key, values):
    raise FileError("no space left")

  monkeypatch.setattr(DetectionStore, "add", refuse)
  with pytest.raises(FileError, match="no space left"):
    _runner(model, dataset, tmp_path).evaluate([NONE])


def test_where_nothing_is_found_ap_is_0(model, dataset, tmp_path, monkeypatch):
  nothing = Objects(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))
  monkeypatch.setattr(Runner, "_detect", lambda self, chunk, *_: [nothing] * len(chunk))
  (outcome,) = _runner(model, dataset, tmp_path).evaluate([NONE])
  assert outcome.metrics["ap"] == 0.0 and (outcome.draws[:, 0] == 0).all()


def test_images_without_objects_of_the_detector_are_refused(model, dataset, tmp_path):
  records = [
    dataclasses.replace(each, annotations=tuple({**a, "iscrowd": 1} for a in each.annotations))
    for each in dataset
  ]
  with pytest.raises(ExperimentError, match="none of 4 images has an object of the detector's cat"):
    _runner(model, dataclasses.replace(dataset, records=tuple(records)), tmp_path)


def test_images_of_one_id_are_refused(model, dataset, tmp_path):
  twice = dataclasses.replace(dataset, records=dataset.records + dataset.records[:1])
  with pytest.raises(ExperimentError, match="images have the id of another"):
    _runner(model, twice, tmp_path)


def test_a_data_set_of_other_categories_is_refused(model, dataset, tmp_path):
  other = Predictor(model.detector, ("a", "b", "c"), "tiny")
  with pytest.raises(CocoError, match="has the categories"):
    _runner(other, dataset, tmp_path)
