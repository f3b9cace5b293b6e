"""Features on disk: the same bits and detections again, in both formats, and damage told."""

from __future__ import annotations

import json
import os
import re
import zipfile

import numpy as np
import pytest
import tensorflow as tf

from detection.predictor import Predictor
from khuvcm_tf import atomic_files
from khuvcm_tf.data import feature_files, feature_npz, feature_records
from khuvcm_tf.data.feature_files import NpzWriter
from khuvcm_tf.data.feature_records import INDEX, RecordWriter
from khuvcm_tf.data.stored_features import (
  FeatureError,
  ImageFeatures,
  Metadata,
  StoredFeatures,
  from_arrays,
  level_shapes,
)
from khuvcm_tf.ops.pyramid import LEVELS

_FINGERPRINT = "0123456789abcdef"
# The last is no UTF-8, as systems allow it.
_NAMES = ("a.jpg", "a.png", "sub/a.jpg", "sub/b\udcff.jpg")


def _stored(name: str, dtype: str = "float32", size=(60, 90), channels=4) -> StoredFeatures:
  rng = np.random.default_rng(len(name))
  levels = {
    level: rng.normal(size=shape).astype(np.float32)
    for level, shape in level_shapes(size, channels).items()
  }
  metadata = Metadata(name, f"{len(name):064}", _FINGERPRINT, dtype, channels, size, (120, 180))
  return StoredFeatures(metadata, ImageFeatures(levels, size, (120, 180)))


def _writer(kind: str, folder, dtype: str = "float32"):
  if kind == "npz":
    return NpzWriter(str(folder))
  return RecordWriter(str(folder), _FINGERPRINT, dtype, 4, images_per_file=3)


def _write(kind: str, folder, names=_NAMES, dtype: str = "float32") -> list[StoredFeatures]:
  stored = [_stored(name, dtype) for name in names]
  with _writer(kind, folder, dtype) as writer:
    for each in stored:
      writer.add(each)
  return stored


def _assert_equal(found: StoredFeatures, expected: StoredFeatures):
  assert found.metadata == expected.metadata
  assert found.features[1:] == expected.features[1:]
  assert list(found.features.levels) == list(LEVELS)
  for level, values in found.features.levels.items():
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, expected.features.levels[level], level)


@pytest.fixture(params=["npz", "tfrecord"])
def kind(request) -> str:
  return request.param


class TestRoundTrip:
  def test_of_float32_gives_the_same_bits_in_the_order_of_names(self, kind, tmp_path):
    stored = _write(kind, tmp_path / "f")
    found = feature_files.open_features(str(tmp_path / "f"))
    assert len(found) == 4 and [each.name for each in found.metadata] == list(_NAMES)
    for one, other in zip(found, stored):
      _assert_equal(one, other)
    _assert_equal(found[-1], stored[-1])
    assert [each.metadata.name for each in found[1::2]] == ["a.png", "sub/b\udcff.jpg"]

  def test_of_float16_is_off_by_half_a_step_of_it(self, kind, tmp_path):
    (stored,) = _write(kind, tmp_path / "f", ["a.jpg"], "float16")
    (found,) = feature_files.open_features(str(tmp_path / "f"))
    for level, values in stored.features.levels.items():
      error = np.abs(found.features.levels[level] - values)
      assert 0 < error.max() and (error <= np.abs(values) / 2**11 + 2**-25).all()

  def test_of_one_photo_is_a_file_that_numpy_reads(self, tmp_path):
    path = str(tmp_path / "new" / "a.npz")
    stored = _stored("a.jpg")
    NpzWriter(path).add(stored)
    with np.load(path, allow_pickle=False) as arrays:
      np.testing.assert_array_equal(arrays["p3"], stored.features.levels["p3"])
      assert arrays["image_size"].tolist() == [60, 90] and str(arrays["name"]) == "a.jpg"
    _assert_equal(feature_files.open_features(path)[0], stored)

  def test_lets_values_be_changed(self, kind, tmp_path):
    _write(kind, tmp_path / "f", ["a.jpg"])
    levels = feature_files.open_features(str(tmp_path / "f"))[0].features.levels
    levels["p2"][:] = 0.0

  def test_by_tf_data_gives_the_same(self, kind, tmp_path):
    stored = _write(kind, tmp_path / "f")
    data = feature_files.open_features(str(tmp_path / "f")).to_dataset()
    self._check_data(data, stored)

  def test_by_tf_data_without_python_gives_the_same(self, tmp_path):
    for dtype in ("float32", "float16"):
      stored = _write("tfrecord", tmp_path / dtype, dtype=dtype)
      files = sorted(str(path) for path in (tmp_path / dtype).glob("*.tfrecord"))
      assert len(files) == 2
      data = tf.data.TFRecordDataset(files)
      data = data.map(lambda record, d=dtype: feature_records.parse(record, d, 4))
      assert data.element_spec["p6"].shape.as_list() == [None, None, 4]
      self._check_data(data, [from_arrays(m, _as(dtype, f)) for m, f in stored])

  def _check_data(self, data, stored):
    elements = list(data.as_numpy_iterator())
    assert len(elements) == len(stored)
    for found, (metadata, features) in zip(elements, stored):
      assert os.fsdecode(found["name"]) == metadata.name
      for key in ("image_size", "original_size"):
        assert tuple(found[key]) == getattr(metadata, key)
      for level, values in features.levels.items():
        np.testing.assert_array_equal(found[level], values)


