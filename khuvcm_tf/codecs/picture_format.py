"""The thin part between pictures and networks: colour, chroma's resolution, padding and scale.

A picture is a tuple of planes at its own size, floats on the 8-bit scale 0..255:

  Rgb        rgb [B, H, W, 3]
  Ycbcr444   ycbcr [B, H, W, 3]
  Ycbcr420   y [B, H, W, 1] and uv [B, ceil(H/2), ceil(W/2), 2]

Colour is BT.601 at full range; chroma is subsampled and enlarged with centred siting (`ops.color`).
Networks see one tensor of samples, 0..1, whose sides are padded by repeating the last row and
column. Those of 4:2:0 have half the picture's sides: four values of luma, row by row, then Cb, Cr.
"""

from __future__ import annotations

import tensorflow as tf

from khuvcm_tf.ops import color, padding

Planes = tuple[tf.Tensor, ...]


class Rgb:
  """RGB.

  Attributes:
    components: of a picture.
    weights: of the components' errors in a distortion, by default.
    side: pixels along the side of a network's sample.
    has_frames: whether planes are those of raw 4:2:0 video.
  """

  components = ("r", "g", "b")
  weights = (1.0, 1.0, 1.0)
  side = 1
  has_frames = False

  def planes(self, rgb: tf.Tensor, dtype=tf.float32) -> Planes:
    """Returns the planes of RGB pictures [B, H, W, 3], 0..255 of any type."""
    return (tf.cast(rgb, dtype),)

  def rgb(self, planes: Planes) -> tf.Tensor:
    """Returns planes as RGB [B, H, W, 3], neither rounded nor clipped."""
    return planes[0]

  def grey(self, planes: Planes) -> tf.Tensor:
    """Returns what stands for a grey picture [B, H, W, 1], neither rounded nor clipped."""
    return planes[0][..., :1]

  def to_network(self, planes: Planes, multiple: int, dtype) -> tf.Tensor:
    """Returns samples in `dtype`; the sides in pixels become multiples of `multiple`."""
    return tf.cast(padding.pad_to_multiple(planes[0], multiple), dtype) / 255.0

  def from_network(self, samples: tf.Tensor, height, width) -> Planes:
    """Returns the planes of pictures of `height` and `width` pixels."""
    return (padding.crop(samples, height, width) * 255.0,)

  def squared_errors(self, originals: Planes, decoded: Planes) -> tf.Tensor:
    """Returns the mean squared error of each component over its own samples, [B, components]."""
    return tf.concat(
      [
        tf.reduce_mean(tf.math.squared_difference(a, b), axis=(1, 2))
        for a, b in zip(originals, decoded)
      ],
      axis=-1,
    )


class Ycbcr444(Rgb):
  """YCbCr with chroma at luma's resolution."""

  components = ("y", "cb", "cr")
  weights = (4.0, 1.0, 1.0)

  def planes(self, rgb, dtype=tf.float32):
    return (color.rgb_to_ycbcr(tf.cast(rgb, dtype)),)

  def rgb(self, planes):
    return color.ycbcr_to_rgb(planes[0])


class Ycbcr420(Ycbcr444):
  """YCbCr with chroma at half of luma's resolution."""

  side = 2
  has_frames = True

  def planes(self, rgb, dtype=tf.float32):
    return color.to_420(color.rgb_to_ycbcr(tf.cast(rgb, dtype)))

  def rgb(self, planes):
    return color.ycbcr_to_rgb(color.to_444(*planes))

  def to_network(self, planes, multiple, dtype):
    y = padding.pad_to_multiple(planes[0], multiple)
    uv = padding.pad_to_multiple(planes[1], multiple // 2)
    return tf.cast(tf.concat([tf.nn.space_to_depth(y, 2), uv], axis=-1), dtype) / 255.0

  def from_network(self, samples, height, width):
    y = tf.nn.depth_to_space(samples[..., :4], 2)
    planes = y, samples[..., 4:]
    sizes = (height, width), ((height + 1) // 2, (width + 1) // 2)
    return tuple(padding.crop(plane, *size) * 255.0 for plane, size in zip(planes, sizes))
