"""Photos on disk to detections and features: what is taken, where it goes, what failures leave.

A stand-in for a detector finds a box in the photo's upper left corner, of its first sample's width.
"""

from __future__ import annotations

import json
import pathlib
import re

import numpy as np
import pytest

from detection import batch_detection, feature_extraction, photos, predictor
from detection.coco import CocoError
from detection.config import Config
from detection.options import DetectOptions, ExtractOptions
from detection.photos import PhotoError
from detection.postprocessing import Objects
from khuvcm_tf import atomic_files
from khuvcm_tf.data import feature_files, image_files
from khuvcm_tf.data.image_files import ImageError
from khuvcm_tf.data.stored_features import FeatureError, ImageFeatures, level_shapes
from khuvcm_tf.executor import HERE
from khuvcm_tf.options import OptionsError

_CONFIG = Config("resnet18", fpn_channels=2, short_side=32, max_side=64)


class _Detector:
  """Has what the programs use of a `Predictor`; counts its work."""

  categories = ("cat", "dog")

  def __init__(self, **changes):
    self.changes, self.extracted, self.fingerprint = changes, 0, "0" * 16
    self.detector = type("Network", (), {"config": _CONFIG})

  @property
  def made_by(self):
    return self.fingerprint, _CONFIG.fpn_channels

  def __call__(self, image):
    return self.from_features(self.extract_features(image))

  def extract_features(self, image):
    self.extracted += 1
    first = int(image[0, 0, 0])
    if first == 13:
      raise MemoryError("of the stand-in")
    size = predictor.resized_shape(*image.shape[:2], _CONFIG.short_side, _CONFIG.max_side)
    shapes = level_shapes(size, _CONFIG.fpn_channels)
    levels = {level: np.full(shape, first, np.float32) for level, shape in shapes.items()}
    return ImageFeatures(levels, size, image.shape[:2])

  def from_features(self, features):
    width = features.levels["p2"][0, 0, 0]
    if width == 0:
      empty = np.zeros((0, *features.original_size), bool)
      return Objects(np.zeros((0, 4), "f4"), np.zeros(0, "f4"), np.zeros(0, "i4"), empty)
    mask = np.zeros((1, *features.original_size), bool)
    mask[0, :3, : int(width)] = True
    box = np.array([[0, 0, width, 3]], np.float32)
    return Objects(box, np.array([0.75], np.float32), np.array([1], np.int32), mask)


@pytest.fixture
def detector(monkeypatch):
  """The stand-in, which is loaded whatever the name."""
  made = _Detector()

  def load(name, **changes):
    made.changes = changes
    return made

  monkeypatch.setattr(predictor, "load", load)
  return made


