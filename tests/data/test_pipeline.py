"""Training crops: what comes when, from where, and what is left out."""

from __future__ import annotations

import functools
import os
import re
import threading
from concurrent import futures

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from khuvcm_tf.data import image_files, pipeline


def _arrays(number: int, height: int = 40, width: int = 48) -> list[np.ndarray]:
  """Images whose samples tell which image (red), row (green) and column (blue) they are."""
  y, x = np.mgrid[:height, :width]
  return [np.stack([np.full_like(y, i), y, x], axis=-1).astype(np.uint8) for i in range(number)]


def _training_images(number: int, **size: int) -> pipeline.TrainingImages:
  return pipeline.from_arrays([f"{i}.png" for i in range(number)], _arrays(number, **size))


def _batches(images, count: int, **given) -> np.ndarray:
  """Returns [count, B, S, S, 3]; 4 crops of 32 a batch."""
  arguments = {"batch_size": 4, "crop_size": 32, "seed": 1, "first_step": 0, **given}
  dataset = pipeline.training_batches(images, **arguments)
  return np.stack([batch.numpy() for batch in dataset.take(count)])


@pytest.fixture
def folder(tmp_path):
  for i, array in enumerate(_arrays(5)):
    image_files.write_image(str(tmp_path / f"{i}.png"), array)
  return tmp_path


def test_a_run_that_starts_at_a_step_gets_what_an_unbroken_one_gets_there():
  images = _training_images(7)
  unbroken = _batches(images, 9, min_resize_scale=0.8)
  for k in (1, 5):
    later = _batches(images, 9 - k, first_step=k, min_resize_scale=0.8)
    np.testing.assert_array_equal(later, unbroken[k:])


def test_another_seed_gives_other_batches():
  images = _training_images(7)
  assert (_batches(images, 2) != _batches(images, 2, seed=2)).any()


