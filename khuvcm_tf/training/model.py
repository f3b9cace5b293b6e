"""The model that is trained: a codec of any kind with its loss, lambda * D + R."""

from __future__ import annotations

import math

import tensorflow as tf

from khuvcm_tf.codecs import codec as codec_lib
from khuvcm_tf.runs import task
from khuvcm_tf.training import losses


class RateDistortionModel(task.TrainableModel):
  """A codec and its loss, for Keras `fit`.

    loss = mean over examples of lambda D + R                 codec of one rate
    loss = mean over examples of w(q) (lambda(q) D + R)       codec of several rates

  A batch is examples of the codec's input format: RGB images, uint8 [B, H, W, 3], or canvases of
  feature maps, float32 [B, H, W, P]; of codecs of several rates (images, draws), where the
  draws, float32 [B] in [0, 1), give the quality of each example, q = draw (K - 1).

  Args:
    codec: to train.
    lmbda: lambda, the weight of the distortion against bits per pixel; of a codec of several rates
      (lambda of the lowest quality, of the highest).
    distortion: of `losses.create`.
  """

  def __init__(
    self,
    codec: codec_lib.Codec,
    lmbda: float | tuple[float, float],
    distortion: losses.Distortion,
  ):
    super().__init__()
    self.codec, self.lmbda, self.distortion = codec, lmbda, distortion
    form = codec.input_format
    signature = [tf.TensorSpec((1, None, None, form.example_channels), form.example_dtype)]
    if codec.num_qualities is not None:
      signature.append(tf.TensorSpec((), tf.float32))
    self.validate = tf.function(self._validate, signature, autograph=False)

  def lambda_and_weight(self, quality: tf.Tensor | None):
    """Returns lambda and w of the loss at q.

      lambda(q) = low (high / low)^(q / (K - 1))
      w(q) = (lambda(q) / sqrt(low high))^(-1/2)

    Without w, high qualities, whose loss is some ten times as great, would be all that is trained.

    Args:
      quality: q, float32 of any shape; None for codecs of one rate.
    """
    if quality is None:
      return self.lmbda, 1.0
    low, high = self.lmbda
    lmbda = low * (high / low) ** (quality / (self.codec.num_qualities - 1))
    return lmbda, tf.math.rsqrt(lmbda / math.sqrt(low * high))

  def decode_and_measure(self, images: tf.Tensor, training: bool, quality: tf.Tensor | None = None):
    """Returns decoded images and the metrics of a batch.

    Args:
      images: the examples of a batch.
      training: whether rounding is replaced by noise or straight-through values.
      quality: q, float32, a scalar or of each image [B]; None for codecs of one rate.

    Returns:
      (decoded images, float32 in the shape of `images`, neither rounded nor clipped; {"loss",
      "distortion", "bpp", "bpp_*" (bits per pixel of each substream), "psnr" (dB, of the mean MSE
      over RGB, or of features against a peak of 1), and of other components than RGB "mse_*" and
      "psnr_*" of each, 0..255}, float32 scalars that are means over the batch).
    """
    form = self.codec.input_format
    planes = self.codec.planes(images)
    decoded_planes, bits = self.codec(planes, training=training, quality=quality)
    decoded = tf.cast(form.to_examples(decoded_planes), tf.float32)
    pixels = tf.cast(tf.shape(images)[1] * tf.shape(images)[2], tf.float32)
    rates = {f"bpp_{name}": value / pixels for name, value in bits.items()}  # [B] each
    bpp = tf.add_n(list(rates.values()))
    distortion = self.distortion(form, planes, decoded_planes)
    lmbda, weight = self.lambda_and_weight(quality)
    by_example = {
      "loss": weight * (lmbda * distortion + bpp),
      "distortion": distortion,
      "bpp": bpp,
      **rates,
    }
    metrics = {name: tf.reduce_mean(value) for name, value in by_example.items()}
    metrics["psnr"] = _psnr(tf.reduce_mean(losses.mse(images, decoded)), form.peak)
    if form.components != ("r", "g", "b"):
      errors = tf.cast(form.squared_errors(planes, decoded_planes), tf.float32)
      for name, error in zip(form.components, tf.unstack(tf.reduce_mean(errors, axis=0))):
        metrics[f"mse_{name}"], metrics[f"psnr_{name}"] = error, _psnr(error, 255.0)
    return decoded, metrics

  def loss_and_metrics(self, batch):
    if self.codec.num_qualities is None:
      images, quality = batch, None
    else:
      images, draws = batch
      quality = draws * (self.codec.num_qualities - 1)
    return self.decode_and_measure(images, training=True, quality=quality)[1]

  def _validate(self, image: tf.Tensor, quality: tf.Tensor | None = None):
    """Returns (decoded, metrics) of one whole image, with rounding in place of noise."""
    return self.decode_and_measure(image, training=False, quality=quality)


def _psnr(mse: tf.Tensor, peak: float) -> tf.Tensor:
  return 10.0 / math.log(10.0) * tf.math.log(peak**2 / mse)
