"""Clusters: what a run refuses, and what it says when a worker is lost."""

from __future__ import annotations

import json

import pytest
import tensorflow as tf

from khuvcm_tf.runs import RunError, distribution


@pytest.mark.parametrize(
  "found",
  [
    None,
    "{",
    "[]",
    '{"task": {"type": "worker", "index": 0}}',
    json.dumps({"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}),
    json.dumps(
      {"cluster": {"chief": ["a:1"], "worker": ["b:1"]}, "task": {"type": "worker", "index": 0}}
    ),
  ],
)
def test_several_workers_need_a_cluster(monkeypatch, found):
  monkeypatch.delenv("TF_CONFIG", raising=False)
  if found is not None:
    monkeypatch.setenv("TF_CONFIG", found)
  with pytest.raises(RunError, match=r"found TF_CONFIG='.*', expected the cluster's workers and"):
    distribution.create_strategy("multi_worker")


def test_a_batch_has_equal_parts(line):
  options = line.make_options(workdir="w", batch_size=7, strategy="mirrored")
  with pytest.raises(
    RunError, match=r"--batch_size=7 .* 2 replicas of --strategy=mirrored; give 8$"
  ):
    distribution.check_batch_size(options, 2)


def test_replicas_get_equal_parts_of_each_batch_with_static_shapes():
  strategy = tf.distribute.MirroredStrategy(["CPU:0"])

  def batches(shard):
    assert shard == (1, 2)  # of 8 examples, this process has the second half
    return tf.data.Dataset.range(4, 8).batch(4, drop_remainder=True).repeat()

  process = distribution.Process(1, 2)
  dataset = distribution.distribute(strategy, batches, 4, process)
  assert dataset.element_spec.shape == (4,)
  assert next(iter(dataset)).numpy().tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize(
  "error",
  [
    tf.errors.UnavailableError(None, None, "Task /job:worker/replica:0/task:1 heartbeat timeout"),
    tf.errors.InternalError(None, None, "Collective ops is aborted by: x"),
  ],
)
def test_a_lost_worker_is_named_in_one_line(error):
  with pytest.raises(RunError, match=r"^another worker of the cluster has ended: start all"):
    with distribution.lost_workers_named():
      raise error


def test_other_internal_errors_are_not_taken_for_a_lost_worker():
  with pytest.raises(tf.errors.InternalError), distribution.lost_workers_named():
    raise tf.errors.InternalError(None, None, "out of luck")
