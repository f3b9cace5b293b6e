"""The project's TFDS builders, on small images made here in the layout of the real files."""

from __future__ import annotations

import functools
import pathlib
import re
import tempfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums

from khuvcm_tf.data import builders, image_files, pipeline
from khuvcm_tf.data.builders import kodak, vimeo90k

pytest.importorskip("dill")  # tensorflow_datasets.testing imports it.

KODAK_NAMES = [f"kodim{i:02}.png" for i in range(1, 25)]
# Sequences of the lists of each set.
VIMEO_LISTS = {
  "triplet": {"tri_train": ["00001/0001", "00001/0002", "00002/0007"], "tri_test": ["00003/0001"]},
  "septuplet": {"sep_train": ["00001/0001", "00004/0001"], "sep_test": ["00001/0003"]},
}


def _image(*place: int, height: int = 8, width: int = 12) -> np.ndarray:
  """A grey image's value tells which one it is: uint8 [H, W, 3], no two alike."""
  values = np.random.default_rng(place).integers(0, 256, (height, width, 3))
  return values.astype(np.uint8)


def _write_kodak(folder: pathlib.Path) -> None:
  """Writes 24 images; the fourth stands upright as the real one does."""
  folder.mkdir(parents=True, exist_ok=True)
  for i, name in enumerate(KODAK_NAMES):
    size = {"height": 12, "width": 8} if i == 3 else {}
    image_files.write_image(str(folder / name), _image(i, **size))


def _frame(config: str, name: str, number: int) -> np.ndarray:
  return _image(len(config), *map(int, name.split("/")), number)


def _write_vimeo90k(folder: pathlib.Path, config: str) -> None:
  """Writes one extracted archive; the lists end in an empty line, as the real ones do."""
  folder = folder / f"vimeo_{config}"
  for list_name, names in VIMEO_LISTS[config].items():
    for name in names:
      (folder / "sequences" / name).mkdir(parents=True)
      for number in range(1, {"triplet": 3, "septuplet": 7}[config] + 1):
        path = folder / "sequences" / name / f"im{number}.png"
        image_files.write_image(str(path), _frame(config, name, number))
    (folder / f"{list_name}list.txt").write_text("\n".join([*names, "", ""]))


class _BuilderCase(tfds.testing.DatasetBuilderTestCase):
  """TFDS's own checks of a builder, on files that `write` makes."""

  @classmethod
  def setUpClass(cls):
    folder = tempfile.TemporaryDirectory()
    cls.addClassCleanup(folder.cleanup)
    cls.EXAMPLE_DIR = folder.name
    cls.write(pathlib.Path(folder.name))
    super().setUpClass()


class TestKodakBuilder(_BuilderCase):
  DATASET_CLASS = kodak.Kodak
  SPLITS = {"test": 24}
  DL_DOWNLOAD_RESULT = {name: name for name in KODAK_NAMES}
  write = staticmethod(_write_kodak)


class TestTripletBuilder(_BuilderCase):
  DATASET_CLASS = vimeo90k.Vimeo90k
  BUILDER_CONFIG_NAMES_TO_TEST = ["triplet"]
  SPLITS = {"train": 3, "test": 1}
  write = staticmethod(functools.partial(_write_vimeo90k, config="triplet"))


class TestSeptupletBuilder(_BuilderCase):
  DATASET_CLASS = vimeo90k.Vimeo90k
  BUILDER_CONFIG_NAMES_TO_TEST = ["septuplet"]
  SPLITS = {"train": 2, "test": 1}
  write = staticmethod(functools.partial(_write_vimeo90k, config="septuplet"))


del _BuilderCase  # Without a data set it is no test.


@pytest.fixture
def data_dir(tmp_path, monkeypatch) -> pathlib.Path:
  """TFDS's data folder of the test."""
  for name in ("builder", "load"):
    monkeypatch.setattr(tfds, name, functools.partial(getattr(tfds, name), data_dir=str(tmp_path)))
  return tmp_path


@pytest.fixture
def manual(data_dir) -> pathlib.Path:
  """The folder where TFDS looks for files that were downloaded by hand."""
  return data_dir / "downloads" / "manual"


@pytest.fixture
def small_kodak(manual, monkeypatch) -> pathlib.Path:
  """Small images in the manual folder, whose checksums the builder takes for the originals'."""
  _write_kodak(manual)
  own = {
    url: checksums.compute_url_info(tfds.core.Path(manual / name))
    for name, url in kodak._URLS.items()
  }
  monkeypatch.setattr(kodak.Kodak, "url_infos", own)
  return manual


def test_the_package_makes_all_its_data_sets_known():
  assert {*builders.__all__} == {"kodak", "vimeo90k"} <= {*tfds.list_builders()}