@pytest.fixture
def here(tmp_path, monkeypatch):
  """The current folder; has photos/a.png, photos/b.jpg, photos/sub/a.png of 40 x 60 pixels."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / "photos" / "sub").mkdir(parents=True)
  for value, name in ((4, "a.png"), (0, "b.png"), (9, "sub/a.png")):
    _write_photo(f"photos/{name}", value)
  return tmp_path


def _write_photo(path: str, value: int):
  image_files.write_image(path, np.full((40, 60, 3), value, np.uint8))


def _tree(folder) -> list[str]:
  """All files below a folder, hidden ones too."""
  root = pathlib.Path(folder)
  return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def _detect(output="out", **given) -> str:
  return batch_detection.run_detect(DetectOptions(detector="D", output=output, **given))


def _extract(output="f", executor=HERE, **given) -> str:
  return feature_extraction.run_extract(
    ExtractOptions(detector="D", **{"input": "photos", "output": output, **given}), executor
  )


def _images(output="out") -> list[dict]:
  return json.loads(pathlib.Path(output, "detections.json").read_text())["images"]


class TestDetect:
  def test_photos_of_the_same_name_do_not_collide(self, detector, here):
    line = _detect(input="photos")
    assert line == "3 photos: 2 detections in out/detections.json, drawn beside it"
    assert _tree("out") == ["a.png", "b.png", "detections.json", "sub/a.png"]
    found = {each["file_name"]: each for each in _images()}
    assert list(found) == ["a.png", "b.png", "sub/a.png"]
    assert found["b.png"] == {
      "file_name": "b.png",
      "height": 40,
      "width": 60,
      "detections": [],
    }
    (detection,) = found["sub/a.png"]["detections"]
    rle = detection.pop("segmentation")
    assert detection == {
      "category": 1,
      "category_name": "dog",
      "score": 0.75,
      "bbox": [0.0, 0.0, 9.0, 3.0],
    }
    assert rle["size"] == [40, 60]
    drawn = image_files.read_image("out/sub/a.png")
    assert drawn.shape == (40, 60, 3) and (drawn[30:, 50:] == 9).all() and (drawn[0] != 9).any()

  def test_detections_json_names_the_detector_and_its_categories(self, detector, here):
    _detect(input="photos/a.png", draw=False)
    content = json.loads((here / "out" / "detections.json").read_text())
    assert content["detector"] == "D" and content["fingerprint"] == "0" * 16
    assert content["categories"] == ["cat", "dog"] and content["left_out"] == []
    assert _tree("out") == ["detections.json"]

  def test_a_photo_is_drawn_in_its_own_format_if_it_is_jpeg_or_png(self, detector, here):
    from PIL import Image

    for name in ("c.JPG", "d.webp", "e.gif"):
      Image.new("RGB", (30, 20)).save(f"photos/sub/{name}")
    _detect(input="photos/sub")
    drawn = ["a.png", "c.JPG", "d.webp.png", "e.gif.png"]
    assert _tree("out") == sorted([*drawn, "detections.json"])
    formats = [Image.open(f"out/{name}").format for name in drawn]
    assert formats == ["PNG", "JPEG", "PNG", "PNG"]

  def test_two_photos_that_would_be_drawn_to_one_file_are_refused(self, detector, here):
    from PIL import Image

    Image.new("RGB", (3, 2)).save("photos/x.gif")
    Image.new("RGB", (3, 2)).save("photos/x.gif.png")
    with pytest.raises(
      PhotoError, match=r"^x\.gif and x\.gif\.png would both be drawn to out/x\.g"
    ):
      _detect(input="photos")

  def test_options_change_the_detector_only_where_they_are_given(self, detector, here):
    _detect(input="photos/a.png")
    assert detector.changes == {"min_score": 0.5}
    given = {"short_side": 20, "max_side": 30, "min_score": 0.1, "max_detections": 7}
    _detect("other", input="photos/a.png", **given)
    assert detector.changes == given

  def test_of_several_photos_those_that_fail_are_named_and_the_others_done(
    self, detector, here, capsys
  ):
    (here / "photos" / "broken.jpg").write_bytes(b"no photo")
    _write_photo("photos/large.png", 13)
    with pytest.raises(
      PhotoError, match=r"^2 of 5 photos failed, for the reasons above; the others are in out/det"
    ):
      _detect(input="photos")
    first, second = capsys.readouterr().err.splitlines()
    assert re.match(r"failed: photos/broken\.jpg: not an image, or damaged; expected", first)
    remedy = "give it less at once, or more memory"
    assert second == f"failed: large.png: out of memory: of the stand-in: {remedy}"
    assert [each["file_name"] for each in _images()] == ["a.png", "b.png", "sub/a.png"]
    content = json.loads((here / "out" / "detections.json").read_text())
    assert [each["file_name"] for each in content["left_out"]] == ["broken.jpg", "large.png"]

  def test_the_error_of_an_only_photo_is_raised(self, detector, here):
    (here / "broken.jpg").write_bytes(b"no photo")
    with pytest.raises(ImageError, match=r"^broken\.jpg: not an image, or damaged; expected 8-bit"):
      _detect(input="broken.jpg")
    assert _tree("out") == []

  def test_a_folder_without_photos_is_named(self, detector, here):
    (here / "empty").mkdir()
    with pytest.raises(ImageError, match=r"^empty: no images found; expected a file, a folder"):
      _detect(input="empty")

  def test_nothing_that_exists_is_replaced_unless_asked_for(self, detector, here):
    _detect(input="photos/a.png")
    with pytest.raises(
      atomic_files.FileError, match=r"^out/detections\.json exists; give another --output, or"
    ):
      _detect(input="photos/a.png")
    (here / "out" / "detections.json").unlink()
    with pytest.raises(
      atomic_files.FileError, match=r"^out/a\.png exists; give another --output, or --overwri"
    ):
      _detect(input="photos/a.png")
    _detect(input="photos/a.png", overwrite=True)

  def test_a_photo_is_never_replaced_by_a_drawing_of_itself(self, detector, here):
    before = (here / "photos" / "a.png").read_bytes()
    for given in ("photos", "photos/a.png"):
      with pytest.raises(PhotoError, match=r"all photos found lie in photos, expected a folder of"):
        _detect("photos", input=given, overwrite=True)
    assert (here / "photos" / "a.png").read_bytes() == before

  def test_drawings_of_an_earlier_run_are_not_taken_for_photos(self, detector, here):
    for _ in range(2):
      _detect("photos/out", input="photos", overwrite=True)
      assert len(_images("photos/out")) == 3

  def test_an_output_that_cannot_be_written_is_named(self, detector, here):
    (here / "file").touch()
    with pytest.raises(
      PhotoError, match=r"^file is a file, expected a folder for detections\.json"
    ):
      _detect("file", input="photos")
    with pytest.raises(OptionsError, match=r"^--output=file/out: cannot be written: Not a direc"):
      _detect("file/out", input="photos")
    (here / "out" / "b.png").mkdir(parents=True)
    with pytest.raises(
      atomic_files.FileError, match=r"^out/b\.png: is not a regular file and cann"
    ):
      _detect(input="photos", overwrite=True)

  def test_scores_that_are_no_numbers_are_told(self, detector, here, monkeypatch):
    found = detector(np.full((40, 60, 3), 2, np.uint8))
    found.scores[:] = np.nan
    monkeypatch.setattr(detector, "from_features", lambda _: found)
    with pytest.raises(CocoError, match=r"^a\.png: boxes or scores of the detector are not finite"):
      _detect(input="photos/a.png")


class TestDetectInFeatures:
  @pytest.fixture(params=["npz", "tfrecord"])
  def features(self, request, detector, here):
    _extract("f", format=request.param)
    return "f"

  def test_the_same_is_found_as_in_the_photos(self, features, detector, here):
    _detect("expected", input="photos")
    line = _detect(features=features)
    assert line == (
      "3 photos: 2 detections in out/detections.json; 3 photos not drawn, as features hold no "
      "pixels: give the photos with --input"
    )
    assert _tree("out") == ["detections.json"]
    assert _images() == _images("expected")

  def test_photos_that_are_given_are_drawn_on(self, features, detector, here):
    _detect("expected", input="photos")
    assert _detect(features=features, input="photos").endswith("detections.json, drawn beside it")
    assert _tree("out") == _tree("expected")
    for name in _tree("out"):
      assert (here / "out" / name).read_bytes() == (here / "expected" / name).read_bytes()
    line = _detect("one", features=features, input="photos/b.png")
    assert line.endswith(
      "2 photos not drawn, as --input has none of that name: give the folder that was extracted"
    )
    assert _tree("one") == ["b.png", "detections.json"]

  def test_another_photo_of_the_same_name_is_not_drawn_on(self, features, detector, here, capsys):
    _write_photo("photos/a.png", 20)
    with pytest.raises(PhotoError, match=r"^1 of 3 photos failed"):
      _detect(features=features, input="photos")
    assert re.match(
      r"failed: photos/a\.png: is not the photo of that name whose features are stored, expected",
      capsys.readouterr().err,
    )

  def test_damaged_features_of_one_photo_are_named_and_the_others_done(
    self, detector, here, capsys
  ):
    _extract("f", format="tfrecord")
    path = here / "f" / "features-00000.tfrecord"
    data = bytearray(path.read_bytes())
    data[800] ^= 1
    path.write_bytes(data)
    with pytest.raises(PhotoError, match=r"^1 of 3 photos failed"):
      _detect(features="f")
    assert re.match(r"failed: f/feat.*the record of a\.png cannot be", capsys.readouterr().err)
    assert [each["file_name"] for each in _images()] == ["b.png", "sub/a.png"]

  def test_features_of_another_detector_are_refused(self, features, detector, here):
    detector.fingerprint = "1" * 16
    with pytest.raises(
      FeatureError, match=r"by detector 0{16}, expected 2 channels and detector 1"
    ):
      _detect(features=features)
    assert not (here / "out").exists()


def test_options_say_what_does_not_go_together():
  with pytest.raises(OptionsError, match=r"^found neither --input nor --features, expected one"):
    DetectOptions(detector="D", output="out")
  with pytest.raises(OptionsError, match=r"^found --max_side with --features, which are of a size"):
    DetectOptions(detector="D", output="out", features="f", max_side=3)
  with pytest.raises(OptionsError, match=r"^found --alpha with --features, expected it for photos"):
    DetectOptions(detector="D", output="out", features="f", alpha="white")
  with pytest.raises(
    OptionsError, match=r"^found --input with --features and --nodraw, expected it"
  ):
    DetectOptions(detector="D", output="out", features="f", input="i", draw=False)
  DetectOptions(detector="D", output="out", features="f", input="i", alpha="white")


class TestExtract:
  @pytest.fixture(params=["npz", "tfrecord"])
  def form(self, request):
    return request.param

  def test_what_is_done_is_not_done_again(self, form, detector, here):
    assert _extract(format=form) == "3 photos: features in f"
    assert detector.extracted == 3
    _write_photo("photos/c.png", 5)
    assert _extract(format=form) == "1 photo: features in f; 3 were there before"
    assert detector.extracted == 4
    found = feature_files.open_features("f", detector.made_by)
    assert sorted(each.name for each in found.metadata) == ["a.png", "b.png", "c.png", "sub/a.png"]

  def test_one_photo_becomes_the_file_that_is_named(self, detector, here):
    assert _extract("new/x.npz", input="photos/sub/a.png") == "1 photo: features in new/x.npz"
    assert _extract("new/x.npz", input="photos/sub/a.png").startswith("0 photos: ")
    assert _tree("new") == ["x.npz"]
    assert feature_files.open_features("new/x.npz")[0].metadata.name == "a.png"

  def test_a_folder_keeps_its_subfolders(self, detector, here):
    _extract()
    assert _tree("f") == ["a.png.npz", "b.png.npz", "sub/a.png.npz"]

  def test_records_are_in_one_file_of_some_photos(self, detector, here):
    _extract(format="tfrecord")
    assert _tree("f") == ["features-00000.tfrecord", "index.jsonl"]

  @pytest.mark.parametrize(
    "fingerprint, change, text",
    [
      ("0" * 16, {"dtype": "float16"}, "dtype float32, expected float16"),
      ("1" * 16, {}, "fingerprint 0{16}, expected 1{16}"),
    ],
  )
  def test_other_features_are_not_mixed_in(self, form, fingerprint, change, text, detector, here):
    _extract(format=form)
    detector.fingerprint = fingerprint
    with pytest.raises(
      FeatureError, match=rf"^f holds features of .*{text}; give another --output"
    ):
      _extract(format=form, **change)
    assert _extract(format=form, overwrite=True, **change) == "3 photos: features in f"
    assert len(feature_files.open_features("f", detector.made_by)) == 3

  def test_a_photo_that_has_changed_is_told(self, form, detector, here):
    _extract(format=form)
    _write_photo("photos/b.png", 20)
    with pytest.raises(
      FeatureError, match=r"^f holds features of b\.png with digest \w+, expected"
    ):
      _extract(format=form)

  def test_another_size_is_told(self, form, detector, here, monkeypatch):
    _extract(format=form)
    monkeypatch.setattr(predictor, "resized_shape", lambda *_: (20, 30))
    with pytest.raises(
      FeatureError,
      match=r"f holds features of a\.png with image_size \(32, 48\), expected \(20, 30",
    ):
      _extract(format=form)

  def test_the_formats_do_not_share_a_folder(self, form, detector, here):
    _extract(format=form)
    with pytest.raises(
      FeatureError, match=r"^f holds (TFRecords|\.npz files), expected a folder f"
    ):
      _extract(format={"npz": "tfrecord", "tfrecord": "npz"}[form])

  def test_a_photo_that_fails_is_named_and_the_others_are_stored(
    self, form, detector, here, capsys
  ):
    (here / "photos" / "broken.jpg").write_bytes(b"no photo")
    for _ in range(2):
      with pytest.raises((PhotoError, ImageError)):
        _extract(format=form)
    assert len(feature_files.open_features("f")) == 3
    assert detector.extracted == 3
    assert "failed: photos/broken.jpg: not an image" in capsys.readouterr().err

  @pytest.mark.parametrize("form", ["npz", "tfrecord"])
  def test_in_whatever_order_photos_are_done_all_are_stored(
    self, form, detector, here, backwards, monkeypatch
  ):
    monkeypatch.setattr(feature_extraction.feature_records, "IMAGES_PER_FILE", 2)
    (here / "photos" / "broken.jpg").write_bytes(b"no photo")
    _extract("one", input="photos/a.png", format=form)
    for _ in range(2):
      with pytest.raises((PhotoError, ImageError)):
        _extract(format=form, executor=backwards)
    assert detector.extracted == 4
    stored = feature_files.open_features("f")
    assert {each.name for each in stored.metadata} == {"a.png", "b.png", "sub/a.png"}
    (alone,) = feature_files.open_features("one")
    same = next(each for each in stored if each.metadata.name == "a.png")
    for level, values in alone.features.levels.items():
      np.testing.assert_array_equal(same.features.levels[level], values)
    assert (here / "f" / "failed.csv").read_text().startswith("name,error\nphotos/broken.jpg,")

  def test_on_a_cluster_the_file_of_one_photo_is_named_too(self, detector, here, backwards):
    _extract("x.npz", input="photos/a.png", executor=backwards)
    _extract("x.npz", input="photos/a.png", executor=backwards)
    assert detector.extracted == 1

  def test_several_photos_need_a_folder(self, detector, here):
    (here / "file").touch()
    with pytest.raises(
      FeatureError, match=r"^x\.npz is a file's name, expected a folder for the fe"
    ):
      _extract("x.npz")
    with pytest.raises(FeatureError, match=r"^x\.npz is a file's name, expected a folder"):
      _extract("x.npz", input="photos/a.png", format="tfrecord")
    with pytest.raises(
      FeatureError, match=r"^file is a file, expected a folder or a new name that"
    ):
      _extract("file", input="photos/a.png")


def test_a_photo_is_named_by_its_path_below_the_folder(here):
  assert [photo.name for photo in photos.find("photos")] == ["a.png", "b.png", "sub/a.png"]
  assert [photo.name for photo in photos.find("photos/sub/a.png")] == ["a.png"]
  assert [photo.name for photo in photos.find("photos/**/a.png")] == ["a.png", "sub/a.png"]
