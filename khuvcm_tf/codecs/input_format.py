"""The thin part between inputs and networks: colour, chroma's resolution, padding and scale.

An input is an image, a raw video frame, or the feature maps of a detector. Its planes are a tuple
at its own size, floats on the 8-bit scale 0..255:

  Rgb          rgb [B, H, W, 3]
  Ycbcr444     ycbcr [B, H, W, 3]
  Ycbcr420     y [B, H, W, 1] and uv [B, ceil(H/2), ceil(W/2), 2]
  FeatureMaps  the canvas of `ops.tiling` [B, H, W, P], 255 times as large as the maps

Colour is BT.601 at full range; chroma is subsampled and enlarged with centred siting (`ops.color`).
Networks take one tensor of samples, 0..1, whose sides are padded by repeating the last row and
column. Those of 4:2:0 have half the image's sides: four values of luma, row by row, then Cb, Cr.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from khuvcm_tf.layers.normalization import Normalization
from khuvcm_tf.ops import color, padding, pyramid, tiling

Planes = tuple[tf.Tensor, ...]


class InputFormat:
  """From inputs to planes, from planes to a network's samples, and both ways back.

  Attributes:
    components: names of an input's components.
    component_weights: of the components' errors in a distortion, by default.
    subsampling: pixels along the side of a network's sample.
    plane_channels: channels of each plane.
    has_frames: whether planes are those of raw 4:2:0 video, so that frames are inputs too.
    has_images: whether images are inputs.
    example_channels, example_dtype: of an input in a batch of training: RGB of an image.
    peak: that an example's PSNR counts from.
  """

  components: tuple[str, ...]
  component_weights: tuple[float, ...]
  subsampling: int = 1
  plane_channels: tuple[int, ...] = (3,)
  has_frames: bool = False
  has_images: bool = True
  example_channels: int = 3
  example_dtype: str = "uint8"
  peak: float = 255.0

  def from_rgb(self, rgb: tf.Tensor, dtype=tf.float32) -> Planes:
    """Returns the planes of RGB images [B, H, W, 3], 0..255 of any type."""
    raise NotImplementedError

  def to_rgb(self, planes: Planes) -> tf.Tensor:
    """Returns planes as RGB [B, H, W, 3], neither rounded nor clipped."""
    raise NotImplementedError

  def example(self, image: np.ndarray) -> np.ndarray:
    """Returns what a batch of training has of an input: of an image, itself."""
    return image

  def from_examples(self, examples: tf.Tensor, dtype=tf.float32) -> Planes:
    """Returns the planes of a batch of examples."""
    return self.from_rgb(examples, dtype)

  def to_examples(self, planes: Planes) -> tf.Tensor:
    """Undoes `from_examples`; nothing is rounded or clipped."""
    return self.to_rgb(planes)

  def pictures(self, example: np.ndarray, decoded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns an example and what was decoded of it as images to look at, [H, W, C] of 0..255."""
    return example, decoded

  def to_grey(self, planes: Planes) -> tf.Tensor:
    """Returns planes as a grey image [B, H, W, 1], neither rounded nor clipped."""
    return planes[0][..., :1]

  def to_samples(self, planes: Planes, multiple: int, dtype) -> tf.Tensor:
    """Returns samples in `dtype`; the sides in pixels become multiples of `multiple`."""
    return tf.cast(padding.pad_to_multiple(planes[0], multiple), dtype) / 255.0

  def from_samples(self, samples: tf.Tensor, height, width) -> Planes:
    """Returns the planes of inputs of `height` and `width` pixels."""
    return (padding.crop(samples, height, width) * 255.0,)

  def image_to_planes(self, image: tf.Tensor, dtype) -> Planes:
    """Returns the planes of an image, uint8 [H, W, 3] or [H, W, 1] (grey)."""
    rgb = tf.tile(image, [1, 1, 3 // tf.shape(image)[2]])
    return self.from_rgb(tf.ensure_shape(rgb, (None, None, 3))[tf.newaxis], dtype)

  def planes_to_image(self, planes: Planes, is_grey: tf.Tensor) -> tf.Tensor:
    """Returns an image, uint8 [H, W, 3], or [H, W, 1] where `is_grey`."""
    return tf.cond(
      is_grey,
      lambda: color.levels(self.to_grey(planes))[0],
      lambda: color.levels(self.to_rgb(planes))[0],
    )

  def squared_errors(self, originals: Planes, decoded: Planes) -> tf.Tensor:
    """Returns the mean squared error of each component over its own samples, [B, components]."""
    return tf.concat(
      [
        tf.reduce_mean(tf.math.squared_difference(a, b), axis=(1, 2))
        for a, b in zip(originals, decoded)
      ],
      axis=-1,
    )


class Rgb(InputFormat):
  """RGB."""

  components = ("r", "g", "b")
  component_weights = (1.0, 1.0, 1.0)

  def from_rgb(self, rgb, dtype=tf.float32):
    return (tf.cast(rgb, dtype),)

  def to_rgb(self, planes):
    return planes[0]


class Ycbcr444(InputFormat):
  """YCbCr with chroma at luma's resolution."""

  components = ("y", "cb", "cr")
  component_weights = (4.0, 1.0, 1.0)

  def from_rgb(self, rgb, dtype=tf.float32):
    return (color.rgb_to_ycbcr(tf.cast(rgb, dtype)),)

  def to_rgb(self, planes):
    return color.ycbcr_to_rgb(planes[0])


class Ycbcr420(InputFormat):
  """YCbCr with chroma at half of luma's resolution; also codes raw video frames as they are."""

  components = ("y", "cb", "cr")
  component_weights = (4.0, 1.0, 1.0)
  subsampling = 2
  plane_channels = (1, 2)
  has_frames = True

  def from_rgb(self, rgb, dtype=tf.float32):
    return color.to_420(color.rgb_to_ycbcr(tf.cast(rgb, dtype)))

  def to_rgb(self, planes):
    return color.ycbcr_to_rgb(color.to_444(*planes))

  def to_samples(self, planes, multiple, dtype):
    y = padding.pad_to_multiple(planes[0], multiple)
    uv = padding.pad_to_multiple(planes[1], multiple // 2)
    return tf.cast(tf.concat([tf.nn.space_to_depth(y, 2), uv], axis=-1), dtype) / 255.0

  def from_samples(self, samples, height, width):
    y = tf.nn.depth_to_space(samples[..., :4], 2)
    planes = y, samples[..., 4:]
    sizes = (height, width), ((height + 1) // 2, (width + 1) // 2)
    return tuple(padding.crop(plane, *size) * 255.0 for plane, size in zip(planes, sizes))

  def frame_to_planes(self, y: tf.Tensor, uv: tf.Tensor, bits: tf.Tensor, dtype) -> Planes:
    """Returns the planes of a raw frame.

    Args:
      y, uv: levels, uint16 [H, W, 1] and [ceil(H/2), ceil(W/2), 2].
      bits: int32 scalar, 8 or 10.
      dtype: of the planes.

    Raises:
      tf.errors.InvalidArgumentError: sizes or levels are not those of 4:2:0 frames of `bits`.
    """
    wrong = ["planes or levels are not those of 4:2:0 frames of `bits`; give chroma half the sides"]
    most = tf.bitwise.left_shift(1, bits) - 1
    checks = [
      tf.debugging.Assert(tf.reduce_all(tf.shape(uv)[:2] == (tf.shape(y)[:2] + 1) // 2), wrong),
      *(tf.debugging.Assert(tf.reduce_max(tf.cast(p, tf.int32)) <= most, wrong) for p in (y, uv)),
    ]
    with tf.control_dependencies([check for check in checks if check is not None]):
      scale = tf.cast(tf.bitwise.left_shift(1, bits - 8), dtype)
    return tuple(tf.cast(plane[tf.newaxis], dtype) / scale for plane in (y, uv))

  def planes_to_frame(self, planes: Planes, bits: tf.Tensor):
    """Returns a raw frame's levels, as `frame_to_planes` takes them."""
    scale = tf.cast(tf.bitwise.left_shift(1, bits - 8), planes[0].dtype)
    most = 256.0 * scale - 1.0
    levels = (tf.clip_by_value(tf.round(plane[0] * scale), 0.0, most) for plane in planes)
    return tuple(tf.cast(each, tf.uint16) for each in levels)


class FeatureMaps(InputFormat):
  """The levels P2 to P5 of a feature pyramid, or some of them, on a canvas of P planes.

  In a batch of training an input is its canvas, float32 [H, W, P].

  Args:
    channels: C of each level.
    planes: P.
    square: side to which maps of P2 are padded, those of P3 to half of it, ...; None: none are.
    normalization: of each level's channels.
  """

  components = ("features",)
  component_weights = (1.0,)
  has_images = False
  example_dtype = "float32"
  peak = 1.0

  def __init__(self, channels: int, planes: int, square: int | None, normalization: Normalization):
    self._grid = tiling.grid(channels, planes)
    self.channels, self.square = channels, square
    self.plane_channels, self.example_channels = (planes,), planes
    self.normalization = normalization

  def example(self, image):
    return self.to_canvas(image.levels)[0].numpy()

  def from_examples(self, examples, dtype=tf.float32):
    return (tf.cast(examples, dtype) * 255.0,)

  def to_examples(self, planes):
    return planes[0] / 255.0

  def pictures(self, example, decoded):
    low, high = np.percentile(example[..., 0], (0.5, 99.5))
    pair = ((each[..., :1] - low) * (255.0 / max(high - low, 1e-9)) for each in (example, decoded))
    return tuple(np.clip(each, 0.0, 255.0) for each in pair)

  def squared_errors(self, originals, decoded):
    return tf.reduce_mean(super().squared_errors(originals, decoded), axis=-1, keepdims=True)

  def canvas_size(self, image_size: tuple[int, int], levels: Sequence[str]) -> tuple[int, int]:
    """Returns height and width of the canvas of some levels of an image of this size."""
    sizes = self._padded_sizes(image_size, levels)
    rows, columns = self._grid
    return tiling.canvas_size([(rows * height, columns * width) for height, width in sizes])

  def to_canvas(self, levels: dict[str, np.ndarray]) -> tf.Tensor:
    """Returns the canvas [1, H, W, P] of maps [h, w, C], by the names of their levels."""
    planes = []
    for level in pyramid.BOX_LEVELS:
      if level in levels:
        number = pyramid.BOX_LEVELS.index(level)
        maps = self.normalization.apply_to(levels[level][np.newaxis], number)
        maps = maps if self.square is None else tiling.pad(maps, 2 * (self.square >> number,))
        planes.append(tiling.tile(maps, self.plane_channels[0]))
    return tiling.to_canvas(planes)

  def from_canvas(
    self, canvas: tf.Tensor, image_size: tuple[int, int], levels: Sequence[str]
  ) -> dict[str, tf.Tensor]:
    """Undoes `to_canvas`; maps are [h, w, C]."""
    rows, columns = self._grid
    padded = self._padded_sizes(image_size, levels)
    planes = tiling.from_canvas(canvas, [(rows * h, columns * w) for h, w in padded])
    sizes, found = pyramid.level_sizes(image_size), {}
    for level, each in zip(levels, planes):
      maps = padding.crop(tiling.untile(each, self.channels), *sizes[level])
      found[level] = self.normalization.undo(maps, pyramid.BOX_LEVELS.index(level))[0]
    return found

  def _padded_sizes(self, image_size, levels):
    """Returns the sizes of maps as they are tiled."""
    if self.square is None:
      sizes = pyramid.level_sizes(image_size)
      return [sizes[level] for level in levels]
    return [2 * (self.square >> pyramid.BOX_LEVELS.index(level),) for level in levels]
