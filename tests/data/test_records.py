"""Features of TFRecord files by their place: found among others, and damage told."""

from __future__ import annotations

import os

import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from khuvcm_tf.data import DataError, records

NAMES = ("image",)


def _feature(value) -> tf.train.Feature:
  if isinstance(value, list):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=value))
  return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))


def _example(**features) -> bytes:
  features = {name: _feature(value) for name, value in features.items()}
  return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def _write(path, examples) -> str:
  with tf.io.TFRecordWriter(str(path)) as writer:
    for example in examples:
      writer.write(example)
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
  start, stop = records._find(b"--" + record + b"-", 2, 2 + len(record), {b"image": "image"})[
    "image"
  ]
  assert (b"--" + record)[start:stop] == image


def test_records_are_skipped_and_taken_as_tfds_says(tmp_path):
  images = [os.urandom(n) for n in (5, 300, 1, 70_000, 12)]
  path = _write(
    tmp_path / "a", [_example(image=[image], number=i) for i, image in enumerate(images)]
  )
  data = (tmp_path / "a").read_bytes()
  for skip, take in ((0, 5), (2, 2), (4, 1), (3, 0)):
    found = [data[slice(*each["image"])] for each in records.spans(path, NAMES, skip, take)]
    assert found == images[skip : skip + take]


@pytest.mark.parametrize(
  "examples, message",
  [
    ([_example(image=[b"a"])], "record 1 cannot be read: .*prepare it anew$"),
    ([_example(image=[b"a"]), _example(other=[b"a"])], "record 1 .*has no feature `image`"),
    ([_example(image=[b"a"]), _example(image=7)], "record 1 .*its feature `image` is not of bytes"),
    ([_example(image=[b"a"]), b"junk" * 9], "record 1 cannot be read: it is not an Example"),
  ],
)
def test_damaged_files_are_named(tmp_path, examples, message):
  path = _write(tmp_path / "a", examples)
  with pytest.raises(DataError, match=rf"^{path}: {message}"):
    list(records.spans(path, NAMES, 0, 2))


@pytest.mark.parametrize("count", [0, 5, 30, 170])
def test_a_file_cut_short_is_named(tmp_path, count):
  path = _write(tmp_path / "a", [_example(image=[bytes(100)])] * 2)
  os.truncate(path, count)
  with pytest.raises(DataError, match=rf"^{path}: record \d cannot be read"):
    list(records.spans(path, NAMES, 0, 2))


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(DataError, match="gone: record 0 cannot be read: No such file"):
    list(records.spans(str(tmp_path / "gone"), NAMES))


def test_of_a_file_without_records_are_none(tmp_path):
  assert list(records.spans(_write(tmp_path / "a", [_example(image=[b"a"])]), NAMES, 0, 0)) == []
  assert list(records.spans(_write(tmp_path / "b", []), NAMES)) == []


def test_all_features_that_a_record_has_are_found_to_the_end_of_the_file(tmp_path):
  path = _write(tmp_path / "a", [_example(image=[b"a"], name=[b"x"]), _example(image=[b"b"])])
  data = (tmp_path / "a").read_bytes()
  found = [
    {name: data[slice(*span)] for name, span in each.items()}
    for each in records.spans(path, ("image", "name"))
  ]
  assert found == [{"image": b"a", "name": b"x"}, {"image": b"b"}]