def _as(dtype: str, features: ImageFeatures) -> dict[str, np.ndarray]:
  return {level: values.astype(dtype) for level, values in features.levels.items()}


class TestOfADetector:
  @pytest.fixture(scope="class")
  def predictor(self, tiny_detector):
    return Predictor(tiny_detector, ("cat", "dog", "cup"), _FINGERPRINT)

  def test_stored_features_lead_to_the_detections_of_the_photo_bit_for_bit(
    self, kind, predictor, tmp_path
  ):
    photo = np.random.default_rng(0).integers(0, 256, (120, 200, 3)).astype(np.uint8)
    features, expected = predictor.extract_features(photo), predictor(photo)
    metadata = Metadata("a", "", _FINGERPRINT, "float32", 16, *features[1:])
    writer = NpzWriter(str(tmp_path / "f"))
    if kind == "tfrecord":
      writer = RecordWriter(str(tmp_path / "f"), _FINGERPRINT, "float32", 16)
    with writer:
      writer.add(StoredFeatures(metadata, features))
    (stored,) = feature_files.open_features(str(tmp_path / "f"), predictor.made_by)
    assert len(expected.boxes) > 5
    for found, wanted in zip(predictor.from_features(stored.features), expected):
      np.testing.assert_array_equal(found, wanted)

  def test_features_of_another_detector_are_refused(self, kind, predictor, tmp_path):
    _write(kind, tmp_path / "f")
    with pytest.raises(
      FeatureError,
      match=r"f: the features of a\.jpg have 4 channels and were made by detector 0123456789abcdef"
      r", expected 16 channels and detector 0123456789abcdef; use the detector that made them, or",
    ):
      feature_files.open_features(str(tmp_path / "f"), predictor.made_by)
    other = Predictor(predictor.detector, predictor.categories, "f" * 16)
    with pytest.raises(FeatureError, match=r"expected 16 channels and detector f{16}; use the det"):
      feature_files.open_features(str(tmp_path / "f"), other.made_by)


