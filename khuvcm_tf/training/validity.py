"""Whether a run can begin: its flags by themselves, and beside what its workdir holds."""

from __future__ import annotations

import ast
import os
from collections.abc import Sequence

from khuvcm_tf import errors
from khuvcm_tf.training import losses, schedules

STRATEGIES = ("default", "mirrored", "multi_worker")
ON_NAN = ("stop", "restore")

# What a run that goes on may not change: the checkpoint's weights and best loss hang on them.
_FIXED = ("codec", "argument", "lambda", "distortion", "component_weights", "lambda_chroma")
# Fields whose flag has another name.
_FLAGS = {"rate_distortion": "lambda", "arguments": "argument"}


class TrainingError(errors.Error):
  """Training that cannot begin or go on."""


def check(recipe) -> None:
  """Checks the values of a recipe (`recipe.Recipe`).

  Raises:
    TrainingError: a value is out of its range.
  """
  if recipe.codec is None:
    raise TrainingError(
      "found no --codec, expected one, or --init_from=MODEL of the codec to train"
    )
  for field, low in (
    ("max_steps", 1),
    ("batch_size", 1),
    ("crop_size", 1),
    ("log_steps", 1),
    ("checkpoint_steps", 1),
    ("validation_limit", 1),
    ("warmup_steps", 0),
    ("clip_norm", 0),
    ("cache_gib", 0),
  ):
    _expect(recipe, field, getattr(recipe, field) >= low, f"at least {low}")
  for field in ("rate_distortion", "learning_rate"):
    _expect(recipe, field, 0 < getattr(recipe, field) < float("inf"), "a positive number")
  _expect(recipe, "smallest_scale", 0 < recipe.smallest_scale <= 1, "above 0, at most 1")
  _expect(recipe, "ema", 0 <= recipe.ema < 1, "at least 0 (none), below 1")
  for field, choices in (
    ("distortion", losses.KINDS),
    ("learning_rate_schedule", schedules.KINDS),
    ("strategy", STRATEGIES),
    ("on_nan", ON_NAN),
  ):
    _expect(recipe, field, getattr(recipe, field) in choices, f"one of {', '.join(choices)}")
  if bool(recipe.train_images) == bool(recipe.train_tfds):
    raise TrainingError(
      f"found {'both' if recipe.train_images else 'none'} of --train_images and --train_tfds, "
      "expected one of them"
    )
  if recipe.validation_images and recipe.eval_tfds:
    raise TrainingError(
      "found both of --validation_images and --eval_tfds, expected one of them, or none"
    )
  if recipe.distortion == "ms_ssim":
    least = losses.MS_SSIM_SMALLEST_SIDE
    reason = f"at least {least} for --distortion=ms_ssim"
    _expect(recipe, "crop_size", recipe.crop_size >= least, reason)


def component_shares(recipe, picture_format) -> list[float] | None:
  """Returns what --lambda times each component's MSE is multiplied by; None for the format's own.

  Raises:
    TrainingError: the flags that set them are out of range, or not for this codec.
  """
  given, chroma = recipe.component_weights, recipe.lambda_chroma
  if given is None and chroma is None:
    return None
  if recipe.distortion != "mse" or picture_format.components[0] != "y":
    raise TrainingError(
      "found --component_weights or --lambda_chroma, expected them for --distortion=mse and codecs "
      f"of YCbCr alone, not {recipe.codec} with {recipe.distortion}; leave them out"
    )
  weights = picture_format.weights if given is None else given
  whole = len(weights) == 3 and all(0 <= each < float("inf") for each in weights)
  _expect(recipe, "component_weights", whole and sum(weights) > 0, "three numbers, as in 4,1,1")
  y, cb, cr = (each / sum(weights) for each in weights)
  if chroma is None:
    return [y, cb, cr]
  _expect(recipe, "lambda_chroma", 0 < chroma < float("inf"), "a positive number")
  factor = chroma / recipe.rate_distortion
  return [y, cb * factor, cr * factor]


