"""Training crops: what comes when, from where, and what is left out."""

from __future__ import annotations

import functools
import os

import numpy as np
import pytest
import tensorflow as tf

from khuvcm_tf.data import images, pipeline


def _arrays(number: int, height: int = 40, width: int = 48) -> list[np.ndarray]:
  """Pictures whose samples tell which picture (red), row (green) and column (blue) they are."""
  y, x = np.mgrid[:height, :width]
  return [np.stack([np.full_like(y, i), y, x], axis=-1).astype(np.uint8) for i in range(number)]


def _photos(number: int, **size: int) -> pipeline.Photos:
  return pipeline.from_arrays([f"{i}.png" for i in range(number)], _arrays(number, **size))


def _batches(photos, count: int, **settings) -> np.ndarray:
  """Returns [count, B, S, S, 3]; 4 crops of 32 a batch."""
  settings = {"batch_size": 4, "crop_size": 32, "seed": 1, "first_step": 0, **settings}
  dataset = pipeline.training_batches(photos, **settings)
  return np.stack([batch.numpy() for batch in dataset.take(count)])


@pytest.fixture
def folder(tmp_path):
  for i, array in enumerate(_arrays(5)):
    images.write_image(str(tmp_path / f"{i}.png"), array)
  return tmp_path


def test_a_run_that_starts_at_a_step_gets_what_an_unbroken_one_gets_there():
  photos = _photos(7)
  unbroken = _batches(photos, 9, smallest_scale=0.8)
  for k in (1, 5):
    later = _batches(photos, 9 - k, first_step=k, smallest_scale=0.8)
    np.testing.assert_array_equal(later, unbroken[k:])


def test_another_seed_gives_other_batches():
  photos = _photos(7)
  assert (_batches(photos, 2) != _batches(photos, 2, seed=2)).any()


def test_every_picture_comes_once_an_epoch_in_an_order_of_its_own():
  drawn = _batches(_photos(7), 7)[..., 0, 0, 0].ravel()  # 28 crops: 4 epochs
  epochs = drawn.reshape(4, 7)
  np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(7), (4, 1)))
  assert len({tuple(epoch) for epoch in epochs}) > 1


def test_one_picture_is_enough():
  assert (_batches(_photos(1), 3)[..., 0] == 0).all()


def test_shards_of_a_batch_join_to_the_whole():
  photos = _photos(7)
  shards = [_batches(photos, 3, shard=(i, 2), first_step=2) for i in range(2)]
  np.testing.assert_array_equal(np.concatenate(shards, axis=1), _batches(photos, 3, first_step=2))


def test_crops_are_parts_of_their_picture_some_of_them_mirrored():
  photos, arrays, mirrored = _photos(3), _arrays(3), 0
  crops = _batches(photos, 20).reshape(80, 32, 32, 3)
  corners = set()
  for crop in crops:
    if crop[0, 0, 2] > crop[0, -1, 2]:
      crop, mirrored = crop[:, ::-1], mirrored + 1
    place, top, left = crop[0, 0]
    np.testing.assert_array_equal(crop, arrays[place][top : top + 32, left : left + 32])
    corners.add((top, left))
  assert 20 <= mirrored <= 60  # 80 fair coins: beyond 4 standard deviations of 40
  assert {top for top, _ in corners} == set(range(9))  # all of 40 - 32 + 1
  assert {left for _, left in corners} >= {0, 16}


def test_a_picture_of_the_size_of_a_crop_is_taken_whole():
  crops = _batches(_photos(2, height=32, width=32), 4)
  np.testing.assert_array_equal(np.unique(crops[..., 1]), np.arange(32))
  assert crops.shape == (4, 4, 32, 32, 3)


def test_pictures_are_shrunk_by_factors_down_to_the_smallest_scale():
  photos = _photos(2, height=100, width=120)
  crops = _batches(photos, 20, smallest_scale=0.5).reshape(80, 32, 32, 3).astype(float)
  # Green counts source rows: over 31 rows of a crop it rises by 31 / scale.
  scales = 31 / (crops[:, -1, 0, 1] - crops[:, 0, 0, 1])
  assert scales.min() == pytest.approx(0.5, abs=0.06)
  assert scales.max() == pytest.approx(1.0, abs=0.06)
  assert np.mean(scales) == pytest.approx(0.75, abs=0.06)