@pytest.mark.parametrize("scale", [1.0, 0.6])
def test_batches_are_those_of_a_plain_loop(scale):
  arrays = [_arrays(1, height=h, width=w)[0] for h, w in ((40, 48), (32, 90), (33, 32), (64, 70))]
  images = pipeline.from_arrays([f"{i}" for i in range(4)], arrays)
  found = _batches(images, 4, first_step=2, seed=5, min_resize_scale=scale)
  for i, crop in enumerate(found.reshape(16, 32, 32, 3)):
    n = 2 * 4 + i
    order = [
      int(tf.random.experimental.index_shuffle(place, tf.constant([5, n // 4], tf.int64), 3))
      for place in range(4)
    ]
    assert sorted(order) == [0, 1, 2, 3]
    image = arrays[order[n % 4]]
    draws = tf.random.stateless_uniform([4], tf.constant([5, n], tf.int64)).numpy()
    short = min(image.shape[:2])
    factor = max(np.float32(scale) + np.float32(1 - scale) * draws[0], np.float32(32 / short))
    side = min(int(np.ceil(np.float32(32) / factor)), short)
    top, left = (
      int(draw * np.float32(length - side + 1)) for draw, length in zip(draws[1:3], image.shape)
    )
    expected = image[top : top + side, left : left + side]
    if side != 32:
      resized = tf.image.resize(expected, (32, 32), "bicubic", antialias=True)
      expected = np.clip(np.round(resized), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(crop, expected[:, ::-1] if draws[3] < 0.5 else expected)


def _draws(count: int, **given) -> np.ndarray:
  """Returns the draws of `count` batches of 4, [count, 4]."""
  arguments = {"batch_size": 4, "seed": 1, "first_step": 0, **given}
  return np.stack([batch.numpy() for batch in pipeline.training_draws(**arguments).take(count)])


def test_draws_are_a_pure_function_of_seed_and_number_whatever_start_batch_and_shard():
  expected = _draws(6)
  assert (expected.shape, expected.dtype) == ((6, 4), np.float32)
  np.testing.assert_array_equal(_draws(4, first_step=2), expected[2:])
  np.testing.assert_array_equal(_draws(3, batch_size=8), expected.reshape(3, 8))
  shards = [_draws(4, first_step=2, shard=(i, 2)) for i in range(2)]
  np.testing.assert_array_equal(np.concatenate(shards, axis=1), expected[2:])
  assert (_draws(6, seed=2) != expected).all()


def test_draws_are_uniform_and_independent_of_each_other_and_of_those_of_crops():
  draws = _draws(1, batch_size=2000).ravel()
  assert 0.0 <= draws.min() and draws.max() < 1.0
  counts = np.histogram(draws, 10, (0, 1))[0]
  assert np.sum((counts - 200) ** 2 / 200) < 27.9  # chi-squared of 9 degrees: 1 in 1000
  seeds = tf.data.Dataset.range(2000).map(lambda n: tf.cast([1, n], tf.int64))
  of_crops = seeds.map(lambda seed: tf.random.stateless_uniform([4], seed))
  others = np.stack([*of_crops.as_numpy_iterator()], axis=1)
  rows = np.concatenate([[draws, np.roll(draws, 1)], others])
  assert np.abs(np.corrcoef(rows)[0, 1:]).max() < 4 / np.sqrt(2000)


def test_every_image_comes_once_an_epoch_in_an_order_of_its_own():
  drawn = _batches(_training_images(7), 7)[..., 0, 0, 0].ravel()  # 28 crops: 4 epochs
  epochs = drawn.reshape(4, 7)
  np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(7), (4, 1)))
  assert len({tuple(epoch) for epoch in epochs}) > 1


def test_one_image_is_enough():
  assert (_batches(_training_images(1), 3)[..., 0] == 0).all()


def test_shards_of_a_batch_join_to_the_whole():
  images = _training_images(7)
  shards = [_batches(images, 3, shard=(i, 2), first_step=2) for i in range(2)]
  np.testing.assert_array_equal(np.concatenate(shards, axis=1), _batches(images, 3, first_step=2))


def test_crops_are_parts_of_their_image_some_of_them_mirrored():
  images, arrays, mirrored = _training_images(3), _arrays(3), 0
  crops = _batches(images, 20).reshape(80, 32, 32, 3)
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


def test_an_image_of_the_size_of_a_crop_is_taken_whole():
  crops = _batches(_training_images(2, height=32, width=32), 4)
  np.testing.assert_array_equal(np.unique(crops[..., 1]), np.arange(32))
  assert crops.shape == (4, 4, 32, 32, 3)


def test_images_are_shrunk_by_factors_down_to_the_smallest():
  images = _training_images(2, height=100, width=120)
  crops = _batches(images, 20, min_resize_scale=0.5).reshape(80, 32, 32, 3).astype(float)
  # Green counts source rows: over 31 rows of a crop it rises by 31 / scale.
  scales = 31 / (crops[:, -1, 0, 1] - crops[:, 0, 0, 1])
  assert scales.min() == pytest.approx(0.5, abs=0.06)
  assert scales.max() == pytest.approx(1.0, abs=0.06)
  assert np.mean(scales) == pytest.approx(0.75, abs=0.06)


def test_a_small_image_is_shrunk_no_further_than_to_a_crop():
  crops = _batches(_training_images(2, height=40, width=40), 10, min_resize_scale=0.1).reshape(
    40, 32, 32, 3
  )
  rows = crops[:, -1, 0, 1].astype(int) - crops[:, 0, 0, 1]
  assert rows.max() == pytest.approx(39, abs=1)


def test_small_images_are_left_out_with_a_count(folder, caplog):
  for i in range(3):
    image_files.write_image(str(folder / f"small{i}.png"), np.zeros((31, 90, 3), np.uint8))
  images = pipeline.load(str(folder), 32, 2**30)
  assert [os.path.basename(name) for name in images.names] == [f"{i}.png" for i in range(5)]
  assert "skipped 3 images with a side below the crop size of 32" in caplog.text


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM", "GIF"])
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0.0, 1.0))
def test_a_file_cut_anywhere_is_left_out_where_it_cannot_be_read(tmp_path, name, share):
  path = tmp_path / "a.png"
  random = np.random.default_rng(0).integers(0, 256, (32, 33, 3), np.uint8)
  Image.fromarray(random).save(path, name)
  os.truncate(path, round(share * path.stat().st_size))
  try:
    expected = image_files.read_image(str(path))
  except image_files.ImageError:
    with pytest.raises(pipeline.DataError, match="1 are broken, 0 are smaller"):
      pipeline.load(str(path), 32, 0)
  else:
    images = pipeline.load(str(path), 32, 0)
    np.testing.assert_array_equal(images.decode(0), pipeline.to_rgb(expected))


def test_transparent_images_are_left_out_and_opaque_ones_are_not(folder, caplog):
  for name, opacity in (("opaque", 255), ("clear", 254)):
    rgba = np.dstack([_arrays(1)[0], np.full((40, 48), opacity, np.uint8)])
    Image.fromarray(rgba).save(folder / f"{name}.png")
  images = pipeline.load(str(folder), 32, 0)
  assert [os.path.basename(name) for name in images.names[5:]] == ["opaque.png"]
  assert f"skipped: {folder / 'clear.png'}: has transparent pixels" in caplog.text


def test_files_with_their_end_are_not_decoded_at_the_start(folder, monkeypatch):
  def read_image(*unused, **unused_too):
    raise AssertionError("decoded")

  monkeypatch.setattr(image_files, "read_image", read_image)
  assert len(pipeline.load(str(folder), 32, 2**30).names) == 5


def test_a_conversion_of_colours_is_reported_once(folder, caplog):
  Image.new("CMYK", (40, 40), (255, 0, 0, 0)).save(folder / "a.tif")
  images = pipeline.load(str(folder / "a.tif"), 32, 0)
  assert "CMYK" not in caplog.text
  for _ in range(3):
    images.decode(0)
  assert caplog.text.count("CMYK is converted to RGB") == 1


def test_broken_images_are_left_out_by_name(folder, caplog):
  (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:50])
  (folder / "note.png").write_text("no image")
  images = pipeline.load(str(folder), 32, 2**30)
  assert len(images.names) == 4
  for name in ("1.png", "note.png"):
    assert f"skipped: {folder / name}" in caplog.text


