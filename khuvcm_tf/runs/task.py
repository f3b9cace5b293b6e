"""What a run needs of the task that it trains: a model, batches, a validation, an end product."""

from __future__ import annotations

import abc
import contextlib
import time

import tensorflow as tf

from khuvcm_tf.runs import summaries


class TrainableModel(tf.keras.Model):
  """A model that a run trains with Keras `fit`. A subclass defines `loss_and_metrics`.

  Attributes:
    input_seconds: for how long steps have waited for their batches; its reader sets it to 0.
  """

  def __init__(self):
    super().__init__()
    self.input_seconds = 0.0

  def loss_and_metrics(self, batch) -> dict[str, tf.Tensor]:
    """Returns the means of "loss" and of other metrics over a batch, float32 scalars."""
    raise NotImplementedError

  def train_step(self, batch):
    with tf.GradientTape() as tape:
      metrics = self.loss_and_metrics(batch)
      # Gradients are summed over replicas.
      loss = metrics["loss"] / tf.distribute.get_strategy().num_replicas_in_sync
    variables = self.trainable_variables
    pairs = self.optimizer.aggregate_gradients(zip(tape.gradient(loss, variables), variables))
    metrics["grad_norm"] = tf.linalg.global_norm([gradient for gradient, _ in pairs])
    self.optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)
    return metrics

  def make_train_function(self, force: bool = False):
    """As Keras makes it, with the wait for a batch measured and without AutoGraph."""
    strategy = self.distribute_strategy

    # AutoGraph would rewrite models and layers, which have no Python branches on tensors: a third
    # of the time until the first step.
    @tf.function(jit_compile=self.jit_compile or None, autograph=False)
    def step(batch):
      return self.train_step(batch)

    @tf.function(autograph=False)
    def all_replicas(batch):
      metrics = strategy.run(step, args=(batch,))
      return tf.nest.map_structure(lambda value: strategy.reduce("MEAN", value, axis=None), metrics)

    def train_function(iterator):
      started = time.perf_counter()
      batch = next(iterator)
      self.input_seconds += time.perf_counter() - started
      return all_replicas(batch)

    if self.train_function is None or force:
      self.train_function = train_function
    return self.train_function


class Task(abc.ABC):
  """What is trained, on what, and how it is judged. A run creates one in its strategy's scope.

  Attributes:
    model: what is trained; the run compiles it with its optimizer.
  """

  model: TrainableModel

  @property
  @abc.abstractmethod
  def checkpointed(self) -> dict[str, object]:
    """Trackable objects with the weights and other state, by their names in a checkpoint.

    Not `model` itself, of which Keras makes the optimizer a part: the best weights are kept
    without it.
    """

  @abc.abstractmethod
  def batches(self, first_step: int, shard: tuple[int, int]) -> tf.data.Dataset:
    """Returns the endless data set of batches from a step on.

    A batch is a pure function of seed and step, so that a resumed run sees what an unbroken one
    would have seen.

    Args:
      first_step: step of the first batch.
      shard: (index, count): which of `count` equal parts of each batch is wanted.
    """

  @abc.abstractmethod
  def validate(self, step: int, writer: summaries.SummaryWriter) -> dict[str, float]:
    """Returns "loss" and other metrics of the model on validation data; it may draw with `writer`.

    The weights are the averaged ones where the run keeps such. Only the chief calls it.
    """

  @abc.abstractmethod
  def summary(self, metrics: dict[str, float]) -> str:
    """Returns the metrics of training or validation as text of some 30 characters."""

  @abc.abstractmethod
  def finalize(self, step: int) -> str | None:
    """Makes the end product of the best weights, which the model has now; only the chief calls it.

    Args:
      step: steps that the run has made.

    Returns:
      The path of the end product.
    """

  def failures_named(self):
    """Returns a context in which a failure of `batches` ends in an error that names its cause."""
    return contextlib.nullcontext()