class TestResuming:
  def test_a_writer_knows_what_is_there(self, kind, tmp_path):
    stored = _write(kind, tmp_path / "f")
    with _writer(kind, tmp_path / "f") as writer:
      assert [writer.find(name) for name in _NAMES] == [each.metadata for each in stored]
      assert writer.find("c.jpg") is None
      writer.add(_stored("c.jpg"))
    found = feature_files.open_features(str(tmp_path / "f"))
    assert sorted(each.name for each in found.metadata) == sorted([*_NAMES, "c.jpg"])
    for each in found:
      _assert_equal(each, _stored(each.metadata.name))

  def test_a_file_that_was_cut_does_not_count(self, kind, tmp_path):
    _write(kind, tmp_path / "f")
    path = tmp_path / "f" / ("a.png.npz" if kind == "npz" else "features-00000.tfrecord")
    path.write_bytes(path.read_bytes()[:-1])
    with _writer(kind, tmp_path / "f") as writer:
      lost = [name for name in _NAMES if writer.find(name) is None]
      for name in lost:
        writer.add(_stored(name))
    assert lost == (["a.png"] if kind == "npz" else ["a.jpg", "a.png", "sub/a.jpg"])
    found = feature_files.open_features(str(tmp_path / "f"))
    assert sorted(each.name for each in found.metadata) == list(_NAMES)

  def test_records_count_once_their_file_is_complete(self, tmp_path):
    with pytest.raises(KeyboardInterrupt), _writer("tfrecord", tmp_path / "f") as writer:
      for name in _NAMES:
        writer.add(_stored(name))
      raise KeyboardInterrupt
    found = feature_files.open_features(str(tmp_path / "f"))
    assert [each.name for each in found.metadata] == ["a.jpg", "a.png", "sub/a.jpg"]
    assert sorted(os.listdir(tmp_path / "f")) == ["features-00000.tfrecord", INDEX]

  def test_a_line_of_the_index_that_was_cut_is_left_out(self, tmp_path):
    _write("tfrecord", tmp_path / "f")
    index = tmp_path / "f" / INDEX
    index.write_bytes(index.read_bytes()[:-9])
    assert len(feature_files.open_features(str(tmp_path / "f"))) == 3
    _write("tfrecord", tmp_path / "f", _NAMES[3:])
    found = feature_files.open_features(str(tmp_path / "f"))
    assert [each.metadata.name for each in found] == list(_NAMES)

  @pytest.mark.parametrize("dtype, fingerprint", [("float16", _FINGERPRINT), ("float32", "f" * 16)])
  def test_records_of_another_kind_are_not_added(self, dtype, fingerprint, tmp_path):
    _write("tfrecord", tmp_path / "f")
    with pytest.raises(
      FeatureError,
      match=r"f holds features of \w+ \w+, expected \w+; give another --output, or --o",
    ):
      RecordWriter(str(tmp_path / "f"), fingerprint, dtype, 4)

  def test_a_file_of_something_else_is_not_replaced(self, tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, mine=np.zeros(3))
    with pytest.raises(
      FeatureError,
      match=r"does not hold the arrays .*, with --overwrite, or give another --output$",
    ):
      NpzWriter(str(path)).find("a.jpg")


class TestWriting:
  def test_leaves_nothing_where_the_disk_is_full(self, kind, tmp_path, monkeypatch):
    def fail(*_, **__):
      raise (OSError(28, "No space left on device") if kind == "npz" else error)

    error = tf.errors.ResourceExhaustedError(None, None, "No space left on device")
    if kind == "npz":
      monkeypatch.setattr(os, "replace", fail)
    else:
      monkeypatch.setattr(tf.io.TFRecordWriter, "close", fail)
    with pytest.raises(atomic_files.FileError, match=r"cannot be written: No space left on device"):
      _write(kind, tmp_path / "f")
    assert [name for name in os.listdir(tmp_path / "f") if name != INDEX] == []

  def test_refuses_values_that_the_type_does_not_have(self, kind, tmp_path):
    stored = _stored("a.jpg", "float16")
    stored.features.levels["p4"][0, 0, 0] = 1e6
    with (
      pytest.raises(
        FeatureError,
        match=r"^a\.jpg: p4 has values that are not finite in float16, .*store float32",
      ),
      _writer(kind, tmp_path / "f", "float16") as writer,
    ):
      writer.add(stored)

  def test_refuses_maps_of_another_size(self, kind, tmp_path):
    stored = _stored("a.jpg")
    stored.features.levels["p4"] = stored.features.levels["p3"]
    with (
      pytest.raises(ValueError, match=r"^p4 is \[8, 12, 4\], expected \[4, 6, 4\]$"),
      _writer(kind, tmp_path / "f") as writer,
    ):
      writer.add(stored)

  def test_of_a_folder_that_cannot_be_made_says_so(self, kind, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
      atomic_files.FileError, match=r"file/f: cannot be made: Not a directory; ex"
    ):
      _writer(kind, tmp_path / "file" / "f")


