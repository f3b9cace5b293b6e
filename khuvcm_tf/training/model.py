"""The model that is trained: a codec of any kind with its loss, lambda * D + R."""

from __future__ import annotations

import math

import tensorflow as tf

from khuvcm_tf.codecs import codec as codec_lib
from khuvcm_tf.runs import task
from khuvcm_tf.training import losses


class RateDistortionModel(task.TrainableModel):
  """A codec and its loss, for Keras `fit`.

  Args:
    codec: to train.
    lmbda: lambda, the weight of the distortion against bits per pixel.
    distortion: of `losses.create`.
  """

  def __init__(self, codec: codec_lib.Codec, lmbda: float, distortion: losses.Distortion):
    super().__init__()
    self.codec, self.lmbda, self.distortion = codec, lmbda, distortion

  def decode_and_measure(self, images: tf.Tensor, training: bool):
    """Returns decoded images and the metrics of a batch.

    Args:
      images: RGB, uint8 [B, H, W, 3].
      training: whether rounding is replaced by noise or straight-through values.

    Returns:
      (decoded images, RGB, float32 [B, H, W, 3], neither rounded nor clipped; {"loss",
      "distortion", "bpp", "bpp_*" (bits per pixel of each substream), "psnr" (dB, of the mean MSE
      over RGB), and of YCbCr codecs "mse_*" and "psnr_*" of each component}, float32 scalars that
      are means over the batch).
    """
    form = self.codec.input_format
    planes = self.codec.planes(images)
    decoded_planes, bits = self.codec(planes, training=training)
    decoded = tf.cast(form.to_rgb(decoded_planes), tf.float32)
    pixels = tf.cast(tf.shape(images)[1] * tf.shape(images)[2], tf.float32)
    rates = {f"bpp_{name}": tf.reduce_mean(value) / pixels for name, value in bits.items()}
    bpp = tf.add_n(list(rates.values()))
    distortion = tf.reduce_mean(self.distortion(form, planes, decoded_planes))
    psnr = _psnr(tf.reduce_mean(losses.mse(images, decoded)))
    loss = self.lmbda * distortion + bpp
    metrics = {"loss": loss, "distortion": distortion, "bpp": bpp, "psnr": psnr, **rates}
    if form.components != ("r", "g", "b"):
      errors = tf.cast(form.squared_errors(planes, decoded_planes), tf.float32)
      for name, error in zip(form.components, tf.unstack(tf.reduce_mean(errors, axis=0))):
        metrics[f"mse_{name}"], metrics[f"psnr_{name}"] = error, _psnr(error)
    return decoded, metrics

  def loss_and_metrics(self, images):
    return self.decode_and_measure(images, training=True)[1]

  @tf.function(input_signature=[tf.TensorSpec((1, None, None, 3), tf.uint8)], autograph=False)
  def validate(self, image):
    """Returns (decoded, metrics) of one whole image, with rounding in place of noise."""
    return self.decode_and_measure(image, training=False)


def _psnr(mse: tf.Tensor) -> tf.Tensor:
  return 10.0 / math.log(10.0) * tf.math.log(255.0**2 / mse)
