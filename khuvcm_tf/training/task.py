"""A codec as the task of a run: from images to a model's folder."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf
from absl import logging

from khuvcm_tf import codecs, model_folders
from khuvcm_tf import options as options_lib
from khuvcm_tf.data import pipeline
from khuvcm_tf.options import OptionsError
from khuvcm_tf.runs import checkpoints, loop, workdir
from khuvcm_tf.runs import task as task_lib
from khuvcm_tf.training import finalize, first_weights, inputs, losses, summaries
from khuvcm_tf.training import model as model_lib
from khuvcm_tf.training.options import MS_SSIM_MIN_SIDE, CodecOptions

_IMAGES_SHOWN = 3
_SHOWN_OF_QUALITIES = ("loss", "bpp", "psnr")


def train(options: CodecOptions) -> str | None:
  """Trains a codec to `max_steps`, from the last checkpoint in `workdir` on where there is one.

  Returns:
    The folder of the model; None in workers that are not the chief.

  Raises:
    errors.Error: what the caller can mend.
  """
  options = with_codec_of_init_from(options)
  return loop.train(options, lambda: CodecTask(options))


class CodecTask(task_lib.Task):
  """A codec, its training and its validation images.

  Args:
    options: with a codec.
  """

  def __init__(self, options: CodecOptions):
    self._options = options
    dtype = "mixed_bfloat16" if options.mixed_precision else "float32"
    self.codec = codecs.create(options.codec, dtype, **options.arguments)
    check_lambda_range(options, self.codec.num_qualities)
    check_crop_size(options, self.codec.stride)
    weights = component_weights(options, self.codec.input_format)
    for i, branch in enumerate(self.codec.branches):
      branch.entropy_model.noise.reset_from_seed(options.seed + i)
    lmbda = options.lambda_range or options.lmbda
    if not checkpoints.exist(options.workdir):
      if options.lambda_range:
        octaves = first_weights.first_octaves(options, self.codec.num_qualities)
        self.codec.reset_gains(octaves)
      if options.init_from:
        first_weights.assign_weights_of(options.init_from, self.codec, lmbda)
    distortion = losses.create(options.distortion, weights, options.distortion_threshold)
    self.model = model_lib.RateDistortionModel(self.codec, lmbda, distortion)
    self._inputs = inputs.load(options, self.codec.input_format)
    check_validation_images(options, self._inputs.validation)
    logging.info(self._inputs.text)

  @property
  def checkpointed(self):
    return {"codec": self.codec}

  def batches(self, first_step, shard):
    options = self._options
    images = pipeline.training_batches(
      self._inputs.training,
      options.batch_size,
      options.crop_size,
      options.seed,
      first_step,
      options.min_resize_scale,
      shard,
    )
    if self.codec.num_qualities is None:
      return images
    draws = pipeline.training_draws(options.batch_size, options.seed, first_step, shard)
    return tf.data.Dataset.zip((images, draws))

  def failures_named(self):
    return self._inputs.training.readable.failures_named()

  def validate(self, step, writer):
    """Returns the means of the metrics over whole images; shows some of them, and latents.

    Of a codec of several rates they are means over the anchor qualities, too, and those of each
    quality follow; images and latents are shown at the middle one.
    """
    codec, form, of_qualities = self.codec, self.codec.input_format, []
    middle = codec.qualities[len(codec.qualities) // 2]
    for quality in codec.qualities:
      of_images = []
      for i, given in enumerate(self._inputs.validation):
        example = form.example(given)
        decoded, metrics = self.model.validate(example[np.newaxis], quality)
        of_images.append(metrics)
        if quality == middle and i < _IMAGES_SHOWN:
          shown = form.pictures(example, decoded[0].numpy())
          summaries.write_comparison(writer, step, f"validation/{i}", *shown)
      of_qualities.append(_means(of_images))
    first = form.example(self._inputs.validation[0])[np.newaxis]
    for branch, y in zip(codec.branches, codec.latents(codec.planes(first), middle)):
      y_hat, bits = branch.entropy_model.element_bits(y)
      name = "latents" if len(codec.branches) == 1 else f"latents_{branch.name}"
      summaries.write_latents(writer, step, name, y_hat[0].numpy(), bits["y"][0].numpy())
    means = _means(of_qualities)
    if codec.num_qualities is not None:
      for k, each in enumerate(of_qualities):
        means.update({f"quality_{k}/{name}": each[name] for name in _SHOWN_OF_QUALITIES})
    return means

  def summary(self, metrics):
    return "loss {loss:.4f}, {bpp:.4f} bpp, {psnr:.2f} dB".format_map(metrics)

  def finalize(self, step):
    return finalize.finalize(self._options, self.codec, step, self._inputs)


def _means(rows: list[dict]) -> dict[str, float]:
  return {name: float(np.mean([float(row[name]) for row in rows])) for name in rows[0]}


def with_codec_of_init_from(options: CodecOptions) -> CodecOptions:
  """Returns the options with the codec and the arguments of `init_from`, where they give none.

  Given arguments override those of the model; another codec than the model's takes none of them. A
  resumed run has the codec and the arguments that it was begun with, and needs the model no more.
  """
  if not options.init_from:
    return options
  codec = "".join(workdir.recorded(options.workdir, "codec"))
  if codec and checkpoints.exist(options.workdir):
    arguments = options_lib.read_pairs(workdir.recorded(options.workdir, "argument"))
  else:
    description = model_folders.describe(options.init_from)
    codec, arguments = description["codec"], description["arguments"]
  if options.codec not in (None, codec):
    return options
  return dataclasses.replace(options, codec=codec, arguments={**arguments, **options.arguments})


def component_weights(options: CodecOptions, input_format) -> list[float] | None:
  """Returns the factors of the components' MSE in D; None where no option changes the format's.

  `lambda_chroma` scales those of Cb and Cr, as lambda multiplies all of D.

  Raises:
    OptionsError: they are given for another distortion, or for a codec of RGB.
  """
  given, chroma = options.component_weights, options.lambda_chroma
  if given is None and chroma is None:
    return None
  if options.distortion != "mse" or input_format.components[0] != "y":
    raise OptionsError(
      "found --component_weights or --lambda_chroma, expected them for --distortion=mse and codecs "
      f"of YCbCr alone, not {options.codec} with {options.distortion}; leave them out"
    )
  weights = input_format.component_weights if given is None else given
  y, cb, cr = (each / sum(weights) for each in weights)
  factor = 1.0 if chroma is None else chroma / options.lmbda
  return [y, cb * factor, cr * factor]


def check_lambda_range(options: CodecOptions, num_qualities: int | None) -> None:
  """Raises OptionsError unless a codec of several rates, and it alone, has a range of lambda."""
  if num_qualities is not None and options.lambda_range is None:
    raise OptionsError(
      f"found no --lambda_range, expected one for a codec of {num_qualities} qualities; give the "
      "lambdas of the lowest and of the highest, as in --lambda_range=0.0016,0.1024"
    )
  if num_qualities is None and options.lambda_range is not None:
    raise OptionsError(
      "found --lambda_range, expected --lambda for a codec of one rate; give that, or make it a "
      "codec of several rates with --argument=num_qualities=7"
    )


def check_crop_size(options: CodecOptions, stride: int) -> None:
  """Checks that crops need no padding: its bits would count in the loss, its pixels would not.

  Raises:
    OptionsError: the crop's side is not a multiple of the codec's stride.
  """
  if options.crop_size % stride:
    raise OptionsError(
      f"--crop_size={options.crop_size} is not a multiple of {stride}, the stride of codec "
      f"{options.codec}; give {-(-options.crop_size // stride) * stride}"
    )


def check_validation_images(options: CodecOptions, images: list[np.ndarray]) -> None:
  """Raises OptionsError if the distortion is MS-SSIM and an image is too small for it."""
  if options.distortion != "ms_ssim":
    return
  side = min(min(image.shape[:2]) for image in images)
  if side < MS_SSIM_MIN_SIDE:
    raise OptionsError(
      f"a validation image has a side of {side}, expected at least {MS_SSIM_MIN_SIDE} for "
      "--distortion=ms_ssim; give larger --validation_images"
    )