class TestReadingNpz:
  """Files that others made."""

  @pytest.fixture
  def path(self, tmp_path):
    return str(tmp_path / "a.npz")

  def _refused(self, path: str, reason: str):
    for read in (feature_npz.read_metadata, feature_npz.read, feature_files.open_features):
      with pytest.raises(
        FeatureError,
        match=rf"^{re.escape(path)}: cannot be read: .*{reason}.*; extract them again$",
      ) as caught:
        read(path)
      assert "\n" not in str(caught.value)

  def _arrays(self, path: str) -> dict[str, np.ndarray]:
    feature_npz.write(path, _stored("a.jpg"))
    with np.load(path) as arrays:
      return dict(arrays)

  @pytest.mark.parametrize(
    "changes, reason",
    [
      ({"p3": np.zeros((8, 12, 5), "f4")}, r"p3 is float32 \[8, 12, 5\], not float32 \[8, 12, 4\]"),
      ({"p3": np.zeros((8, 12, 4), "f2")}, r"p3 is float16"),
      ({"p2": np.zeros((), "f4")}, r"it has 0 channels, not 1 to 65536"),
      ({"p2": np.zeros((16, 24, 4), "i4")}, r"its numbers are int32, none of float32, float16"),
      ({"image_size": np.array([600, 90], "i4")}, r"p2 is float32 .*, not float32 \[152, 24, 4\]"),
      ({"image_size": np.array([60, 90])}, r"image_size is int64 \[2\], not int32 \[2\]"),
      ({"image_size": np.array([60, -90], "i4")}, r"its image_size is \(60, -90\), not height and"),
      (
        {"original_size": np.array([2**30, 1], "i4")},
        r"its original_size is \(1073741824, 1\), no",
      ),
      ({"name": np.array(["a", "b"])}, r"name is <U1 \[2\], not a text"),
      ({"name": np.array("a" * 10_000)}, r"name is <U10000 \[\], not a text"),
      ({"extra": np.zeros(3)}, r"it does not hold the arrays digest\.npy"),
    ],
  )
  def test_refuses_other_arrays_before_they_are_read(self, path, changes, reason):
    np.savez(path, **{**self._arrays(path), **changes})
    self._refused(path, reason)

  def test_refuses_objects(self, path):
    np.savez(path, **{**self._arrays(path), "name": np.array({"a": 1}, object)})
    self._refused(path, "name holds Python objects, which are not read")

  def test_refuses_compressed_arrays(self, path):
    np.savez_compressed(path, **self._arrays(path))
    self._refused(path, "its arrays are compressed, which is not read")

  def test_refuses_an_array_that_says_that_it_is_larger(self, path):
    arrays = self._arrays(path)
    with zipfile.ZipFile(path, "w") as archive:
      for name, array in arrays.items():
        with archive.open(f"{name}.npy", "w") as file:
          np.lib.format.write_array(file, array[:1] if name == "p2" else array, (1, 0))
    data = open(path, "rb").read()
    # A header of the same length with the size that is expected.
    short, whole = b"'shape': (1, 24, 4), }  ", b"'shape': (16, 24, 4), } "
    assert data.count(short) == 1
    with open(path, "wb") as file:
      file.write(data.replace(short, whole))
    self._refused(path, "(p2 is cut short|Bad CRC)")

  def test_refuses_damaged_bytes(self, path):
    feature_npz.write(path, _stored("a.jpg"))
    data = bytearray(open(path, "rb").read())
    data[1000] ^= 1
    with open(path, "wb") as file:
      file.write(data)
    with pytest.raises(FeatureError, match=r"Bad CRC-32 for file 'p2\.npy'"):
      feature_npz.read(path)

  def test_refuses_values_that_are_not_finite(self, path):
    arrays = self._arrays(path)
    arrays["p5"][0, 0, 0] = np.nan
    np.savez(path, **arrays)
    with pytest.raises(FeatureError, match=r"p5 has values that are not finite"):
      feature_npz.read(path)

  def test_refuses_what_is_no_archive(self, path):
    with open(path, "wb") as file:
      file.write(b"no zip")
    self._refused(path, "not a zip file")


