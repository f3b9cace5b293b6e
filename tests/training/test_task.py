"""A codec as a task: its images, the model that it starts from, and runs that are resumed."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from khuvcm_tf import codecs, coding
from khuvcm_tf.codecs import input_format
from khuvcm_tf.data import pipeline
from khuvcm_tf.options import OptionsError
from khuvcm_tf.training import finalize, first_weights, inputs, task


def _variables(workdir: str) -> dict[str, np.ndarray]:
  reader = tf.train.load_checkpoint(f"{workdir}/checkpoints")
  names = [name for name in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in name]
  return {name: reader.get_tensor(name) for name in names if "save_counter" not in name}


_SEVERAL_RATES = {"arguments": {"num_qualities": 3}, "lambda_range": (0.01, 0.16)}


@pytest.mark.parametrize("rates", [{}, _SEVERAL_RATES], ids=["one rate", "several rates"])
def test_a_resumed_run_ends_with_the_weights_moments_and_noise_of_an_unbroken_one(
  toy, photos, tmp_path, rates
):
  def train(name, max_steps):
    fields = {"train_images": photos, "checkpoint_steps": 4, "learning_rate_schedule": "constant"}
    fields.update(rates)
    workdir = str(tmp_path / name)
    task.train(toy.make_options(workdir=workdir, max_steps=max_steps, ema=0.9, **fields))
    return _variables(workdir)

  unbroken = train("unbroken", 8)
  train("resumed", 4)
  resumed = train("resumed", 8)
  assert unbroken.keys() == resumed.keys()
  noise = [name for name in unbroken if "/noise/" in name]
  assert noise and [name for name in unbroken if "average" in name or "optimizer" in name]
  for name, value in unbroken.items():
    # Floats are summed in another order.
    tolerance = 0 if name in noise else 1e-4 * max(1.0, np.abs(value).max())
    np.testing.assert_allclose(resumed[name], value, rtol=0, atol=tolerance, err_msg=name)


class _Writer:
  """Keeps the names of what it is given."""

  def __init__(self):
    self.names = []

  def image(self, step, name, image):
    self.names.append(name)

  histogram = image


def test_validation_returns_means_over_whole_images_and_draws(toy, photos):
  made = task.CodecTask(toy.make_options(train_images=photos, validation_images=photos))
  writer = _Writer()
  means = made.validate(3, writer)
  each = [made.model.validate(image[np.newaxis])[1] for image in made._inputs.validation]
  assert len(each) == 6
  for name in ("loss", "bpp", "bpp_y", "psnr"):
    assert means[name] == pytest.approx(np.mean([float(one[name]) for one in each]), rel=1e-6)
  assert writer.names == [
    "validation/0",
    "validation/1",
    "validation/2",
    "latents/values",
    "latents/bits_per_channel",
    "latents/costliest_channels",
    "latents/bits_per_position",
  ]


def test_validation_of_several_rates_has_all_qualities_and_the_mean_over_them(
  toy, photos, monkeypatch
):
  options = toy.make_options(
    train_images=photos, validation_images=photos, validation_limit=2, **_SEVERAL_RATES
  )
  made, writer, shown = task.CodecTask(options), _Writer(), []
  monkeypatch.setattr(task.summaries, "write_comparison", lambda *given: shown.append([*given[2:]]))
  means = made.validate(3, writer)
  images = made._inputs.validation
  for name in ("loss", "bpp", "psnr"):
    of_qualities = [
      np.mean([float(made.model.validate(image[np.newaxis], q)[1][name]) for image in images])
      for q in (0.0, 1.0, 2.0)
    ]
    found = [means[f"quality_{k}/{name}"] for k in range(3)]
    np.testing.assert_allclose(found, of_qualities, rtol=1e-6)
    assert means[name] == pytest.approx(np.mean(found), rel=1e-6)
  assert len([name for name in means if "/" in name]) == 9
  assert {"distortion", "bpp_y", "bpp_z"} < means.keys()
  assert [name for name, *_ in shown] == ["validation/0", "validation/1"]
  for (_, image, decoded), expected in zip(shown, images):
    np.testing.assert_array_equal(image, expected)
    np.testing.assert_array_equal(decoded, made.model.validate(image[np.newaxis], 1.0)[0][0])
  assert len(made.summary(means)) < 45


def test_examples_of_several_rates_are_those_of_one_with_a_draw_for_each(toy, photos):
  one, several = (
    task.CodecTask(toy.make_options(train_images=photos, seed=5, **rates))
    for rates in ({}, _SEVERAL_RATES)
  )
  expected = one.batches(3, (0, 1)).take(2).as_numpy_iterator()
  draws = pipeline.training_draws(2, 5, 3).take(2).as_numpy_iterator()
  found = several.batches(3, (0, 1)).take(2).as_numpy_iterator()
  for images, draw, both in zip(expected, draws, found):
    np.testing.assert_array_equal(both[0], images)
    np.testing.assert_array_equal(both[1], draw)


def _gains(codec, quality: float) -> list[np.ndarray]:
  """Returns the gains of analysis and synthesis at q, [M] each."""
  (branch,) = codec.branches
  return [gain.gains(tf.constant(quality)).numpy() for gain in branch.gains.values()]


@pytest.mark.parametrize(
  "lmbda, neutral",
  [
    (0.02, 0.5),
    (0.16, 2.0),
    (9.0, 2.0),
    (0.001, 0.0),
    (None, 1.0),
    ([0.01, 0.04], 0.5),
  ],
)
def test_gains_begin_at_1_where_lambda_is_that_of_the_model_that_a_run_starts_from(
  toy, photos, tmp_path, lmbda, neutral
):
  description = {**_DESCRIPTION, "arguments": {}, "lambda": lmbda}
  folder = _write_described(tmp_path / "m", description, toy.build())
  options = toy.make_options(train_images=photos, init_from=folder, **_SEVERAL_RATES)
  codec = task.CodecTask(options).codec
  np.testing.assert_allclose(_gains(codec, neutral), 1.0, rtol=1e-6)
  # An octave of lambda is half a quality here.
  ratio = _gains(codec, 1.5)[0] / _gains(codec, 1.0)[0]
  np.testing.assert_allclose(ratio, 2**0.4, rtol=1e-6)
  np.testing.assert_allclose(np.prod(_gains(codec, 0.7), axis=0), 1.0, rtol=1e-6)
  stored = np.load(f"{folder}/weights.npz")
  for name, value in _values(codec).items():
    if "gain" not in name:
      np.testing.assert_array_equal(value, stored[name])


def test_without_a_model_to_start_from_gains_are_1_at_the_middle_and_follow_the_range(toy, photos):
  options = toy.make_options(train_images=photos, **_SEVERAL_RATES)
  codec = task.CodecTask(options).codec
  for k, octaves in enumerate((-2, 0, 2)):
    np.testing.assert_allclose(_gains(codec, k)[0], 2 ** (0.4 * octaves), rtol=1e-6)


@pytest.mark.parametrize("codec, expected", [("toy", [0, 2, 4]), ("feature", [-2, 0, 2])])
def test_lambda_of_a_model_of_images_is_none_of_features(toy, photos, tmp_path, codec, expected):
  description = {**_DESCRIPTION, "arguments": {}, "lambda": 0.01}
  folder = _write_described(tmp_path / "m", description, toy.build())
  several = {**_SEVERAL_RATES, "codec": codec, "lambda_range": (0.01, 0.16)}
  options = toy.make_options(train_images=photos, init_from=folder, **several)
  np.testing.assert_allclose(first_weights.first_octaves(options, 3), expected, atol=1e-6)


def _model_of_several_rates(folder):
  """Writes a model of three qualities, lambdas 0.01, 0.04 and 0.16; returns its weights."""
  model, rng = codecs.create("toy", num_qualities=3), np.random.default_rng(0)
  for name, weight in model.named_weights().items():
    if name.endswith("log_gain"):
      weight.assign(rng.normal(size=weight.shape))
  description = {**_DESCRIPTION, "arguments": {"num_qualities": 3}, "lambda": [0.01, 0.16]}
  _write_described(folder, description, model)
  return dict(np.load(f"{folder}/weights.npz"))


def test_a_run_that_starts_from_a_model_of_several_rates_takes_its_gains(toy, photos, tmp_path):
  stored = _model_of_several_rates(tmp_path / "m")
  given = toy.make_options(
    train_images=photos, init_from=str(tmp_path / "m"), codec=None, lambda_range=(0.01, 0.16)
  )
  options = task.with_codec_of_init_from(given)
  assert options.arguments == {"num_qualities": 3}
  for name, value in _values(task.CodecTask(options).codec).items():
    np.testing.assert_array_equal(value, stored[name])


def test_gains_of_another_range_are_those_at_the_same_lambdas(toy, photos, tmp_path):
  stored = _model_of_several_rates(tmp_path / "m")
  options = toy.make_options(
    train_images=photos,
    init_from=str(tmp_path / "m"),
    arguments={"num_qualities": 4},
    lambda_range=(0.02, 0.32 / 2**0.25),
  )
  found = _values(task.CodecTask(options).codec)
  for name in ("analysis_gain/log_gain", "synthesis_gain/log_gain"):
    low, middle, high = stored[name]
    # Octaves of lambda above the model's lowest: 1, 2.25, 3.5, and 4.75, 0.75 beyond its range.
    expected = [(low + middle) / 2, middle + (high - middle) / 8, middle + (high - middle) * 0.75]
    beyond = 0.75 * 0.4 * np.log(2) * (1 if name.startswith("analysis") else -1)
    np.testing.assert_allclose(found[name], [*expected, high + beyond], atol=1e-6)


def test_gains_of_a_model_of_images_begin_at_the_middle_of_a_range_for_features(toy, tmp_path):
  folder, rates = str(tmp_path / "m"), {"num_filters": 4, "latent_depth": 6, "num_qualities": 3}
  image_codec = codecs.create("mbt2018_mean", **rates)
  image_codec.reset_gains(np.array([-3.0, 0.0, 3.0]))
  description = {**_DESCRIPTION, "arguments": rates, "lambda": [0.002, 0.128]}
  _write_described(tmp_path / "m", description, image_codec)
  weights = {name: value.numpy() for name, value in image_codec.named_weights().items()}
  np.savez(f"{folder}/weights.npz", **weights)
  codec = codecs.create("feature", channels=4, planes=1, **rates)
  first_weights.assign_weights_of(folder, codec, (1e-6, 256e-6))
  for k, octaves in enumerate((-4, 0, 4)):
    np.testing.assert_allclose(_gains(codec, k)[0], 2 ** (0.4 * octaves), rtol=1e-4)


def test_a_codec_of_one_rate_has_the_gains_of_a_model_of_several_in_its_layers(toy, tmp_path):
  stored = _model_of_several_rates(tmp_path / "m")
  several, one = codecs.create("toy", num_qualities=3), toy.build()
  several.assign_weights(stored)
  first_weights.assign_weights_of(str(tmp_path / "m"), one, 0.08)  # half of the way from 0.04
  x = toy.images(1, 64, 64)[0][np.newaxis]
  planes, given = one.planes(x), several.latents(several.planes(x), 1.5)
  np.testing.assert_allclose(one.latents(planes)[0], given[0], rtol=1e-4, atol=1e-5)
  expected, bits = several(planes, training=False, quality=1.5)
  found, own_bits = one(planes, training=False)
  np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=0.02)
  assert own_bits.keys() == bits.keys()


def test_gains_that_no_convolution_can_have_are_refused_for_one_rate(toy, tmp_path):
  _model_of_several_rates(tmp_path / "m")
  values = dict(np.load(tmp_path / "m" / "weights.npz"))
  del values["synthesis/conv0/kernel"]
  np.savez(tmp_path / "m" / "weights.npz", **values)
  with pytest.raises(OptionsError, match=r"m is a model of several rates, .* no convolutions be"):
    first_weights.assign_weights_of(str(tmp_path / "m"), toy.build(), 0.04)


@pytest.mark.parametrize("limit, expected", [(16, 3), (2, 2)])
def test_a_tfds_data_set_is_validated_on_and_all_other_images_trained_on(
  toy, photos, monkeypatch, limit, expected
):
  kept = toy.images(3, height=24)
  monkeypatch.setattr(
    pipeline, "load_tfds_validation", lambda name, most: {"some:part": kept}[name][:most]
  )
  options = toy.make_options(train_images=photos, eval_tfds="some:part", validation_limit=limit)
  found = inputs.load(options, input_format.Rgb())
  assert len(found.training.names) == 6
  np.testing.assert_array_equal(found.validation, kept[:expected])


def test_images_that_all_break_during_the_run_end_it(toy, photos, tmp_path, monkeypatch):
  options = toy.make_options(
    workdir=str(tmp_path / "w"), train_images=photos, max_steps=10, cache_gib=0.0
  )
  load = pipeline.load

  def load_and_break(*arguments):
    found = load(*arguments)
    for path in sorted(pathlib.Path(photos).iterdir())[1:]:
      os.truncate(path, 60)
    return found

  monkeypatch.setattr(pipeline, "load", load_and_break)
  with pytest.raises(
    pipeline.DataError,
    match=r"^none of 5 training images can be read, expected some; the first: \S+\.png: [^\n]*; ",
  ):
    task.train(options)


def _write_model(folder, weights: dict[str, np.ndarray]) -> str:
  """Writes what `--init_from` reads of a model; returns its folder."""
  folder.mkdir()
  (folder / "model.json").write_text("{}")
  np.savez(folder / "weights.npz", **weights)
  return str(folder)


def _random_weights(codec, dtype=np.float32) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(3)
  return {
    name: rng.normal(size=weight.shape).astype(dtype)
    for name, weight in codec.named_weights().items()
  }


def _values(codec) -> dict[str, np.ndarray]:
  return {name: weight.numpy() for name, weight in codec.named_weights().items()}


def test_a_run_starts_with_weights_of_equal_name_and_shape_and_leaves_the_others(toy, tmp_path):
  codec = toy.build()
  stored, fresh = _random_weights(codec), _values(codec)
  missing, of_other_shape = "synthesis/conv0/kernel", "analysis/conv0/kernel"
  del stored[missing]
  stored[of_other_shape] = stored[of_other_shape][..., :-1]
  stored["context/conv0/kernel"] = np.ones((1, 1, 8, 8), np.float32)
  first_weights.assign_weights_of(_write_model(tmp_path / "m", stored), codec, 0.01)
  found = _values(codec)
  assert found.keys() == fresh.keys()
  for name, value in found.items():
    kept = name in (missing, of_other_shape)
    np.testing.assert_array_equal(value, (fresh if kept else stored)[name])


def test_a_run_starts_with_all_weights_of_a_model_of_the_same_codec(toy, photos, tmp_path):
  stored = _random_weights(toy.build(), np.float16)
  folder = _write_model(tmp_path / "m", stored)
  options = toy.make_options(workdir=str(tmp_path / "w"), train_images=photos, init_from=folder)
  found = _values(task.CodecTask(options).codec)
  assert found.keys() == stored.keys()
  for name, value in found.items():
    np.testing.assert_array_equal(value, stored[name])


def test_a_resumed_run_needs_the_model_that_it_started_from_no_more(toy, photos, tmp_path):
  options = toy.make_options(
    workdir=str(tmp_path / "w"), train_images=photos, init_from=str(tmp_path / "gone")
  )
  with pytest.raises(coding.ModelError, match="no model at "):
    task.train(options)
  with pytest.raises(coding.ModelError, match="no model at "):
    task.CodecTask(options)
  task.train(dataclasses.replace(options, init_from=None, max_steps=1))
  task.train(dataclasses.replace(options, max_steps=2))
  # Nor for codec and arguments.
  (tmp_path / "w" / "flags.txt").write_text(
    "--codec=mbt2018\n--argument=num_filters=4\n--lambda=1\n"
  )
  resumed = dataclasses.replace(options, codec=None, arguments={"latent_depth": 6})
  completed = task.with_codec_of_init_from(resumed)
  assert completed.codec == "mbt2018"
  assert completed.arguments == {"num_filters": 4, "latent_depth": 6}


def test_a_context_model_starts_with_the_transforms_of_a_hyperprior(toy, tmp_path):
  sizes = {"num_filters": 4, "latent_depth": 6}
  stored = _random_weights(codecs.create("mbt2018_mean", **sizes))
  codec = codecs.create("mbt2018", **sizes)
  fresh = _values(codec)
  first_weights.assign_weights_of(_write_model(tmp_path / "m", stored), codec, 0.01)
  taken = {name for name, value in _values(codec).items() if np.any(value != fresh[name])}
  for part in ("analysis", "synthesis", "hyper_analysis", "prior"):
    names = {name for name in fresh if name.startswith(part + "/")}
    assert names and names <= taken
  assert not any(name.startswith(("context/", "entropy_parameters/")) for name in taken)


def test_a_model_with_none_of_the_weights_is_refused_as_a_start(toy, tmp_path):
  codec = toy.build()
  of_other_shapes = {
    name: np.zeros((*value.shape, 2)) for name, value in _random_weights(codec).items()
  }
  folder = _write_model(tmp_path / "m", {"other/kernel": np.zeros(3), **of_other_shapes})
  fresh = _values(codec)
  with pytest.raises(
    OptionsError,
    match=r"^--init_from=\S+m has none of this codec's weights, expected a model of the same or a "
    r"similar codec with equal numbers of filters$",
  ):
    first_weights.assign_weights_of(folder, codec, 0.01)
  for name, value in _values(codec).items():
    np.testing.assert_array_equal(value, fresh[name])


def _write_described(folder, description: object, codec=None) -> str:
  """Writes what `--init_from` reads of a model, with what its model.json says."""
  _write_model(folder, _random_weights(codec) if codec else {})
  text = description if isinstance(description, str) else json.dumps(description)
  (folder / "model.json").write_text(text, encoding="utf-8")
  return str(folder)


_DESCRIPTION = {
  "format": 1,
  "codec": "toy",
  "arguments": {"depth": 6, "leaky_slope": 0.01, "stored_medians": True},
}


@pytest.mark.parametrize("codec", [None, "toy"])
@pytest.mark.parametrize(
  "arguments, expected",
  [
    ({}, _DESCRIPTION["arguments"]),
    (
      {"leaky_slope": 0.2, "log_scales": False},
      {"depth": 6, "leaky_slope": 0.2, "stored_medians": True, "log_scales": False},
    ),
  ],
  ids=["none", "some"],
)
def test_codec_and_arguments_are_the_models_but_for_those_that_are_given(
  toy, tmp_path, codec, arguments, expected
):
  folder = _write_described(tmp_path / "m", _DESCRIPTION)
  options = toy.make_options(init_from=folder, ema=0.5, codec=codec, arguments=arguments)
  found = task.with_codec_of_init_from(options)
  assert found == dataclasses.replace(options, codec="toy", arguments=expected)
  assert options.arguments is arguments and found.arguments is not arguments


@pytest.mark.parametrize("arguments", [{}, {"num_filters": 4}])
def test_another_codec_than_the_models_has_its_own_arguments(toy, tmp_path, arguments):
  folder = _write_described(tmp_path / "m", _DESCRIPTION)
  options = toy.make_options(init_from=folder, codec="mbt2018", arguments=arguments)
  assert task.with_codec_of_init_from(options) == options


def test_without_a_model_to_start_from_the_options_stay_as_they_are(toy):
  options = toy.make_options()
  assert task.with_codec_of_init_from(options) is options


def test_a_run_trains_the_codec_of_the_model_that_it_starts_from(
  toy, photos, tmp_path, monkeypatch
):
  folder = _write_described(
    tmp_path / "m", {**_DESCRIPTION, "arguments": {"depth": 6}}, toy.build(6)
  )
  finalized = []
  monkeypatch.setattr(finalize, "finalize", lambda *found: finalized.append(found))
  options = toy.make_options(
    workdir=str(tmp_path / "w"), train_images=photos, init_from=folder, max_steps=1
  )
  task.train(dataclasses.replace(options, codec=None))
  ((finalized_options, codec, step, *_),) = finalized
  # What the model's description is made from, and what a run that goes on is compared with.
  assert (finalized_options.codec, finalized_options.arguments, step) == ("toy", {"depth": 6}, 1)
  lines = (tmp_path / "w" / "flags.txt").read_text(encoding="utf-8").splitlines()
  assert "--codec=toy" in lines and "--argument=depth=6" in lines
  stored = np.load(f"{folder}/weights.npz")
  for name, value in _values(codec).items():
    # One step of Adam from the stored weights, in which all but a few lie above a rate of 1e-4.
    np.testing.assert_allclose(value, stored[name], atol=2e-4)


@pytest.mark.parametrize(
  "text, reason",
  [
    ("", "Expecting value"),
    ('{"format": 1, "codec": "toy"', "Expecting"),
    ("[1, 2]", r"model\.json holds no object"),
    ('{"format": 1, "codec": "toy"}', r"model\.json has no arguments"),
    ("{}", r"model\.json has no format, codec, arguments"),
  ],
)
def test_a_start_from_a_model_with_a_damaged_description_is_refused_in_one_line(
  toy, photos, tmp_path, text, reason
):
  folder = _write_described(tmp_path / "m", text)
  options = toy.make_options(workdir=str(tmp_path / "w"), train_images=photos, init_from=folder)
  with pytest.raises(
    coding.ModelError,
    match=rf"^\S+m is not a whole model: {reason}[^\n]*; copy it again from its source$",
  ):
    task.train(options)
  assert not (tmp_path / "w").exists()
