"""The thin part between inputs and networks: colour, chroma's resolution, padding and scale.

An input is an image or a raw video frame. Its planes are a tuple at its own size, floats on the
8-bit scale 0..255:

  Rgb        rgb [B, H, W, 3]
  Ycbcr444   ycbcr [B, H, W, 3]
  Ycbcr420   y [B, H, W, 1] and uv [B, ceil(H/2), ceil(W/2), 2]

Colour is BT.601 at full range; chroma is subsampled and enlarged with centred siting (`ops.color`).
Networks take one tensor of samples, 0..1, whose sides are padded by repeating the last row and
column. Those of 4:2:0 have half the image's sides: four values of luma, row by row, then Cb, Cr.
"""

from __future__ import annotations

import abc

import tensorflow as tf

from khuvcm_tf.ops import color, padding

Planes = tuple[tf.Tensor, ...]


class InputFormat(abc.ABC):
  """From inputs to planes, from planes to a network's samples, and both ways back.

  Attributes:
    components: names of an input's components.
    component_weights: of the components' errors in a distortion, by default.
    subsampling: pixels along the side of a network's sample.
    plane_channels: channels of each plane.
    has_frames: whether planes are those of raw 4:2:0 video, so that frames are inputs too.
  """

  components: tuple[str, ...]
  component_weights: tuple[float, ...]
  subsampling: int = 1
  plane_channels: tuple[int, ...] = (3,)
  has_frames: bool = False

  @abc.abstractmethod
  def from_rgb(self, rgb: tf.Tensor, dtype=tf.float32) -> Planes:
    """Returns the planes of RGB images [B, H, W, 3], 0..255 of any type."""

  @abc.abstractmethod
  def to_rgb(self, planes: Planes) -> tf.Tensor:
    """Returns planes as RGB [B, H, W, 3], neither rounded nor clipped."""

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
