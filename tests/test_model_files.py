"""Models' folders: written whole or not at all, found by path, name and fingerprint, or refused."""

from __future__ import annotations

import io
import json
import os
import pathlib
import random
import shutil
import zipfile

import numpy as np
import pytest
import tensorflow as tf

import khuvcm_tf
from khuvcm_tf import atomic_files, codecs, coding, model_files, model_folders
from khuvcm_tf.entropy.integer import entropy_model as integer_entropy_model

GOLDEN = pathlib.Path(__file__).parent / "golden" / "bmshj2018" / "model"
MIXTURES = pathlib.Path(__file__).parent / "golden" / "cheng2020" / "model"
FILES = ("fingerprint", "integer.npz", "model.json", "weights.npz")

_ARGUMENTS = {"num_filters": 4, "latent_depth": 4}


@pytest.fixture
def folder(tmp_path):
  """A copy of a whole model."""
  shutil.copytree(GOLDEN, tmp_path / "whole")
  return tmp_path / "whole"


@pytest.fixture
def mixtures(tmp_path):
  """A copy of a whole context model."""
  shutil.copytree(MIXTURES, tmp_path / "mixtures")
  return tmp_path / "mixtures"


@pytest.fixture(scope="module")
def codec():
  # Fresh weights may convert with more loss than a model may have: these do not.
  tf.keras.utils.set_random_seed(5)
  return codecs.create("bmshj2018", **_ARGUMENTS)


@pytest.fixture(scope="module")
def noise():
  return [np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)]


@pytest.fixture(scope="module")
def built():
  """A function like `codecs.create`, which gives the same codec for the same arguments."""
  found, create = {}, codecs.create

  def built_(*names, **arguments):
    key = (names, *sorted(arguments.items()))
    if key not in found:
      found[key] = create(*names, **arguments)
    return found[key]

  return built_


def _save(folder, codec, noise, **options):
  """Saves; eagerly, as graphs that measure what integers cost take longest."""
  description = {"codec": "bmshj2018", "arguments": _ARGUMENTS, "steps": 7}
  tf.config.run_functions_eagerly(True)
  try:
    return model_files.save(str(folder), codec, description, noise, **options)
  finally:
    tf.config.run_functions_eagerly(False)


def _refused(folder, match) -> str:
  with pytest.raises(coding.ModelError, match=match) as caught:
    model_files.load(str(folder))
  assert "\n" not in str(caught.value)
  assert str(folder) in str(caught.value)
  return str(caught.value)


def _arrays(path) -> dict[str, np.ndarray]:
  with np.load(path) as arrays:
    return dict(arrays)


def _sealed(folder, integers=None, weights=None, name="bmshj2018"):
  """Writes changed arrays and the fingerprint that fits them."""
  integers = integers or _arrays(folder / "integer.npz")
  weights = weights or _arrays(folder / "weights.npz")
  np.savez(folder / "integer.npz", **integers)
  np.savez(folder / "weights.npz", **weights)
  fingerprint = model_files._fingerprint(name, integers, weights)
  model_folders.write_fingerprint(str(folder), fingerprint)


