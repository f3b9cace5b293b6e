"""What programs find by a name: files, and records as TensorFlow wrote them."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from khuvcm_tf.data import DataError, inputs
from khuvcm_tf.data.image_files import ImageError


def _png(value: int) -> bytes:
  file = io.BytesIO()
  Image.new("RGB", (3, 2), (value, value, value)).save(file, "PNG")
  return file.getvalue()


def _write(path, *examples: dict[str, bytes]) -> str:
  path.parent.mkdir(parents=True, exist_ok=True)
  with tf.io.TFRecordWriter(str(path)) as writer:
    for features in examples:
      example = tf.train.Example()
      for name, value in features.items():
        example.features.feature[name].bytes_list.value.append(value)
      writer.write(example.SerializeToString())
  return str(path)


@pytest.fixture
def here(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  return tmp_path


def test_files_are_named_below_their_folder(here):
  for name in ("photos/a.png", "photos/sub/b.png"):
    (here / name).parent.mkdir(parents=True, exist_ok=True)
    (here / name).write_bytes(_png(7))
  for pattern in ("photos", "photos/**/*.png"):
    found = inputs.find_images(pattern)
    assert [(each.path, each.name) for each in found] == [
      ("photos/a.png", "a.png"),
      ("photos/sub/b.png", "sub/b.png"),
    ]
  (one,) = inputs.find_images("photos/sub/b.png")
  assert (one.name, one.label, one.size) == ("b.png", "photos/sub/b.png", len(_png(7)))
  assert one.content() == _png(7)
  assert (one.read_image("refuse") == np.full((2, 3, 3), 7)).all()


def test_records_have_the_names_in_them_or_numbers(here):
  _write(here / "shards/x.tfrecord-00000-of-00002", {"image": _png(1), "name": b"sub/a.png"})
  _write(here / "shards/x.tfrecord-00001-of-00002", {"image/encoded": _png(2)}, {"image": _png(3)})
  for pattern in ("shards", "shards/x.tfrecord*"):
    found = inputs.find_images(pattern)
    assert [each.name for each in found] == [
      "sub/a.png",
      "x.tfrecord-00001-of-00002/000000",
      "x.tfrecord-00001-of-00002/000001",
    ]
    assert [each.read_image("refuse")[0, 0, 0] for each in found] == [1, 2, 3]
    assert [each.content() for each in found] == [_png(1), _png(2), _png(3)]


def test_a_damaged_record_is_named_by_file_and_record(here):
  path = _write(here / "x.tfrecord", {"image": b"no image", "name": b"a.png"})
  (found,) = inputs.find_images(path)
  with pytest.raises(ImageError, match=rf"^{path}: a\.png: not an image, or damaged"):
    found.read_image("refuse")


@pytest.mark.parametrize("name", [b"/etc/a", b"../a", b"a/../../b", b"", b"a\0b"])
def test_names_that_lead_elsewhere_are_refused(here, name):
  path = _write(here / "x.tfrecord", {"image": _png(1), "name": name})
  with pytest.raises(DataError, match="a record has the name .*, expected a path below a folder"):
    inputs.find_images(path)


def test_what_holds_no_images_is_named(here):
  (here / "empty").mkdir()
  with pytest.raises(ImageError, match=r"^empty: no images found; expected a file, a folder"):
    inputs.find_images("empty")
  with pytest.raises(DataError, match=r"none\.tfrecord: no records found, expected some"):
    inputs.find_images(_write(here / "none.tfrecord"))
  with pytest.raises(DataError, match=r"record 0 has no feature `image` or `image/encoded`, exp"):
    inputs.find_images(_write(here / "named.tfrecord", {"name": b"a"}))


def test_images_of_tfds_are_those_of_its_files(here, monkeypatch):
  path = _write(here / "x.tfrecord", {"image": _png(1)}, {"image": _png(2)})

  class Found:
    def __init__(self, name, splits):
      assert name == "known:train"

    def __len__(self):
      return 2

    def name_of(self, number):
      return f"known/{number}"

    def span(self, number):
      return path, *list(inputs.records.spans(path, ("image",)))[number]["image"]

  from khuvcm_tf.data import tfds_images

  monkeypatch.setattr(tfds_images, "find", Found)
  found = inputs.find_images("tfds:known:train")
  assert [(each.name, each.content()) for each in found] == [
    ("known/0", _png(1)),
    ("known/1", _png(2)),
  ]
