"""Data sets of TFDS: coco/2017 as TFDS itself builds it, from a few generated images."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from detection.coco import (
  CocoError,
  annotation_files,
  categories,
  evaluation,
  sources,
  tfds_dataset,
)
from detection.coco.options import DatasetOptions
from khuvcm_tf.data import DataError

_COUNT = 9


def _content() -> dict:
  rng = np.random.default_rng(0)
  images, annotations = [], []
  for number in range(_COUNT):
    height, width = map(int, rng.integers(40, 90, 2))
    images.append(
      {
        "id": 100 + 3 * number,
        "file_name": f"{number:012}.jpg",
        "height": height,
        "width": width,
      }
    )
    for _ in range(number % 4):
      x, y = rng.uniform(0, 30, 2).round(2)
      w, h = rng.uniform(1, (width - x, height - y)).round(2)
      annotations.append(
        {
          "id": len(annotations) + 1,
          "image_id": 100 + 3 * number,
          "category_id": int(rng.choice([c.id for c in categories.CATEGORIES])),
          "bbox": [float(each) for each in (x, y, w, h)],
          "area": float(np.floor(w * h)),
          "iscrowd": int(rng.random() < 0.3),
        }
      )
  return {
    "images": images,
    "annotations": annotations,
    "categories": [{"id": c.id, "name": c.name} for c in categories.CATEGORIES],
  }


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> pathlib.Path:
  """What TFDS's coco/2017 downloads: the folder val2017 and the annotations."""
  folder, content = tmp_path_factory.mktemp("downloads"), _content()
  (folder / "annotations").mkdir()
  rng = np.random.default_rng(1)
  for split in ("train2017", "val2017", "test2017"):
    (folder / split).mkdir()
    for image in content["images"]:
      pixels = rng.integers(0, 256, (image["height"], image["width"], 3), np.uint8)
      Image.fromarray(pixels).save(folder / split / image["file_name"], quality=90)
    name = "image_info" if split == "test2017" else "instances"
    (folder / "annotations" / f"{name}_{split}.json").write_text(json.dumps(content))
  return folder


@pytest.fixture(scope="module")
def data_dir(files, tmp_path_factory) -> str:
  """Where coco/2017 is prepared, in three files a split."""
  import tensorflow_datasets as tfds

  data_dir = str(tmp_path_factory.mktemp("data_dir"))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      tfds.download.DownloadManager,
      "download_and_extract",
      lambda self, urls: dict.fromkeys(urls, str(files)),
    )
    tfds.builder("coco/2017", data_dir=data_dir).download_and_prepare(
      download_config=tfds.download.DownloadConfig(num_shards=3)
    )
  return data_dir


@pytest.fixture
def load(data_dir):
  return lambda **more: sources.load(
    DatasetOptions(**{"dataset": "coco/2017", "data_dir": data_dir, **more})
  )


def test_objects_and_images_are_those_of_the_annotations(load, files):
  dataset = load()
  assert dataset.name == "coco/2017:validation"
  assert dataset.categories == categories.CATEGORIES and not dataset.has_masks
  path = str(files / "annotations" / "instances_val2017.json")
  expected = {
    record.image_id: record for record in annotation_files.load(path, str(files / "val2017"))
  }
  assert len(dataset) == _COUNT and {record.image_id for record in dataset} == set(expected)
  for record in dataset:
    other = expected[record.image_id]
    for name in ("file_name", "height", "width"):
      assert getattr(record, name) == getattr(other, name)
    np.testing.assert_array_equal(record.read(), other.read())
    assert len(record.annotations) == len(other.annotations)
    for mine, theirs in zip(record.annotations, other.annotations):
      np.testing.assert_allclose(mine["bbox"], theirs["bbox"], atol=1e-4)
      assert {**mine, "bbox": 0} == {**theirs, "bbox": 0}


def test_the_evaluation_is_that_of_the_annotations(load, files):
  path = str(files / "annotations" / "instances_val2017.json")
  truth = annotation_files.load(path, str(files / "val2017")).ground_truth
  found = [{**each, "score": 0.5} for each in truth["annotations"]]
  ours, theirs = (evaluation.evaluate(t, found) for t in (load().ground_truth, truth))
  np.testing.assert_equal(ours, theirs)


def test_splits_and_limits_are_parts(load):
  records = load().records
  assert [r.image_id for r in load(limit=4)] == [r.image_id for r in records[:4]]
  part = load(split="validation[5:]")
  assert [r.image_id for r in part] == [r.image_id for r in records[5:]]
  np.testing.assert_array_equal(part.records[1].read(), records[6].read())
  assert load(split="train").name == "coco/2017:train"


def test_a_split_without_boxes_is_refused(load):
  with pytest.raises(CocoError, match="'coco/2017': the 9 images of test have no boxes, expected"):
    load(split="test")


def test_an_unknown_split_or_data_set_is_named(load):
  with pytest.raises(DataError, match="'coco/2017' was not loaded: .*nosuch"):
    load(split="nosuch")
  with pytest.raises(DataError, match="'nosuch' was not loaded"):
    load(dataset="nosuch")


def test_a_data_set_without_objects_is_refused(data_dir):
  import tensorflow_datasets as tfds

  class KhuvcmNoObjects(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
      return self.dataset_info_from_configs(
        features=tfds.features.FeaturesDict({"image": tfds.features.Image()})
      )

    def _split_generators(self, dl_manager):
      return {"validation": [(0, {"image": np.zeros((8, 9, 3), np.uint8)})]}

    def _generate_examples(self):
      raise NotImplementedError

  message = r"'khuvcm_no_objects' has features \['image'\], expected `objects` with `bbox` and a na"
  with pytest.raises(CocoError, match=message):
    tfds_dataset.load(KhuvcmNoObjects.name, "validation", data_dir)
