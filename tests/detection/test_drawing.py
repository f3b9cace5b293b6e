"""Detections on a photo: which pixels change, and to what."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from detection import drawing
from detection.postprocessing import Objects

_GREY = np.full((120, 160, 3), 100, np.uint8)


def _objects(boxes, classes, masks=None) -> Objects:
  scores = np.linspace(0.9, 0.5, len(boxes), dtype=np.float32)
  boxes = np.reshape(boxes, (-1, 4)).astype(np.float32)
  return Objects(boxes, scores, np.array(classes, np.int32), masks)


def test_without_detections_the_photo_is_unchanged():
  photo = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)
  drawn = drawing.draw(photo, _objects([], []), [])
  assert drawn.mode == "RGB"
  np.testing.assert_array_equal(np.asarray(drawn), photo)


def test_a_mask_is_half_transparent_with_an_outline_in_the_colour_of_its_category():
  masks = np.zeros((1, 120, 160), bool)
  masks[0, 40:100, 50:90] = True
  drawn = np.asarray(drawing.draw(_GREY, _objects([[30, 30, 120, 110]], [1], masks), ["a", "cat"]))
  colour = drawing.colour(1)
  np.testing.assert_array_equal(drawn[70, 70], np.round(0.55 * 100 + 0.45 * np.array(colour)))
  for position in ((40, 70), (99, 70), (70, 50), (70, 89)):
    np.testing.assert_array_equal(drawn[position], colour)
  assert (drawn[45:95, 95:115] == 100).all()


def test_a_box_has_a_frame_of_two_pixels_at_least():
  drawn = np.asarray(drawing.draw(_GREY, _objects([[30, 30, 120, 110]], [2]), ["a", "b", "cat"]))
  for position in ((70, 30), (70, 31), (70, 119), (109, 70), (108, 70)):
    np.testing.assert_array_equal(drawn[position], drawing.colour(2))
  assert (drawn[70, 32:118] == 100).all() and (drawn[70, 120:] == 100).all()


def test_a_better_detection_lies_on_top():
  boxes = [[30, 40, 120, 110]] * 2
  drawn = np.asarray(drawing.draw(_GREY, _objects(boxes, [1, 0]), ["dog", "cat"]))
  np.testing.assert_array_equal(drawn[70, 30], drawing.colour(1))


def test_labels_of_objects_at_one_place_do_not_cover_each_other():
  drawn = np.asarray(drawing.draw(_GREY, _objects([[30, 40, 120, 110]] * 3, [0, 1, 2]), "abc"))
  areas = [(drawn == drawing.colour(category)).all(-1).sum() for category in range(3)]
  assert min(areas) > 150


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 3), (20, 5000, 3), (5000, 20, 3)])
def test_any_size_and_grey_is_drawn_on(shape):
  height, width = shape[:2]
  objects = _objects(
    [[0, 0, width, height], [0, 0, 0.2, 0.3]], [0, 1], np.ones((2, height, width), bool)
  )
  drawn = drawing.draw(np.full(shape, 9, np.uint8), objects, ["two\nlines", "long " * 100])
  assert drawn.size == (width, height) and drawn.mode == "RGB"


def test_colours_of_coco_s_categories_differ():
  colours = np.array([drawing.colour(category) for category in range(80)])
  assert len({tuple(colour) for colour in colours.tolist()}) == 80
  first = itertools.combinations(colours[:8].astype(int), 2)
  assert min(np.abs(one - other).max() for one, other in first) > 40
