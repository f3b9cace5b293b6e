"""Exported models: in processes that have none of our code, the bytes and pixels of the library."""

from __future__ import annotations

import gc
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import skimage.data
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from khuvcm_tf import (
  atomic_files,
  batch_coding,
  bitstream,
  coding,
  model_files,
  model_folders,
  rate_control,
  saved_model,
)

GOLDEN = pathlib.Path(__file__).parent / "golden"
MODEL = str(GOLDEN / "mbt2018_mean" / "model")

# Loads the ops as its first argument says and runs the export in the current folder: images to
# files and back, and damaged files to the texts of their errors.
CHILD = """
import glob, importlib, json, os, sys

class Blocked:
  def find_spec(self, name, path=None, target=None):
    if name.split(".")[0] in BLOCKED:
      raise ImportError(name + " is blocked")

ops, BLOCKED = sys.argv[1], set(sys.argv[2].split(","))
sys.meta_path.insert(0, Blocked())
for name in BLOCKED:
  try:
    importlib.import_module(name)
  except ImportError:
    pass
  assert name not in sys.modules

import numpy as np
import tensorflow as tf

tf.load_op_library(ops) if os.path.isabs(ops) else importlib.import_module(ops)
model = tf.saved_model.load("export")
compress, decompress = model.signatures["compress"], model.signatures["decompress"]
for path in sorted(glob.glob("*.npy")):
  data = compress(image=tf.constant(np.load(path)))["data"].numpy()
  open(path + ".kvc", "wb").write(data)
  np.save(path + ".decoded", decompress(data=tf.constant(data))["image"].numpy())
errors = {}
for path in sorted(glob.glob("*.damaged")):
  try:
    decompress(data=tf.constant(open(path, "rb").read()))
  except tf.errors.InvalidArgumentError as error:
    errors[path] = error.message
assert not BLOCKED & set(sys.modules)
print(json.dumps({"version": tf.__version__, "errors": errors}))
"""


@pytest.fixture(scope="module")
def model():
  # In float64 other versions and machines give the same bytes and pixels too.
  return model_files.load(MODEL, "float64")


@pytest.fixture(scope="module")
def export(model, tmp_path_factory):
  folder = tmp_path_factory.mktemp("exported") / "export"
  saved_model.export(model, str(folder))
  return folder


@pytest.fixture(scope="module")
def images():
  photo = skimage.data.astronaut()
  return {
    "smallest": photo[200:201, 300:301],
    "odd": photo[:17, :33],
    "grey": photo[20:67, 200:290, :1],
    "photo": photo[:200, 100:420],
  }


def _damaged(data: bytes) -> dict[str, bytes]:
  header, (z, y) = bitstream.parse(data)
  left_over = bitstream.pack(header, [z, y + bytes(9)])
  return {
    "empty": b"",
    "cut": data[:30],
    "flipped": data[:40] + bytes([data[40] ^ 1]) + data[41:],
    "no kvc": b"\x89PNG" + data,
    "left over": left_over,
  }


def _checked_in_child(python, ops, blocked, model, export, images, folder):
  """Runs CHILD in `folder`, compares all it gives with the library; returns its TensorFlow."""
  (folder / "export").symlink_to(export)
  for name, image in images.items():
    np.save(folder / f"{name}.npy", image)
  damaged = _damaged(model.compress(images["odd"]))
  for name, data in damaged.items():
    (folder / f"{name}.damaged").write_bytes(data)
  environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
  child = subprocess.run(
    [python, "-c", CHILD, ops, ",".join(blocked)],
    cwd=folder,
    env={**environment, "TF_CPP_MIN_LOG_LEVEL": "3"},
    capture_output=True,
    text=True,
    timeout=1800,
  )
  assert child.returncode == 0, child.stderr[-3000:]
  found = json.loads(child.stdout.splitlines()[-1])
  for name, image in images.items():
    data = (folder / f"{name}.npy.kvc").read_bytes()
    assert data == model.compress(image), name
    decoded = np.load(folder / f"{name}.npy.decoded.npy")
    np.testing.assert_array_equal(decoded, model.decompress(data), name)
    assert decoded.shape == image.shape
  for name, data in damaged.items():
    with pytest.raises(bitstream.BitstreamError) as expected:
      model.decompress(data)
    assert f"[{expected.value}]" in found["errors"][f"{name}.damaged"]
  return found["version"]


