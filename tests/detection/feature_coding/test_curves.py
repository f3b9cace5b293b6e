"""Coders of features on a data set, on a tiny detector."""

from __future__ import annotations

import math

import numpy as np
import pytest

from detection.coco import run
from detection.coco.detection_store import DetectionStore
from detection.experiments import rules
from detection.experiments.features import FeatureSource
from detection.feature_coding import FeatureCodingError, distributions, quantized_maps, tables
from detection.feature_coding import coders as coders_lib
from detection.feature_coding.coders import Coded, FeatureCoder
from detection.feature_coding.curves import Measured, Measurement
from khuvcm_tf.ops.pyramid import BOX_LEVELS


class _Noisy(FeatureCoder):
  """Adds noise of a deviation, in 1000 bytes less the more there is."""

  group = "Models"

  def __init__(self, deviation):
    self.curve, self.label, self._deviation = "noisy", f"{deviation}", deviation
    self.key, self.calls = f"noise {deviation}", 0

  def code(self, image, features):
    self.calls += 1
    rng = np.random.default_rng(0)
    levels = {
      level: maps + self._deviation * rng.normal(size=maps.shape).astype(np.float32)
      for level, maps in features.levels.items()
    }
    return Coded(int(1000 / (1 + self._deviation)), features._replace(levels=levels))


def _measurement(model, dataset, path) -> Measurement:
  path.mkdir(exist_ok=True)
  store = DetectionStore(str(path / "found.jsonl"))
  return Measurement(model, dataset, store, FeatureSource(model), 20)


def test_rate_distortion_and_performance_are_those_of_the_files_and_features(
  model, dataset, tmp_path
):
  coders = [_Noisy(0.0), _Noisy(0.5), _Noisy(5.0)]
  measured = _measurement(model, dataset, tmp_path).measure(coders)
  pixels = 64 * 80 + 90 * 64 + 64 * 64 + 70 * 100
  assert measured.kind == "masks"
  expected = run.run_evaluation(
    model, dataset, str(tmp_path / "images"), categories=model.categories, fingerprint="f"
  ).metrics
  assert measured.unchanged["ap"] == pytest.approx(expected["mask_ap"], abs=1e-9)
  same, some, much = measured.rows
  assert same["ap"] == measured.unchanged["ap"] and same["mse"] == 0 and same["psnr"] == math.inf
  assert same["bpp"] == 8 * 4000 / pixels
  assert some["bytes"] == 4 * 666
  for level in BOX_LEVELS:
    assert some[f"mse_{level}"] == pytest.approx(0.25, rel=0.2)
  assert much["mse"] == pytest.approx(25.0, rel=0.1)
  assert much["ap"] < some["ap"] <= same["ap"] + 0.05
  # The bootstrap of all images once is the number itself, of masks too.
  assert measured.draws.shape == (3, 20) and measured.draws[0].std() > 0
  np.testing.assert_array_equal(measured.draws[0], measured.unchanged_draws)
  # Two distortions above 0 are no curve.
  assert not tables.thresholds(measured)


def test_curves_of_rebuilt_levels_have_no_threshold(model, dataset, tmp_path):
  coders = [_Noisy(deviation) for deviation in (0.5, 1.0, 5.0)]
  measured = _measurement(model, dataset, tmp_path).measure(coders)
  assert list(tables.thresholds(measured)) == ["noisy"]
  rebuilt = [{**row, "group": "Rebuilt"} for row in measured.rows]
  assert not tables.thresholds(measured._replace(rows=rebuilt))


def test_bd_rates_have_the_interval_of_the_draws():
  rates = np.array([1.0, 2.0, 4.0, 8.0])
  ap = np.array([0.1, 0.2, 0.3, 0.4])
  rows, draws, rng = [], [], np.random.default_rng(0)
  shared = rng.normal(0, 0.02, 400)
  for name, factor in (("anchor", 1.0), ("half", 0.5)):
    for rate, each in zip(rates, ap):
      row = {"curve": name, "group": "Models", "bpp": factor * rate, "ap": each}
      rows.append({**row, "psnr": 10 * np.log2(rate)})
      # Both curves are moved by the same in a draw: the difference stays what it is.
      draws.append(each + shared)
  measured = Measured({}, rows, np.array(draws), np.zeros(400), "boxes", [])
  found = tables.bd_rates(measured, "anchor")
  for metric in ("ap", "psnr"):
    assert found[metric]["half"]["value"] == pytest.approx(-50.0)
  assert found["ap"]["half"]["interval"] == pytest.approx((-50.0, -50.0))
  assert "interval" not in found["psnr"]["half"]
  # Ten points of AP are an octave of rate; one curve alone is moved, with a deviation of 2 points.
  measured.draws[4:] += rng.normal(0, 0.02, 400)
  low, high = tables.bd_rates(measured, "anchor")["ap"]["half"]["interval"]
  assert low == pytest.approx(100 * (0.5 * 2 ** (-1.96 * 0.2) - 1), abs=3)
  assert high == pytest.approx(100 * (0.5 * 2 ** (1.96 * 0.2) - 1), abs=6)


