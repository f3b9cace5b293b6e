"""A codec of four layers with a real hyperprior: traced in seconds, a step takes milliseconds."""

from __future__ import annotations

import pathlib

import numpy as np

from khuvcm_tf import layers
from khuvcm_tf.codecs import codec, input_format
from khuvcm_tf.data import image_files
from khuvcm_tf.entropy import hyperprior
from khuvcm_tf.training.options import CodecOptions


def build(depth: int = 8) -> codec.Codec:
  """Composes the codec: total stride 16, `depth` channels of y and of z."""
  entropy_model = hyperprior.Hyperprior(
    [layers.conv_down(depth, 5, 4, name="conv0")],
    [layers.conv_up(2 * depth, 5, 4, name="conv0")],
    latent_depth=depth,
    hyper_depth=depth,
    quantization_mode="mixed",
  )
  return codec.Codec(
    input_format.Rgb(),
    codec.Branch(
      layers.Transform([layers.conv_down(depth, 5, 4, name="conv0")], 3, "analysis"),
      layers.Transform([layers.conv_up(3, 5, 4, name="conv0")], depth, "synthesis"),
      entropy_model,
    ),
  )


def images(number: int, height: int = 80, width: int = 96) -> list[np.ndarray]:
  """Returns smooth images, uint8 [H, W, 3], no two alike."""
  y, x = np.mgrid[:height, :width]
  planes = [
    [128 + 100 * np.sin(x / (5 + i) + c) * np.cos(y / (7 + c)) for c in range(3)]
    for i in range(number)
  ]
  return [np.stack(each, axis=-1).astype(np.uint8) for each in planes]


def write_images(folder: pathlib.Path, number: int, **size: int) -> list[str]:
  """Writes `images` to 00.png, 01.png ... and returns their paths."""
  folder.mkdir(exist_ok=True)
  paths = [str(folder / f"{i:02}.png") for i in range(number)]
  for path, image in zip(paths, images(number, **size)):
    image_files.write_image(path, image)
  return paths


def make_options(**fields: object) -> CodecOptions:
  """Returns the options of a run of the toy: crops of 64, two a batch."""
  common = {"codec": "toy", "workdir": "w", "train_images": "photos", "crop_size": 64}
  return CodecOptions(**{**common, "batch_size": 2, "log_steps": 4, **fields})