def _checked_without_python_of_tfc(model, export, images, folder):
  import tensorflow_compression

  (library,) = pathlib.Path(tensorflow_compression.__file__).parent.rglob("libtensorflow_*.so")
  _checked_in_child(
    sys.executable,
    str(library),
    ["khuvcm_tf", "tensorflow_compression", "tensorflow_probability"],
    model,
    export,
    images,
    folder,
  )


def _checked_in_tensorflow_2_17(model, export, images, folder):
  python = os.environ.get("KHUVCM_PYTHON_217")
  if not python:
    pytest.skip("KHUVCM_PYTHON_217 names no Python with tensorflow_compression_ops")
  version = _checked_in_child(
    python, "tensorflow_compression_ops", ["khuvcm_tf"], model, export, images, folder
  )
  assert version.startswith("2.17.")


def _constants(export) -> int:
  """Returns the bytes of all constants in an export's functions."""
  content = saved_model_pb2.SavedModel()
  content.ParseFromString((export / "saved_model.pb").read_bytes())
  return sum(
    node.ByteSize()
    for function in content.meta_graphs[0].graph_def.library.function
    for node in function.node_def
    if node.op == "Const"
  )


class TestExport:
  def test_needs_only_tensorflow_and_tensorflow_compression(self, model, export, images, tmp_path):
    _checked_in_child(
      sys.executable,
      "tensorflow_compression",
      ["khuvcm_tf"],
      model,
      export,
      images,
      tmp_path,
    )

  def test_needs_no_python_of_tensorflow_compression(self, model, export, images, tmp_path):
    _checked_without_python_of_tfc(model, export, images, tmp_path)

  def test_runs_in_tensorflow_2_17(self, model, export, images, tmp_path):
    _checked_in_tensorflow_2_17(model, export, images, tmp_path)

  def test_holds_integers_at_most_once_for_each_signature(self, model, export):
    (integers,) = model.entropy_models
    kernels = sum(layer.kernel.nbytes for layer in integers.network.layers)
    assert _constants(export) < 2 * (kernels + integers.tables.lookup.nbytes) + 400_000

  def test_writes_into_an_empty_folder_and_leaves_no_other(self, export):
    assert os.listdir(export.parent) == ["export"]
    assert model_folders.read_fingerprint(str(export)) == model_folders.read_fingerprint(MODEL)

  def test_refuses_a_folder_in_use_and_a_file(self, model, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for folder in (tmp_path, tmp_path / "notes.txt"):
      with pytest.raises(
        coding.ModelError, match=rf"{folder} exists and is not empty; give a new --output"
      ):
        saved_model.export(model, str(folder))
    assert os.listdir(tmp_path) == ["notes.txt"]

  def test_that_cannot_be_written_says_so_and_leaves_nothing(self, model, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()

    def fail(module, folder, **_):
      raise tf.errors.ResourceExhaustedError(None, None, "No space left on device\nmore")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    monkeypatch.setattr(saved_model, "_of_images", lambda _: {})  # Graphs take seconds.
    with pytest.raises(
      atomic_files.FileError,
      match=rf"{tmp_path}/empty was not written: No space left on device; expected a writable",
    ):
      saved_model.export(model, str(tmp_path / "empty"))
    assert os.listdir(tmp_path) == ["empty"] and os.listdir(tmp_path / "empty") == []


@pytest.mark.parametrize("name", ["run[1]", "a*b?", "caf\udce9"])
def test_an_export_of_any_name_is_loaded_again(model, images, tmp_path, name):
  saved_model.export(model, str(tmp_path / name))
  exported = saved_model.ExportedModel(str(tmp_path / name))
  assert exported.compress(images["smallest"]) == model.compress(images["smallest"])


class TestExportOfContextModels:
  """They are coded in loops, whose states are range coders of the compiled ops."""

  @pytest.fixture(scope="class", params=["cheng2020"])
  def made(self, request, tmp_path_factory):
    """A model and its export."""
    model = model_files.load(str(GOLDEN / request.param / "model"), "float64")
    folder = tmp_path_factory.mktemp("exported") / "export"
    saved_model.export(model, str(folder))
    return model, folder

  def test_needs_no_python_of_tensorflow_compression(self, made, images, tmp_path):
    _checked_without_python_of_tfc(*made, images, tmp_path)

  def test_runs_in_tensorflow_2_17(self, made, images, tmp_path):
    _checked_in_tensorflow_2_17(*made, images, tmp_path)

  @pytest.mark.parametrize("precision", ["float32", "float64"])
  def test_keeps_its_precision_and_is_given_none(self, export, precision):
    with pytest.raises(
      coding.ModelError,
      match=rf"^found --precision={precision} for \S+export, an exported model, which keeps the ",
    ):
      batch_coding.open_model(str(export), precision)

  def test_holds_integers_at_most_once_for_each_signature(self, made):
    model, folder = made
    integers = model.entropy_models[0]
    networks = integers.hyper, integers.context, integers.parameters
    kernels = sum(layer.kernel.nbytes for network in networks for layer in network.layers)
    tables = sum(each.nbytes for each in (integers.tables.lookup, *integers.y_coder.tables))
    assert _constants(folder) < 2 * (kernels + tables) + 600_000


class TestExportedModel:
  @pytest.fixture(scope="class")
  def exported(self, export):
    opened = batch_coding.open_model(str(export))
    gc.collect()  # what `tf.saved_model.load` returned is gone
    return opened

  def test_has_the_face_of_a_model(self, model, exported, images):
    assert isinstance(exported, saved_model.ExportedModel)
    assert exported.fingerprint == model.fingerprint
    for image in images.values():
      data = exported.compress(image)
      assert data == model.compress(image)
      np.testing.assert_array_equal(exported.decompress(data), model.decompress(data))

  def test_refuses_damage_with_the_messages_of_a_model(self, model, exported, images):
    for name, data in _damaged(model.compress(images["odd"])).items():
      with pytest.raises(bitstream.BitstreamError) as expected:
        model.decompress(data)
      with pytest.raises(bitstream.BitstreamError) as caught:
        exported.decompress(data)
      assert str(caught.value) == str(expected.value), name

  def test_refuses_other_files_and_images_as_a_model_does(self, exported, images):
    header, substreams = bitstream.parse(exported.compress(images["odd"]))
    for changed, error, text in (
      ({"fingerprint": bytes(8)}, coding.ModelError, r"made with model 0{16}, expected this one, "),
      ({"input_format": 2}, bitstream.BitstreamError, r"holds another kind of image; use the mo"),
      ({"height": 4000}, bitstream.BitstreamError, r"found 132000 pixels, .*at most 100000; raise"),
    ):
      data = bitstream.pack(header._replace(**changed), substreams)
      with pytest.raises(error, match=text):
        exported.decompress(data, max_pixels=100_000)
    with pytest.raises(
      coding.ModelError, match=r"its own files alone, to whole images; drop --allow_other"
    ):
      exported.decompress(data, allow_other_synthesis=True)
    with pytest.raises(coding.ModelError, match=r"`image` is float32 \[4, 4, 3\], expected uint"):
      exported.compress(np.zeros((4, 4, 3), np.float32))


class TestSeveralRates:
  @pytest.fixture(scope="class")
  def several(self, tmp_path_factory):
    """A model with a default quality of its own, and its export."""
    model = model_files.load(str(GOLDEN / "mbt2018_variable" / "model"), "float64")
    model.default_quality = 80.0
    folder = tmp_path_factory.mktemp("exported") / "export"
    saved_model.export(model, str(folder))
    return model, saved_model.ExportedModel(str(folder))

  @pytest.mark.parametrize("quality", [*range(0, 101, 10), 0.196, 99.81, None])
  def test_exports_write_the_bytes_of_the_model(self, several, images, quality):
    model, exported = several
    data = exported.compress(images["smallest"], quality)
    assert data == model.compress(images["smallest"], quality)
    assert bitstream.quality_of(data) == pytest.approx(80 if quality is None else quality, abs=0.2)

  def test_exports_decode_the_files_of_all_qualities(self, several, images):
    model, exported = several
    for quality in (0, 100):
      data = exported.compress(images["grey"], quality)
      assert data == model.compress(images["grey"], quality)
      np.testing.assert_array_equal(exported.decompress(data), model.decompress(data))

  @pytest.mark.parametrize("quality", [-1.0, 100.5, float("nan")])
  def test_qualities_out_of_range_are_refused(self, several, images, quality):
    with pytest.raises(coding.ModelError, match=r"quality is out of range, expected 0 to 100$"):
      several[1].compress(images["smallest"], quality)

  def test_targets_need_the_model_itself(self, several, images):
    with pytest.raises(
      coding.ModelError, match=r"^an exported model was given a target of bytes, "
    ):
      rate_control.compress(several[1], images["smallest"], rate_control.Rate(bytes=500))

  def test_exports_of_one_rate_refuse_a_quality_and_files_of_one(self, export, images):
    exported = saved_model.ExportedModel(str(export))
    with pytest.raises(coding.ModelError, match=r"^a model of one rate was given quality 3, "):
      exported.compress(images["smallest"], 3)
    header, substreams = bitstream.parse(exported.compress(images["smallest"]))
    data = bitstream.pack(header._replace(quality=7), substreams, version=2)
    with pytest.raises(bitstream.BitstreamError, match="holds another kind of image"):
      exported.decompress(data)


def test_a_model_exported_by_an_earlier_version_calls_its_image_a_picture(tmp_path):
  image, fingerprint = np.full((2, 3, 3), 7, np.uint8), bytes(range(8))
  file = bitstream.pack(bitstream.Header(fingerprint, bitstream.RGB, 8, 2, 3), [b"z", b"y"])

  def compress(picture):
    return {"data": tf.where(tf.reduce_all(picture == image), file, b"")}

  def decompress(data):
    return {"picture": tf.where(data == file, image, 0)}

  picture = tf.TensorSpec((None, None, None), tf.uint8, name="picture")
  data = tf.TensorSpec((), tf.string, name="data")
  signatures = {
    "compress": tf.function(compress, (picture,)).get_concrete_function(),
    "decompress": tf.function(decompress, (data,)).get_concrete_function(),
  }
  folder = str(tmp_path / "earlier")
  tf.saved_model.save(tf.Module(), folder, signatures=signatures)
  model_files.write_fingerprint(folder, fingerprint)
  exported = saved_model.ExportedModel(folder)
  assert exported.compress(image) == file
  np.testing.assert_array_equal(exported.decompress(file), image)


class TestOpening:
  @pytest.fixture
  def broken(self, export, tmp_path):
    """A copy whose files may be damaged."""
    for path in export.rglob("*"):
      if path.is_file():
        target = tmp_path / path.relative_to(export)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    return tmp_path

  @pytest.mark.parametrize(
    "name",
    ["fingerprint", "variables/variables.index", "variables/variables.data-00000-of-00001"],
  )
  def test_without_a_file_is_refused_in_one_line(self, broken, name):
    os.remove(broken / name)
    self._refused(broken)

  @pytest.mark.parametrize("name", ["saved_model.pb", "variables/variables.index"])
  def test_of_a_file_cut_short_is_refused_in_one_line(self, broken, name):
    content = (broken / name).read_bytes()
    (broken / name).write_bytes(content[: len(content) // 2])
    self._refused(broken)

  def _refused(self, folder):
    with pytest.raises(
      coding.ModelError, match=rf"{folder} is not a whole exported model: .*; export it again"
    ) as caught:
      batch_coding.open_model(str(folder))
    assert "\n" not in str(caught.value)

  def test_of_a_saved_model_of_something_else_names_its_signatures(self, tmp_path):
    tf.saved_model.save(tf.Module(), str(tmp_path / "other"))
    model_folders.write_fingerprint(str(tmp_path / "other"), bytes(8))
    with pytest.raises(
      coding.ModelError, match=r"has the signatures \[\], expected compress and decompress; export"
    ):
      batch_coding.open_model(str(tmp_path / "other"))
