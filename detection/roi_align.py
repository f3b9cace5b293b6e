"""ROIAlign: a map's values within boxes, resampled to a fixed size.

He et al., Mask R-CNN, ICCV 2017, section 3. This is ROIAlignV2 of detectron2 (aligned, adaptive
sampling): `detectron2/layers/roi_align.py`, `detectron2/modeling/poolers.py`.

A box is divided into S x S bins, and a bin is the mean of bilinear samples on a grid in it, as many
in each direction as the bin has elements of the map, rounded up. A sample's weights are products of
one of rows and one of columns, so all of a box is two matrix products:

  rows [S, h] @ window of the map [h, w, C] @ columns [S, w]^T

There are two forms, equal within rounding: `roi_align` takes for each box the window that it
covers; `roi_align_static` takes the whole map, so that all shapes are known before anything runs,
as XLA needs it.

Letters: B images, N boxes, C channels, S the side of the output.
"""

from __future__ import annotations

import tensorflow as tf

from detection import boxes as boxes_lib
from khuvcm_tf.ops.pyramid import BOX_LEVELS, STRIDES

# The level of a box of the canonical size (ROIPooler's canonical_level).
_CANONICAL_LEVEL = 4


def assign_levels(boxes: tf.Tensor, canonical_size: float) -> tf.Tensor:
  """Returns the level, 2 to 5, from which each box [N, 4], in pixels, is pooled: int32 [N].

  A box whose sides' mean is `canonical_size` pixels goes to level 4, of twice that to level 5.
  """
  side = tf.sqrt(boxes_lib.area(boxes))
  octaves = tf.math.log(side / canonical_size + 1e-8) / tf.math.log(2.0)
  levels = tf.cast(tf.floor(_CANONICAL_LEVEL + octaves), tf.int32)
  return tf.clip_by_value(levels, 2, 5)


def pool_levels(
  features: dict[str, tf.Tensor],
  boxes: tf.Tensor,
  image: tf.Tensor,
  size: int,
  canonical_size: float,
) -> tf.Tensor:
  """Pools each box from its own level.

  Args:
    features: `p2` to `p5`, each [B, H / stride, W / stride, C].
    boxes: [N, 4] in pixels.
    image: int32 [N], 0 .. B - 1, in which each box lies.
    size: S.
    canonical_size: as `assign_levels` takes it.

  Returns:
    [N, S, S, C].
  """
  levels, pooled, indices = assign_levels(boxes, canonical_size), [], []
  for number, level in enumerate(BOX_LEVELS, 2):
    here = tf.where(levels == number)[:, 0]
    pooled.append(
      roi_align(
        features[level], tf.gather(boxes, here), tf.gather(image, here), size, 1 / STRIDES[level]
      )
    )
    indices.append(here)
  order = tf.math.invert_permutation(tf.cast(tf.concat(indices, 0), tf.int32))
  return tf.gather(tf.concat(pooled, 0), order)


def roi_align(
  features: tf.Tensor, boxes: tf.Tensor, image: tf.Tensor, size: int, scale: float
) -> tf.Tensor:
  """Pools boxes from one map.

  Args:
    features: [B, H, W, C].
    boxes: [N, 4] in pixels.
    image: int32 [N], 0 .. B - 1, in which each box lies.
    size: S.
    scale: elements of the map for each pixel.

  Returns:
    [N, S, S, C].
  """
  channels = features.shape[-1]
  height, width = tf.shape(features)[1], tf.shape(features)[2]
  # From pixels to positions, where that of an element is its centre.
  boxes = boxes * scale - 0.5

  def pool(box_and_image):
    box, index = box_and_image
    rows, top = _weights(box[1], box[3], size, height)
    columns, left = _weights(box[0], box[2], size, width)
    high, wide = tf.shape(rows)[1], tf.shape(columns)[1]
    window = features[index, top : top + high, left : left + wide]
    window = tf.reshape(window, [high, wide * channels])
    across = tf.reshape(tf.matmul(rows, window), [size, wide, channels])
    return tf.matmul(tf.broadcast_to(columns, [size, size, wide]), across)

  spec = tf.TensorSpec([size, size, channels], features.dtype)
  return tf.map_fn(pool, (boxes, image), fn_output_signature=spec)


def pool_levels_static(
  features: dict[str, tf.Tensor], boxes: tf.Tensor, size: int, canonical_size: float
) -> tf.Tensor:
  """Pools each box from its own level, in shapes that are static if those of the arguments are.

  Args:
    features: `p2` to `p5`, each [B, H / stride, W / stride, C].
    boxes: [B, N, 4] in pixels.
    size: S.
    canonical_size: as `assign_levels` takes it.

  Returns:
    [B, N, S, S, C].
  """
  levels, pooled = assign_levels(boxes, canonical_size), 0.0
  for number, level in enumerate(BOX_LEVELS, 2):
    is_here = (levels == number)[..., tf.newaxis]
    # Boxes of other levels are empty here, and give zeros.
    here = tf.where(is_here, boxes, 0.0)
    pooled += roi_align_static(features[level], here, size, 1 / STRIDES[level])
  return pooled