class TestSave:
  @pytest.mark.parametrize("dtype", ["float32", "float16"])
  def test_is_undone_by_load(self, codec, noise, tmp_path, dtype):
    saved = _save(tmp_path / "model", codec, noise, weights_dtype=dtype)
    assert sorted(os.listdir(tmp_path / "model")) == list(FILES)
    loaded = model_files.load(str(tmp_path / "model"))
    assert loaded.fingerprint == saved.fingerprint
    assert loaded.description == saved.description
    assert loaded.description["steps"] == 7
    for (name, ours), theirs in zip(
      loaded.codec.named_weights().items(), saved.codec.named_weights().values()
    ):
      np.testing.assert_array_equal(ours, theirs, name)
    for name, array in saved.entropy_models[0].to_arrays().items():
      assert loaded.entropy_models[0].to_arrays()[name].dtype == array.dtype, name
      np.testing.assert_array_equal(loaded.entropy_models[0].to_arrays()[name], array, name)
    stored = _arrays(tmp_path / "model" / "weights.npz")
    assert {array.dtype.name for array in stored.values()} == {dtype}

  def test_replaces_an_old_model_whole(self, codec, noise, folder):
    (folder / "left over").write_text("of an older version")
    saved = _save(folder, codec, noise)
    assert sorted(os.listdir(folder)) == list(FILES)
    assert model_folders.read_fingerprint(str(folder)) == saved.fingerprint
    assert os.listdir(folder.parent) == ["whole"]

  def test_makes_the_folders_above_it(self, codec, noise, tmp_path):
    _save(tmp_path / "a" / "b", codec, noise)
    assert os.listdir(tmp_path / "a") == ["b"]

  @pytest.mark.parametrize("failing", ["savez_compressed", "dump", "write_fingerprint", "rename"])
  def test_that_fails_half_way_leaves_the_old_model_and_no_other_file(
    self, codec, noise, folder, monkeypatch, failing
  ):
    def fail(*_, **__):
      raise OSError(28, "No space left on device")

    module = {"savez_compressed": np, "dump": json, "write_fingerprint": model_files, "rename": os}
    whole = {name: (folder / name).read_bytes() for name in FILES}
    monkeypatch.setattr(module[failing], failing, fail)
    with pytest.raises(
      atomic_files.FileError,
      match=rf"{folder} was not written: No space left on device; expected a writable place",
    ):
      _save(folder, codec, noise)
    assert {name: (folder / name).read_bytes() for name in os.listdir(folder)} == whole
    assert os.listdir(folder.parent) == ["whole"]

  def test_puts_the_old_model_back_where_the_new_one_cannot_take_its_place(
    self, codec, noise, folder, monkeypatch
  ):
    rename, calls = os.rename, []

    def fail_once_at_the_second(source, target):
      calls.append(source)
      if len(calls) == 2:
        raise OSError(5, "Input/output error")
      rename(source, target)

    monkeypatch.setattr(os, "rename", fail_once_at_the_second)
    with pytest.raises(atomic_files.FileError, match="was not written: Input/output error"):
      _save(folder, codec, noise)
    assert len(calls) == 3
    assert sorted(os.listdir(folder)) == list(FILES)
    assert os.listdir(folder.parent) == ["whole"]

  def test_refuses_to_replace_what_is_no_model(self, codec, noise, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"cat")
    for path in (tmp_path / "photos", tmp_path / "photos" / "cat.png"):
      with pytest.raises(coding.ModelError, match=rf"{path} holds something else than a model, ex"):
        _save(path, codec, noise)
    assert (tmp_path / "photos" / "cat.png").read_bytes() == b"cat"

  def test_refuses_weights_that_are_not_finite(self, noise, tmp_path):
    exploded = codecs.create("bmshj2018", **_ARGUMENTS)
    weight = exploded.named_weights()["synthesis/conv0/kernel"]
    weight.assign(tf.fill(weight.shape, 1e9))
    with pytest.raises(coding.ModelError, match=r"weights synthesis/conv0/kernel hold .* float16"):
      _save(tmp_path / "model", exploded, noise, weights_dtype="float16")
    assert not (tmp_path / "model").exists()

  def test_of_integers_that_cost_too_much_ends_in_one_line(
    self, codec, noise, tmp_path, monkeypatch
  ):
    monkeypatch.setattr(model_files, "MAX_LOSS", -1.0)
    with pytest.raises(
      coding.ModelError,
      match=r"^the model was not converted to integers: integers cost .*% more bits than floats, "
      r"expected at most -100\.00%; train it longer, on more varied images, or for a higher rate$",
    ):
      _save(tmp_path / "model", codec, noise)
    assert os.listdir(tmp_path) == []


