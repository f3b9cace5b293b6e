"""The recipe of a run, from pictures to a model's folder; it reads top to bottom in `train`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os

import tensorflow as tf
from absl import logging

from khuvcm_tf import codecs, model_files
from khuvcm_tf.data import pipeline
from khuvcm_tf.training import board as board_lib
from khuvcm_tf.training import callbacks, losses, schedules, validity
from khuvcm_tf.training import checkpoints as checkpoints_lib
from khuvcm_tf.training import finish as finish_lib
from khuvcm_tf.training import trainer as trainer_lib
from khuvcm_tf.training.validity import TrainingError

# How often a run may go back to its last checkpoint before it stops all the same.
_MOST_RESTORES = 5


@dataclasses.dataclass(frozen=True)
class Recipe:
  """All that a run follows from. `bin/train.py --helpshort` says what each field means."""

  workdir: str
  codec: str | None
  arguments: dict[str, object]
  rate_distortion: float
  init_from: str | None = None
  train_images: str | None = None
  train_tfds: str | None = None
  validation_images: str | None = None
  eval_tfds: str | None = None
  validation_limit: int = 16
  distortion: str = "mse"
  component_weights: tuple[float, ...] | None = None
  lambda_chroma: float | None = None
  crop_size: int = 256
  smallest_scale: float = 1.0
  batch_size: int = 8
  max_steps: int = 1_000_000
  learning_rate: float = 1e-4
  learning_rate_schedule: str = "drops"
  warmup_steps: int = 0
  clip_norm: float = 1.0
  ema: float = 0.0
  mixed_precision: bool = False
  jit_compile: bool = False
  strategy: str = "default"
  on_nan: str = "stop"
  seed: int = 0
  log_steps: int = 100
  checkpoint_steps: int = 1000
  cache_gib: float = 4.0
  weights_dtype: str = "float32"
  profile: bool = False


def train(recipe: Recipe) -> str | None:
  """Trains to `max_steps`, going on from the last checkpoint in `workdir` where there is one.

  Returns:
    The folder of the model; None in workers that are not the chief.

  Raises:
    errors.Error: what the person who started it can mend.
  """
  recipe = _completed(recipe)
  validity.check(recipe)
  strategy = _strategy(recipe)
  chief, worker, workers = _place(strategy)
  validity.check_batch(recipe, strategy.num_replicas_in_sync)
  tf.keras.utils.set_random_seed(recipe.seed)

  with strategy.scope():
    trainer = _trainer(recipe)
  validity.check_crop(recipe, trainer.codec.stride)
  photos, validation = _pictures(recipe)
  validity.check_validation(recipe, validation)
  if chief:
    validity.claim(recipe, dataclasses.asdict(recipe))
  checkpoints = checkpoints_lib.Checkpoints(recipe.workdir, trainer, chief)
  data = f"{len(photos.names)} training pictures, {len(validation)} for validation"
  logging.info(data)
  if checkpoints.restore():
    logging.info("goes on from step %d of %d", checkpoints.step, recipe.max_steps)

  restores = 0
  while checkpoints.step < recipe.max_steps:
    try:
      _fit(recipe, strategy, trainer, checkpoints, photos, validation, chief, worker, workers)
    except callbacks.Exploded as error:
      restores += 1
      _go_back(recipe, trainer, checkpoints, error, restores)
  checkpoints.restore_best()
  if not chief:
    return None
  return finish_lib.finish(recipe, trainer.codec, checkpoints.step, data, validation)


def _completed(recipe: Recipe) -> Recipe:
  """Returns the recipe with codec and arguments of the model that it starts from, where it gives
  none: what is given goes before, and another codec has its own arguments. A run that goes on has
  those that it was begun with, and needs the model no more."""
  if not recipe.init_from:
    return recipe
  codec, arguments = validity.begun_with(recipe.workdir)
  if codec is None or not checkpoints_lib.exist(recipe.workdir):
    description = model_files.describe(recipe.init_from)
    codec, arguments = description["codec"], description["arguments"]
  if recipe.codec not in (None, codec):
    return recipe
  return dataclasses.replace(recipe, codec=codec, arguments={**arguments, **recipe.arguments})


def _fit(recipe, strategy, trainer, checkpoints, photos, validation, chief, worker, workers):
  """Runs Keras `fit` from the step reached to the last."""
  first_step, logdir = checkpoints.step, os.path.join(recipe.workdir, "logs")

  def batches(context=None):
    # Each process feeds its own replicas: an equal part of every batch.
    shard = (worker, workers) if context else (0, 1)
    return pipeline.training_batches(
      photos,
      recipe.batch_size,
      recipe.crop_size,
      recipe.seed,
      first_step,
      recipe.smallest_scale,
      shard,
    )

  if recipe.strategy == "default":
    dataset = batches()
  else:
    dataset = strategy.distribute_datasets_from_function(
      lambda context: (
        batches(context).unbatch().batch(context.get_per_replica_batch_size(recipe.batch_size))
      )
    )
  with contextlib.ExitStack() as stack:
    board = None
    followers = [callbacks.Guard()]
    if chief:
      board = stack.enter_context(contextlib.closing(board_lib.Board(logdir, first_step)))
      board.text("flags", board_lib.as_markdown(recipe))
      log = callbacks.Log(board, recipe.log_steps, first_step, recipe.max_steps)
      followers.append(stack.enter_context(contextlib.closing(log)))
    if chief and recipe.profile:
      profile = callbacks.Profile(logdir, recipe.max_steps - first_step)
      followers.append(stack.enter_context(contextlib.closing(profile)))
    followers.append(
      callbacks.Keep(checkpoints, board, validation, recipe.checkpoint_steps, recipe.max_steps)
    )
    stack.enter_context(pipeline.failures_named(photos))
    stack.enter_context(_lost_workers_named())
    try:
      followers = tf.keras.callbacks.CallbackList(followers, model=trainer)
      # Keras would warn that validation takes longer than a step.
      followers._check_timing = False
      trainer.fit(
        dataset,
        steps_per_epoch=recipe.max_steps - first_step,
        epochs=1,
        verbose=0,
        callbacks=followers,
      )
    except KeyboardInterrupt:
      checkpoints.save()
      raise


@contextlib.contextmanager
def _lost_workers_named():
  try:
    yield
  except tf.errors.OpError as error:
    # Some kinds of loss come as internal errors, told apart by their text alone.
    lost = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)
    if not isinstance(error, lost) and "Collective ops is aborted" not in str(error):
      raise
    raise TrainingError(
      "another worker of the cluster has ended: start all of them again with the same commands; "
      "the run goes on from its last checkpoint"
    ) from error


def _go_back(recipe, trainer, checkpoints, error, restores: int):
  """Restores the last checkpoint at half the learning rate, or ends the run."""
  if recipe.on_nan == "stop":
    raise TrainingError(
      f"{error}; lower --learning_rate, or give --on_nan=restore to go back and on at half of it"
    )
  lower = float(trainer.schedule.scale.numpy()) / 2
  if restores > _MOST_RESTORES:
    raise TrainingError(f"{error}, after {_MOST_RESTORES} restores; lower --learning_rate")
  if not checkpoints.restore():
    raise TrainingError(f"{error}, before the first checkpoint; lower --learning_rate")
  trainer.schedule.scale.assign(lower)
  logging.warning("%s: back to step %d at %g of the learning rate", error, checkpoints.step, lower)


def _strategy(recipe: Recipe) -> tf.distribute.Strategy:
  if recipe.strategy == "mirrored":
    return tf.distribute.MirroredStrategy()
  if recipe.strategy == "multi_worker":
    _check_cluster()
    return tf.distribute.MultiWorkerMirroredStrategy()
  return tf.distribute.get_strategy()


def _check_cluster():
  found = os.environ.get("TF_CONFIG", "")
  try:
    config = json.loads(found)
    whole = config["task"]["type"] == "worker" and set(config["cluster"]) == {"worker"}
    whole = whole and 0 <= config["task"]["index"] < len(config["cluster"]["worker"])
  except (ValueError, KeyError, TypeError):
    whole = False
  if not whole:
    raise TrainingError(
      f"--strategy=multi_worker found TF_CONFIG={found!r}, expected the cluster's workers and this "
      "one's index; docs/training.md has an example"
    )


def _place(strategy: tf.distribute.Strategy):
  """Returns whether this process is the chief, its index, and the number of processes."""
  resolver = strategy.cluster_resolver
  if resolver is None or not resolver.task_type:
    return True, 0, 1
  workers = len(json.loads(os.environ["TF_CONFIG"])["cluster"]["worker"])
  return resolver.task_id == 0, resolver.task_id, workers


def _pictures(recipe: Recipe):
  """Returns photos to train on, and a list of validation pictures."""
  cache = int(recipe.cache_gib * 2**30)
  if recipe.train_tfds:
    photos = pipeline.load_tfds(recipe.train_tfds, recipe.crop_size, cache)
  else:
    photos = pipeline.load(recipe.train_images, recipe.crop_size, cache)
  if recipe.validation_images:
    return photos, pipeline.load_whole(recipe.validation_images, recipe.validation_limit)
  if recipe.eval_tfds:
    return photos, pipeline.load_tfds_validation(recipe.eval_tfds, recipe.validation_limit)
  return pipeline.held_out(photos, recipe.validation_limit)


def _trainer(recipe: Recipe) -> trainer_lib.Trainer:
  """Builds and compiles codec and loss."""
  dtype = "mixed_bfloat16" if recipe.mixed_precision else "float32"
  codec = codecs.create(recipe.codec, dtype, **recipe.arguments)
  shares = validity.component_shares(recipe, codec.picture_format)
  for i, branch in enumerate(codec.branches):
    branch.latent_coder.noise.reset_from_seed(recipe.seed + i)
  if recipe.init_from and not checkpoints_lib.exist(recipe.workdir):
    _start_from(codec, recipe.init_from)
  schedule = schedules.Schedule(
    recipe.learning_rate, recipe.learning_rate_schedule, recipe.warmup_steps, recipe.max_steps
  )
  trainer = trainer_lib.Trainer(
    codec, recipe.rate_distortion, losses.create(recipe.distortion, shares), schedule
  )
  optimizer = tf.keras.optimizers.Adam(
    schedule,
    global_clipnorm=recipe.clip_norm or None,
    use_ema=recipe.ema > 0,
    ema_momentum=recipe.ema or 0.99,
  )
  trainer.compile(optimizer, jit_compile=recipe.jit_compile)
  return trainer


def _start_from(codec: codecs.Codec, model: str):
  """Gives a codec the weights of a trained model that it has too, by name and shape."""
  values, weights = model_files.read_weights(model), codec.named_weights()
  known = {
    name: values[name]
    for name, weight in weights.items()
    if name in values and values[name].shape == weight.shape
  }
  if not known:
    raise TrainingError(
      f"--init_from={model} has none of this codec's weights, expected a model of the same or a "
      "like codec with equal numbers of filters"
    )
  fresh = {name: weight.numpy() for name, weight in weights.items() if name not in known}
  codec.assign_weights({**known, **fresh})
  parts = sorted({name.split("/")[0] for name in fresh})
  logging.info(
    "starts with %d of %d weights of %s; fresh ones: %s",
    len(known),
    len(weights),
    model,
    f"{len(fresh)} in {', '.join(parts)}" if fresh else "none",
  )