def test_a_small_picture_is_shrunk_no_further_than_to_a_crop():
  crops = _batches(_photos(2, height=40, width=40), 10, smallest_scale=0.1).reshape(40, 32, 32, 3)
  rows = crops[:, -1, 0, 1].astype(int) - crops[:, 0, 0, 1]
  assert rows.max() == pytest.approx(39, abs=1)


def test_small_pictures_are_left_out_with_a_count(folder, caplog):
  for i in range(3):
    images.write_image(str(folder / f"small{i}.png"), np.zeros((31, 90, 3), np.uint8))
  photos = pipeline.load(str(folder), 32, 2**30)
  assert [os.path.basename(name) for name in photos.names] == [f"{i}.png" for i in range(5)]
  assert "skipped 3 pictures with a side below the crop size of 32" in caplog.text


def test_broken_pictures_are_left_out_by_name(folder, caplog):
  (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:50])
  (folder / "note.png").write_text("no picture")
  photos = pipeline.load(str(folder), 32, 2**30)
  assert len(photos.names) == 4
  for name in ("1.png", "note.png"):
    assert f"skipped: {folder / name}" in caplog.text


def test_nothing_usable_is_an_error(tmp_path):
  (tmp_path / "a.png").write_text("no picture")
  images.write_image(str(tmp_path / "b.png"), np.zeros((8, 8, 3), np.uint8))
  with pytest.raises(
    pipeline.DataError,
    match=r"^no training picture is left: 1 are broken, 1 are smaller than the crop size of 32; "
    r"lower --crop_size or give other pictures$",
  ):
    pipeline.load(str(tmp_path), 32, 2**30)


def test_no_picture_at_all_is_an_error(tmp_path):
  with pytest.raises(images.ImageError, match=r"no pictures found"):
    pipeline.load(str(tmp_path), 32, 2**30)


def test_grey_pictures_come_as_rgb(folder):
  images.write_image(str(folder / "grey.png"), np.full((40, 40, 1), 99, np.uint8))
  photos = pipeline.load(str(folder / "grey.png"), 32, 2**30)
  np.testing.assert_array_equal(_batches(photos, 1), 99)


def test_a_cache_that_is_too_small_gives_the_same_batches(folder):
  cached, read = (pipeline.load(str(folder), 32, size) for size in (2**30, 2 * 40 * 48 * 3))
  assert read.names == cached.names
  np.testing.assert_array_equal(_batches(read, 6), _batches(cached, 6))


@pytest.mark.parametrize(
  "spoil, message",
  [
    (lambda path: os.truncate(path, 50), r"\.png: damaged or cut short"),
    (os.remove, r"\.png: .*[Nn]o such file"),
    (
      lambda path: images.write_image(path, np.zeros((20, 48, 3), np.uint8)),
      r"\.png: has sides \(20, 48\), expected at least 32",
    ),
  ],
  ids=["damaged", "removed", "smaller"],
)
def test_a_picture_that_changes_after_the_start_is_named(folder, spoil, message):
  photos = pipeline.load(str(folder), 32, 0)
  photos, _ = pipeline.held_out(photos, 1)
  for name in photos.names:
    spoil(name)
  with (
    pytest.raises(
      pipeline.DataError,
      match=rf"^a training picture has changed since the start: [^\n]*({message})[^\n]*; restore "
      r"or remove it and start again$",
    ),
    pipeline.failures_named(photos),
  ):
    _batches(photos, 1)


def test_other_errors_of_tensorflow_keep_their_text():
  with pytest.raises(tf.errors.UnavailableError, match="away"):
    with pipeline.failures_named(_photos(1)):
      raise tf.errors.UnavailableError(None, None, "away")


