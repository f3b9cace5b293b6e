"""Images on disk to files and back: which are taken, where they go, and what failures leave."""

from __future__ import annotations

import os
import pathlib

import numpy as np
import pytest

from khuvcm_tf import (
  atomic_files,
  batch_coding,
  bitstream,
  coding,
  model_folders,
)
from khuvcm_tf.batch_options import CompressOptions
from khuvcm_tf.data import image_files
from khuvcm_tf.data.image_files import ImageError

MODEL = pathlib.Path(__file__).parent / "golden" / "mbt2018_mean" / "model"


class _Plain:
  """Stands for a model: the height, width and first sample are the whole file."""

  fingerprint, default_quality = b"plain", None

  def compress(self, image, quality=None):
    if image[0, 0, 0] == 13:
      raise coding.ModelError("a latent lies too far")
    return bytes([*image.shape[:2], image[0, 0, 0]])

  def decompress(self, data, **options):
    self.options = options
    if len(data) != 3:
      raise bitstream.BitstreamError("the file is damaged; copy it again")
    return np.full((data[0], data[1], 3), data[2], np.uint8)


@pytest.fixture
def model():
  return _Plain()


@pytest.fixture
def here(tmp_path, monkeypatch):
  """The current folder; has photos/a.png, photos/sub/b.png, photos/sub/deep/c.jpg."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / "photos" / "sub" / "deep").mkdir(parents=True)
  for value, name in enumerate(("a.png", "sub/b.png", "sub/deep/c.png")):
    image_files.write_image(f"photos/{name}", _flat(value))
  return tmp_path


def _flat(value):
  return np.full((4, 6, 3), value, np.uint8)


def _tree(folder) -> list[str]:
  """All files below a folder, hidden ones too."""
  root = pathlib.Path(folder)
  return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


class TestCompress:
  def test_of_a_file_writes_the_file_that_is_named(self, model, here):
    jobs = batch_coding.compress(model, "photos/a.png", "x.kvc")
    assert [(job.source, job.target) for job in jobs] == [("photos/a.png", "x.kvc")]
    assert (here / "x.kvc").read_bytes() == bytes([4, 6, 0])

  @pytest.mark.parametrize("output", ["out", "out/"])
  def test_of_a_file_into_a_folder_keeps_its_name(self, model, here, output):
    (here / "out").mkdir()
    batch_coding.compress(model, "photos/sub/b.png", output)
    assert _tree("out") == ["b.kvc"]

  def test_makes_a_folder_that_ends_in_a_slash(self, model, here):
    batch_coding.compress(model, "photos/sub/b.png", "new/")
    assert _tree("new") == ["b.kvc"]

  def test_of_a_folder_keeps_its_subfolders(self, model, here):
    jobs = batch_coding.compress(model, "photos", "out")
    assert _tree("out") == ["a.kvc", "sub/b.kvc", "sub/deep/c.kvc"]
    assert len(jobs) == 3
    assert (here / "out" / "sub" / "b.kvc").read_bytes() == bytes([4, 6, 1])

  def test_of_a_folder_with_one_image_makes_a_folder_too(self, model, here):
    batch_coding.compress(model, "photos/sub/deep", "one")
    assert _tree("one") == ["c.kvc"]

  def test_of_a_glob_keeps_subfolders_below_what_its_images_share(self, model, here):
    batch_coding.compress(model, "photos/**/*.png", "out")
    assert _tree("out") == ["a.kvc", "sub/b.kvc", "sub/deep/c.kvc"]
    batch_coding.compress(model, "photos/sub/*.png", "one")
    assert _tree("one") == ["b.kvc"]

  @pytest.mark.parametrize("name", ["a.png", "out.bin", "out.kvc.png"])
  def test_refuses_the_name_of_another_kind_of_file(self, model, here, name):
    with pytest.raises(
      batch_coding.FilesError, match=rf"^{name} is not the name of a \.kvc file, "
    ):
      batch_coding.compress(model, "photos/a.png", name)

  def test_never_replaces_its_input(self, model, here):
    (here / "photos" / "a.png").rename("photo.kvc")
    os.symlink("photo.kvc", "link.kvc")
    before = (here / "photo.kvc").read_bytes()
    for name in ("photo.kvc", "link.kvc"):
      with pytest.raises(
        atomic_files.FileError,
        match=rf"^{name} would replace photo\.kvc, from which it is made, expected another file; ",
      ):
        batch_coding.compress(model, "photo.kvc", name, overwrite=True)
    assert (here / "photo.kvc").read_bytes() == before

  def test_passes_on_what_to_do_with_transparency(self, model, here):
    from PIL import Image

    Image.new("RGBA", (6, 4), (9, 9, 9, 0)).save("clear.png")
    with pytest.raises(ImageError, match=r"clear\.png: has transparent pixels"):
      batch_coding.compress(model, "clear.png", "x.kvc")
    batch_coding.compress(model, "clear.png", "x.kvc", alpha="white")
    assert (here / "x.kvc").read_bytes() == bytes([4, 6, 255])

  def test_refuses_two_images_that_would_become_one_file(self, model, here):
    image_files.write_image("photos/a.bmp", _flat(9))
    with pytest.raises(
      batch_coding.FilesError,
      match=r"photos/a\.bmp and photos/a\.png would both become out/a\.kvc; rename one",
    ):
      batch_coding.compress(model, "photos", "out")
    assert not (here / "out").exists()

  def test_refuses_to_replace_a_file_before_any_is_written(self, model, here):
    (here / "out" / "sub").mkdir(parents=True)
    (here / "out" / "sub" / "b.kvc").write_bytes(b"old")
    with pytest.raises(
      atomic_files.FileError,
      match=r"out/sub/b\.kvc exists; give another --output, or --overwrite to re",
    ):
      batch_coding.compress(model, "photos", "out")
    assert _tree("out") == ["sub/b.kvc"]
    batch_coding.compress(model, "photos", "out", overwrite=True)
    assert (here / "out" / "sub" / "b.kvc").read_bytes() == bytes([4, 6, 1])

  def test_refuses_several_images_into_one_file(self, model, here):
    (here / "x.kvc").write_bytes(b"old")
    with pytest.raises(
      batch_coding.FilesError, match=r"x\.kvc is a file, expected a folder for what photos holds"
    ):
      batch_coding.compress(model, "photos", "x.kvc", overwrite=True)
    assert (here / "x.kvc").read_bytes() == b"old"

  def test_of_nothing_names_the_pattern(self, model, here):
    for pattern in ("nothing", "photos/*.tif"):
      with pytest.raises(ImageError, match=r": no images found; expected a file, a folde"):
        batch_coding.compress(model, pattern, "out")

  def test_of_one_bad_image_raises_its_own_error_with_the_name(self, model, here):
    image_files.write_image("far.png", _flat(13))
    with pytest.raises(coding.ModelError, match=r"^far\.png: a latent lies too far$"):
      batch_coding.compress(model, "far.png", "x.kvc")
    (here / "bad.png").write_bytes((here / "photos" / "a.png").read_bytes()[:40])
    with pytest.raises(ImageError, match=r"^bad\.png: not an image, or damaged; expected"):
      batch_coding.compress(model, "bad.png", "x.kvc")
    assert not (here / "x.kvc").exists()

  def test_of_bad_images_among_good_ones_does_the_others_and_names_them(self, model, here, capsys):
    image_files.write_image("photos/far.png", _flat(13))
    (here / "photos" / "bad.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(
      batch_coding.FilesError, match=r"2 of 5 files were not coded, for the reasons above"
    ):
      batch_coding.compress(model, "photos", "out")
    assert _tree("out") == ["a.kvc", "sub/b.kvc", "sub/deep/c.kvc"]
    assert [line.split(": ")[:2] for line in capsys.readouterr().err.splitlines()] == [
      ["failed", "photos/bad.png"],
      ["failed", "photos/far.png"],
    ]

  def test_goes_on_where_the_system_refuses_a_folder(self, model, here, capsys):
    (here / "out").mkdir()
    (here / "out" / "sub").write_text("a file where a folder is needed")
    with pytest.raises(batch_coding.FilesError, match=r"2 of 3 files were not coded"):
      batch_coding.compress(model, "photos", "out")
    assert _tree("out") == ["a.kvc", "sub"]
    err = capsys.readouterr().err
    assert "photos/sub/b.png" in err and "check both places" in err

  def test_into_a_missing_folder_says_so(self, model, here):
    with pytest.raises(
      atomic_files.FileError, match=r"missing/x\.kvc: cannot be written: No such file"
    ):
      batch_coding.compress(model, "photos/a.png", "missing/x.kvc")


class TestDecompress:
  @pytest.fixture
  def coded(self, model, here):
    batch_coding.compress(model, "photos", "kvc")
    return here

  def test_undoes_compress_for_a_file_and_a_folder(self, model, coded):
    batch_coding.decompress(lambda data: model, "kvc/sub/b.kvc", "b.bmp")
    np.testing.assert_array_equal(image_files.read_image("b.bmp"), _flat(1))
    batch_coding.decompress(lambda data: model, "kvc", "out")
    assert _tree("out") == ["a.png", "sub/b.png", "sub/deep/c.png"]
    np.testing.assert_array_equal(image_files.read_image("out/sub/deep/c.png"), _flat(2))

  def test_passes_options_on(self, model, coded):
    batch_coding.decompress(lambda data: model, "kvc/a.kvc", "a.png", max_pixels=5)
    assert model.options == {"max_pixels": 5}

  def test_chooses_the_model_by_each_file(self, model, coded):
    seen = []
    batch_coding.decompress(lambda data: seen.append(data) or model, "kvc", "out")
    assert seen == [bytes([4, 6, value]) for value in range(3)]

  def test_of_a_damaged_file_among_good_ones_does_the_others(self, model, coded, capsys):
    (coded / "kvc" / "a.kvc").write_bytes(b"")
    with pytest.raises(batch_coding.FilesError, match=r"1 of 3 files were not coded"):
      batch_coding.decompress(lambda data: model, "kvc", "out")
    assert _tree("out") == ["sub/b.png", "sub/deep/c.png"]
    assert capsys.readouterr().err == ("failed: kvc/a.kvc: the file is damaged; copy it again\n")

  def test_refuses_formats_with_loss(self, model, coded):
    with pytest.raises(ImageError, match=r"a\.jpg: images are not written as '\.jpg'; ex"):
      batch_coding.decompress(lambda data: model, "kvc/a.kvc", "a.jpg")

  def test_of_a_folder_without_files_names_it(self, model, coded):
    with pytest.raises(ImageError, match=r"photos: no \.kvc files found; expected"):
      batch_coding.decompress(lambda data: model, "photos", "out")


class TestModelOf:
  def _file(self, fingerprint, height=4):
    header = bitstream.Header(fingerprint, bitstream.RGB, 8, height, 65535)
    return bitstream.pack(header, [b"z", b"y"])

  def test_is_the_shipped_model_that_wrote_the_file(self, tmp_path, monkeypatch):
    """Even where a folder of its name lies in the current one, and for the largest images."""
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped" / "tiny").symlink_to(MODEL)
    (tmp_path / "here" / "tiny").mkdir(parents=True)
    (tmp_path / "here" / "tiny" / "model.json").write_text("{}")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("KHUVCM_MODELS", str(tmp_path / "shipped"))
    fingerprint = model_folders.read_fingerprint(str(MODEL))
    for height in (4, 65535):
      found = batch_coding.model_of(self._file(fingerprint, height))
      assert os.path.realpath(found) == str(MODEL)
    with pytest.raises(
      coding.ModelError,
      match=r"made with model 0{16}, which is none of the shipped \(tiny.*\); name the model with",
    ):
      batch_coding.model_of(self._file(bytes(8)))


class TestProgress:
  @pytest.mark.parametrize("terminal", [False, True])
  def test_is_shown_for_several_files_on_a_terminal(
    self, model, here, capsys, monkeypatch, terminal
  ):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    batch_coding.compress(model, "photos", "out")
    assert ("3/3" in capsys.readouterr().err) == terminal
    batch_coding.compress(model, "photos/a.png", "a.kvc")
    assert capsys.readouterr().err == ""


class TestRates:
  VARIABLE = str(MODEL.parents[1] / "mbt2018_variable" / "model")

  @pytest.fixture(scope="class")
  def photos(self, tmp_path_factory):
    """A folder of two photos, one of them grey."""
    import skimage.data

    folder, photo = tmp_path_factory.mktemp("rates") / "photos", skimage.data.astronaut()
    folder.mkdir()
    image_files.write_image(str(folder / "a.png"), photo[60:124, 180:308])
    image_files.write_image(str(folder / "b.png"), photo[30:47, 200:233, :1])
    return folder

  def _run(self, photos, model=VARIABLE, **given):
    output = photos.parent / "out"
    options = CompressOptions(
      model=model, input=str(photos), output=str(output), overwrite=True, **given
    )
    line = batch_coding.run_compress(options)
    return line, [(output / f"{name}.kvc").read_bytes() for name in ("a", "b")]

  def test_of_a_folder_are_those_of_each_image(self, photos):
    line, files = self._run(photos, quality=20.0)
    assert [bitstream.parse(data)[0].quality for data in files] == [51, 51]
    assert line.endswith(
      f" -> {sum(map(len, files))} bytes in {photos.parent / 'out'}, quality 20.0"
    )
    most = len(files[0])
    line, files = self._run(photos, target_bytes=most)
    assert all(len(data) <= most for data in files)
    first, second = (bitstream.quality_of(data) for data in files)
    assert first < second and line.endswith(f", quality {first:.1f} to {second:.1f}")

  def test_that_the_model_lacks_are_refused_once(self, photos, capsys):
    for given in ({"quality": 3.0}, {"target_psnr": 30.0}):
      with pytest.raises(coding.ModelError, match=r"^a model of one rate was given "):
        self._run(photos, str(MODEL), **given)
    assert capsys.readouterr().err == ""

  def test_are_not_told_of_models_of_one_rate(self, photos):
    line, _ = self._run(photos, str(MODEL))
    assert line.endswith(f"bytes in {photos.parent / 'out'}")