def check_crop(recipe, stride: int) -> None:
  """Checks that crops need no padding: its bits would count in the loss, its pixels would not.

  Raises:
    TrainingError: the crop's side is not a multiple of the codec's stride.
  """
  if recipe.crop_size % stride:
    raise TrainingError(
      f"--crop_size={recipe.crop_size} is not a multiple of {stride}, the stride of codec "
      f"{recipe.codec}; give {-(-recipe.crop_size // stride) * stride}"
    )


def check_batch(recipe, replicas: int) -> None:
  """Checks that a batch has equal parts.

  Raises:
    TrainingError: it has not.
  """
  if recipe.batch_size % replicas:
    raise TrainingError(
      f"--batch_size={recipe.batch_size} is not a multiple of the {replicas} replicas of "
      f"--strategy={recipe.strategy}; give {-(-recipe.batch_size // replicas) * replicas}"
    )


def check_validation(recipe, pictures) -> None:
  """Checks that the distortion is defined for the validation pictures.

  Raises:
    TrainingError: MS-SSIM of a picture that is too small for it.
  """
  sides = [min(picture.shape[:2]) for picture in pictures]
  if recipe.distortion == "ms_ssim" and min(sides) < losses.MS_SSIM_SMALLEST_SIDE:
    raise TrainingError(
      f"a validation picture has a side of {min(sides)}, expected at least "
      f"{losses.MS_SSIM_SMALLEST_SIDE} for --distortion=ms_ssim; give larger --validation_images"
    )


def claim(recipe, fields: dict[str, object]) -> None:
  """Writes WORKDIR/flags.txt, after the one that is there has been compared.

  Args:
    recipe: of the run.
    fields: the recipe's, by name.

  Raises:
    TrainingError: the workdir holds another run.
  """
  path = os.path.join(recipe.workdir, "flags.txt")
  lines = _lines(fields)
  if os.path.isfile(path):
    with open(path, encoding="utf-8") as file:
      _compare(path, file.read().splitlines(), lines)
  os.makedirs(recipe.workdir, exist_ok=True)
  temporary = f"{path}.tmp-{os.getpid()}"
  with open(temporary, "w", encoding="utf-8") as file:
    file.write("".join(f"{line}\n" for line in lines))
  os.replace(temporary, path)


def begun_with(workdir: str) -> tuple[str | None, dict[str, object]]:
  """Returns codec and arguments of the run in a workdir, as its flags.txt says."""
  path = os.path.join(workdir, "flags.txt")
  if not os.path.isfile(path):
    return None, {}
  with open(path, encoding="utf-8") as file:
    lines = [line.partition("=")[::2] for line in file.read().splitlines()]
  codec = next((value for name, value in lines if name == "--codec"), None)
  return codec, codec_arguments([value for name, value in lines if name == "--argument"])


def codec_arguments(given: Sequence[str]) -> dict[str, object]:
  """Returns `name=value` texts as {name: value}; numbers are read as numbers."""
  arguments = {}
  for text in given:
    name, _, value = text.partition("=")
    try:
      arguments[name] = ast.literal_eval(value)
    except (ValueError, SyntaxError):
      arguments[name] = value
  return arguments


def _expect(recipe, field: str, holds: bool, expected: str):
  if not holds:
    value = getattr(recipe, field)
    raise TrainingError(
      f"--{_FLAGS.get(field, field)}={value} is out of range, expected {expected}"
    )


def _lines(fields: dict[str, object]) -> list[str]:
  """A flagfile's lines; None is left out, as no flag can say it."""
  lines = []
  for field, value in fields.items():
    name = _FLAGS.get(field, field)
    if isinstance(value, dict):
      lines += [f"--{name}={key}={value[key]}" for key in sorted(value)]
    elif isinstance(value, (tuple, list)):
      lines.append(f"--{name}={','.join(map(str, value))}")
    elif isinstance(value, bool):
      lines.append(f"--{name}={str(value).lower()}")
    elif value is not None:
      lines.append(f"--{name}={value}")
  return lines


def _compare(path: str, earlier: list[str], now: list[str]):
  for name in _FIXED:
    was, found = (
      [line for line in lines if line.startswith(f"--{name}=")] for lines in (earlier, now)
    )
    if was != found:
      raise TrainingError(
        f"{path} says {' '.join(was) or f'no --{name}'}, found "
        f"{' '.join(found) or f'no --{name}'}: go on with the same, or give another --workdir"
      )
