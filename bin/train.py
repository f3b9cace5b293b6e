"""Trains a codec.

  python bin/train.py --flagfile=configs/codec/mbt2018_mean.flags --workdir=W --train_images=photos/

Killed at any moment and started again with the same flags it goes on from its last checkpoint.
`tensorboard --logdir=W/logs` shows curves and pictures. The model ends in W/model, and W is what
--model of the other programs takes.
"""

from __future__ import annotations

from absl import flags

from khuvcm_tf import errors, program

CODEC = flags.DEFINE_string(
  "codec",
  None,
  "Name of the codec: bmshj2018_factorized, bmshj2018, mbt2018_mean, mbt2018, cheng2020, ycbcr444, "
  "luma_chroma420, cross_component; default: that of --init_from.",
)
ARGUMENTS = flags.DEFINE_multi_string(
  "argument",
  [],
  "Argument of the codec, as in --argument=num_filters=128; may be repeated. Default: those of a "
  "model of the same codec that --init_from names, or else the codec's own.",
)
INIT_FROM = flags.DEFINE_string(
  "init_from",
  None,
  "Model (as --model of other programs) whose weights to start with, where name and shape agree.",
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; made if need be.", required=True)

TRAIN_IMAGES = flags.DEFINE_string("train_images", None, "Folder, glob or file to train on.")
TRAIN_TFDS = flags.DEFINE_string(
  "train_tfds",
  None,
  "TFDS data set with a feature `image` to train on: NAME or NAME:SPLIT, such as clic, vimeo90k.",
)
VALIDATION_IMAGES = flags.DEFINE_string(
  "validation_images",
  None,
  "Folder, glob or file to validate on; by default every twentieth training picture is set aside.",
)
EVAL_TFDS = flags.DEFINE_string(
  "eval_tfds",
  None,
  "TFDS data set to validate on, in place of --validation_images: NAME or NAME:SPLIT; by default "
  "its split validation, or else test.",
)
VALIDATION_LIMIT = flags.DEFINE_integer(
  "validation_limit", 16, "At most so many pictures to validate on.", lower_bound=1
)
CACHE_GIB = flags.DEFINE_float("cache_gib", 4.0, "Memory for decoded pictures, in GiB.")

LAMBDA = flags.DEFINE_float(
  "lambda",
  0.01,
  "Weight of the distortion: loss = lambda * MSE (0..255) + bits per pixel.",
  lower_bound=0.0,
)
DISTORTION = flags.DEFINE_enum(
  "distortion", "mse", ["mse", "ms_ssim"], "Mean squared error, or 1 - MS-SSIM (crops >= 176)."
)

COMPONENT_WEIGHTS = flags.DEFINE_list(
  "component_weights",
  None,
  "Weights of the MSE of Y, Cb and Cr, for YCbCr codecs; default: 4,1,1 (divided by their sum).",
)
LAMBDA_CHROMA = flags.DEFINE_float(
  "lambda_chroma",
  None,
  "In place of --lambda for the errors of Cb and Cr, for YCbCr codecs.",
)

MAX_STEPS = flags.DEFINE_integer("max_steps", 1_000_000, "Length of the run.", lower_bound=1)
BATCH_SIZE = flags.DEFINE_integer(
  "batch_size", 8, "Crops a step, over all devices and workers.", lower_bound=1
)
CROP_SIZE = flags.DEFINE_integer("crop_size", 256, "Side of a crop in pixels.", lower_bound=1)
SMALLEST_SCALE = flags.DEFINE_float(
  "smallest_scale",
  1.0,
  "Shrink pictures by a random factor from this to 1 before they are "
  "cropped; 0.6 removes the noise of JPEG photos.",
  lower_bound=0.1,
  upper_bound=1.0,
)
LEARNING_RATE = flags.DEFINE_float("learning_rate", 1e-4, "Of Adam, after warm-up.")
LEARNING_RATE_SCHEDULE = flags.DEFINE_enum(
  "learning_rate_schedule",
  "drops",
  ["constant", "cosine", "drops"],
  "constant; cosine: down to 1 %; drops: to a tenth at 80 % and again at 95 % of the steps.",
)
WARMUP_STEPS = flags.DEFINE_integer("warmup_steps", 0, "Steps of linear warm-up.", lower_bound=0)
CLIP_NORM = flags.DEFINE_float("clip_norm", 1.0, "Largest norm of all gradients; 0: any.")
EMA = flags.DEFINE_float(
  "ema",
  0.0,
  "Momentum of a moving average of the weights, such as 0.999, which is then validated "
  "and kept; 0: none.",
  lower_bound=0.0,
  upper_bound=0.999999,
)
ON_NAN = flags.DEFINE_enum(
  "on_nan",
  "stop",
  ["stop", "restore"],
  "What to do when the loss explodes: stop, or go back to the "
  "last checkpoint at half the learning rate.",
)
SEED = flags.DEFINE_integer("seed", 0, "Of weights, crops and noise.", lower_bound=0)

STRATEGY = flags.DEFINE_enum(
  "strategy",
  "default",
  ["default", "mirrored", "multi_worker"],
  "default: one device; mirrored: all GPUs of this machine; multi_worker: as TF_CONFIG says.",
)
MIXED_PRECISION = flags.DEFINE_bool(
  "mixed_precision", False, "Transforms in bfloat16; entropy models stay in float32."
)
JIT_COMPILE = flags.DEFINE_bool(
  "jit_compile", False, "Compile steps with XLA: for GPUs; a CPU gets 2-3 times slower."
)

LOG_STEPS = flags.DEFINE_integer("log_steps", 100, "Steps between two entries of the log.", 1)
CHECKPOINT_STEPS = flags.DEFINE_integer(
  "checkpoint_steps", 1000, "Steps between two checkpoints, each with a validation.", 1
)
PROFILE = flags.DEFINE_bool("profile", False, "Trace steps 10 to 20 for TensorBoard's profiler.")
WEIGHTS_DTYPE = flags.DEFINE_enum(
  "weights_dtype", "float32", ["float32", "float16"], "In which the model's weights are stored."
)


def component_weights() -> tuple[float, ...] | None:
  """Returns --component_weights as numbers."""
  given = COMPONENT_WEIGHTS.value
  try:
    return None if given is None else tuple(map(float, given))
  except ValueError as error:
    raise errors.Error(
      f"--component_weights={','.join(given)} is out of range, expected three numbers, as in 4,1,1"
    ) from error


def main():
  from khuvcm_tf.training import recipe, validity  # TensorFlow takes seconds to import

  folder = recipe.train(
    recipe.Recipe(
      workdir=WORKDIR.value,
      codec=CODEC.value,
      arguments=validity.codec_arguments(ARGUMENTS.value),
      rate_distortion=LAMBDA.value,
      distortion=DISTORTION.value,
      component_weights=component_weights(),
      lambda_chroma=LAMBDA_CHROMA.value,
      init_from=INIT_FROM.value,
      train_images=TRAIN_IMAGES.value,
      train_tfds=TRAIN_TFDS.value,
      validation_images=VALIDATION_IMAGES.value,
      eval_tfds=EVAL_TFDS.value,
      validation_limit=VALIDATION_LIMIT.value,
      cache_gib=CACHE_GIB.value,
      max_steps=MAX_STEPS.value,
      batch_size=BATCH_SIZE.value,
      crop_size=CROP_SIZE.value,
      smallest_scale=SMALLEST_SCALE.value,
      learning_rate=LEARNING_RATE.value,
      learning_rate_schedule=LEARNING_RATE_SCHEDULE.value,
      warmup_steps=WARMUP_STEPS.value,
      clip_norm=CLIP_NORM.value,
      ema=EMA.value,
      on_nan=ON_NAN.value,
      seed=SEED.value,
      strategy=STRATEGY.value,
      mixed_precision=MIXED_PRECISION.value,
      jit_compile=JIT_COMPILE.value,
      log_steps=LOG_STEPS.value,
      checkpoint_steps=CHECKPOINT_STEPS.value,
      profile=PROFILE.value,
      weights_dtype=WEIGHTS_DTYPE.value,
    )
  )
  if folder:
    print(
      f"the model is in {folder}; next:\n"
      f"  python bin/compress.py --model={WORKDIR.value} --input=photo.png --output=photo.kvc"
    )


if __name__ == "__main__":
  program.run(main)
