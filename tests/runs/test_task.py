"""The train step: what is summed, clipped and averaged, against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from khuvcm_tf.runs import optimizers

_X = np.array([[1.0], [2.0], [-1.0], [4.0]], np.float32)
_Y = np.array([[3.0], [1.0], [0.0], [-6.0]], np.float32)


@pytest.fixture
def compiled(line):
  """A function: optimizer, arguments of `compile` -> a model of y = 2 x + 1."""

  def compiled_(optimizer, **settings):
    model = line.LineModel()
    model.line.kernel.assign([[2.0]])
    model.line.bias.assign([1.0])
    model.compile(optimizer, **settings)
    return model

  return compiled_


def _gradient() -> np.ndarray:
  """Returns the gradient of the mean squared error by slope and offset."""
  error = 2.0 * _X + 1.0 - _Y
  return np.array([np.mean(2 * error * _X), np.mean(2 * error)])


def _weights(model) -> np.ndarray:
  return np.array([each.numpy().item() for each in model.line.variables])


def test_a_step_of_sgd_goes_against_the_gradient(compiled):
  model = compiled(tf.keras.optimizers.SGD(0.01))
  metrics = model.train_step((_X, _Y))
  np.testing.assert_allclose(_weights(model), [2.0, 1.0] - 0.01 * _gradient(), rtol=1e-6)
  assert float(metrics["loss"]) == pytest.approx(np.mean((2 * _X + 1 - _Y) ** 2), rel=1e-6)
  assert float(metrics["grad_norm"]) == pytest.approx(np.linalg.norm(_gradient()), rel=1e-6)


def test_a_clipped_step_has_the_clipped_length_and_shows_the_norm_before(compiled):
  model = compiled(tf.keras.optimizers.SGD(1.0, global_clipnorm=0.125))
  metrics = model.train_step((_X, _Y))
  step = [2.0, 1.0] - _weights(model)
  np.testing.assert_allclose(step, 0.125 * _gradient() / np.linalg.norm(_gradient()), rtol=1e-5)
  assert float(metrics["grad_norm"]) == pytest.approx(np.linalg.norm(_gradient()), rel=1e-6)


def test_a_compiled_step_and_a_mirrored_one_are_that_of_one_device(compiled):
  strategy = tf.distribute.MirroredStrategy(["CPU:0"])
  with strategy.scope():
    mirrored = compiled(tf.keras.optimizers.SGD(0.01))
  dataset = tf.data.Dataset.from_tensors((_X, _Y))
  mirrored.make_train_function()(iter(strategy.experimental_distribute_dataset(dataset)))
  by_xla = compiled(tf.keras.optimizers.SGD(0.01), jit_compile=True)
  by_xla.make_train_function()(iter(dataset))
  for model in (mirrored, by_xla):
    np.testing.assert_allclose(_weights(model), [2.0, 1.0] - 0.01 * _gradient(), rtol=1e-6)


def test_averaged_weights_are_the_moving_average_and_then_gone(compiled, line):
  options = line.make_options(workdir="w", ema=0.7, clip_norm=0.0)
  model = compiled(optimizers.create(options, 0.1))
  average = _weights(model)
  for _ in range(4):
    model.train_step((_X, _Y))
    average = 0.7 * average + 0.3 * _weights(model)
  own = _weights(model)
  with pytest.raises(KeyError), optimizers.averaged_weights(model):
    np.testing.assert_allclose(_weights(model), average, rtol=1e-6)
    raise KeyError
  np.testing.assert_array_equal(_weights(model), own)


def test_without_an_average_the_weights_stay(compiled, line):
  model = compiled(optimizers.create(line.make_options(workdir="w"), 0.1))
  model.train_step((_X, _Y))
  own = _weights(model)
  with optimizers.averaged_weights(model):
    np.testing.assert_array_equal(_weights(model), own)