class TestReadingRecords:
  @pytest.fixture
  def folder(self, tmp_path):
    _write("tfrecord", tmp_path / "f")
    return tmp_path / "f"

  def _change_index(self, folder, line: int, change):
    lines = [json.loads(each) for each in (folder / INDEX).read_text().splitlines()]
    change(lines[line])
    (folder / INDEX).write_text("".join(f"{json.dumps(each)}\n" for each in lines))

  @pytest.mark.parametrize(
    "line, change, reason",
    [
      (0, lambda first: first.update(format=2), r"its format is 2, not 1"),
      (0, lambda first: first.update(dtype="object"), r"its numbers are object, none of"),
      (
        0,
        lambda first: first.update(channels=10**9),
        r"it has 1000000000 channels, not 1 to 65536",
      ),
      (0, lambda first: first.pop("fingerprint"), r"'fingerprint'"),
      (1, lambda file: file.update(file="../../other"), r"it lists a file '\.\./\.\./other'"),
      (1, lambda file: file["images"][0].update(offset=-1), r"it has offset -1"),
      (1, lambda file: file["images"][0].update(image_size=[1, 2, 3]), r"its image_size is \(1, 2"),
      (1, lambda file: file["images"][0].update(original_size=[1e9, 1]), r"its original_size is "),
      (1, lambda file: file["images"][0].update(name=3), r"its name is 3, no text"),
    ],
  )
  def test_refuses_an_index_of_something_else(self, folder, line, change, reason):
    self._change_index(folder, line, change)
    with pytest.raises(
      FeatureError, match=rf"{INDEX}: is no index of features: {reason}.*; copy it again, or extra"
    ):
      feature_files.open_features(str(folder))

  @pytest.mark.parametrize(
    "change, reason",
    [
      ({"image_size": [30, 90]}, "its image_size is not that of the index"),
      ({"digest": "0"}, "its digest is not that of the index"),
      ({"offset": 8}, "."),
      ({"offset": 10**9}, "."),
    ],
  )
  def test_refuses_a_record_that_is_not_the_one_of_the_index(self, folder, change, reason):
    self._change_index(folder, 1, lambda file: file["images"][1].update(change))
    features = feature_files.open_features(str(folder))
    with pytest.raises(
      FeatureError, match=rf"00000\.tfrecord: the record of a\.png cannot be read: .*{reason}"
    ):
      features[1]
    features[2]

  def test_refuses_damaged_bytes(self, folder):
    path = folder / "features-00000.tfrecord"
    data = bytearray(path.read_bytes())
    data[3000] ^= 1
    path.write_bytes(data)
    with pytest.raises(FeatureError, match=r"the record of a\.jpg cannot be read: .*corrupted rec"):
      feature_files.open_features(str(folder))[0]

  def test_refuses_a_record_that_says_that_it_is_longer_than_the_file(self, folder):
    path = folder / "features-00000.tfrecord"
    data = bytearray(path.read_bytes())
    data[:8] = (2**62).to_bytes(8, "little")
    path.write_bytes(data)
    with pytest.raises(FeatureError, match=r"it ends behind the file's end; extract the features"):
      feature_files.open_features(str(folder))[0]

  def test_names_a_file_that_is_missing(self, folder):
    os.unlink(folder / "features-00001.tfrecord")
    with pytest.raises(
      FeatureError, match=r"00001\.tfrecord: found no file of \d+ bytes, as index\.jsonl says; run"
    ):
      feature_files.open_features(str(folder))


def test_what_holds_no_features_is_named(tmp_path):
  for path in (tmp_path, tmp_path / "gone"):
    with pytest.raises(FeatureError, match=rf"^{path}: no features found; expected an \.npz file"):
      feature_files.open_features(str(path))


def test_photos_of_one_name_are_not_mixed(tmp_path):
  for folder in ("x", "y"):
    _write("npz", tmp_path / "f" / folder, ["a.jpg"])
  with pytest.raises(
    FeatureError, match=r"f: found features of a\.jpg twice, expected photos of d"
  ):
    feature_files.open_features(str(tmp_path / "f"))
