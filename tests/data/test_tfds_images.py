"""Encoded images found within TFRecord files, against TensorFlow's own writer."""

from __future__ import annotations

import os

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from khuvcm_tf.data import DataError, tfds_images


def _feature(value) -> tf.train.Feature:
  if isinstance(value, list):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=value))
  return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))


def _example(**values) -> bytes:
  features = {name: _feature(value) for name, value in values.items()}
  return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def _write(path, records) -> str:
  with tf.io.TFRecordWriter(str(path)) as writer:
    for record in records:
      writer.write(record)
  return str(path)


@given(
  image=st.binary(max_size=400),
  others=st.dictionaries(
    st.text("abimage/", min_size=1, max_size=8).filter(lambda name: name != "image"),
    st.one_of(st.integers(-(2**63), 2**63 - 1), st.lists(st.binary(max_size=300), max_size=3)),
    max_size=5,
  ),
)
def test_the_image_is_found_among_other_features(image, others):
  record = _example(image=[image], **others)
  start, stop = tfds_images._find_image(b"--" + record + b"-", 2, 2 + len(record))
  assert (b"--" + record)[start:stop] == image


def test_records_are_skipped_and_taken_as_tfds_says(tmp_path):
  images = [os.urandom(n) for n in (5, 300, 1, 70_000, 12)]
  path = _write(
    tmp_path / "a", [_example(image=[image], number=i) for i, image in enumerate(images)]
  )
  data = (tmp_path / "a").read_bytes()
  for skip, take in ((0, 5), (2, 2), (4, 1), (3, 0)):
    found = [data[start:stop] for start, stop in tfds_images._spans(path, skip, take)]
    assert found == images[skip : skip + take]


@pytest.mark.parametrize(
  "records, message",
  [
    ([_example(image=[b"a"])], "record 1 cannot be read: .*prepare the data set anew$"),
    ([_example(image=[b"a"]), _example(other=[b"a"])], "record 1 .*has no feature `image`"),
    ([_example(image=[b"a"]), _example(image=7)], "record 1 .*not an Example with an encoded"),
    ([_example(image=[b"a"]), b"junk" * 9], "record 1 cannot be read: it is not an Example"),
  ],
)
def test_damaged_files_are_named(tmp_path, records, message):
  path = _write(tmp_path / "a", records)
  with pytest.raises(DataError, match=rf"^{path}: {message}"):
    tfds_images._spans(path, 0, 2)


@pytest.mark.parametrize("count", [0, 5, 30, 170])
def test_a_file_cut_short_is_named(tmp_path, count):
  path = _write(tmp_path / "a", [_example(image=[bytes(100)])] * 2)
  os.truncate(path, count)
  with pytest.raises(DataError, match=rf"^{path}: record \d cannot be read"):
    tfds_images._spans(path, 0, 2)


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(DataError, match="gone: record 0 cannot be read: No such file"):
    tfds_images._spans(str(tmp_path / "gone"), 0, 1)
  assert tfds_images._spans(_write(tmp_path / "a", [_example(image=[b"a"])]), 0, 0).shape == (0, 2)


def test_other_kinds_of_images_are_refused():
  tfds = pytest.importorskip("tensorflow_datasets")
  kinds = {
    tfds.features.Image(): True,
    tfds.features.Image(shape=(None, None, 1)): True,
    tfds.features.Image(shape=(8, 8, 4)): False,
    tfds.features.Image(shape=(8, 8, 3), dtype=np.uint16, encoding_format="png"): False,
  }
  for feature, usable in kinds.items():
    assert tfds_images._is_usable(feature) is usable
