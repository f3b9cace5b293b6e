"""Each operation of a detector alone, against detectron2's on the same inputs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from detection import (
  anchors,
  box_head,
  boxes,
  fpn,
  losses,
  matching,
  postprocessing,
  proposals,
  roi_align,
)
from detection.box_head import Detections
from detection.config import Config
from detection.detector import Detector
from detection.layers import Conv2D, ConvTranspose2x2, FrozenBatchNorm, max_pool_3x3, named_weights
from detection.predictor import resize, resized_shape
from detection.resnet import BottleneckBlock
from khuvcm_tf.layers import weights_assigned
from khuvcm_tf.ops.pyramid import BOX_LEVELS, LEVELS
from tests.parity import detectron2_weights
from tests.parity.detectron2_reference import operation

_CONFIG = Config("resnet18", width=4, fpn_channels=4, box_fc_channels=4)


def nhwc(array: np.ndarray) -> np.ndarray:
  """Returns [B, C, H, W] as [B, H, W, C]."""
  return array.transpose(0, 2, 3, 1)


def assert_near(got, want: np.ndarray, tolerance: float = 2e-5):
  got = np.asarray(got)
  assert got.shape == want.shape
  gap = np.abs(got.astype(np.float64) - want) / np.maximum(1.0, np.abs(want))
  assert gap.max(initial=0.0) <= tolerance


def test_anchors():
  stored = operation("anchors")
  sizes = dict(zip(LEVELS, stored["grid_sizes"].tolist()))
  for number, level in enumerate(LEVELS):
    cell = anchors.cell_anchors(_CONFIG.anchor_sizes[number], _CONFIG.aspect_ratios)
    assert_near(cell, stored["cell_anchors"][number], 1e-6)
    got = anchors.grid_anchors(*sizes[level], int(stored["strides"][number]), cell)
    assert_near(got, stored[level], 1e-6)


@pytest.mark.parametrize("name", ["apply_deltas_w1", "apply_deltas_w10"])
def test_apply_deltas(name):
  stored = operation(name)
  deltas = stored["deltas"].reshape(-1, 3, 4)
  got = boxes.apply_deltas(stored["boxes"][:, np.newaxis], deltas, stored["weights"])
  assert_near(got, stored["out"].reshape(-1, 3, 4))


@pytest.mark.parametrize("name", ["get_deltas_w1", "get_deltas_w10"])
def test_get_deltas(name):
  stored = operation(name)
  assert_near(boxes.get_deltas(stored["src"], stored["target"], stored["weights"]), stored["out"])


@pytest.mark.parametrize("size", [7, 14])
def test_roi_align(size):
  stored = operation(f"roi_align_{size}")
  got = roi_align.roi_align(
    nhwc(stored["features"]),
    stored["boxes"],
    stored["batch_index"].astype(np.int32),
    size,
    float(stored["spatial_scale"]),
  )
  assert_near(got, nhwc(stored["out"]))


@pytest.mark.parametrize("size", [7, 14])
def test_pool_levels(size):
  stored, features = operation(f"roi_pooler_{size}"), operation("roi_pooler_features")
  levels = {level: tf.constant(nhwc(features[level])) for level in BOX_LEVELS}
  image = tf.zeros([len(stored["boxes"])], tf.int32)
  got = roi_align.pool_levels(levels, tf.constant(stored["boxes"]), image, size, 224.0)
  assert_near(got, nhwc(stored["out"]))


def test_assign_levels():
  stored = operation("assign_levels")
  np.testing.assert_array_equal(roi_align.assign_levels(stored["boxes"], 224.0), stored["levels"])


@pytest.mark.parametrize(
  "name", ["nms_exact", "nms_large_50", "nms_small_70", "nms_small_ties_50", "nms_small_50"]
)
def test_nms(name):
  stored = operation(name)
  limit = len(stored["boxes"])
  got = boxes.nms(stored["boxes"], stored["scores"], float(stored["iou_threshold"]), limit)
  np.testing.assert_array_equal(got, stored["keep_single_class"])


@pytest.mark.parametrize("name", ["rpn_select_100_60", "rpn_select_1000_1000"])
def test_selection_of_proposals(name):
  stored, inputs, grid = operation(name), operation("rpn_select_in"), operation("anchors")
  config = dataclasses.replace(
    _CONFIG,
    rpn_top_k=int(stored["pre_nms_topk"]),
    num_proposals=int(stored["post_nms_topk"]),
    rpn_nms_iou=float(stored["nms_thresh"]),
  )
  got = proposals.select(
    {level: tf.constant(inputs[f"logits_{level}"][np.newaxis]) for level in LEVELS},
    {level: tf.constant(inputs[f"deltas_{level}"][np.newaxis]) for level in LEVELS},
    {level: tf.constant(grid[level]) for level in LEVELS},
    stored["image_size"][np.newaxis].astype(np.int32),
    config,
  )
  count = int(got.count[0])
  assert_near(got.boxes[0, :count], stored["boxes"])
  np.testing.assert_array_equal(got.logits[0, :count], stored["logits"])
  assert not got.boxes[0, count:].numpy().any()


def test_selection_of_detections():
  stored = operation("fast_rcnn_inference")
  config = dataclasses.replace(
    _CONFIG,
    min_score=float(stored["score_thresh"]),
    nms_iou=float(stored["nms_thresh"]),
    max_detections=int(stored["topk"]),
  )
  count = len(stored["proposals"])
  got = box_head.select(
    stored["probs"][np.newaxis],
    stored["deltas"].reshape(1, count, -1, 4),
    stored["proposals"][np.newaxis],
    np.array([count], np.int32),
    stored["image_size"][np.newaxis].astype(np.int32),
    config,
  )
  assert int(got.count[0]) == len(stored["boxes"])
  assert_near(got.boxes[0], stored["boxes"])
  np.testing.assert_array_equal(got.scores[0], stored["scores"])
  np.testing.assert_array_equal(got.classes[0], stored["classes"])


def test_merge_of_the_pyramid():
  stored = operation("fpn_merge")
  got = fpn.merge(tf.constant(nhwc(stored["coarse"])), tf.constant(nhwc(stored["lateral"])))
  assert_near(got, nhwc(stored["out"]), 1e-6)


def test_p6():
  stored = operation("p6_max_pool")
  np.testing.assert_array_equal(nhwc(stored["p5"])[:, ::2, ::2], nhwc(stored["out"]))


@pytest.mark.parametrize(
  "name", ["conv7x7_s2", "conv3x3_s2_even", "conv3x3_s2_odd", "conv3x3_grouped32_s2", "conv1x1_s2"]
)
def test_convolution(name):
  stored = operation(name)
  kernel = stored["weight"].transpose(2, 3, 1, 0)
  groups = int(stored["groups"])
  layer = Conv2D(
    kernel.shape[2] * groups, kernel.shape[3], len(kernel), int(stored["stride"]), groups
  )
  layer.weight.assign(kernel)
  assert_near(tf.function(layer)(nhwc(stored["x"])), nhwc(stored["out"]))


@pytest.mark.parametrize("name", ["stem_max_pool", "stem_max_pool_negative"])
def test_max_pool(name):
  stored = operation(name)
  np.testing.assert_array_equal(max_pool_3x3(tf.constant(nhwc(stored["x"]))), nhwc(stored["out"]))


def test_transposed_convolution():
  stored = operation("mask_deconv")
  kernel = stored["weight"].transpose(2, 3, 1, 0)
  layer = ConvTranspose2x2(kernel.shape[3], kernel.shape[2])
  layer.weight.assign(kernel)
  layer.bias.assign(stored["bias"])
  assert_near(layer(nhwc(stored["x"])), np.maximum(nhwc(stored["out"]), 0.0))


def test_frozen_batch_norm():
  stored = operation("frozen_batch_norm")
  layer = FrozenBatchNorm(stored["x"].shape[1], float(stored["eps"]))
  for name, weight in named_weights(layer).items():
    weight.assign(stored[name])
  assert_near(layer(nhwc(stored["x"])), nhwc(stored["out"]))


@pytest.mark.parametrize(
  "name, arguments",
  [
    ("bottleneck_res3.0_msra_r50_stride_in_1x1", (256, 128, 512, 2, 1, True)),
    ("bottleneck_res3.0_x101_stride_in_3x3", (256, 512, 512, 2, 32, False)),
  ],
)
def test_bottleneck(name, arguments):
  stored = operation(name)
  with weights_assigned():
    block = BottleneckBlock(*arguments)
  for key, weight in named_weights(block).items():
    shape = weight.shape
    if len(shape) == 4:
      shape = shape[3], shape[2], shape[0], shape[1]
    full = f"backbone.bottom_up.res3.0.{key}"
    value = detectron2_weights.make_weight(full, shape)
    weight.assign(value.transpose(2, 3, 1, 0) if value.ndim == 4 else value)
  assert_near(tf.function(block)(nhwc(stored["x"])), nhwc(stored["out"]))


def test_paste():
  stored = operation("paste_masks")
  got = postprocessing.paste(
    tf.constant(stored["masks"]),
    tf.constant(stored["boxes"]),
    stored["image_size"].astype(np.int32),
  )
  np.testing.assert_array_equal(got, stored["out"])


def test_clip_and_nonempty():
  stored = operation("clip_boxes")
  clipped = boxes.clip(tf.constant(stored["boxes"]), stored["image_size"])
  np.testing.assert_array_equal(clipped, stored["out"])
  np.testing.assert_array_equal(boxes.are_nonempty(clipped), stored["nonempty"])


def test_boxes_in_the_original():
  stored = operation("postprocess")
  count = len(stored["boxes"])
  detections = Detections(
    tf.constant(stored["boxes"][np.newaxis]),
    tf.range(count, dtype=tf.float32)[tf.newaxis],
    tf.zeros([1, count], tf.int32),
    tf.constant([count]),
  )
  size, original = (stored[key].astype(np.int32) for key in ("image_size", "output_size"))
  got = postprocessing.to_original(detections, 0, size, original)
  assert_near(got.boxes, stored["out_boxes"])
  np.testing.assert_array_equal(got.scores, stored["kept_index"])


def test_resized_shapes():
  stored = operation("resize_shape")
  short, long = int(stored["short"]), int(stored["max_size"])
  got = [resized_shape(*hw, short, long) for hw in stored["hw"].tolist()]
  np.testing.assert_array_equal(got, stored["out"])


@pytest.mark.parametrize("name", ["resize_pil_down", "resize_pil_up", "resize_pil_mixed"])
def test_resize(name):
  stored = operation(name)
  got = resize(stored["image_bgr"], stored["out"].shape[:2])
  np.testing.assert_array_equal(got, stored["out"])


@pytest.mark.parametrize("name", ["preprocess_R", "preprocess_X_101"])
def test_preprocessing_of_a_batch(name):
  stored = operation(name)
  config = dataclasses.replace(_CONFIG, pixel_std=tuple(stored["pixel_std"].tolist()))
  sizes = stored["image_sizes"]
  batch = np.full((2, *sizes.max(0), 3), 77, np.uint8)  # padding may hold anything
  for number, (height, width) in enumerate(sizes):
    batch[number, :height, :width] = stored[f"image{number}_bgr"][..., ::-1]
  got = Detector(config).preprocess(batch, sizes.astype(np.int32))
  assert_near(got, nhwc(stored["out"]))


def _all_anchors() -> np.ndarray:
  stored = operation("anchors")
  return np.concatenate([stored[level] for level in LEVELS])


def _iou(truth: np.ndarray, others: np.ndarray) -> tf.Tensor:
  return matching.pairwise_iou(tf.constant(truth[np.newaxis]), tf.constant(others[np.newaxis]))


def test_pairwise_iou():
  stored = operation("pairwise_iou")
  assert_near(matching.pairwise_iou(stored["gt"], stored["anchors"]), stored["out"])


def test_matching_of_anchors():
  stored = operation("matcher_rpn")
  low, high = stored["thresholds"].tolist()
  index, labels = matching.match(_iou(stored["gt"], _all_anchors()), low, high, keep_best=True)
  np.testing.assert_array_equal(labels[0], stored["labels"])
  np.testing.assert_array_equal(index[0], stored["matched_index"])


def test_matching_of_proposals():
  stored = operation("matcher_roi")
  threshold = float(stored["threshold"])
  iou = _iou(stored["gt"], stored["proposals"])
  index, labels = matching.match(iou, threshold, threshold, keep_best=False)
  np.testing.assert_array_equal(labels[0], stored["labels"])
  np.testing.assert_array_equal(index[0], stored["matched_index"])


def test_matching_at_the_thresholds():
  stored = operation("matcher_edges")
  index, labels = matching.match(tf.constant(stored["quality"][np.newaxis]), 0.3, 0.7, True)
  np.testing.assert_array_equal(labels[0], stored["labels"])
  np.testing.assert_array_equal(index[0], stored["matched_index"])


def test_matching_without_ground_truth():
  count = int(operation("matcher_no_gt")["n"])
  index, labels = matching.match(tf.fill([1, 3, count], -1.0), 0.3, 0.7, True)
  np.testing.assert_array_equal(labels[0], operation("matcher_no_gt")["labels"])
  np.testing.assert_array_equal(index[0], operation("matcher_no_gt")["matched_index"])


@pytest.mark.parametrize("beta", ["0.000", "0.111", "1.000"])
def test_smooth_l1(beta):
  stored = operation(f"smooth_l1_beta_{beta}")
  got = losses.smooth_l1(stored["pred"], stored["target"], float(stored["beta"]))
  assert_near(got, stored["out_none"])


def test_losses_of_proposals_and_their_gradients():
  stored, inputs = operation("rpn_losses"), operation("rpn_select_in")
  logits = tf.Variable(np.concatenate([inputs[f"logits_{level}"] for level in LEVELS])[np.newaxis])
  deltas = tf.Variable(np.concatenate([inputs[f"deltas_{level}"] for level in LEVELS])[np.newaxis])
  with tf.GradientTape() as tape:
    objectness, box = losses.rpn_losses(
      logits,
      deltas,
      _all_anchors(),
      stored["labels"][np.newaxis].astype(np.int32),
      stored["matched_gt_boxes"][np.newaxis],
      (1.0, 1.0, 1.0, 1.0),
      float(stored["batch_size_per_image"]),
    )
    total = objectness + box
  assert_near(objectness, stored["loss_rpn_cls"])
  assert_near(box, stored["loss_rpn_loc"])
  gradients = tape.gradient(total, [logits, deltas])
  assert_near(gradients[0][0], stored["grad_logits"], 1e-6)
  assert_near(gradients[1][0], stored["grad_deltas"], 1e-6)


def test_losses_of_boxes_and_their_gradients():
  stored = operation("roi_losses")
  logits = tf.Variable(stored["cls_logits"])
  deltas = tf.Variable(stored["bbox_deltas"].reshape(len(stored["cls_logits"]), -1, 4))
  with tf.GradientTape() as tape:
    classification, box = losses.box_losses(
      logits,
      deltas,
      stored["proposal_boxes"],
      stored["gt_classes"].astype(np.int32),
      stored["matched_gt_boxes"],
      np.ones(len(stored["gt_classes"]), bool),
      (10.0, 10.0, 5.0, 5.0),
    )
    total = classification + box
  assert_near(classification, stored["loss_cls"])
  assert_near(box, stored["loss_box_reg"])
  gradients = tape.gradient(total, [logits, deltas])
  assert_near(gradients[0], stored["grad_cls_logits"], 1e-6)
  assert_near(gradients[1], stored["grad_bbox_deltas"].reshape(deltas.shape), 1e-6)


def test_targets_and_loss_of_masks():
  stored, inputs = operation("mask_loss_bitmask"), operation("mask_loss_in")
  masks = inputs["gt_bitmasks"][stored["gt_index"]].astype(np.float32)
  targets = roi_align.mask_targets(
    tf.constant(masks[np.newaxis]), tf.constant(stored["proposal_boxes"][np.newaxis]), 28
  )[0]
  np.testing.assert_array_equal(targets, stored["targets_28"].astype(np.float32))
  given = np.ones(len(targets), bool)
  assert_near(
    losses.mask_loss(inputs["mask_logits_of_gt_class"], targets, given), stored["loss_mask"]
  )


@pytest.mark.parametrize("size", [7, 14])
def test_static_roi_align_is_the_other_form(size):
  stored, features = operation(f"roi_pooler_{size}"), operation("roi_pooler_features")
  levels = {level: tf.constant(nhwc(features[level])) for level in BOX_LEVELS}
  got = roi_align.pool_levels_static(levels, tf.constant(stored["boxes"][np.newaxis]), size, 224.0)
  assert_near(got[0], nhwc(stored["out"]))
