"""Drawn shapes: the same to the bit everywhere, masks of what is seen, sizes in equal parts."""

from __future__ import annotations

import hashlib
import math

import matplotlib.path
import numpy as np
import pytest

from detection.coco import shapes

# SHA-256 of scene 0 of each split with seed 0. Where one changes, so does the data set: give the
# builder a new version.
_GOLDEN = {
  "train": "6ac207d015b28026e2313d8c01f5cb59c6464b6614ffafad60e45e75254fed66",
  "validation": "fb2885ae6ca4c9a1a273dfdbe59c6800744f0a01a2bffd692332bd785efeab85",
  "test": "1799dacaaf69feb24e6b7ffd44aeea5e3a17d4a4ba9825b09883114f4057a380",
}


def _sha256(scene: shapes.Scene) -> str:
  little_endian = [part.astype(part.dtype.newbyteorder("<")) for part in scene]
  return hashlib.sha256(b"".join(part.tobytes() for part in little_endian)).hexdigest()


@pytest.fixture(scope="module")
def scenes() -> list[shapes.Scene]:
  return [shapes.draw(0, "train", index) for index in range(400)]


@pytest.mark.parametrize("split", shapes.SPLITS)
def test_the_first_scene_is_the_one_it_always_was(split):
  assert _sha256(shapes.draw(0, split, 0)) == _GOLDEN[split]


def test_a_scene_depends_on_seed_split_and_number_alone(scenes):
  assert _sha256(shapes.draw(0, "train", 7)) == _sha256(scenes[7])
  others = [(1, "train", 7), (0, "test", 7), (0, "train", 8), (2**64 - 1, "train", 2**64 - 1)]
  hashes = [_sha256(shapes.draw(*other)) for other in others]
  assert len({_sha256(scenes[7]), *hashes}) == 1 + len(others)


def test_shapes_and_types_are_those_that_are_stated(scenes):
  for image, boxes, classes, masks in scenes[:20]:
    count = len(classes)
    assert (image.dtype, image.shape) == (np.uint8, (256, 320, 3))
    assert (boxes.dtype, boxes.shape) == (np.float32, (count, 4))
    assert (classes.dtype, classes.shape) == (np.int32, (count,))
    assert (masks.dtype, masks.shape) == (np.bool_, (count, 256, 320))


def test_boxes_are_tight_and_masks_share_no_pixel(scenes):
  for scene in scenes[:100]:
    assert scene.masks.sum(axis=0).max() == 1
    for box, mask in zip(scene.boxes, scene.masks):
      y, x = np.nonzero(mask)
      assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_objects_are_small_medium_and_large_in_about_equal_parts(scenes):
  areas = np.concatenate([scene.masks.sum(axis=(1, 2)) for scene in scenes])
  counts = np.histogram(areas, [0, 32**2, 96**2 + 1, 256 * 320])[0]
  assert 0.28 < counts.min() / len(areas) and counts.max() / len(areas) < 0.39


def test_images_have_two_to_eight_objects_and_categories_are_about_as_frequent(scenes):
  counts = [len(scene.classes) for scene in scenes]
  assert set(counts) == set(range(2, 9)) and 4.5 < np.mean(counts) < 5.5
  frequencies = np.bincount(np.concatenate([scene.classes for scene in scenes])) / sum(counts)
  assert len(frequencies) == len(shapes.CATEGORIES)
  np.testing.assert_allclose(frequencies, 1 / 8, atol=0.03)


def test_of_each_object_sixty_percent_are_seen(monkeypatch):
  whole, find_place = [], shapes._find_place

  def note(numbers, inside, *more):
    place = find_place(numbers, inside, *more)
    whole.extend([] if place is None else [np.count_nonzero(inside)])
    return place

  monkeypatch.setattr(shapes, "_find_place", note)
  shares = []
  for index in range(60):
    whole.clear()
    seen = shapes.draw(3, "test", index).masks.sum(axis=(1, 2))
    assert len(seen) == len(whole)
    shares.extend(seen / whole)
  assert min(shares) >= 0.6 and max(shares) == 1 and np.mean(np.array(shares) < 1) > 0.3


def test_objects_differ_from_what_is_around_them(scenes):
  """The mean colour of an object is farther from that of its surroundings than noise is."""
  differences = []
  for scene in scenes[:60]:
    background = scene.image[~scene.masks.any(axis=0)].mean(axis=0)
    colours = [scene.image[mask].mean(axis=0) for mask in scene.masks]
    differences += [np.abs(colour - background).sum() for colour in colours]
  assert np.median(differences) > 100


def _polygon(name: str) -> list[tuple[float, float]]:
  """The corners of a shape, as one draws it with ruler and compass."""

  def on_circle(angle, radius=1.0):
    return radius * math.sin(math.radians(angle)), -radius * math.cos(math.radians(angle))

  if name == "square":
    return [(-1, -1), (1, -1), (1, 1), (-1, 1)]
  if name == "triangle":
    return [on_circle(angle) for angle in (180, 300, 60)]
  if name == "star":
    inner = math.cos(math.radians(72)) / math.cos(math.radians(36))
    return [on_circle(180 + 36 * i, inner if i % 2 else 1) for i in range(10)]
  if name == "cross":
    quarter = [(0.3, -0.3), (0.3, -1), (-0.3, -1), (-0.3, -0.3)]
    turns = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)]
    return [(a * x + b * y, c * x + d * y) for a, b, c, d in turns for x, y in quarter]
  return [(0, -0.12), (1, -0.87), (1, 0.87), (0, 0.12), (-1, 0.87), (-1, -0.87)]


@pytest.mark.parametrize("name", ["square", "triangle", "star", "cross", "bowtie"])
def test_a_shape_is_the_polygon_of_its_corners(name):
  u, v = np.meshgrid(*[np.linspace(-1.1, 1.1, 222)] * 2)
  found = shapes._SHAPES[shapes.CATEGORIES.index(name)][0](u, v) > 0
  polygon = matplotlib.path.Path(_polygon(name))
  expected = polygon.contains_points(np.stack([u.ravel(), v.ravel()], -1)).reshape(u.shape)
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", range(len(shapes.CATEGORIES)), ids=shapes.CATEGORIES)
def test_a_shape_has_the_area_that_is_asked_for(kind):
  areas = [
    np.count_nonzero(shapes._rasterize(shapes._Numbers(0, 0, index), kind, 100.0) >= 0)
    for index in range(20)
  ]
  np.testing.assert_allclose(areas, 100**2, rtol=0.01)


def test_what_cannot_be_drawn_is_refused():
  message = "`split` is 'val', expected one of train, validation, test"
  with pytest.raises(ValueError, match=message):
    shapes.draw(0, "val", 0)
  for seed, index in ((-1, 0), (0, -1), (2**64, 0), (0, 2**64)):
    with pytest.raises(ValueError, match=f"`seed` is {seed} and `index` {index}, expected numb"):
      shapes.draw(seed, "train", index)