def test_nothing_usable_is_an_error(tmp_path):
  (tmp_path / "a.png").write_text("no image")
  image_files.write_image(str(tmp_path / "b.png"), np.zeros((8, 8, 3), np.uint8))
  with pytest.raises(
    pipeline.DataError,
    match=r"^no training image is left: 1 are broken, 1 are smaller than the crop size of 32; "
    r"lower --crop_size or give other images$",
  ):
    pipeline.load(str(tmp_path), 32, 2**30)


def test_no_image_at_all_is_an_error(tmp_path):
  with pytest.raises(image_files.ImageError, match=r"no images found"):
    pipeline.load(str(tmp_path), 32, 2**30)


def test_grey_images_come_as_rgb(folder):
  image_files.write_image(str(folder / "grey.png"), np.full((40, 40, 1), 99, np.uint8))
  images = pipeline.load(str(folder / "grey.png"), 32, 2**30)
  np.testing.assert_array_equal(_batches(images, 1), 99)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
  cache_bytes=st.integers(0, 7 * 40 * 48 * 3),
  step=st.integers(0, 5),
  shards=st.sampled_from([1, 2, 4]),
)
def test_caches_starts_and_shards_of_any_size_give_the_same_batches(
  folder, cache_bytes, step, shards
):
  expected = _batches(_training_images(5), 6, min_resize_scale=0.8)
  images = pipeline.load(str(folder), 32, cache_bytes)
  parts = [
    _batches(images, 6 - step, first_step=step, shard=(i, shards), min_resize_scale=0.8)
    for i in range(shards)
  ]
  np.testing.assert_array_equal(np.concatenate(parts, axis=1), expected[step:])
  assert images.cache.held_bytes <= cache_bytes


