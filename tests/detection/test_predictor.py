"""Images as they are: sizes on the way in, pixels of the image on the way out."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from detection import postprocessing
from detection.predictor import Predictor, resized_shape


@pytest.fixture(scope="module")
def predictor(tiny_detector):
  return Predictor(tiny_detector, ("cat", "dog", "cup"))


@pytest.fixture(scope="module")
def photo():
  return np.random.default_rng(0).integers(0, 256, (120, 200, 3)).astype(np.uint8)


def test_objects_lie_in_the_image(predictor, photo):
  objects = predictor(photo)
  assert len(objects.boxes) > 5
  assert objects.masks.shape == (len(objects.boxes), 120, 200)
  assert objects.boxes.min() >= 0 and (objects.boxes <= [200, 120, 200, 120]).all()
  assert objects.boxes[:, 2].max() > 107  # beyond the resized image, which is 64 x 107


def test_features_of_an_image_lead_to_its_objects_bit_for_bit(predictor, photo):
  features = predictor.extract_features(photo)
  assert features.image_size == (64, 107) and features.original_size == (120, 200)
  assert features.levels["p2"].shape == (16, 32, 16)
  for got, want in zip(predictor.from_features(features), predictor(photo)):
    np.testing.assert_array_equal(got, want)


def test_grey_is_taken_as_equal_red_green_and_blue(predictor, photo):
  grey = photo[..., :1]
  for got, want in zip(predictor(grey), predictor(np.repeat(grey, 3, -1))):
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("shape", [(1, 1, 3), (5000, 20, 3), (20, 5000, 3)])
def test_any_size_is_taken(predictor, shape):
  objects = predictor(np.zeros(shape, np.uint8))
  assert objects.masks.shape[1:] == shape[:2]


@pytest.mark.parametrize(
  "image", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), "u1")]
)
def test_what_is_no_image_is_refused(predictor, image):
  with pytest.raises(ValueError, match=r"^`image` is .*, expected uint8 \[H, W, 1 or 3\]$"):
    predictor(image)


@pytest.mark.parametrize(
  "size, expected",
  [
    ((480, 640), (800, 1067)),
    ((1, 1), (800, 800)),
    ((20, 5000), (5, 1333)),
    ((1, 5000), (1, 1333)),
  ],
)
def test_the_short_side_is_reached_unless_the_long_one_is_too_long(size, expected):
  assert resized_shape(*size, 800, 1333) == expected


def test_a_mask_fills_the_pixels_whose_centres_lie_in_its_box():
  boxes = np.array([[2.4, 1, 6, 3.6]], np.float32)
  got = postprocessing.paste(tf.ones([1, 28, 28]), boxes, [5, 8])
  rows, columns = np.nonzero(got[0].numpy())
  assert (rows.min(), rows.max(), columns.min(), columns.max()) == (1, 3, 2, 5)


def test_no_masks_are_pasted_as_none():
  spec = tf.TensorSpec([None, 28, 28]), tf.TensorSpec([None, 4]), tf.TensorSpec([2], tf.int32)
  paste = tf.function(postprocessing.paste, input_signature=spec)
  assert paste(tf.zeros([0, 28, 28]), tf.zeros([0, 4]), [5, 8]).shape == (0, 5, 8)
