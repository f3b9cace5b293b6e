"""Features of a detector as what a codec is trained on."""

from __future__ import annotations

import numpy as np
import pytest

from khuvcm_tf import codecs, model_files
from khuvcm_tf.data import feature_files, pipeline
from khuvcm_tf.data.stored_features import ImageFeatures, Metadata, StoredFeatures
from khuvcm_tf.ops import pyramid
from khuvcm_tf.options import OptionsError
from khuvcm_tf.training import inputs, task
from khuvcm_tf.training.options import CodecOptions

_CHANNELS = 8


def _stored(number, size=(96, 128)) -> StoredFeatures:
  rng = np.random.default_rng(number)
  levels = {
    level: (2 + 3 * rng.normal(size=(*each, _CHANNELS))).astype(np.float32)
    for level, each in pyramid.level_sizes(size).items()
  }
  metadata = Metadata(f"{number}.png", "0" * 64, "f" * 16, "float32", _CHANNELS, size, size)
  return StoredFeatures(metadata, ImageFeatures(levels, size, size))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("features")
  with feature_files.NpzWriter(str(folder)) as writer:
    for number in range(5):
      writer.add(_stored(number))
  return str(folder)


def _options(folder, **fields) -> CodecOptions:
  arguments = {"model": "bmshj2018_factorized", "channels": _CHANNELS, "planes": 2}
  arguments.update(num_filters=4, latent_depth=4)
  common = {"codec": "feature", "workdir": "w", "train_features": folder, "arguments": arguments}
  return CodecOptions(**{**common, "crop_size": 48, "batch_size": 2, "log_steps": 1, **fields})


def _form(options):
  return codecs.create(options.codec, **options.arguments).input_format


def test_some_are_held_out_and_examples_are_canvases(folder):
  options = _options(folder)
  form = _form(options)
  found = inputs.load(options, form)
  assert found.text == "features of 4 photos, 1 for validation" and found.detector == "f" * 16
  np.testing.assert_array_equal(found.validation[0].levels["p3"], _stored(0).features.levels["p3"])
  example = found.training.decode(0)
  assert example.dtype == np.float32
  np.testing.assert_array_equal(example, form.example(_stored(1).features))
  batch = next(iter(pipeline.training_batches(found.training, 2, 48, 0, 0)))
  assert batch.shape == (2, 48, 48, 2) and batch.dtype == np.float32
  assert len(inputs.load(_options(folder, validation_features=folder), form).validation) == 5


@pytest.mark.parametrize("kind", ["none", "unit", "standard", "file"])
def test_normalizations_are_of_the_training_features(folder, kind, tmp_path):
  if kind == "file":
    kind = str(tmp_path / "w.npz")
    np.savez(kind, offset=np.full((4, _CHANNELS), 1.0), scale=np.full((4, _CHANNELS), 0.5))
  options = _options(folder, normalization=kind)
  form = _form(options)
  found = inputs.load(options, form)
  examples = [form.example(_stored(number).features) for number in range(1, 5)]
  levels = [_stored(number).features.levels for number in range(1, 5)]
  p2 = np.stack([each["p2"] for each in levels])
  first = found.training.decode(0)[: p2.shape[1], : p2.shape[2], 0]
  if kind == "none":
    np.testing.assert_array_equal(first, p2[0, ..., 0])
  elif kind == "unit":
    values = np.concatenate([each[k].ravel() for each in levels for k in pyramid.BOX_LEVELS])
    expected = (p2[0, ..., 0] - values.min()) / np.ptp(values)
    np.testing.assert_allclose(first, expected, atol=1e-5)
    assert max(each.max() for each in examples) <= 1.00001
  elif kind == "standard":
    expected = (p2[0, ..., 0] - p2[..., 0].mean()) / p2[..., 0].std()
    np.testing.assert_allclose(first, expected, atol=1e-4)
  else:
    np.testing.assert_allclose(first, 0.5 * (p2[0, ..., 0] - 1.0), atol=1e-6)


@pytest.mark.parametrize(
  "fields, text",
  [
    ({"train_features": None, "train_images": "p"}, "expected --train_features for codec feature"),
    ({"crop_size": 4800}, "no canvas of .* has sides of --crop_size=4800 or more"),
    ({"normalization": "half"}, "is none of none, unit and standard, nor an .npz file"),
    ({"arguments": {"channels": 16, "planes": 2}}, "channels, expected 16; give .*channels=8"),
  ],
)
def test_what_does_not_fit_is_refused(folder, fields, text):
  options = _options(folder, **fields)
  with pytest.raises(OptionsError, match=text):
    inputs.load(options, _form(options))


@pytest.mark.parametrize(
  "fields, text",
  [
    ({"train_images": "p"}, "found --train_images and --train_features of"),
    ({"validation_images": "p"}, "expected --validation_features"),
    ({"distortion": "ms_ssim", "crop_size": 192}, "expected mse and 1: maps are no images"),
    ({"train_features": None, "train_images": "p", "normalization": "unit"}, "expected it with"),
    (
      {"train_features": None, "train_images": "p", "distortion_threshold": 0.1},
      "found --distortion_threshold, expected it with --train_features",
    ),
  ],
)
def test_options_that_contradict_each_other_are_refused(folder, fields, text):
  with pytest.raises(OptionsError, match=text):
    _options(folder, **fields)


@pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning")  # of tf.data
def test_a_run_ends_in_a_model_that_codes_features(folder, tmp_path):
  options = _options(
    folder,
    workdir=str(tmp_path / "w"),
    max_steps=2,
    normalization="standard",
    distortion_threshold=0.01,
    learning_rate=1e-4,
  )
  model = model_files.load(task.train(options))
  assert model.description["detector"] == "f" * 16
  assert "train_features" not in model.description["training"]
  features = _stored(7).features
  found = model.decompress(model.compress(features))
  assert found.levels["p2"].shape == features.levels["p2"].shape
  scale = model.codec.named_weights()["synthesis_normalization/scale"].numpy()
  assert scale.mean() == pytest.approx(1 / 3, rel=0.1)


def test_errors_below_the_threshold_cost_nothing(folder):
  from khuvcm_tf.training import losses

  form = _form(_options(folder))
  rng = np.random.default_rng(0)
  first = rng.normal(size=(2, 5, 6, 2)).astype(np.float32)
  second = first + rng.normal(scale=0.3, size=first.shape).astype(np.float32)
  planes = form.from_examples(first), form.from_examples(second)
  found = losses.create("mse", threshold=0.05)(form, *planes) / 255.0**2
  expected = np.maximum(0, (first - second) ** 2 - 0.05).mean(axis=(1, 2, 3))
  np.testing.assert_allclose(found, expected, rtol=1e-3)
  plain = losses.create("mse")(form, *planes) / 255.0**2
  np.testing.assert_allclose(plain, ((first - second) ** 2).mean(axis=(1, 2, 3)), rtol=1e-3)