def roi_align_static(features: tf.Tensor, boxes: tf.Tensor, size: int, scale: float) -> tf.Tensor:
  """Pools boxes [B, N, 4] of each image from one map [B, H, W, C], by way of the whole map.

  Args:
    features, boxes: as above, of static shapes; boxes in pixels.
    size: S.
    scale: elements of the map for each pixel.

  Returns:
    [B, N, S, S, C].
  """
  batch, height, width, channels = features.shape
  count = boxes.shape[1]
  boxes = boxes * scale - 0.5
  rows = _whole_weights(boxes[..., 1], boxes[..., 3], size, height)  # [B, N, S, H]
  columns = _whole_weights(boxes[..., 0], boxes[..., 2], size, width)
  rows = tf.reshape(rows, [batch, count * size, height])
  across = tf.matmul(rows, tf.reshape(features, [batch, height, width * channels]))
  across = tf.reshape(across, [batch, count, size, width, channels])
  return tf.matmul(
    tf.broadcast_to(columns[:, :, tf.newaxis], [*across.shape[:3], size, width]), across
  )


def mask_targets(masks: tf.Tensor, boxes: tf.Tensor, size: int) -> tf.Tensor:
  """Returns what a mask head is trained towards: masks within boxes, 0 or 1, [B, N, size, size].

  Args:
    masks: of each box's ground truth, 0 or 1, float32 [B, N, H, W].
    boxes: [B, N, 4] in pixels.
    size: of a predicted mask.
  """
  batch, count, height, width = masks.shape
  maps = tf.reshape(masks, [batch * count, height, width, 1])
  pooled = roi_align_static(maps, tf.reshape(boxes, [batch * count, 1, 4]), size, 1.0)
  return tf.cast(tf.reshape(pooled, [batch, count, size, size]) >= 0.5, tf.float32)


def _whole_weights(start: tf.Tensor, end: tf.Tensor, size: int, length: int) -> tf.Tensor:
  """Returns the weights of all rows of a map in the bins of boxes: [B, N, S, length].

  Args:
    start, end: of the boxes, as positions on the map, [B, N].
    size: S.
    length: rows of the map.
  """
  start, end = start[..., tf.newaxis, tf.newaxis], end[..., tf.newaxis, tf.newaxis]
  bin_size = (end - start) / size
  samples = tf.maximum(tf.math.ceil(bin_size), 0.0)  # of each bin
  bins = tf.range(size, dtype=tf.float32)[:, tf.newaxis]
  # Boxes are within the image: no bin has more samples.
  steps = tf.range(-(-(length + 1) // size), dtype=tf.float32)
  safe = tf.maximum(samples, 1.0)
  position = start + bins * bin_size + (steps + 0.5) * bin_size / safe  # [B, N, S, samples]
  inside = tf.logical_and(position >= -1.0, position <= length)
  weight = tf.where(tf.logical_and(inside, steps < samples), 1 / safe, 0.0)
  position = tf.clip_by_value(position, 0.0, length - 1.0)
  distance = tf.abs(position[..., tf.newaxis] - tf.range(length, dtype=tf.float32))
  return tf.reduce_sum(weight[..., tf.newaxis] * tf.maximum(1.0 - distance, 0.0), -2)


def _weights(
  start: tf.Tensor, end: tf.Tensor, size: int, length: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns the weights of a map's rows (or columns) in the bins of a box.

  Args:
    start, end: of the box, as positions on the map.
    size: S, number of bins.
    length: rows of the map.

  Returns:
    [S, n], the weights of n rows, and the first of these rows, int32.
  """
  bin_size = (end - start) / size
  samples = tf.maximum(tf.math.ceil(bin_size), 0.0)  # of each bin
  bins = tf.range(size, dtype=tf.float32)[:, tf.newaxis]
  steps = tf.range(samples)[tf.newaxis]
  position = start + bins * bin_size + (steps + 0.5) * bin_size / samples  # [S, samples]
  last = tf.cast(length - 1, tf.float32)
  inside = tf.logical_and(position >= -1.0, position <= last + 1.0)
  position = tf.clip_by_value(position, 0.0, last)
  low = tf.floor(position)
  upper_weight = position - low
  weight = tf.where(inside, 1 / samples, 0.0)
  # An empty box has no samples; it takes the first row with weight 0.
  first = tf.reduce_min(tf.concat([low[0], [last]], 0))
  count = tf.minimum(tf.reduce_max(tf.concat([low[-1], [first]], 0)) + 1.0, last) - first + 1.0
  row = tf.range(count)
  low = low[..., tf.newaxis] - first  # [S, samples, 1]
  lower = tf.where(low == row, (weight * (1 - upper_weight))[..., tf.newaxis], 0.0)
  upper = tf.where(low + 1.0 == row, (weight * upper_weight)[..., tf.newaxis], 0.0)
  return tf.reduce_sum(lower + upper, 1), tf.cast(first, tf.int32)