def test_what_was_found_is_not_made_again(model, dataset, tmp_path):
  first, again = _Noisy(0.5), _Noisy(0.5)
  rows = _measurement(model, dataset, tmp_path).measure([first]).rows
  assert first.calls == len(dataset)
  assert _measurement(model, dataset, tmp_path).measure([again]).rows == rows
  assert again.calls == 0


@pytest.mark.parametrize("bits", [8, 10])
def test_quantized_maps_are_off_by_half_a_step(bits):
  maps = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
  levels, ends = quantized_maps.quantize(maps, bits)
  assert levels.min() == 0 and levels.max() == 2**bits - 1
  back = quantized_maps.dequantize(levels.astype(np.float32), *ends, bits)
  step = (maps.max() - maps.min()) / (2**bits - 1)
  assert np.abs(back - maps).max() <= step / 2 * 1.001
  constant, ends = quantized_maps.quantize(np.full((2, 2, 2), 3.0, np.float32), bits)
  np.testing.assert_array_equal(quantized_maps.dequantize(constant, *ends, bits), 3.0)


@pytest.mark.parametrize("name", ["jpeg", "webp"])
def test_classic_codecs_get_all_levels_and_side_information(name, model):
  image = np.random.default_rng(1).integers(0, 256, (64, 80, 3)).astype(np.uint8)
  features = model.extract_features(image)
  low, *_, high = quantized_maps.coders((name,), (8,))
  assert (low.curve, low.group) == (f"{name}, 8 bits", "Anchors")
  worse, better = low.code(image, features), high.code(image, features)
  assert 32 < worse.bytes < better.bytes
  errors = [
    sum(float(np.sum((c.features.levels[k] - features.levels[k]) ** 2)) for k in BOX_LEVELS)
    for c in (worse, better)
  ]
  assert errors[1] < errors[0]
  p5 = better.features.levels["p5"]
  np.testing.assert_array_equal(better.features.levels["p6"], p5[::2, ::2])


class _Given:
  """Stands for a model of `evaluation.coders`, without loss."""

  path, key = "given", "given"

  def __init__(self, detector="tiny"):
    self.description, self.seen = {"detector": detector, "codec": "feature"}, []

  def compress(self, features):
    self.seen.append(sorted(features.levels))
    self._features = features
    return bytes(100)

  def decompress(self, data, shape):
    return self._features


def test_levels_that_a_rule_makes_are_not_coded(model):
  image = np.random.default_rng(1).integers(0, 256, (64, 80, 3)).astype(np.uint8)
  features, given = model.extract_features(image), _Given()
  rule = rules.parse("p2=p3:up, p4=0.5*p3:down+0.5*p5:up, p6=p5:pick")
  coder = coders_lib.ModelCoder(given, model, "ours", "q1", rule)
  assert coder.group == "Rebuilt"
  found = coder.code(image, features).features
  assert given.seen == [["p3", "p5"]]
  expected = rule.apply({k: v[np.newaxis] for k, v in features.levels.items()})
  for level, maps in expected.items():
    np.testing.assert_allclose(found.levels[level], np.asarray(maps)[0], atol=1e-6)


def test_models_of_another_detector_or_of_images_are_refused(model):
  with pytest.raises(FeatureCodingError, match="was trained on features of detector other"):
    coders_lib.ModelCoder(_Given("other"), model, "ours", "q1")
  images = _Given()
  images.description = {"codec": "mbt2018"}
  with pytest.raises(FeatureCodingError, match="is a model of images"):
    coders_lib.ModelCoder(images, model, "ours", "q1")
  with pytest.raises(FeatureCodingError, match="is a model of feature maps; give it as --models"):
    coders_lib.ImageCoder(_Given(), model, "ours", "q1")
  with pytest.raises(FeatureCodingError, match="keeps P6, which is not coded"):
    coders_lib.ModelCoder(_Given(), model, "ours", "q1", rules.parse("p5=p6:up"))


def test_distances_of_distributions():
  maps = np.random.default_rng(0).normal(size=(6, 5, 4))
  same = distributions.distances(maps, maps)
  assert set(same) == set(distributions.KINDS) and not any(same.values())
  shifted = distributions.distances(maps, maps + 0.5)
  for value in shifted.values():
    assert value == pytest.approx(0.5 / maps.std())
  from scipy import stats

  other = np.random.default_rng(1).normal(size=(6, 5, 4))
  found = distributions.distances(maps, other)
  assert found["all"] == pytest.approx(
    stats.wasserstein_distance(maps.ravel(), other.ravel()) / maps.std()
  )
