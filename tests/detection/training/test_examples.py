"""Examples: pure functions of seed and number, objects where the pixels are, one shape for all."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from detection.coco import CocoError, sources
from detection.coco.options import DatasetOptions
from detection.training import examples as examples_lib
from detection.training.options import DetectorOptions
from khuvcm_tf.options import OptionsError


@pytest.fixture(scope="module")
def dataset(folder):
  return sources.load(
    DatasetOptions(annotations=str(folder / "annotations.json"), images=str(folder))
  )


@pytest.fixture
def make_examples(dataset, make_options):
  def make(categories=("light", "dark"), with_masks=True, **changes):
    options = make_options(**changes)
    return examples_lib.Examples([dataset], categories, options, with_masks)

  return make


def test_an_example_is_a_function_of_seed_and_number(make_examples):
  first, second = make_examples(seed=3), make_examples(seed=3)
  for a, b in zip(first.draw(7), second.draw(7)):
    np.testing.assert_array_equal(a, b)
  assert (first.draw(7).images != make_examples(seed=4).draw(7).images).any()
  assert (first.draw(7).images != first.draw(8).images).any()


def test_an_epoch_has_each_image_once(make_examples):
  examples = make_examples(min_scale=1.0, max_scale=1.0)
  order = {e: [examples._order(e)[i] for i in range(6)] for e in (0, 1)}
  assert sorted(order[0]) == sorted(order[1]) == list(range(6)) and order[0] != order[1]


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_boxes_and_masks_lie_where_the_pixels_are(make_examples, scale):
  examples = make_examples(min_scale=scale, max_scale=scale)
  found = 0
  for number in range(12):
    example = examples.draw(number)
    height, width = example.sizes
    assert not example.images[height:].any() and not example.images[:, width:].any()
    grey = example.images[..., 0].astype(int)
    for box, category, mask in zip(example.boxes, example.classes, example.masks):
      if category < 0:
        assert not box.any() and not mask.any()
        continue
      found += 1
      rows, columns = np.nonzero(mask)
      assert (rows.min(), rows.max() + 1) == pytest.approx((box[1], box[3]), abs=1)
      assert (columns.min(), columns.max() + 1) == pytest.approx((box[0], box[2]), abs=1)
      inside = np.median(grey[mask > 0])  # another object may lie on it
      assert (inside > 200) if category == 0 else (inside < 60)
  assert found > 6


def test_categories_that_are_not_asked_for_are_left_out(make_examples):
  examples = make_examples(categories=("dark",), min_scale=1.0, max_scale=1.0)
  assert {c for n in range(6) for c in examples.draw(n).classes.tolist()} == {-1, 0}


def test_of_too_many_objects_the_largest_stay(make_examples):
  examples = make_examples(max_objects=1, min_scale=1.0, max_scale=1.0)
  both = make_examples(min_scale=1.0, max_scale=1.0)
  for number in range(4):
    np.testing.assert_array_equal(examples.draw(number).boxes[0], both.draw(number).boxes[0])


def test_without_a_mask_head_no_masks_are_drawn(make_examples):
  example = make_examples(with_masks=False).draw(0)
  assert example.masks.shape == (4, 1, 1) and not example.has_mask.any()


def test_batches_go_on_where_a_run_was_killed_and_shards_share_them(make_examples):
  examples = make_examples(batch_size=4)

  def take(first_step, shard, count):
    dataset = examples.batches(first_step, shard)
    return [tuple(each.numpy() for each in batch) for batch in dataset.take(count)]

  whole = take(0, (0, 1), 3)
  for a, b in zip(whole[2], take(2, (0, 1), 1)[0]):
    np.testing.assert_array_equal(a, b)
  for number, a in enumerate(take(1, (1, 2), 1)[0]):
    np.testing.assert_array_equal(a, whole[1][number][2:])
  assert whole[0][0].shape == (4, 64, 64, 3) and whole[0][0].dtype == np.uint8


def test_a_category_that_no_data_has_is_refused(dataset, make_options):
  options = make_options(categories=("cat",))
  with pytest.raises(CocoError, match=r"^--categories names cat, which the data has not"):
    examples_lib.load(options, [dataset], with_masks=False)


def test_a_category_that_is_named_twice_is_one(dataset, make_options):
  options = make_options(categories=("dark", "dark"))
  assert examples_lib.load(options, [dataset], with_masks=False)[0] == ("dark",)


def test_masks_to_train_that_the_data_has_not_are_told(dataset, make_options, caplog):
  def without_masks(record):
    kept = [{k: v for k, v in e.items() if k != "segmentation"} for e in record.annotations]
    return dataclasses.replace(record, annotations=tuple(kept))

  without = dataclasses.replace(dataset, records=tuple(map(without_masks, dataset)))
  with caplog.at_level("WARNING", logger="absl"):
    examples_lib.load(make_options(), [dataset], with_masks=True)
    assert not caplog.records
    examples_lib.load(make_options(), [without], with_masks=True)
  assert "the mask head is not trained" in caplog.text


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"train_annotations": ()}, r"^found none of --train_annotations and --train_dataset"),
    ({"train_dataset": "shapes"}, r"^found both of --train_annotations and --train_dataset"),
    ({"train_images": ()}, r"^found 1 --train_annotations and 0 --train_images"),
    ({"validation_annotations": None}, r"^found none of --validation_annotations"),
    ({"image_side": 100}, r"^--image_side=100 is out of range, expected a multiple of 64"),
    ({"min_scale": 2.0}, r"^--min_scale=2.0 is out of range, expected at most --max_scale=1.4"),
    ({"arguments": {}}, r"^found no --argument=backbone=NAME"),
    ({"mixed_precision": True}, r"^found --mixed_precision, expected none"),
    ({"boxes_per_image": 1}, r"^--boxes_per_image=1 is out of range"),
  ],
)
def test_options_that_contradict_are_refused(make_options, changes, message):
  with pytest.raises(OptionsError, match=message):
    make_options(**changes)


def test_a_batch_has_static_shapes(make_examples):
  spec = make_examples().batches(0, (0, 1)).element_spec
  assert all(each.shape.is_fully_defined() for each in tf.nest.flatten(spec))
  assert DetectorOptions.__dataclass_fields__["image_side"].default % 64 == 0