class TestFind:
  @pytest.fixture(autouse=True)
  def shipped(self, tmp_path, monkeypatch):
    """$KHUVCM_MODELS with the models tiny and other, and a current folder elsewhere."""
    for name in ("tiny", "other"):
      shutil.copytree(GOLDEN, tmp_path / "shipped" / name)
    model_folders.write_fingerprint(str(tmp_path / "shipped" / "other"), bytes(8))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("KHUVCM_MODELS", str(tmp_path / "shipped"))
    return tmp_path / "shipped"

  def test_lists_shipped_models_by_name(self, shipped):
    (shipped / "no model").mkdir()
    (shipped / "notes.txt").write_text("")
    assert model_folders.names()[:2] == ["other", "tiny"]
    assert "no model" not in model_folders.names()
    assert model_folders.shipped()["tiny"] == str(shipped / "tiny")

  def test_takes_a_folder_a_workdir_and_a_name(self, shipped, folder):
    os.rename(folder, folder.parent / "model")
    for given, expected in (
      (str(shipped / "tiny"), shipped / "tiny"),
      (str(folder.parent), folder.parent / "model"),
      ("tiny", shipped / "tiny"),
    ):
      assert model_folders.find(given) == str(expected)

  def test_loads_by_name_from_the_public_face(self):
    assert khuvcm_tf.load("tiny").description["codec"] == "bmshj2018"

  def test_by_fingerprint_gives_the_name_that_has_it(self):
    assert model_folders.find_by_fingerprint(model_folders.read_fingerprint(str(GOLDEN))) == "tiny"
    assert model_folders.find_by_fingerprint(bytes(8)) == "other"
    assert model_folders.find_by_fingerprint(b"\xff" * 8) is None

  def test_by_fingerprint_looks_at_shipped_models_only(self, shipped):
    """A folder of a shipped model's name in the current one is another model."""
    shutil.copytree(GOLDEN, "tiny")
    model_folders.write_fingerprint("tiny", b"\x01" * 8)
    assert model_folders.find_by_fingerprint(model_folders.read_fingerprint(str(GOLDEN))) == "tiny"
    assert model_folders.find_by_fingerprint(b"\x01" * 8) is None

  @pytest.mark.parametrize("content", [None, b"", b"no hex", b"\xff"])
  def test_by_fingerprint_goes_past_damaged_models(self, shipped, content):
    os.remove(shipped / "other" / "fingerprint")
    if content is not None:
      (shipped / "other" / "fingerprint").write_bytes(content)
    assert model_folders.find_by_fingerprint(model_folders.read_fingerprint(str(GOLDEN))) == "tiny"

  def test_of_nothing_names_what_there_is(self):
    with pytest.raises(
      coding.ModelError,
      match=r"no model at 'tinny', expected a model's folder, a training workdir, or one of the "
      r"shipped: other, tiny",
    ):
      model_files.load("tinny")

  def test_of_a_run_that_has_not_ended_says_so(self, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(
      coding.ModelError, match=r"run holds a run that has not ended: run bin/train\.py on it to"
    ):
      model_files.load(str(tmp_path / "run"))


class TestDamage:
  @pytest.fixture(autouse=True)
  def built_once(self, built, monkeypatch):
    """Lets `load` build each codec once: that takes longest. All of its weights are replaced."""
    monkeypatch.setattr(codecs, "create", built)

  @pytest.mark.parametrize("name", ["fingerprint", "integer.npz", "weights.npz"])
  def test_of_a_missing_file_names_it(self, folder, name):
    os.remove(folder / name)
    _refused(folder, rf"is not a whole model: {name}: No such file or directory; copy it again")

  @pytest.mark.parametrize("name", ["fingerprint", "integer.npz", "weights.npz", "model.json"])
  @pytest.mark.parametrize("keep", [0, 0.5, 0.98])
  def test_of_a_file_cut_short_is_found(self, folder, name, keep):
    whole = (folder / name).read_bytes().rstrip()
    (folder / name).write_bytes(whole[: int(keep * len(whole))])
    _refused(folder, r"is not a whole model: .*; copy it again|is damaged: its fingerprint is")

  @pytest.mark.parametrize("name", ["integer.npz", "weights.npz"])
  def test_of_a_flipped_bit_is_found_or_harmless(self, folder, name, monkeypatch):
    """Bits that are in no array, such as a member's date, do no harm."""
    monkeypatch.setattr(codecs, "create", _never)
    whole, arrays = (folder / name).read_bytes(), _arrays(folder / name)
    rng = random.Random(3)
    harmless = 0
    # The ends of an archive hold its table of contents: more of them.
    positions = [rng.randrange(len(whole)) for _ in range(80)]
    positions += [rng.randrange(len(whole) - 2000, len(whole)) for _ in range(80)]
    for position in positions:
      damaged = bytearray(whole)
      damaged[position] ^= 1 << rng.randrange(8)
      (folder / name).write_bytes(damaged)
      try:
        _refused(folder, r"is not a whole model: .*; copy it again|is damaged: its fingerprint is")
      except _Reached:
        harmless += 1
        # Names are in no checksum of an archive, but in that of the integers and the codec.
        for key, array in model_folders.read_arrays(str(folder / name)).items():
          np.testing.assert_array_equal(array, arrays.get(key, array))
    assert harmless < 60

  def test_of_a_pickle_in_an_archive_is_refused_unread(self, folder):
    file = io.BytesIO()
    np.save(file, np.array([_Bomb()], object), allow_pickle=True)
    with zipfile.ZipFile(folder / "integer.npz", "a") as archive:
      archive.writestr("bomb.npy", file.getvalue())
    _refused(folder, r"integer\.npz: Object arrays cannot be loaded when allow_pickle=False")

  @pytest.mark.parametrize(
    "text, match",
    [
      ("{", r"not a whole model: Expecting property name"),
      ("[1]", r"not a whole model: model\.json holds no object"),
      ("{}", r"not a whole model: model\.json has no format, codec, arguments; copy"),
      ('{"format": 1, "codec": "bmshj2018"}', r"model\.json has no arguments; copy"),
      (
        '{"format": 2, "codec": "x", "arguments": {}}',
        r"has model format 2, expected 1; use the version of the package that wrote it",
      ),
      ('{"format": 1, "codec": "jpeg", "arguments": {}}', r"its fingerprint is .*, expected"),
      ('{"format": 1, "codec": 3, "arguments": {}}', r"is not a whole model: "),
      ("\xff", r"is not a whole model: 'utf-8' codec can't decode"),
    ],
  )
  def test_of_the_description_ends_in_one_line(self, folder, text, match):
    (folder / "model.json").write_bytes(text.encode("latin-1"))
    _refused(folder, match)

  @pytest.mark.parametrize(
    "arguments, match",
    [
      ({"depth": 3}, r"codec bmshj2018 was not built from .*'depth'"),
      ([], r"is not a whole model: "),
      ({"num_filters": 9}, r"weight \S+ has shape .*, expected"),
    ],
  )
  def test_of_arguments_of_another_model_ends_in_one_line(self, folder, arguments, match):
    description = json.loads((folder / "model.json").read_text())
    description["arguments"] = arguments
    (folder / "model.json").write_text(json.dumps(description))
    _refused(folder, match)

  def test_of_an_unknown_codec_names_those_there_are(self, folder):
    description = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**description, "codec": "jpeg"}))
    _sealed(folder, name="jpeg")
    _refused(folder, r"no codec is called 'jpeg'; there are bmshj2018")

  @pytest.mark.parametrize(
    "name, change",
    [
      ("medians", lambda array: array[:-1]),
      ("network/amax", lambda array: array[:-1]),
      ("network/0/kernel", lambda array: array[..., :-1]),
      ("network/0/kernel", lambda array: array[0]),
      ("network/0/form", lambda array: array[:2]),
      ("tables/low", lambda array: array[:-1]),
      ("tables/lookup", lambda array: array.astype(np.float32)),
      ("tables/lookup", lambda array: array[:-5]),
      ("tables/lookup", lambda array: array[::-1]),
      ("tables/lookup", lambda array: np.where(array == 2**16, 2**16 - 1, array)),
      ("network/2/bias", lambda array: array + 2**24),
      ("known_answer", lambda array: array[np.newaxis].repeat(2)),
    ],
  )
  def test_of_integers_of_other_shapes_or_types_ends_in_one_line(self, folder, name, change):
    """With a fingerprint that fits: a bad writer, or a bad intention."""
    integers = _arrays(folder / "integer.npz")
    _sealed(folder, {**integers, name: change(integers[name])})
    with pytest.raises((coding.ModelError, integer_entropy_model.InexactArithmetic)) as caught:
      model_files.load(str(folder))
    assert "\n" not in str(caught.value)

  @pytest.mark.parametrize(
    "name, change",
    [
      ("num_mixtures", lambda array: array + 1),
      ("num_mixtures", lambda array: array * 0),
      ("hyper/amax", lambda array: array[:-1]),
      ("context/amax", lambda array: array[:-1]),
      ("context/0/kernel", lambda array: array[..., :-1]),
      ("parameters/amax", lambda array: array[:-1]),
      ("parameters/2/bias", lambda array: array + 2**24),
      ("mixtures/mass", lambda array: array[:-1]),
      ("mixtures/mass", lambda array: array[::-1]),
      ("mixtures/reach", lambda array: array[:-1]),
      ("mixtures/reach", lambda array: array.astype(np.float32)),
      ("mixtures/factor", lambda array: array * 100),
      ("mixtures/weight", lambda array: array[:0]),
      ("mixtures/weight", lambda array: -array),
      ("mixtures/weight", lambda array: array * 0),
    ],
  )
  def test_of_integers_of_a_context_model_ends_in_one_line(self, mixtures, name, change):
    integers = _arrays(mixtures / "integer.npz")
    _sealed(mixtures, {**integers, name: change(integers[name])}, name="cheng2020")
    with pytest.raises((coding.ModelError, integer_entropy_model.InexactArithmetic)) as caught:
      model_files.load(str(mixtures))
    assert "\n" not in str(caught.value)

  def test_of_a_missing_array_ends_in_one_line(self, folder):
    integers = _arrays(folder / "integer.npz")
    for name in ("medians", "means", "known_answer", "tables/high", "network/amax"):
      rest = {key: value for key, value in integers.items() if key != name}
      _sealed(folder, rest)
      _refused(folder, rf"is not a whole model: '{name.split('/')[-1]}'; copy it again")

  def test_of_weights_of_other_shapes_names_the_weight(self, folder):
    weights = _arrays(folder / "weights.npz")
    name = "analysis/conv0/kernel"
    _sealed(folder, weights={**weights, name: weights[name][:-1]})
    _refused(folder, rf"weight {name} has shape .*, expected")
    _sealed(folder, weights={key: value for key, value in weights.items() if key != name})
    _refused(folder, rf"weights \['{name}'\] stand on one side only")

  def test_of_a_machine_whose_arithmetic_is_not_exact_is_an_error_of_its_own(self, folder):
    integers = _arrays(folder / "integer.npz")
    _sealed(folder, {**integers, "known_answer": integers["known_answer"] ^ 1})
    with pytest.raises(
      integer_entropy_model.InexactArithmetic, match=r"this machine's matrix products are not exact"
    ):
      model_files.load(str(folder))


class _Reached(BaseException):
  """What was read was taken for whole; no `except Exception` takes it for damage."""


def _never(*_, **__):
  raise _Reached


class _Bomb:
  def __reduce__(self):
    return os.abort, ()
