"""Runs from end to end in this process: divergence, restoring, interruption, profiles."""

from __future__ import annotations

import json
import logging

import pytest
import tensorflow as tf

from khuvcm_tf.runs import RunError, callbacks, checkpoints, loop


@pytest.fixture
def nan_model(line):
  """A function: returns a class of models whose loss is NaN at one call, once."""

  def nan_model_(call: int):
    class NanModel(line.LineModel):
      def __init__(self):
        super().__init__()
        self.calls = tf.Variable(0, trainable=False)

      def loss_and_metrics(self, batch):
        metrics = super().loss_and_metrics(batch)
        is_training = tf.shape(batch[0])[0] == 4
        here = self.calls.assign_add(tf.cast(is_training, tf.int32))
        broken = tf.logical_and(here == call, is_training)
        return {"loss": metrics["loss"] * tf.where(broken, float("nan"), 1.0)}

    return NanModel

  return nan_model_


def test_a_run_fits_the_line(line, tmp_path):
  options = line.make_options(workdir=str(tmp_path), max_steps=200, checkpoint_steps=100)
  path = loop.train(options, lambda: line.LineTask(options))
  assert path == str(tmp_path / "line.json")
  assert json.loads((tmp_path / "line.json").read_text()) == pytest.approx([3.0, -1.0], abs=0.1)


def test_a_run_goes_on_at_half_the_learning_rate_after_a_nan(line, nan_model, tmp_path, curve):
  options = line.make_options(
    workdir=str(tmp_path),
    max_steps=10,
    log_steps=1,
    checkpoint_steps=4,
    learning_rate=0.1,
    learning_rate_schedule="constant",
    on_nan="restore",
    profile=True,
  )
  loop.train(options, lambda: line.LineTask(options, nan_model(7)))
  rates = curve(tmp_path / "logs", "run/learning_rate")
  assert rates == [(step, pytest.approx(0.1 if step <= 4 else 0.05)) for step in range(1, 11)]
  assert list((tmp_path / "logs" / "plugins" / "profile").glob("*/*.xplane.pb"))


@pytest.mark.parametrize(
  "on_nan, call, message",
  [
    ("stop", 7, r"lower --learning_rate, or give --on_nan=restore to go on from the last"),
    ("restore", 2, r"before the first checkpoint; lower --learning_rate$"),
  ],
)
def test_a_nan_ends_a_run_that_may_not_or_cannot_be_restored(
  line, nan_model, tmp_path, on_nan, call, message
):
  options = line.make_options(
    workdir=str(tmp_path), max_steps=10, checkpoint_steps=4, on_nan=on_nan
  )
  with pytest.raises(RunError, match=rf"^the loss is nan at step {call}, .*{message}"):
    loop.train(options, lambda: line.LineTask(options, nan_model(call)))


def test_a_run_that_diverges_again_and_again_ends(line, tmp_path, monkeypatch):
  class Diverging(callbacks.DivergenceGuard):
    def on_train_batch_end(self, batch, logs=None):
      if int(self.model.optimizer.iterations.numpy()) == 5:
        raise callbacks.Diverged("the loss is 7")

  monkeypatch.setattr(callbacks, "DivergenceGuard", Diverging)
  options = line.make_options(
    workdir=str(tmp_path), max_steps=6, checkpoint_steps=4, on_nan="restore"
  )
  with pytest.raises(RunError, match=r"^the loss is 7, after 5 restores; lower --learning_rate$"):
    loop.train(options, lambda: line.LineTask(options))


def test_an_interrupted_run_is_resumed_where_it_was(line, tmp_path, caplog):
  class Interrupted(line.LineTask):
    def summary(self, metrics):
      raise KeyboardInterrupt

  options = line.make_options(workdir=str(tmp_path), max_steps=10, log_steps=5)
  with pytest.raises(KeyboardInterrupt):
    loop.train(options, lambda: Interrupted(options))
  assert checkpoints.exist(str(tmp_path))
  with caplog.at_level(logging.INFO, logger="absl"):
    loop.train(options, lambda: line.LineTask(options))
  assert "resumes after step 5 of 10" in caplog.text


def test_a_finished_run_is_only_finalized_again(line, tmp_path):
  options = line.make_options(workdir=str(tmp_path), max_steps=4)
  path = loop.train(options, lambda: line.LineTask(options))
  product = (tmp_path / "line.json").read_text()
  (tmp_path / "line.json").unlink()
  assert loop.train(options, lambda: line.LineTask(options)) == path
  assert (tmp_path / "line.json").read_text() == product


class _Model:
  """Stands for a model whose optimizer has made three steps."""

  iterations = tf.constant(3)

  @property
  def optimizer(self):
    return self


def _guard(losses, norms=None):
  guard = callbacks.DivergenceGuard()
  guard.set_model(_Model())
  for loss, norm in zip(losses, norms or [1.0] * len(losses)):
    guard.on_train_batch_end(0, {"loss": loss, "grad_norm": norm})


def test_falling_and_noisy_losses_have_not_diverged():
  _guard([1e6, 3e4, 200.0, 5.0, 80.0, 1.0, 90.0])


@pytest.mark.parametrize(
  "losses, norms, message",
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
def test_losses_and_gradients_that_are_not_finite_or_leap_have_diverged(losses, norms, message):
  with pytest.raises(callbacks.Diverged, match=message):
    _guard(losses, norms)


@pytest.mark.parametrize("name", ["run[lambda=0.01]", "a*b?", "back\\slash", "caf\udce9"])
def test_a_workdir_of_any_name_is_resumed_and_keeps_three_checkpoints(line, tmp_path, caplog, name):
  caplog.set_level(logging.INFO, logger="absl")
  for steps in (4, 20):
    options = line.make_options(workdir=str(tmp_path / name), max_steps=steps, checkpoint_steps=4)
    task = line.LineTask(options)
    task.finalize = str  # The fixture's writes a file by TensorFlow, which takes no name but UTF-8.
    loop.train(options, lambda task=task: task)
  assert "resumes after step 4 of 20" in caplog.text
  kept = sorted(path.name for path in (tmp_path / name / "checkpoints").iterdir())
  assert [each for each in kept if each.endswith(".index")] == [
    f"step-{step}.index" for step in (12, 16, 20)
  ]
  assert len(list((tmp_path / name / "logs").iterdir())) == 4
