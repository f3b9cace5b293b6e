"""Run lengths of masks: those of pycocotools, and back."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as oracle

from detection.coco import masks

_RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 1), (5, 8), (240, 320)])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_run_lengths_are_those_of_pycocotools_and_come_back(shape, share):
  many = _RNG.random((3, *shape)) < share
  for mask, rle in zip(many, masks.encode(many)):
    expected = oracle.encode(np.asfortranarray(mask, dtype=np.uint8))
    assert rle == {"size": list(shape), "counts": expected["counts"].decode()}
    masks.check(rle, *shape)
    back = masks.decode(rle)
    assert back.dtype == bool
    np.testing.assert_array_equal(back, mask)
    assert masks.area(rle) == mask.sum() and type(masks.area(rle)) is int


def test_no_masks_have_no_run_lengths():
  assert masks.encode(np.zeros((0, 5, 6), bool)) == []


@pytest.mark.parametrize(
  "segmentation",
  [
    [[2.5, 3, 12, 3.25, 12, 15.75]],
    [[2, 3, 12, 3, 12, 15], [10, 10, 20, 10, 20, 18, 10, 18]],
    {"size": [20, 30], "counts": [100, 50, 449, 1]},
  ],
  ids=["polygon", "two polygons", "run lengths"],
)
def test_segmentations_become_the_run_lengths_of_pycocotools(segmentation):
  expected = oracle.frPyObjects(segmentation, 20, 30)
  expected = oracle.merge(expected) if isinstance(expected, list) else expected
  rle = masks.from_segmentation(segmentation, 20, 30)
  assert rle == {"size": [20, 30], "counts": expected["counts"].decode()}
  assert masks.from_segmentation(rle, 20, 30) == rle


@pytest.mark.parametrize(
  "segmentation, message",
  [
    ([[1, 2, 3, 4]], "4 numbers, expected 6 or more"),
    ([[1, 2, 3, 4, 5, 6, 7]], "7 numbers, expected 6 or more, in pairs"),
    ([[1, 2, 3, 4, 5, None]], "no list of numbers"),
    ([1, 2, 3, 4, 5, 6], "no list of numbers"),
    ("text", "no size and counts"),
    ({"counts": [600]}, "no size and counts"),
    ({"size": [30, 20], "counts": [600]}, r"size \[30, 20\], expected \[20, 30\]"),
    ({"size": [20, 30], "counts": [599]}, "sum to 599, expected 600"),
    ({"size": [20, 30], "counts": [601, -1]}, "no run lengths"),
    ({"size": [20, 30], "counts": 600}, "no run lengths"),
    ({"size": [20, 30], "counts": ""}, "sum to 0, expected 600"),
    ({"size": [20, 30], "counts": "1O"}, "no run lengths"),
    ({"size": [20, 30], "counts": "abc"}, "end within a number"),
    ({"size": [20, 30], "counts": "1 1"}, "the character ' '"),
  ],
)
def test_damaged_segmentations_are_refused(segmentation, message):
  with pytest.raises(ValueError, match=message):
    masks.from_segmentation(segmentation, 20, 30)