def test_images_that_fit_into_the_cache_are_decoded_once(folder, monkeypatch):
  read, paths = image_files.read_image, []
  monkeypatch.setattr(
    image_files, "read_image", lambda path, **given: paths.append(path) or read(path, **given)
  )
  one = 40 * 48 * 3
  for fit, most in ((0, 40), (2, 26), (5, 5)):
    paths.clear()
    images = pipeline.load(str(folder), 32, fit * one + 1)
    for number in list(range(5)) * 8:
      images.readable.get(number)[1]
    assert len(paths) == most and images.cache.held_bytes == fit * one


@pytest.mark.parametrize(
  "spoil, message",
  [
    (lambda path: os.truncate(path, 50), "damaged or cut short"),
    (os.remove, "No such file"),
    (
      lambda path: image_files.write_image(path, np.zeros((20, 48, 3), np.uint8)),
      r"has sides \(20, 48\), expected at least 32",
    ),
  ],
  ids=["damaged", "removed", "smaller"],
)
def test_an_image_that_breaks_after_the_start_is_named_once_and_the_next_is_drawn(
  folder, caplog, spoil, message
):
  images = pipeline.load(str(folder), 32, 0)
  for name in images.names[3:]:
    spoil(name)
  for _ in range(2):
    drawn = [int(images.readable.get(number)[1][0, 0, 0]) for number in range(5)]
    assert drawn == [0, 1, 2, 0, 0]
  for count, name in enumerate(images.names[3:], 1):
    pattern = rf"skipped, as number {count} of 5 training images: {name}: .*{message}"
    assert len(re.findall(pattern, caplog.text)) == 1


def test_batches_with_a_broken_image_are_the_same_at_each_start(folder):
  data = bytearray((folder / "2.png").read_bytes())
  data[len(data) // 2] ^= 255
  (folder / "2.png").write_bytes(data)
  images = [pipeline.load(str(folder), 32, 2**20) for _ in range(2)]
  assert len(images[0].names) == 5
  unbroken = _batches(images[0], 6)
  np.testing.assert_array_equal(_batches(images[1], 3, first_step=3), unbroken[3:])
  assert (unbroken[..., 0] != 2).all()
  assert list(images[0].readable.failures) == [2]


def test_where_no_image_can_be_read_any_more_the_run_ends_with_the_first(folder):
  images = pipeline.load(str(folder), 32, 0)
  for name in images.names:
    os.remove(name)
  with (
    pytest.raises(
      pipeline.DataError,
      match=r"^none of 5 training images can be read, expected some; the first: \S+\.png: "
      r"[^\n]*No such file[^\n]*; restore them and start again$",
    ),
    images.readable.failures_named(),
  ):
    _batches(images, 1)


def test_images_held_out_are_those_that_can_be_decoded(caplog):
  arrays = _arrays(41)

  def decode(number):
    if number in broken:
      raise pipeline.DataError(f"{number} is broken")
    return arrays[number]

  images, broken = pipeline.TrainingImages([str(i) for i in range(41)], decode), {20}
  rest, found = pipeline.held_out(images, 16)
  assert len(rest.names) == 38 and [int(image[0, 0, 0]) for image in found] == [0, 40]
  assert "20 is broken" in caplog.text
  broken |= {0, 40}
  with pytest.raises(pipeline.DataError, match="^none of 3 training images can be read, "):
    pipeline.held_out(images, 16)


def test_other_errors_of_tensorflow_keep_their_text():
  with pytest.raises(tf.errors.UnavailableError, match="away"):
    with _training_images(1).readable.failures_named():
      raise tf.errors.UnavailableError(None, None, "away")


@pytest.mark.parametrize(
  "number, most, aside", [(1, 16, [0]), (2, 16, [0]), (41, 16, [0, 20, 40]), (60, 2, [0, 20])]
)
def test_every_twentieth_image_is_held_out_up_to_a_limit(number, most, aside):
  images = _training_images(number)
  rest, validation = pipeline.held_out(images, most)
  assert [int(image[0, 0, 0]) for image in validation] == aside
  kept = [i for i in range(number) if i not in aside] or [0]
  assert rest.names == [f"{i}.png" for i in kept]
  places = [int(rest.readable.get(i)[1][0, 0, 0]) for i in range(len(kept))]
  assert places == kept


# TensorFlow Datasets.


@pytest.fixture(scope="module")
def tfds(tmp_path_factory):
  """tensorflow_datasets with tiny data sets of ours, prepared in a folder of the test's."""
  datasets = pytest.importorskip("tensorflow_datasets")

  class KhuvcmTinyPhotos(datasets.core.GeneratorBasedBuilder):
    """Six images to train on, one of them too small, and one to test."""

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

    FEATURE = "drawing"

  folder = str(tmp_path_factory.mktemp("tfds"))
  patch = pytest.MonkeyPatch()
  patch.setattr(datasets, "builder", functools.partial(datasets.builder, data_dir=folder))
  patch.setattr(datasets, "load", functools.partial(datasets.load, data_dir=folder))
  yield datasets
  patch.undo()


def test_tfds_images_are_those_of_the_split(tfds, caplog):
  images = pipeline.load_tfds("khuvcm_tiny_photos", 32, 2**30)
  assert len(images.names) == 5
  assert "skipped 1 images" in caplog.text
  crops = _batches(images, 5)
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
      r"^TFDS data set 'khuvcm_tiny_words' has features \['drawing'\], expected one named 'image'",
    ),
  ],
)
def test_tfds_data_sets_that_do_not_fit_are_refused(tfds, name, cache, message):
  with pytest.raises(pipeline.DataError, match=message):
    pipeline.load_tfds(name, 32, cache)


