"""A detector's arrays in COCO's format of results."""

from __future__ import annotations

import types

import numpy as np
import pytest

from detection.coco import CocoError, detections, masks


def _found(**changes) -> types.SimpleNamespace:
  mask = np.zeros((2, 20, 30), bool)
  mask[1, 4:9, 3:7] = True
  arrays = {
    "boxes": np.array([[0, 0, 30, 20], [3, 4, 7.5, 9]], np.float32),
    "scores": np.array([0.75, 0.5], np.float32),
    "classes": np.array([5, 0], np.int32),
    "masks": mask,
  }
  return types.SimpleNamespace(**{**arrays, **changes})


def test_boxes_become_corner_and_size_and_classes_become_ids():
  whole, small = detections.to_coco(_found(masks=None), 9, 20, 30, {0: 1, 5: 6})
  assert whole == {"image_id": 9, "category_id": 6, "bbox": [0, 0, 30, 20], "score": 0.75}
  assert small == {"image_id": 9, "category_id": 1, "bbox": [3, 4, 4.5, 5], "score": 0.5}


def test_classes_without_a_category_are_left_out_with_their_masks():
  (only,) = detections.to_coco(_found(), 9, 20, 30, {0: 1})
  np.testing.assert_array_equal(masks.decode(only["segmentation"]), _found().masks[1])
  assert only["score"] == 0.5


def test_nothing_found_is_an_empty_list():
  empty = _found(
    boxes=np.zeros((0, 4), np.float32),
    scores=np.zeros(0, np.float32),
    classes=np.zeros(0, np.int32),
    masks=np.zeros((0, 20, 30), bool),
  )
  assert detections.to_coco(empty, 9, 20, 30, {0: 1}) == []


@pytest.mark.parametrize(
  "name, array",
  [
    ("boxes", np.zeros((2, 5), np.float32)),
    ("scores", np.zeros(3, np.float32)),
    ("classes", np.zeros((2, 1), np.int32)),
    ("masks", np.zeros((2, 30, 20), bool)),
  ],
)
def test_arrays_of_other_shapes_are_refused(name, array):
  with pytest.raises(ValueError, match=rf"`{name}` is \[[\d, ]+\], expected \["):
    detections.to_coco(_found(**{name: array}), 9, 20, 30, {0: 1, 5: 6})


@pytest.mark.parametrize("name", ["boxes", "scores"])
def test_numbers_that_are_not_finite_are_refused(name):
  array = getattr(_found(), name)
  array[0] = np.nan
  with pytest.raises(CocoError, match="not finite, expected numbers; check its weights"):
    detections.to_coco(_found(**{name: array}), 9, 20, 30, {0: 1, 5: 6})
