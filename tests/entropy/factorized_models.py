"""Small factorized models, as if trained, and latents for them."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from khuvcm_tf.entropy import entropy_model, factorized_model

DEPTH = 5
MEDIANS = np.array([0.0, 0.25, -3.5, 7.40625, -100.0], np.float32)  # multiples of 1/64


def create(mode="noise", **config):
  """Returns a model whose densities have moved apart, as training would move them."""
  tf.keras.utils.set_random_seed(11)
  model = factorized_model.FactorizedModel(DEPTH, mode, entropy_model.EntropyModelConfig(**config))
  rng = np.random.default_rng(4)
  for weight in model.prior.trainable_weights:
    weight.assign_add(rng.normal(scale=0.4, size=weight.shape))
  if model.prior.stored is not None:
    _move_medians(model.prior, MEDIANS)
    model.prior.stored.assign(MEDIANS)
  return model


def _move_medians(prior, medians):
  """Shifts each density so that its own median lies near a given one, a fifth above it."""
  weights = {weight.name.split("/")[-1].split(":")[0]: weight for weight in prior.weights}
  stored, prior.stored = prior.stored, None
  shift = medians + 0.2 - prior.medians().numpy()
  prior.stored = stored
  matrix = np.log1p(np.exp(weights["matrix_0"].numpy()))[:, :, 0]
  weights["bias_0"].assign_sub((matrix * shift[:, np.newaxis])[..., np.newaxis])


def around_medians(model, height=4, width=3, seed=0, spread=4.0):
  """Returns normally distributed latents [1, height, width, M]."""
  rng = np.random.default_rng(seed)
  noise = rng.normal(scale=spread, size=(1, height, width, DEPTH))
  return tf.constant(model.prior.medians().numpy() + noise, tf.float32)


def drawn(model, seed):
  """Returns latents [1, 24, 24, M] drawn from the densities, by bisection of the CDFs."""
  rng = np.random.default_rng(seed)
  probability = rng.uniform(size=(1, 24, 24, DEPTH))
  low, high = np.full(probability.shape, -4096.0), np.full(probability.shape, 4096.0)
  for _ in range(30):
    middle = (low + high) / 2
    below = model.prior.noisy.base.cdf(tf.constant(middle, tf.float32)).numpy() < probability
    low, high = np.where(below, middle, low), np.where(below, high, middle)
  return tf.constant(low, tf.float32)
