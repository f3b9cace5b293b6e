"""The model that is trained: a detector with its losses, all shapes static.

All that a step computes is a function of weights and batch, in shapes that are known before: it
lowers to XLA, for a machine that has an accelerator.

Source: `RPN` and `StandardROIHeads` of detectron2 in training, by the files that
`detection.matching` and `detection.losses` name.

Letters: B images of S x S pixels, G objects, N anchors of all levels, K classes, R boxes drawn.
"""

from __future__ import annotations

import tensorflow as tf

from detection import box_head, losses, matching, proposals, roi_align
from detection.detector import Detector, Features
from detection.training.examples import Batch
from detection.training.options import DetectorOptions
from khuvcm_tf.ops.pyramid import BOX_LEVELS
from khuvcm_tf.runs import task

# Where detectron2 sets them: RPN.IOU_THRESHOLDS, POSITIVE_FRACTION; ROI_HEADS.IOU_THRESHOLDS,
# POSITIVE_FRACTION.
_RPN_LOW, _RPN_HIGH, _RPN_POSITIVE = 0.3, 0.7, 0.5
_BOX_IOU, _BOX_POSITIVE = 0.5, 0.25
_RPN_WEIGHTS = (1.0, 1.0, 1.0, 1.0)


class DetectorModel(task.TrainableModel):
  """A detector and its losses, for Keras `fit`.

  Args:
    detector: to train.
    options: of the run: how many anchors, proposals and boxes are drawn.
  """

  def __init__(self, detector: Detector, options: DetectorOptions):
    super().__init__()
    self.detector, self._options = detector, options

  def loss_and_metrics(self, batch: Batch) -> dict[str, tf.Tensor]:
    """Returns "loss", the sum, and "loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg" and,
    with a mask head that is trained, "loss_mask"."""
    features = self.detector.extract_features(batch.images, batch.sizes, training=True)
    return self.losses_of(features, batch)

  def losses_of(self, features: Features, batch: Batch) -> dict[str, tf.Tensor]:
    """Returns what `loss_and_metrics` does, from features of the batch's images."""
    # By name, so that all devices draw the same.
    seed = tf.random.experimental.stateless_split(batch.seed[0], 2, alg="philox")
    found, boxes, are_proposals = self._proposals(features, batch, seed[0])
    found.update(self._heads(features, boxes, are_proposals, batch, seed[1]))
    return {"loss": tf.add_n(list(found.values())), **found}

  def _proposals(self, features: Features, batch: Batch, seed: tf.Tensor):
    """Returns the losses of proposals, and proposals [B, P, 4] with what of them is such."""
    rpn, options = self.detector.proposal_generator, self._options
    logits, deltas = rpn.predict(features)
    anchors = rpn.anchors(features)
    every_anchor = tf.concat(list(anchors.values()), 0)
    iou = self._iou(batch, every_anchor[tf.newaxis])
    index, labels = matching.match(iou, _RPN_LOW, _RPN_HIGH, keep_best=True)
    drawn, is_drawn = matching.sample(labels, options.anchors_per_image, _RPN_POSITIVE, seed)
    labels = tf.gather(labels, drawn, batch_dims=1)
    matched = tf.gather(batch.boxes, tf.gather(index, drawn, batch_dims=1), batch_dims=1)
    objectness, localization = losses.rpn_losses(
      tf.gather(tf.concat(list(logits.values()), 1), drawn, batch_dims=1),
      tf.gather(tf.concat(list(deltas.values()), 1), drawn, batch_dims=1),
      tf.gather(every_anchor, drawn),
      tf.where(is_drawn, labels, matching.IGNORED),
      matched,
      _RPN_WEIGHTS,
      float(options.anchors_per_image * batch.images.shape[0]),
    )
    boxes, are_proposals = proposals.select_static(
      logits,
      deltas,
      anchors,
      batch.sizes,
      # Many more of a level than of an image would only be thrown away.
      2 * options.proposals_per_image,
      options.proposals_per_image,
      self.detector.config.rpn_nms_iou,
    )
    return {"loss_rpn_cls": objectness, "loss_rpn_loc": localization}, boxes, are_proposals

  def _heads(self, features: Features, boxes, are_proposals, batch: Batch, seed: tf.Tensor):
    """Returns the losses of the heads."""
    heads, options = self.detector.roi_heads, self._options
    # The ground truth is among the proposals, so that there are objects from the first step on.
    boxes = tf.concat([boxes, batch.boxes], 1)
    are_boxes = tf.concat([are_proposals, batch.classes >= 0], 1)
    _, labels = self._match(boxes, batch)
    labels = tf.where(are_boxes, labels, matching.IGNORED)
    drawn, is_drawn = matching.sample(labels, options.boxes_per_image, _BOX_POSITIVE, seed)
    boxes = tf.gather(boxes, drawn, batch_dims=1)
    features = {level: features[level] for level in BOX_LEVELS}
    found = self._boxes(features, boxes, is_drawn, batch)
    if heads.mask_head is not None and heads.mask_head.trainable:
      # Objects come first among what is drawn.
      first = int(options.boxes_per_image * _BOX_POSITIVE)
      found["loss_mask"] = self._masks(features, boxes[:, :first], is_drawn[:, :first], batch)
    return found

  def _boxes(self, features: Features, boxes, is_drawn, batch: Batch):
    """Returns the losses of classes and boxes, means over the passes; boxes are [B, R, 4]."""
    config, heads = self.detector.config, self.detector.roi_heads
    sizes = _merged(tf.repeat(batch.sizes[:, tf.newaxis], boxes.shape[1], axis=1))
    of_passes = []
    for _ in range(config.box_passes):
      truth, classes = self._targets(boxes, is_drawn, batch)
      pooled = roi_align.pool_levels_static(
        features, boxes, config.box_pool_size, config.canonical_box_size
      )
      logits, deltas = heads.box_predictor(heads.box_head(_merged(pooled)))
      of_pass = losses.box_losses(
        logits,
        deltas,
        _merged(boxes),
        _merged(classes),
        _merged(tf.gather(batch.boxes, truth, batch_dims=1)),
        _merged(is_drawn),
        config.box_weights,
      )
      of_passes.append(of_pass)
      refined = box_head.refine(_merged(boxes), logits, deltas, sizes, config)
      boxes = tf.reshape(refined, boxes.shape)
    classification, localization = (tf.add_n(each) / len(of_passes) for each in zip(*of_passes))
    return {"loss_cls": classification, "loss_box_reg": localization}

  def _masks(self, features: Features, boxes, is_drawn, batch: Batch):
    """Returns the loss of the masks of boxes [B, R, 4] whose objects have one."""
    config, heads = self.detector.config, self.detector.roi_heads
    truth, classes = self._targets(boxes, is_drawn, batch)
    pooled = roi_align.pool_levels_static(
      features, boxes, config.mask_pool_size, config.canonical_box_size
    )
    logits = heads.mask_head(_merged(pooled))
    of_class = tf.one_hot(_merged(classes), config.num_classes)
    logits = tf.einsum("nhwk,nk->nhw", logits, of_class)
    masks = tf.cast(tf.gather(batch.masks, truth, batch_dims=1), tf.float32)
    targets = roi_align.mask_targets(masks, boxes, 2 * config.mask_pool_size)
    has_mask = tf.gather(batch.has_mask, truth, batch_dims=1)
    is_given = tf.logical_and(classes < config.num_classes, has_mask)
    return losses.mask_loss(logits, _merged(targets), _merged(is_given))

  def _targets(self, boxes: tf.Tensor, is_drawn: tf.Tensor, batch: Batch):
    """Returns the object of each box [B, R, 4], and its class, K where the box is none."""
    truth, labels = self._match(boxes, batch)
    is_object = tf.logical_and(labels == matching.POSITIVE, is_drawn)
    classes = tf.gather(batch.classes, truth, batch_dims=1)
    return truth, tf.where(is_object, classes, self.detector.config.num_classes)

  def _match(self, boxes: tf.Tensor, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the object of each box [B, R, 4], and whether the box is one."""
    return matching.match(self._iou(batch, boxes), _BOX_IOU, _BOX_IOU, keep_best=False)

  def _iou(self, batch: Batch, boxes: tf.Tensor) -> tf.Tensor:
    """Returns the IoU of objects with boxes, [B, G, N]; -1 for what is no object."""
    iou = matching.pairwise_iou(batch.boxes, boxes)
    return tf.where((batch.classes >= 0)[..., tf.newaxis], iou, -1.0)


def _merged(values: tf.Tensor) -> tf.Tensor:
  """Returns [B, R, ...] as [B R, ...]."""
  return tf.reshape(values, [-1, *values.shape[2:]])
