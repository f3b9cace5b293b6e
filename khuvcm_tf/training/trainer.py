"""The train step: loss = lambda * D + R, for any codec."""

from __future__ import annotations

import math
import time
from typing import Callable

import tensorflow as tf

from khuvcm_tf import codecs
from khuvcm_tf.training import losses


class Trainer(tf.keras.Model):
  """A codec with its loss, for Keras `fit`.

  Args:
    codec: to train.
    rate_distortion: lambda, the weight of the distortion against bits per pixel.
    distortion: of `losses.create`.
    schedule: step -> learning rate, what the optimizer was given.

  Attributes:
    input_seconds: how long steps have waited for their batches, reset by whoever reads it.
  """

  def __init__(
    self,
    codec: codecs.Codec,
    rate_distortion: float,
    distortion: losses.Distortion,
    schedule: Callable,
  ):
    super().__init__()
    self.codec = codec
    self.rate_distortion = rate_distortion
    self.distortion = distortion
    self.schedule = schedule
    self.input_seconds = 0.0

  def terms(self, pictures: tf.Tensor, training: bool):
    """Returns the loss and its terms.

    Args:
      pictures: RGB, uint8 [B, H, W, 3].
      training: whether rounding is replaced by noise or straight-through values.

    Returns:
      (decoded pictures, RGB, {"loss", "distortion", "bpp", "bpp_*" (bits per pixel of substreams),
      "psnr" (dB, of the mean MSE over RGB), and of YCbCr codecs "mse_*" and "psnr_*" of each
      component}), float32 scalars that are means over the batch.
    """
    form = self.codec.picture_format
    planes = self.codec.planes(pictures)
    decoded_planes, bits = self.codec(planes, training=training)
    decoded = tf.cast(form.rgb(decoded_planes), tf.float32)
    pixels = tf.cast(tf.shape(pictures)[1] * tf.shape(pictures)[2], tf.float32)
    rates = {f"bpp_{name}": tf.reduce_mean(value) / pixels for name, value in bits.items()}
    bpp = tf.add_n(list(rates.values()))
    distortion = tf.reduce_mean(self.distortion(form, planes, decoded_planes))
    psnr = _psnr(tf.reduce_mean(losses.mse(pictures, decoded)))
    loss = self.rate_distortion * distortion + bpp
    terms = {"loss": loss, "distortion": distortion, "bpp": bpp, "psnr": psnr, **rates}
    if form.components != ("r", "g", "b"):
      errors = tf.cast(form.squared_errors(planes, decoded_planes), tf.float32)
      for name, error in zip(form.components, tf.unstack(tf.reduce_mean(errors, axis=0))):
        terms[f"mse_{name}"], terms[f"psnr_{name}"] = error, _psnr(error)
    return decoded, terms

  def train_step(self, pictures):
    with tf.GradientTape() as tape:
      _, terms = self.terms(pictures, training=True)
      # Gradients are summed over replicas.
      loss = terms["loss"] / tf.distribute.get_strategy().num_replicas_in_sync
    variables = self.codec.trainable_variables
    pairs = self.optimizer.aggregate_gradients(zip(tape.gradient(loss, variables), variables))
    terms["grad_norm"] = tf.linalg.global_norm([gradient for gradient, _ in pairs])
    self.optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)
    return terms

  def make_train_function(self, force: bool = False):
    """As Keras makes it, but the wait for a batch is measured."""
    strategy = self.distribute_strategy

    # AutoGraph would rewrite codec and layers, which have no Python branches on tensors: a third of
    # the time until the first step.
    @tf.function(jit_compile=self.jit_compile or None, autograph=False)
    def step(pictures):
      return self.train_step(pictures)

    @tf.function(autograph=False)
    def all_replicas(pictures):
      terms = strategy.run(step, args=(pictures,))
      return tf.nest.map_structure(lambda value: strategy.reduce("MEAN", value, axis=None), terms)

    def train_function(iterator):
      started = time.perf_counter()
      pictures = next(iterator)
      self.input_seconds += time.perf_counter() - started
      return all_replicas(pictures)

    if self.train_function is None or force:
      self.train_function = train_function
    return self.train_function

  @tf.function(input_signature=[tf.TensorSpec((1, None, None, 3), tf.uint8)], autograph=False)
  def validate(self, picture):
    """Returns (decoded, terms) of one whole picture with rounding in place of noise."""
    return self.terms(picture, training=False)

  def call(self, pictures, training=False):
    return self.codec(self.codec.planes(pictures), training=training)


def _psnr(mse: tf.Tensor) -> tf.Tensor:
  return 10.0 / math.log(10.0) * tf.math.log(255.0**2 / mse)