def test_tfds_images_are_what_tfds_gives_in_its_order(tfds):
  images = pipeline.load_tfds("khuvcm_tiny_photos:train+test", 1, 0)
  expected = [*tfds.as_numpy(tfds.load("khuvcm_tiny_photos", split="train+test"))]
  assert len(images.names) == len(expected) == 7
  for number, example in enumerate(expected):
    np.testing.assert_array_equal(images.decode(number), example["image"])


@pytest.mark.parametrize("cache_bytes", [0, 2 * 40 * 48 * 3, 2**30])
def test_tfds_sets_larger_than_the_cache_give_the_same_batches_from_any_step(tfds, cache_bytes):
  images = pipeline.load_tfds("khuvcm_tiny_photos", 32, cache_bytes)
  arrays = [images.decode(number) for number in range(5)]
  expected = _batches(pipeline.from_arrays(images.names, arrays), 6)
  np.testing.assert_array_equal(_batches(images, 4, first_step=2), expected[2:])
  assert images.cache.held_bytes <= cache_bytes


def test_parts_of_a_split_are_those_of_tfds(tfds):
  whole, part = (
    pipeline.load_tfds(f"khuvcm_tiny_photos:train{part}", 1, 0) for part in ("", "[2:5]")
  )
  for number in range(3):
    np.testing.assert_array_equal(part.decode(number), whole.decode(number + 2))
  assert len(part.names) == 3


def test_few_images_are_decoded_at_once():
  """Decoding takes several times the memory of what it returns."""
  lock, now, most, arrays = threading.Lock(), [], [], _arrays(1)
  full = threading.Event()

  def decode(number):
    with lock:
      now.append(number)
      most.append(len(now))
    if len(most) >= 8:
      full.set()
    full.wait(60)
    with lock:
      now.remove(number)
    return arrays[0]

  images = pipeline.TrainingImages([str(i) for i in range(32)], decode)
  with futures.ThreadPoolExecutor(32) as pool:
    list(pool.map(images.readable.get, range(32)))
  assert max(most) == 8 and len(most) == 32
