"""Runs from end to end in this process: explosions, traces, broken pictures."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from khuvcm_tf import codecs, coding
from khuvcm_tf.data import pipeline
from khuvcm_tf.training import callbacks, losses, schedules
from khuvcm_tf.training.validity import TrainingError


@pytest.fixture
def nan_at(monkeypatch):
  """A function: makes the distortion of the n-th training batch NaN, of that one alone."""

  def nan_at_(place: int):
    batches = tf.Variable(0, trainable=False)

    plain = losses.create("mse")

    def distortion(form, original, decoded):
      # A batch has two crops; validation takes one picture.
      is_batch = tf.shape(original[0])[0] == 2
      here = batches.assign_add(tf.cast(is_batch, tf.int32))
      broken = tf.logical_and(here == place, is_batch)
      return plain(form, original, decoded) * tf.where(broken, float("nan"), 1.0)

    monkeypatch.setattr(losses, "create", lambda *_: distortion)

  return nan_at_


def test_a_run_goes_back_after_a_nan_and_on_at_half_the_rate(toy, photos, tmp_path, nan_at, curve):
  nan_at(7)
  toy.recipe.train(
    toy.make_recipe(
      workdir=str(tmp_path / "w"),
      train_images=photos,
      max_steps=10,
      log_steps=1,
      checkpoint_steps=4,
      learning_rate_schedule="constant",
      on_nan="restore",
      profile=True,
    )
  )
  rates = curve(tmp_path / "w" / "logs", "run/learning_rate")
  assert rates == [(step, pytest.approx(1e-4 if step <= 4 else 5e-5)) for step in range(1, 11)]
  assert len(list((tmp_path / "w" / "logs" / "plugins" / "profile").glob("*/*.xplane.pb"))) >= 1


def test_a_nan_before_the_first_checkpoint_ends_the_run(toy, photos, tmp_path, nan_at):
  nan_at(2)
  recipe = toy.make_recipe(
    workdir=str(tmp_path / "w"), train_images=photos, max_steps=10, on_nan="restore"
  )
  with pytest.raises(
    TrainingError,
    match=r"^the loss is nan at step 2, expected a finite value, before the first checkpoint; "
    r"lower --learning_rate$",
  ):
    toy.recipe.train(recipe)


@pytest.mark.parametrize("limit, expected", [(16, 3), (2, 2)])
def test_a_tfds_data_set_is_validated_on_and_all_other_pictures_trained_on(
  toy, photos, monkeypatch, limit, expected
):
  kept = toy.pictures(3, height=24)

  def found(name, splits):
    assert (name, splits) == ("some:part", ("validation", "test"))
    return ((str(i), lambda picture=picture: picture) for i, picture in enumerate(kept))

  monkeypatch.setattr(pipeline, "_tfds_pictures", found)
  recipe = toy.make_recipe(
    workdir="w", train_images=photos, eval_tfds="some:part", validation_limit=limit
  )
  trained_on, validation = toy.recipe._pictures(recipe)
  assert len(trained_on.names) == 6
  np.testing.assert_array_equal(validation, kept[:expected])


class _Stub:
  """A trainer and its checkpoints in one, at a learning rate."""

  def __init__(self):
    self.schedule = schedules.Schedule(1.0, "constant", 0, 10)
    self.step = 3
    self.optimizer = self

  @property
  def iterations(self):
    return tf.constant(self.step)

  def restore(self):
    return "step-3"


@pytest.mark.parametrize(
  "on_nan, restores, message",
  [
    ("stop", 1, r"the loss; lower --learning_rate, or give --on_nan=restore to go back and on"),
    ("restore", 6, r"the loss, after 5 restores; lower --learning_rate"),
  ],
)
def test_an_explosion_ends_a_run_that_may_not_go_back(toy, on_nan, restores, message):
  recipe, stub = toy.make_recipe(workdir="w", on_nan=on_nan), _Stub()
  with pytest.raises(TrainingError, match=message):
    toy.recipe._go_back(recipe, stub, stub, callbacks.Exploded("the loss"), restores)


def _guard_told(losses_, norms=None):
  guard = callbacks.Guard()
  guard.set_model(_Stub())
  for loss, norm in zip(losses_, norms or [1.0] * len(losses_)):
    guard.on_train_batch_end(0, {"loss": loss, "grad_norm": norm})


def test_the_guard_lets_falling_and_noisy_losses_pass():
  _guard_told([1e6, 3e4, 200.0, 5.0, 80.0, 1.0, 90.0])


@pytest.mark.parametrize(
  "losses_, norms, message",
  [
    ([1.0, float("inf")], None, r"the loss is inf at step 3, expected a finite value"),
    ([1.0, 1.0, 150.0], None, r"the loss is 150 at step 3, expected a value near its mean of 1"),
    (
      [1.0, 2.0],
      [1.0, float("nan")],
      r"the gradient's norm is nan at step 3 \(loss 2\), expected a finite value",
    ),
  ],
)
def test_the_guard_stops_what_explodes(losses_, norms, message):
  with pytest.raises(callbacks.Exploded, match=message):
    _guard_told(losses_, norms)


def test_a_picture_that_breaks_during_the_run_is_named(toy, photos, tmp_path, monkeypatch):
  recipe = toy.make_recipe(
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
    match=r"^a training picture has changed since the start: \S+\.png: [^\n]*; restore or remove",
  ):
    toy.recipe.train(recipe)


@pytest.mark.parametrize(
  "error",
  [
    tf.errors.UnavailableError(None, None, "Task /job:worker/replica:0/task:1 heartbeat timeout"),
    tf.errors.InternalError(None, None, "Collective ops is aborted by: x"),
  ],
)
def test_a_lost_worker_is_told_in_one_line(toy, error):
  with pytest.raises(TrainingError, match=r"^another worker of the cluster has ended: start all"):
    with toy.recipe._lost_workers_named():
      raise error


def test_other_internal_errors_are_not_taken_for_a_lost_worker(toy):
  with pytest.raises(tf.errors.InternalError), toy.recipe._lost_workers_named():
    raise tf.errors.InternalError(None, None, "out of luck")


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
  toy.recipe._start_from(codec, _write_model(tmp_path / "m", stored))
  found = _values(codec)
  assert found.keys() == fresh.keys()
  for name, value in found.items():
    kept = name in (missing, of_other_shape)
    np.testing.assert_array_equal(value, (fresh if kept else stored)[name])


def test_a_run_starts_with_all_weights_of_a_model_of_the_same_codec(toy, tmp_path):
  stored = _random_weights(toy.build(), np.float16)
  folder = _write_model(tmp_path / "m", stored)
  recipe = toy.make_recipe(workdir=str(tmp_path / "w"), init_from=folder)
  found = _values(toy.recipe._trainer(recipe).codec)
  assert found.keys() == stored.keys()
  for name, value in found.items():
    np.testing.assert_array_equal(value, stored[name])


def test_a_run_that_goes_on_needs_the_model_that_it_started_with_no_more(toy, tmp_path):
  recipe = toy.make_recipe(workdir=str(tmp_path), init_from=str(tmp_path / "gone"))
  (tmp_path / "checkpoints").mkdir()
  with pytest.raises(coding.ModelError, match="no model at "):
    toy.recipe._trainer(recipe)
  toy.recipe.checkpoints_lib.Checkpoints(
    recipe.workdir, toy.recipe._trainer(toy.make_recipe(workdir=str(tmp_path)))
  ).save()
  toy.recipe._trainer(recipe)
  # Nor for codec and arguments.
  (tmp_path / "flags.txt").write_text("--codec=mbt2018\n--argument=num_filters=4\n--lambda=1\n")
  begun = dataclasses.replace(recipe, codec=None, arguments={"latent_depth": 6})
  completed = toy.recipe._completed(begun)
  assert completed.codec == "mbt2018"
  assert completed.arguments == {"num_filters": 4, "latent_depth": 6}


def test_a_context_model_starts_with_the_transforms_of_a_hyperprior(toy, tmp_path):
  sizes = {"num_filters": 4, "latent_depth": 6}
  stored = _random_weights(codecs.create("mbt2018_mean", **sizes))
  codec = codecs.create("mbt2018", **sizes)
  fresh = _values(codec)
  toy.recipe._start_from(codec, _write_model(tmp_path / "m", stored))
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
    TrainingError,
    match=r"^--init_from=\S+m has none of this codec's weights, expected a model of the same or a "
    r"like codec with equal numbers of filters$",
  ):
    toy.recipe._start_from(codec, folder)
  for name, value in _values(codec).items():
    np.testing.assert_array_equal(value, fresh[name])


def test_a_start_from_what_is_no_model_is_refused(toy, tmp_path):
  with pytest.raises(coding.ModelError, match="no model at "):
    toy.recipe._start_from(toy.build(), str(tmp_path / "none"))


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
  recipe = toy.make_recipe(workdir="w", init_from=folder, ema=0.5)
  recipe = dataclasses.replace(recipe, codec=codec, arguments=arguments)
  found = toy.recipe._completed(recipe)
  assert found == dataclasses.replace(recipe, codec="toy", arguments=expected)
  assert recipe.arguments is arguments and found.arguments is not arguments


@pytest.mark.parametrize("arguments", [{}, {"num_filters": 4}])
def test_another_codec_than_the_models_has_its_own_arguments(toy, tmp_path, arguments):
  folder = _write_described(tmp_path / "m", _DESCRIPTION)
  recipe = dataclasses.replace(
    toy.make_recipe(workdir="w", init_from=folder), codec="mbt2018", arguments=arguments
  )
  assert toy.recipe._completed(recipe) == recipe


def test_without_a_model_to_start_from_the_recipe_stays_as_it_is(toy):
  recipe = toy.make_recipe(workdir="w")
  assert toy.recipe._completed(recipe) is recipe


def test_a_run_without_codec_and_model_is_refused(toy, photos):
  recipe = dataclasses.replace(toy.make_recipe(workdir="w", train_images=photos), codec=None)
  with pytest.raises(
    TrainingError, match=r"^found no --codec, expected one, or --init_from=MODEL of the codec to "
  ):
    toy.recipe.train(recipe)


def test_a_run_trains_the_codec_of_the_model_that_it_starts_from(
  toy, photos, tmp_path, monkeypatch
):
  folder = _write_described(
    tmp_path / "m", {**_DESCRIPTION, "arguments": {"depth": 6}}, toy.build(6)
  )
  finished = []
  monkeypatch.setattr(toy.recipe.finish_lib, "finish", lambda *found: finished.append(found))
  recipe = toy.make_recipe(
    workdir=str(tmp_path / "w"), train_images=photos, init_from=folder, max_steps=1
  )
  toy.recipe.train(dataclasses.replace(recipe, codec=None))
  ((finished_recipe, codec, step, *_),) = finished
  # What the model's description is made from, and what a run that goes on is compared with.
  assert (finished_recipe.codec, finished_recipe.arguments, step) == ("toy", {"depth": 6}, 1)
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
  recipe = toy.make_recipe(workdir=str(tmp_path / "w"), train_images=photos, init_from=folder)
  with pytest.raises(
    coding.ModelError,
    match=rf"^\S+m is not a whole model: {reason}[^\n]*; copy it again from its source$",
  ):
    toy.recipe.train(recipe)
  assert not (tmp_path / "w").exists()
