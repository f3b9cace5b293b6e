"""The features of a photo as files hold them: what they must be, whatever the format.

Letters: C channels of the pyramid, [H, W, C] a level's map.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from khuvcm_tf import errors
from khuvcm_tf.data.image_files import MAX_PIXELS
from khuvcm_tf.ops import pyramid

DTYPES = ("float32", "float16")
_MAX_CHANNELS = 2**16


class FeatureError(errors.Error):
  """Stored features that cannot be read, or not be used with a detector."""


class ImageFeatures(NamedTuple):
  """The features of one image, and what is needed to go on from them.

  Attributes:
    levels: `p2` to `p6`, each float32 [H, W, C].
    image_size: height and width of the resized image, without padding.
    original_size: height and width of the image itself.
  """

  levels: dict[str, np.ndarray]
  image_size: tuple[int, int]
  original_size: tuple[int, int]


class Metadata(NamedTuple):
  """What is known of stored features without reading them.

  Attributes:
    name: of the photo: its path below the folder of all photos, with slashes.
    digest: SHA-256 of the photo's file, 64 hexadecimal digits; "" where it is not known.
    fingerprint: of the detector that made the features.
    dtype: of the numbers in the file, "float32" or "float16".
    channels: C.
    image_size: height and width of the resized photo, without padding.
    original_size: height and width of the photo itself.
  """

  name: str
  digest: str
  fingerprint: str
  dtype: str
  channels: int
  image_size: tuple[int, int]
  original_size: tuple[int, int]


class StoredFeatures(NamedTuple):
  """Features and what is known of them."""

  metadata: Metadata
  features: ImageFeatures


def level_shapes(image_size: tuple[int, int], channels: int) -> dict[str, tuple[int, int, int]]:
  """Returns the shapes [H, W, C] of P2 to P6 of an image.

  Example:
    >>> level_shapes((60, 90), 16)["p3"]
    (8, 12, 16)
  """
  sizes = pyramid.level_sizes(image_size)
  return {level: (*size, channels) for level, size in sizes.items()}


def check(metadata: Metadata) -> None:
  """Checks metadata from a file before anything is allocated by them.

  Raises:
    ValueError: a value has another type or range than `Metadata` says.
  """
  for key in ("name", "digest", "fingerprint"):
    if not isinstance(getattr(metadata, key), str):
      raise ValueError(f"its {key} is {getattr(metadata, key)!r}, no text")
  if metadata.dtype not in DTYPES:
    raise ValueError(f"its numbers are {metadata.dtype}, none of {', '.join(DTYPES)}")
  if not (_is_count(metadata.channels) and metadata.channels <= _MAX_CHANNELS):
    raise ValueError(f"it has {metadata.channels!r} channels, not 1 to {_MAX_CHANNELS}")
  for key in ("image_size", "original_size"):
    size = getattr(metadata, key)
    if len(size) != 2 or not all(map(_is_count, size)) or size[0] * size[1] > MAX_PIXELS:
      raise ValueError(f"its {key} is {size!r}, not height and width of up to {MAX_PIXELS} pixels")


def _is_count(value: object) -> bool:
  return type(value) is int and value > 0


def to_arrays(stored: StoredFeatures) -> dict[str, np.ndarray]:
  """Returns P2 to P6 in the type that they are stored in.

  Raises:
    FeatureError: a value is not finite in that type.
    ValueError: a level is not of the shape that the size asks for.
  """
  metadata, arrays = stored.metadata, {}
  check(metadata)
  for level, shape in level_shapes(metadata.image_size, metadata.channels).items():
    values = stored.features.levels[level]
    if values.shape != shape:
      raise ValueError(f"{level} is {list(values.shape)}, expected {list(shape)}")
    with np.errstate(over="ignore"):  # What overflows is found below.
      arrays[level] = np.ascontiguousarray(values, np.dtype(metadata.dtype).newbyteorder("<"))
    if not np.isfinite(arrays[level]).all():
      raise FeatureError(
        f"{metadata.name}: {level} has values that are not finite in {metadata.dtype}, expected "
        "finite ones; store float32, or check the detector's weights"
      )
  return arrays


def from_arrays(metadata: Metadata, arrays: dict[str, np.ndarray]) -> StoredFeatures:
  """Returns features of P2 to P6 as `to_arrays` gave them, as float32.

  Raises:
    ValueError: a value is not finite.
  """
  for level, values in arrays.items():
    if not np.isfinite(values).all():
      raise ValueError(f"{level} has values that are not finite")
  levels = {level: values.astype(np.float32, copy=False) for level, values in arrays.items()}
  features = ImageFeatures(levels, metadata.image_size, metadata.original_size)
  return StoredFeatures(metadata, features)