@pytest.mark.parametrize(
  "number, most, aside", [(1, 16, [0]), (2, 16, [0]), (41, 16, [0, 20, 40]), (60, 2, [0, 20])]
)
def test_every_twentieth_picture_is_held_out_up_to_a_limit(number, most, aside):
  photos = _photos(number)
  rest, validation = pipeline.held_out(photos, most)
  assert [int(picture[0, 0, 0]) for picture in validation] == aside
  kept = [i for i in range(number) if i not in aside] or [0]
  assert rest.names == [f"{i}.png" for i in kept]
  places = [int(rest.read(tf.constant(i, tf.int64))[0, 0, 0]) for i in range(len(kept))]
  assert places == kept


# TensorFlow Datasets.


@pytest.fixture(scope="module")
def tfds(tmp_path_factory):
  """tensorflow_datasets with tiny data sets of ours, prepared in a folder of the test's."""
  datasets = pytest.importorskip("tensorflow_datasets")

  class KhuvcmTinyPhotos(datasets.core.GeneratorBasedBuilder):
    """Six pictures to train on, one of them too small, and one to test."""

    VERSION = datasets.core.Version("1.0.0")
    FEATURE = "image"

    def _info(self):
      features = datasets.features.FeaturesDict({self.FEATURE: datasets.features.Image()})
      return self.dataset_info_from_configs(features=features)

    def _split_generators(self, dl_manager):
      train = _arrays(5) + _arrays(1, height=9)
      return {"train": self._examples(train), "test": self._examples(_arrays(1))}

    def _generate_examples(self):
      raise AssertionError("the splits have their own")

    def _examples(self, arrays):
      for i, array in enumerate(arrays):
        yield i, {self.FEATURE: array}

  class KhuvcmTinyWords(KhuvcmTinyPhotos):
    """The same under another name of the feature."""

    FEATURE = "picture"

  folder = str(tmp_path_factory.mktemp("tfds"))
  patch = pytest.MonkeyPatch()
  patch.setattr(datasets, "load", functools.partial(datasets.load, data_dir=folder))
  yield datasets
  patch.undo()


def test_tfds_pictures_are_those_of_the_split(tfds, caplog):
  photos = pipeline.load_tfds("khuvcm_tiny_photos", 32, 2**30)
  assert len(photos.names) == 5
  assert "skipped 1 pictures" in caplog.text
  crops = _batches(photos, 5)
  assert set(crops[:, :, 0, 0, 0].ravel()) == set(range(5))
  assert len(pipeline.load_tfds("khuvcm_tiny_photos:test", 32, 2**30).names) == 1
  assert len(pipeline.load_tfds("khuvcm_tiny_photos:train+test", 32, 2**30).names) == 6


@pytest.mark.parametrize(
  "name, cache, message",
  [
    ("khuvcm_no_such", 2**30, r"^TFDS data set 'khuvcm_no_such' was not loaded: [^\n]+$"),
    ("khuvcm_tiny_photos:dev", 2**30, r"^TFDS data set 'khuvcm_tiny_photos' .*[Ss]plit[^\n]*$"),
    (
      "khuvcm_tiny_words",
      2**30,
      r"^TFDS data set 'khuvcm_tiny_words' has features \['picture'\], expected one named 'image'",
    ),
    (
      "khuvcm_tiny_photos",
      10_000,
      r"needs more than the cache of 0\.0 GiB; raise --cache_gib or name a part of it, as in '",
    ),
  ],
)
def test_tfds_data_sets_that_do_not_fit_are_refused(tfds, name, cache, message):
  with pytest.raises(pipeline.DataError, match=message):
    pipeline.load_tfds(name, 32, cache)


@pytest.mark.parametrize(
  "picture, found",
  [
    (np.zeros((40, 40, 4), np.uint8), r"uint8 \[40, 40, 4\]"),
    (np.zeros((40, 40, 3), np.uint16), r"uint16 \[40, 40, 3\]"),
    (np.zeros((2, 40, 40, 3), np.uint8), r"uint8 \[2, 40, 40, 3\]"),
  ],
)
def test_tfds_pictures_of_another_kind_are_left_out_by_name(picture, found, caplog):
  read = functools.partial(pipeline._checked, "set/0", picture)
  with pytest.raises(pipeline.DataError, match="1 are broken"):
    list(pipeline.usable([("set/0", read)], 32))
  assert f"skipped: set/0: image is {found}".replace("\\", "") in caplog.text
