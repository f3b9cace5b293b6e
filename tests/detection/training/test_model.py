"""The losses of a step: what they see, that they fall, and that the step lowers to XLA."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

_LOSSES = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"}


def _losses(model, batch) -> dict[str, float]:
  return {name: float(value) for name, value in model.loss_and_metrics(batch).items()}


def test_the_loss_is_the_sum_of_five(model, batch):
  metrics = _losses(model, batch)
  assert set(metrics) == {"loss", *_LOSSES}
  assert metrics["loss"] == pytest.approx(sum(metrics[name] for name in _LOSSES), rel=1e-5)


def test_losses_begin_where_nothing_is_known(model, batch):
  metrics = model.loss_and_metrics(batch)
  # All anchors of both images are drawn at even odds; classes and masks are as likely as others.
  assert float(metrics["loss_rpn_cls"]) == pytest.approx(math.log(2), rel=0.1)
  assert float(metrics["loss_cls"]) == pytest.approx(math.log(3), rel=0.1)
  assert float(metrics["loss_mask"]) == pytest.approx(math.log(2), rel=0.1)


def test_an_object_without_a_mask_trains_no_mask(model, batch):
  none = batch._replace(has_mask=tf.zeros_like(batch.has_mask))
  assert float(model.loss_and_metrics(none)["loss_mask"]) == 0.0


def test_images_without_objects_train_background_alone(model, batch):
  empty = batch._replace(classes=-tf.ones_like(batch.classes), boxes=tf.zeros_like(batch.boxes))
  metrics = _losses(model, empty)
  assert metrics["loss_rpn_loc"] == metrics["loss_box_reg"] == metrics["loss_mask"] == 0.0
  assert metrics["loss_rpn_cls"] > 0 and metrics["loss_cls"] > 0


def test_what_is_padding_changes_nothing(model, batch):
  other = batch.boxes.numpy()
  other[1, 1:] = [[1, 1, 63, 63]]
  masks = np.ones_like(batch.masks)
  masks[0, :2] = batch.masks[0, :2]
  images = batch.images.numpy()
  images[1, 40:] = 255
  # Batch statistics would see the padding of images, as detectron2's frozen ones do not.
  changed = batch._replace(boxes=tf.constant(other), masks=tf.constant(masks))
  changed = changed._replace(images=tf.constant(images))
  for name, value in model.loss_and_metrics(batch).items():
    assert float(model.loss_and_metrics(changed)[name]) == pytest.approx(float(value), rel=1e-5)


def test_a_mask_head_that_is_not_trained_has_no_loss(make_model, batch):
  model = make_model()
  model.detector.roi_heads.mask_head.trainable = False
  assert set(model.loss_and_metrics(batch)) == {"loss", *_LOSSES} - {"loss_mask"}


def test_a_second_pass_over_boxes_that_stay_has_the_losses_of_the_first(make_model, batch):
  of_passes = []
  for passes in (1, 2):
    model = make_model(box_passes=passes)
    weight = model.detector.roi_heads.box_predictor.bbox_pred.weight
    weight.assign(tf.zeros_like(weight))
    of_passes.append(_losses(model, batch))
  assert of_passes[0] == pytest.approx(of_passes[1], rel=1e-5)


def test_the_second_pass_is_trained_on_the_boxes_of_the_first(make_model, batch):
  of_passes = []
  for passes in (1, 2):
    model = make_model(box_passes=passes)
    bias = model.detector.roi_heads.box_predictor.bbox_pred.bias
    # Twice a box's width aside, where no object is.
    bias.assign(tf.tile([20.0, 0.0, 0.0, 0.0], [bias.shape[0] // 4]))
    of_passes.append(_losses(model, batch)["loss_box_reg"])
  assert of_passes[1] == pytest.approx(of_passes[0] / 2, rel=1e-5)


def test_steps_lower_the_loss(model, batch):
  model.compile(tf.keras.optimizers.Adam(3e-3))
  step = tf.function(model.train_step, autograph=False)
  losses = [float(step(batch)["loss"]) for _ in range(20)]
  assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])


def test_a_step_lowers_to_xla_with_static_shapes(model, batch):
  @tf.function(jit_compile=True, autograph=False)
  def gradients(*fields):
    with tf.GradientTape() as tape:
      loss = model.loss_and_metrics(type(batch)(*fields))["loss"]
    return loss, tape.gradient(loss, model.trainable_variables)

  text = gradients.experimental_get_compiler_ir(*batch)(stage="hlo")
  assert "ENTRY" in text and "<=" not in text  # dynamic dimensions are written as f32[<=n]
