"""A detector as a whole: its two entrances, batches, sizes, and images without objects."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from detection import box_head
from detection import boxes as boxes_lib
from detection.config import Config, ConfigError
from detection.detector import Detector
from khuvcm_tf.ops.pyramid import LEVELS, STRIDES


@pytest.fixture(scope="module")
def photo():
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (90, 70, 3)).astype(np.uint8)


def _equal(first, second):
  for a, b in zip(first, second):
    np.testing.assert_array_equal(a, b)


def test_levels_have_their_strides_and_channels(tiny_detector, photo):
  features = tiny_detector.extract_features(photo[np.newaxis])
  assert tuple(features) == LEVELS
  for level in LEVELS[:-1]:
    assert features[level].shape == (1, 96 // STRIDES[level], 96 // STRIDES[level], 16)
  assert features["p6"].shape == (1, 2, 2, 16)


def test_features_go_out_and_in_bit_for_bit(tiny_detector, photo):
  whole = tiny_detector(photo[np.newaxis])
  features = tiny_detector.extract_features(photo[np.newaxis])
  assert int(whole.count[0]) > 5
  _equal(whole, tiny_detector.from_features(features, [[90, 70]]))


def test_other_features_give_other_detections(tiny_detector, photo):
  features = tiny_detector.extract_features(photo[np.newaxis])
  whole = tiny_detector.from_features(features, [[90, 70]])
  changed = {**features, "p2": features["p2"] + 1.0}
  assert np.abs(whole.scores - tiny_detector.from_features(changed, [[90, 70]]).scores).max() > 0


def test_a_graph_gives_what_python_gives(tiny_detector, photo):
  spec = [tf.TensorSpec([None, None, None, 3], tf.uint8), tf.TensorSpec([None, 2], tf.int32)]
  graph = tf.function(lambda x, sizes: tiny_detector(x, sizes), input_signature=spec)
  for image in (photo, photo[:33, :64]):
    plain = tiny_detector(image[np.newaxis])
    got = graph(image[np.newaxis], [image.shape[:2]])
    np.testing.assert_array_equal(got.count, plain.count)
    np.testing.assert_allclose(got.boxes, plain.boxes, atol=1e-3)
    np.testing.assert_allclose(got.scores, plain.scores, atol=1e-5)


def test_a_batch_of_sizes_gives_what_each_image_gives_alone(tiny_detector, photo):
  images = [photo, photo[10:50], photo[:, :40]]
  sizes = [image.shape[:2] for image in images]
  batch = np.full((3, 90, 70, 3), 255, np.uint8)
  for number, image in enumerate(images):
    batch[number, : image.shape[0], : image.shape[1]] = image
  together = tiny_detector(batch, sizes)
  for number, image in enumerate(images):
    # The same padding: zeros beyond it reach the border through biases, in detectron2 too.
    padded = np.zeros((1, 90, 70, 3), np.uint8)
    padded[0, : image.shape[0], : image.shape[1]] = image
    alone = tiny_detector(padded, [image.shape[:2]])
    assert int(together.count[number]) == int(alone.count[0])
    np.testing.assert_allclose(together.boxes[number], alone.boxes[0], atol=1e-3)
    np.testing.assert_allclose(together.masks[number], alone.masks[0], atol=1e-5)


def test_detections_are_as_the_config_limits_them(tiny_config, tiny_detector, photo):
  detector = Detector(dataclasses.replace(tiny_config, max_detections=4, min_score=0.4))
  detector.assign_weights({k: v.numpy() for k, v in tiny_detector.named_weights().items()})
  found = detector(photo[np.newaxis])
  assert found.boxes.shape == (1, 4, 4)
  scores = found.scores[0, : int(found.count[0])].numpy()
  assert (scores > 0.4).all() and (np.diff(scores) <= 0).all()
  boxes = found.boxes[0].numpy()
  assert boxes.min() >= 0 and boxes[:, 2].max() <= 70 and boxes[:, 3].max() <= 90


def test_a_second_pass_of_the_box_head_sees_the_boxes_that_the_first_found(
  tiny_config, tiny_detector, photo
):
  config = dataclasses.replace(tiny_config, box_passes=2)
  detector = Detector(config)
  detector.assign_weights({k: v.numpy() for k, v in tiny_detector.named_weights().items()})
  features, size = detector.extract_features(photo[np.newaxis]), tf.constant([[90, 70]])
  proposals = detector.proposal_generator(features, size)
  heads, image = detector.roi_heads, tf.zeros([int(proposals.count[0])], tf.int32)
  boxes = proposals.boxes[0, : len(image)].numpy()
  logits, deltas = heads.predict_boxes(features, boxes, image)
  best = np.argmax(logits[:, :-1], 1)
  moved = boxes_lib.apply_deltas(
    boxes, deltas.numpy()[np.arange(len(best)), best], config.box_weights
  )
  moved = np.clip(moved, 0, [70, 90, 70, 90]).astype(np.float32)
  assert np.abs(moved - boxes).max() > 0.1
  second, deltas = heads.predict_boxes(features, moved, image)
  expected = box_head.select(
    (tf.nn.softmax(logits) + tf.nn.softmax(second))[tf.newaxis] / 2,
    *(deltas[tf.newaxis], moved[np.newaxis], proposals.count, size, config),
  )
  found = detector(photo[np.newaxis])
  assert int(found.count[0]) == int(expected.count[0]) > 0
  np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
  np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)


def test_an_image_without_detections_gives_none(tiny_config, photo):
  tiny_config = dataclasses.replace(tiny_config, min_score=1.0)
  found = Detector(tiny_config)(np.stack([photo, photo]))
  assert found.count.numpy().tolist() == [0, 0]
  assert not found.masks.numpy().any() and found.masks.shape == (2, 20, 28, 28)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (37, 2)])
def test_any_size_is_taken(tiny_detector, size):
  found = tiny_detector(np.zeros((1, *size, 3), np.uint8))
  assert np.isfinite(found.boxes.numpy()).all()


def test_weights_that_are_not_all_or_of_another_shape_are_refused(tiny_detector):
  weights = {name: value.numpy() for name, value in tiny_detector.named_weights().items()}
  name = "backbone.fpn_lateral2.bias"
  with pytest.raises(ValueError, match=rf"^weights \['{name}'\] stand on one side only$"):
    tiny_detector.assign_weights({k: v for k, v in weights.items() if k != name})
  with pytest.raises(ValueError, match=rf"^weight {name} has shape \(3,\), expected \(16,\)$"):
    tiny_detector.assign_weights({**weights, name: np.zeros(3)})


def test_weights_have_the_names_of_detectron2(tiny_detector):
  names = tiny_detector.named_weights()
  assert "backbone.bottom_up.res3.0.shortcut.norm.running_var" in names
  assert "proposal_generator.rpn_head.anchor_deltas.weight" in names
  assert len(names) == len(tiny_detector.weights)


def test_an_unknown_norm_is_refused():
  with pytest.raises(ConfigError, match=r"^found norm 'group', expected one of frozen, batch"):
    Detector(Config("resnet18", norm="group"))


def test_an_unknown_backbone_is_refused():
  with pytest.raises(ConfigError, match=r"^found backbone 'vgg', expected one of nanodet_g, res"):
    Detector(Config("vgg"))


def test_a_detector_with_the_trunk_of_nanodet_runs():
  config = Config("nanodet_g", num_classes=2, fpn_channels=8, box_fc_channels=8, num_proposals=9)
  assert Detector(config)(np.zeros((1, 64, 64, 3), np.uint8)).count.shape == (1,)


def test_a_config_comes_back_from_json(tiny_config):
  assert Config.from_json(tiny_config.to_json()) == tiny_config
  assert Config.from_json({"backbone": "resnet50", "aspect_ratios": [1, 2]}).aspect_ratios == (1, 2)


@pytest.mark.parametrize(
  "fields, message",
  [
    ({}, r"^found the fields \['backbone'\] on one side only"),
    ({"backbone": "resnet50", "speed": 3}, r"^found the fields \['speed'\] on one side only"),
    ({"backbone": 3}, r"^found backbone = 3, expected str"),
    ({"backbone": "resnet50", "num_classes": -1}, r"^found num_classes = -1, expected int"),
    ({"backbone": "resnet50", "num_classes": True}, r"^found num_classes = True, expected int"),
    ({"backbone": "resnet50", "pixel_mean": ["a"]}, r"^found pixel_mean = \['a'\], expected tuple"),
    (
      {"backbone": "resnet50", "anchor_sizes": [8.0]},
      r"^found anchor_sizes = .*, expected 5 numbe",
    ),
    (
      {"backbone": "resnet50", "aspect_ratios": [0.0]},
      r"^found aspect_ratios = .*, expected numbe",
    ),
    (
      {"backbone": "resnet50", "aspect_ratios": []},
      r"^found aspect_ratios = .*, expected numbers ",
    ),
    ({"backbone": "resnet50", "nms_iou": 2.0}, r"^found nms_iou = 2.0, expected 0 to 1"),
  ],
)
def test_a_config_that_is_none_is_refused(fields, message):
  with pytest.raises(ConfigError, match=message):
    Config.from_json(fields)
