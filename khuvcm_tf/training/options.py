"""Options of a codec's training. Nothing here imports TensorFlow."""

from __future__ import annotations

import dataclasses

from khuvcm_tf import codecs
from khuvcm_tf.options import OptionsError, option
from khuvcm_tf.runs.options import RunOptions

# Pixels along the shorter side: five scales of windows of 11x11, 11 * 2^4.
MS_SSIM_MIN_SIDE = 176


@dataclasses.dataclass(frozen=True)
class CodecOptions(RunOptions):
  """Which codec is trained, on which images, for which loss.

  Raises:
    options.OptionsError: a value is missing or out of range, or contradicts another.
  """

  codec: str | None = option(
    None,
    f"Name of the codec: {', '.join(codecs.all_names())}. Without it, the codec of --init_from.",
    fixed=True,
  )
  arguments: dict[str, object] = option(
    {},
    "Argument of the codec, as in --argument=num_filters=128; may be repeated. Those that are not "
    "given are those of the model that --init_from names if it is of the same codec, or else the "
    "codec's defaults.",
    flag="argument",
    fixed=True,
  )
  init_from: str | None = option(
    None,
    "Model (as --model of other programs) whose weights the run starts with, where name and shape "
    "agree.",
    path="input",
  )

  train_images: str | None = option(
    None, "Folder, glob or file of the training images.", path="input"
  )
  train_tfds: str | None = option(
    None,
    "TFDS data set with a feature `image` to train on, in place of --train_images: NAME or "
    "NAME:SPLIT, such as clic, vimeo90k.",
  )
  train_features: str | None = option(
    None,
    "Features to train on, for codec feature: a folder that bin/extract_features.py has written.",
    path="input",
  )
  validation_features: str | None = option(
    None,
    "Features to validate on, likewise; without it, every twentieth of the training ones.",
    path="input",
  )
  normalization: str = option(
    "none",
    "Of feature maps, before they are coded: 'none'; 'unit': by the least and the greatest of all "
    "values, to 0..1; 'standard': each channel of each level to mean 0 and deviation 1; or an .npz "
    "file with arrays `offset` and `scale`, [4, channels] of P2 to P5 (bin/feature_weights.py).",
    fixed=True,
    path="input",
  )
  validation_images: str | None = option(
    None,
    "Folder, glob or file of the validation images. Without it, every twentieth training image is "
    "held out.",
    path="input",
  )
  eval_tfds: str | None = option(
    None,
    "TFDS data set to validate on, in place of --validation_images: NAME or NAME:SPLIT. Without "
    "SPLIT, its split validation or else test.",
  )
  validation_limit: int = option(16, "Validate on at most this many images.", low=1)
  cache_gib: float = option(
    4.0,
    "Memory for decoded training images that are kept, in GiB. Up to eight more are decoded at "
    "once, which takes 15 bytes for each of their pixels.",
    low=0,
  )
  crop_size: int = option(256, "Side of a training crop, in pixels.", low=1)
  min_resize_scale: float = option(
    1.0,
    "Shrink each image by a random factor between this and 1 before it is cropped: 0.6 removes the "
    "traces of JPEG from photos, 1 leaves images at their size.",
    above=0,
    high=1,
  )

  lmbda: float = option(
    0.01,
    "Lambda, the weight of the distortion D: loss = lambda * D + bits per pixel. The greater it "
    "is, the higher are quality and rate.",
    flag="lambda",
    above=0,
    fixed=True,
  )
  lambda_range: tuple[float, ...] | None = option(
    None,
    "In place of --lambda, for codecs of several rates (--argument=num_qualities=7): lambda of the "
    "lowest and of the highest quality, as in 0.0016,0.1024. Each example is trained at a quality "
    "of its own.",
    above=0,
    fixed=True,
  )
  distortion: str = option(
    "mse",
    "The D of the loss: mean squared error on the scale 0..255, or 1 - MS-SSIM (crops of at least "
    f"{MS_SSIM_MIN_SIDE}).",
    choices=("mse", "ms_ssim"),
    fixed=True,
  )
  distortion_threshold: float | None = option(
    None,
    "Of codec feature: squared errors count by how much they exceed it, in the units of the maps: "
    "D = mean of max(0, e^2 - threshold).",
    above=0,
    fixed=True,
  )
  component_weights: tuple[float, ...] | None = option(
    None,
    "Relative weights of the mean squared errors of Y, Cb and Cr, as in 4,1,1 (each is divided by "
    "their sum); for codecs of YCbCr. Without it, the codec's own.",
    low=0,
    fixed=True,
  )
  lambda_chroma: float | None = option(
    None,
    "In place of --lambda for the errors of Cb and Cr; for codecs of YCbCr.",
    above=0,
    fixed=True,
  )
  weights_dtype: str = option(
    "float32",
    "Type in which the model's weights are stored.",
    choices=("float32", "float16"),
  )

  def __post_init__(self):
    super().__post_init__()
    _check_one(self, ("train_images", "train_tfds", "train_features"), 1)
    _check_one(self, ("validation_images", "eval_tfds", "validation_features"), 0)
    of_features = {
      "validation_features": self.validation_features is not None,
      "normalization": self.normalization != "none",
      "distortion_threshold": self.distortion_threshold is not None,
    }
    for name, is_given in of_features.items():
      if is_given and not self.train_features:
        raise OptionsError(f"found --{name}, expected it with --train_features alone; leave it out")
    if self.train_features and (self.validation_images or self.eval_tfds):
      raise OptionsError(
        "found validation images for --train_features, expected --validation_features"
      )
    if self.train_features and (self.distortion != "mse" or self.min_resize_scale != 1.0):
      raise OptionsError(
        f"found --distortion={self.distortion} and --min_resize_scale={self.min_resize_scale:g} "
        "with --train_features, expected mse and 1: maps are no images"
      )
    if self.distortion == "ms_ssim" and self.crop_size < MS_SSIM_MIN_SIDE:
      raise OptionsError(
        f"--crop_size={self.crop_size} is out of range, expected at least {MS_SSIM_MIN_SIDE} for "
        "--distortion=ms_ssim"
      )
    weights = self.component_weights
    if weights is not None and (len(weights) != 3 or sum(weights) == 0):
      raise OptionsError(
        f"--component_weights={','.join(map(str, weights))} is out of range, expected three "
        "numbers, not all 0, as in 4,1,1"
      )
    bounds = self.lambda_range
    if bounds is not None and (len(bounds) != 2 or bounds[0] >= bounds[1]):
      raise OptionsError(
        f"--lambda_range={','.join(map(str, bounds))} is out of range, expected two numbers, the "
        "smaller one first, as in 0.0016,0.1024"
      )
    if bounds is not None and self.lmbda != CodecOptions.lmbda:
      raise OptionsError(
        "found both of --lambda and --lambda_range, expected one of them: --lambda for a codec of "
        "one rate, --lambda_range for one of several"
      )
    if bounds is not None and self.lambda_chroma is not None:
      raise OptionsError(
        "found both of --lambda_chroma and --lambda_range, expected one of them; "
        "--component_weights weighs chroma alike at all qualities"
      )
    if self.codec is None and not self.init_from:
      raise OptionsError(
        "found no --codec, expected one, or --init_from=MODEL of the codec to train"
      )


def _check_one(options: CodecOptions, names: tuple[str, ...], least: int) -> None:
  """Raises OptionsError where more than one of some options is given, or fewer than `least`."""
  given = [f"--{name}" for name in names if getattr(options, name)]
  if not least <= len(given) <= 1:
    raise OptionsError(
      f"found {' and '.join(given) or 'none'} of {', '.join(f'--{name}' for name in names)}, "
      f"expected one of them{'' if least else ', or none'}"
    )
