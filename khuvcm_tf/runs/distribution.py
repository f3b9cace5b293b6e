"""A run on one device, on the GPUs of one machine, or on several machines."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Callable, NamedTuple

import tensorflow as tf

from khuvcm_tf.runs import RunError
from khuvcm_tf.runs.options import RunOptions


class Process(NamedTuple):
  """Which of the run's processes this is. The first is the chief: it alone logs and writes."""

  index: int
  count: int

  @property
  def is_chief(self) -> bool:
    return self.index == 0


def create_strategy(name: str) -> tf.distribute.Strategy:
  """Returns the strategy that --strategy names.

  Raises:
    RunError: TF_CONFIG does not describe the cluster that "multi_worker" needs.
  """
  if name == "mirrored":
    return tf.distribute.MirroredStrategy()
  if name == "multi_worker":
    _check_cluster()
    return tf.distribute.MultiWorkerMirroredStrategy()
  return tf.distribute.get_strategy()


def current_process(strategy: tf.distribute.Strategy) -> Process:
  """Returns which process of the strategy's cluster this is."""
  resolver = strategy.cluster_resolver
  if resolver is None or not resolver.task_type:
    return Process(0, 1)
  return Process(resolver.task_id, len(resolver.cluster_spec().as_dict()["worker"]))


def check_batch_size(options: RunOptions, replicas: int) -> None:
  """Raises RunError unless a batch can be split into equal parts, one for each replica."""
  if options.batch_size % replicas:
    raise RunError(
      f"--batch_size={options.batch_size} is not a multiple of the {replicas} replicas of "
      f"--strategy={options.strategy}; give {-(-options.batch_size // replicas) * replicas}"
    )


def distribute(
  strategy: tf.distribute.Strategy,
  batches: Callable[[tuple[int, int]], tf.data.Dataset],
  batch_size: int,
  process: Process,
):
  """Returns the data set for Keras `fit`.

  Args:
    strategy: of the run.
    batches: shard (index, count) -> that part of each batch. Each process feeds its own replicas.
    batch_size: examples in a step, over all processes.
    process: this one.
  """
  if strategy is tf.distribute.get_strategy():  # the default strategy
    return batches((0, 1))

  def replica_batches(context):
    size = context.get_per_replica_batch_size(batch_size)
    return batches(tuple(process)).unbatch().batch(size, drop_remainder=True)

  return strategy.distribute_datasets_from_function(replica_batches)


@contextlib.contextmanager
def lost_workers_named():
  """Within, TensorFlow's errors for a worker that has ended become a RunError that says so."""
  try:
    yield
  except tf.errors.OpError as error:
    # Some kinds of loss come as internal errors, which only their text sets apart.
    lost = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)
    if not isinstance(error, lost) and "Collective ops is aborted" not in str(error):
      raise
    raise RunError(
      "another worker of the cluster has ended: start all of them again with the same commands; "
      "the run is resumed from its last checkpoint"
    ) from error


def _check_cluster():
  found = os.environ.get("TF_CONFIG", "")
  try:
    config = json.loads(found)
    whole = config["task"]["type"] == "worker" and set(config["cluster"]) == {"worker"}
    whole = whole and 0 <= config["task"]["index"] < len(config["cluster"]["worker"])
  except (ValueError, KeyError, TypeError):
    whole = False
  if not whole:
    raise RunError(
      f"--strategy=multi_worker found TF_CONFIG={found!r}, expected the cluster's workers and this "
      "one's index; docs/training.md has an example"
    )