def test_images_of_kodak_in_the_manual_folder_are_taken_as_they_are(small_kodak):
  found = pipeline.load_tfds_validation("kodak", 100)
  expected = [image_files.read_image(str(small_kodak / name)) for name in KODAK_NAMES]
  assert sorted(map(np.ndarray.tobytes, found)) == sorted(map(np.ndarray.tobytes, expected))
  names = [example["name"] for example in tfds.as_numpy(tfds.load("kodak", split="test"))]
  assert sorted(names) == [name[:-4].encode() for name in KODAK_NAMES]


def test_only_as_many_images_are_taken_to_validate_on_as_asked_for(small_kodak):
  assert len(pipeline.load_tfds_validation("kodak:test", 5)) == 5
  assert len(pipeline.load_tfds_validation("kodak:test[:2]", 5)) == 2


def test_kodak_has_nothing_to_train_on(small_kodak):
  message = r"^TFDS data set 'kodak' has splits \['test'\], expected train; .*, as in 'kodak:test'$"
  with pytest.raises(pipeline.DataError, match=message):
    pipeline.load_tfds("kodak", 8, 2**30)


def test_altered_images_of_kodak_are_refused(manual):
  _write_kodak(manual)
  message = rf"not downloaded \(.*{manual}/kodim\d\d\.png, has wrong checksum.*unchanged, from http"
  with pytest.raises(pipeline.DataError, match=message) as caught:
    pipeline.load_tfds_validation("kodak", 1)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  "error", [OSError("no route"), tfds.download.DownloadError("status 404")], ids=["net", "status"]
)
def test_without_a_network_the_message_says_where_to_put_the_images(manual, monkeypatch, error):
  def download(*_):
    raise error

  monkeypatch.setattr(tfds.download.DownloadManager, "download", download)
  message = rf"\({error}\): put kodim01\.png to .* http://r0k\.us/graphics/kodak/ into {manual}$"
  with pytest.raises(pipeline.DataError, match=message):
    pipeline.load_tfds_validation("kodak", 1)


def test_kodaks_checksums_are_of_24_files_of_its_total_size():
  infos = kodak.Kodak.url_infos
  assert [info.filename for info in infos.values()] == KODAK_NAMES
  assert sum(info.size for info in infos.values()) == 15_394_305
  assert len({info.checksum for info in infos.values()}) == 24
  assert all(re.fullmatch("[0-9a-f]{64}", info.checksum) for info in infos.values())


@pytest.mark.parametrize("config, middle", [("triplet", 2), ("septuplet", 4)])
def test_the_image_of_a_sequence_is_its_middle_frame(manual, config, middle):
  _write_vimeo90k(manual, config)
  examples = [*tfds.as_numpy(tfds.load(f"vimeo90k/{config}", split="train"))]
  assert len(examples) == len(next(iter(VIMEO_LISTS[config].values())))
  for example in examples:
    numbers = range(1, 2 * middle)
    frames = [_frame(config, example["name"].decode(), number) for number in numbers]
    np.testing.assert_array_equal(example["frames"], frames)
    np.testing.assert_array_equal(example["image"], frames[middle - 1])


def test_training_images_of_vimeo90k_are_the_middle_frames_of_its_train_list(manual):
  _write_vimeo90k(manual, "triplet")
  images = pipeline.load_tfds("vimeo90k", 8, 2**30)
  found = sorted(images.decode(i).tobytes() for i in range(len(images.names)))
  names = VIMEO_LISTS["triplet"]["tri_train"]
  assert found == sorted(_frame("triplet", name, 2).tobytes() for name in names)
  assert len(pipeline.load_tfds_validation("vimeo90k/triplet", 9)) == 1


def _vimeo90k_message(manual: pathlib.Path) -> str:
  with pytest.raises(pipeline.DataError) as caught:
    pipeline.load_tfds("vimeo90k/septuplet", 8, 2**30)
  assert "\n" not in str(caught.value)
  assert str(manual) in str(caught.value)
  return str(caught.value)


def test_without_its_files_vimeo90k_says_what_to_download_and_where_to_put_it(manual):
  url = "http://data.csail.mit.edu/tofu/dataset/vimeo_septuplet.zip"
  found = _vimeo90k_message(manual)
  assert f"Manual directory {manual} does not exist" in found
  assert url in found
  _write_vimeo90k(manual, "triplet")  # The other set alone.
  missing = manual / "vimeo_septuplet" / "sep_trainlist.txt"
  expected = f"{missing} is missing: download {url} and extract it into {manual}"
  assert _vimeo90k_message(manual) == expected


def test_a_frame_that_is_missing_is_named(manual):
  _write_vimeo90k(manual, "septuplet")
  missing = manual / "vimeo_septuplet" / "sequences" / "00004" / "0001" / "im6.png"
  missing.unlink()
  expected = f"{missing} is missing, though sep_trainlist.txt names 00004/0001: extract the archive"
  assert _vimeo90k_message(manual).startswith(expected)
