"""A codec of four layers with a real hyperprior: traced in seconds, trained in milliseconds a step.

As a program it trains, for tests that look at a run from outside:

  python toy.py '{"workdir": ...}' [KILL_AT]

takes the fields of a recipe, and the step after which the process kills itself.
"""

from __future__ import annotations

import json
import os
import pathlib
import signal
import sys

import numpy as np
from absl import logging

from khuvcm_tf import codecs, errors, layers
from khuvcm_tf.codecs import codec, picture_format
from khuvcm_tf.data import images
from khuvcm_tf.entropy import hyperprior
from khuvcm_tf.training import callbacks, recipe


def build(depth: int = 8) -> codec.Codec:
  """Composes the codec: total stride 16, `depth` channels of y and of z."""
  latent_coder = hyperprior.Hyperprior(
    [layers.conv_down(depth, 5, 4, name="conv0")],
    [layers.conv_up(2 * depth, 5, 4, name="conv0")],
    latent_depth=depth,
    hyper_depth=depth,
    means=True,
    absolute=False,
    quantization_mode="mixed",
  )
  return codec.Codec(
    picture_format.Rgb(),
    codec.Branch(
      layers.Transform([layers.conv_down(depth, 5, 4, name="conv0")], "analysis", in_channels=3),
      layers.Transform([layers.conv_up(3, 5, 4, name="conv0")], "synthesis", in_channels=depth),
      latent_coder,
    ),
  )


def pictures(number: int, height: int = 80, width: int = 96) -> list[np.ndarray]:
  """Returns smooth pictures, uint8 [H, W, 3], no two alike."""
  y, x = np.mgrid[:height, :width]
  planes = [
    [128 + 100 * np.sin(x / (5 + i) + c) * np.cos(y / (7 + c)) for c in range(3)]
    for i in range(number)
  ]
  return [np.stack(each, axis=-1).astype(np.uint8) for each in planes]


def write_pictures(folder: pathlib.Path, number: int, **size: int) -> list[str]:
  """Writes `pictures` to 00.png, 01.png ... and returns their paths."""
  folder.mkdir(exist_ok=True)
  paths = [str(folder / f"{i:02}.png") for i in range(number)]
  for path, picture in zip(paths, pictures(number, **size)):
    images.write_image(path, picture)
  return paths


def make_recipe(**fields: object) -> recipe.Recipe:
  """Returns the recipe of a run of the toy: crops of 64, two a batch."""
  common = {"rate_distortion": 0.01, "crop_size": 64, "batch_size": 2, "log_steps": 4}
  return recipe.Recipe(codec="toy", arguments={}, **{**common, "checkpoint_steps": 8, **fields})


class KillAt(callbacks.Guard):
  """Kills the process after a step, as `kill -9` from outside would."""

  def on_train_batch_end(self, batch, logs=None):
    if int(self.model.optimizer.iterations.numpy()) == int(sys.argv[2]):
      os.kill(os.getpid(), signal.SIGKILL)


def main():
  codecs._BUILDERS["toy"] = build
  # A run ends with its weights: the conversion to integers has tests of its own.
  recipe.finish_lib.finish = lambda *_: None
  if len(sys.argv) > 2:
    callbacks.Guard = KillAt
  logging.set_verbosity(logging.INFO)
  try:
    recipe.train(make_recipe(**json.loads(sys.argv[1])))
  except errors.Error as error:
    sys.exit(f"error: {error}")


if __name__ == "__main__":
  main()
