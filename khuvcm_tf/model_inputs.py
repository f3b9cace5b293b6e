"""What models code and give back: images, raw frames, features; what cannot be coded is refused."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Union

import numpy as np

from khuvcm_tf import bitstream
from khuvcm_tf.data import frames, stored_features
from khuvcm_tf.data.stored_features import ImageFeatures
from khuvcm_tf.model_folders import ModelError
from khuvcm_tf.ops.pyramid import BOX_LEVELS

Input = Union[np.ndarray, frames.Frame, ImageFeatures]


def level_bits(levels: Iterable[str]) -> int:
  """Returns what a header of features says of which levels there are."""
  return sum(1 << BOX_LEVELS.index(level) for level in levels)


def levels_of(header: bitstream.Header) -> list[str]:
  """Undoes `level_bits`."""
  return [level for number, level in enumerate(BOX_LEVELS) if header.levels >> number & 1]


def check_maps(features: ImageFeatures, channels: int) -> list[str]:
  """Returns the levels that are given, or raises ModelError.

  They must be finite maps of the sizes that the image's size gives.
  """
  sides = (*features.image_size, *features.original_size)
  if not (1 <= min(sides) and max(sides) <= bitstream.MAX_SIDE):
    raise ModelError(f"found an image of sides {sides}, expected 1 to {bitstream.MAX_SIDE} pixels")
  shapes = stored_features.level_shapes(features.image_size, channels)
  given = [level for level in BOX_LEVELS if level in features.levels]
  if not given:
    raise ModelError(f"found levels {sorted(features.levels)}, expected some of {BOX_LEVELS}")
  for level in given:
    maps = features.levels[level]
    if maps.shape != shapes[level]:
      raise ModelError(
        f"{level} is {list(maps.shape)}, expected {list(shapes[level])} for an image of "
        f"{features.image_size[1]}x{features.image_size[0]} pixels; use a model of these channels"
      )
    if not np.isfinite(maps).all():
      raise ModelError(f"{level} has values that are not finite, expected finite ones")
  return given


def checked(image: np.ndarray) -> np.ndarray:
  """Returns an image as [H, W, 1 or 3], or raises ModelError."""
  if isinstance(image, frames.Frame):
    raise ModelError(
      "found a raw frame, expected an image, uint8 [H, W, 3] or [H, W, 1]; convert it "
      "(frames.to_rgb)"
    )
  if isinstance(image, ImageFeatures):
    raise ModelError("found features, expected an image, uint8 [H, W, 3] or [H, W, 1]")
  image = np.asarray(image)
  if image.ndim == 2:
    image = image[..., np.newaxis]
  shape = image.shape
  sides = len(shape) == 3 and 1 <= min(shape[:2]) and max(shape[:2]) <= bitstream.MAX_SIDE
  if not sides or shape[2] not in (1, 3) or image.dtype != np.uint8:
    raise ModelError(
      f"`image` is {image.dtype} {list(shape)}, expected uint8 [H, W, 3] or [H, W, 1] with "
      f"sides of 1 to {bitstream.MAX_SIDE}"
    )
  return image


def frame_to_planes(frame: frames.Frame) -> tuple[np.ndarray, np.ndarray]:
  """Returns a frame's y [H, W, 1] and uv [h, w, 2], uint16, or raises FrameError."""
  frames.check_frame(frame, "the frame")
  y, cb, cr = (plane.astype(np.uint16) for plane in frame[:3])
  return y[..., np.newaxis], np.stack([cb, cr], axis=-1)


def planes_to_frame(y: np.ndarray, uv: np.ndarray, bits: int) -> frames.Frame:
  """Undoes `frame_to_planes`."""
  dtype = np.uint8 if bits == 8 else np.uint16
  planes = (y[..., 0], uv[..., 0], uv[..., 1])
  return frames.Frame(*(plane.astype(dtype) for plane in planes), bits)
