"""Models named at qualities: what texts mean, what is refused, and how often a model is loaded."""

from __future__ import annotations

import pathlib
import re
import weakref

import numpy as np
import pytest
from absl import flags
from hypothesis import given
from hypothesis import strategies as st

from khuvcm_tf import bitstream, model_folders, options
from khuvcm_tf.evaluation import coders
from khuvcm_tf.evaluation.options import RateDistortionOptions

ONE_RATE = str(pathlib.Path(__file__).resolve().parents[1] / "golden" / "mbt2018_mean" / "model")


def _named(*texts):
  """Name of each curve -> its rate points and their qualities."""
  return {
    name: {rate_point: coder.quality for rate_point, coder in own.items()}
    for name, own in coders.model_coders(texts, "float32")
  }


@pytest.mark.parametrize(
  "texts, joined",
  [
    ("", [""]),
    ("a", ["a"]),
    ("a@30", ["a@30"]),
    ("a@30,50,80", ["a@30,50,80"]),
    ("a@10,30,50,b", ["a@10,30,50", "b"]),
    ("a,b@5,7.5,c@0,100,d", ["a", "b@5,7.5", "c@0,100", "d"]),
    ("mine=w@10,50", ["mine=w@10,50"]),
    ("n=w1:w2@30,60,b", ["n=w1:w2@30,60", "b"]),
    ("a@1e1,-5,0.5", ["a@1e1,-5,0.5"]),
    ("a,30", ["a", "30"]),
    ("n=w1@30:w2,60", ["n=w1@30:w2", "60"]),
    ("a@30,nan", ["a@30", "nan"]),
  ],
)
def test_numbers_belong_to_the_text_with_an_at_before_them(texts, joined):
  assert coders.joined_qualities(texts.split(",")) == joined


def test_a_flag_of_models_may_have_qualities():
  given_flags = flags.FlagValues()
  options.define_flags(RateDistortionOptions, given_flags)
  models = "--models=mbt2018_variable@10,30, 50,mbt2018_mean,mine=W@5,6"
  given_flags(["program", models, "--images=i", "--output=o"])
  given_models = options.from_flags(RateDistortionOptions, given_flags).models
  assert coders.joined_qualities(given_models) == [
    *("mbt2018_variable@10,30,50", "mbt2018_mean", "mine=W@5,6")
  ]


_NAMES = st.from_regex(r"([a-z]{1,3}=)?[a-z][a-z0-9/._-]{0,3}(:[a-z]{1,3})?", fullmatch=True)
_QUALITIES = st.lists(st.integers(0, 100) | st.floats(0, 100), max_size=3)


@given(st.lists(st.tuples(_NAMES, _QUALITIES), max_size=4))
def test_joining_undoes_a_split_at_commas(models):
  texts = [name + "@" * bool(own) + ",".join(map(str, own)) for name, own in models]
  assert coders.joined_qualities([part for text in texts for part in text.split(",")]) == texts


def test_each_quality_is_a_rate_point_in_order(several_rates):
  assert _named(f"{several_rates}@100,5", "12.5", ONE_RATE, f"mine={several_rates}@30,30") == {
    "tiny": {"q5": 5, "q12.5": 12.5, "q100": 100},
    "model": {"model": None},
    "mine": {"q30": 30},
  }


def test_without_qualities_a_model_is_coded_at_its_default(several_rates):
  assert _named(several_rates) == {"tiny": {"q40": 40}}


def test_rate_points_of_several_models_have_names_of_their_own(several_rates, tmp_path):
  other = tmp_path / "other"
  other.symlink_to(several_rates)
  assert _named(f"both={several_rates}@30,10:{ONE_RATE}:{other}@10", "60") == {
    "both": {
      **{"tiny-q10": 10, "tiny-q30": 30, "model": None},
      **{"other-q10": 10, "other-q60": 60},
    }
  }
  with pytest.raises(coders.CoderError, match="names models of the same name; expected different"):
    _named(f"both={several_rates}@10:{several_rates}@10,30")


def test_an_existing_path_may_have_an_at_in_its_name(several_rates, tmp_path):
  path = tmp_path / "run@30"
  path.symlink_to(several_rates)
  assert _named(f"a={path}", f"b={path}@50") == {"a": {"q40": 40}, "b": {"q50": 50}}
  assert coders.joined_qualities([str(path), "30"]) == [str(path), "30"]


def test_an_existing_path_may_have_colons_and_commas_in_its_name(several_rates, tmp_path):
  path = tmp_path / "2024-05-01_12:30:00"
  path.symlink_to(several_rates)
  assert _named(f"a={path}", f"{path}@50") == {"a": {"q40": 40}, path.name: {"q50": 50}}
  assert _named(f"c={several_rates}@10:{path}@10,30:{ONE_RATE}")["c"] == {
    **{"tiny-q10": 10, "2024-05-01_12_30_00-q10": 10, "2024-05-01_12_30_00-q30": 30},
    **{"model": None},
  }
  values = flags.FlagValues()
  options.define_flags(RateDistortionOptions, values)
  values(["program", "--images=i", "--output=o", '--models="a=x,y",b'])
  assert options.from_flags(RateDistortionOptions, values).models == ("a=x,y", "b")


def test_shipped_models_and_workdirs_have_qualities_too(several_rates, tmp_path, monkeypatch):
  (tmp_path / "work").mkdir()
  (tmp_path / "work" / "model").symlink_to(several_rates)
  monkeypatch.setenv("KHUVCM_MODELS", str(pathlib.Path(several_rates).parent))
  assert _named(f"{tmp_path}/work@20", "tiny@20,70") == {
    "work": {"q20": 20},
    "tiny": {"q20": 20, "q70": 70},
  }


@pytest.mark.parametrize("quality", ["101", "-1", "x", "", "nan", "30%"])
def test_what_is_no_quality_is_refused(several_rates, quality):
  with pytest.raises(coders.CoderError) as found:
    coders.coders_at(f"{several_rates}@50,{quality}", "float32")
  expected = "is no quality, expected numbers of 0 to 100, as in mbt2018_variable@30,50"
  assert re.fullmatch(rf"'{quality}' behind the @ of \S+tiny {expected}", str(found.value))


def test_a_model_of_one_rate_has_no_quality():
  with pytest.raises(
    coders.CoderError,
    match=r"^\S+model: a model of one rate was given quality 30, expected none; leave it out, or ",
  ):
    coders.coders_at(f"{ONE_RATE}@30", "float32")


def test_an_unknown_model_is_named_without_its_qualities():
  with pytest.raises(model_folders.ModelError, match="no model at 'unknown', expected a model's"):
    coders.coders_at("unknown@30", "float32")


def test_keys_and_notes_of_qualities_differ(several_rates):
  fingerprint = model_folders.read_fingerprint(several_rates).hex()
  own = coders.coders_at(f"{several_rates}@30,50", "float64")
  assert [coder.key for coder in own] == [f"{fingerprint} float64 quality {q}" for q in (30, 50)]
  assert [coder.notes for coder in own] == [f"quality {q}, model {fingerprint}" for q in (30, 50)]


def test_files_are_of_the_quality_that_is_asked_for(several_rates):
  image = np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8)
  own = coders.coders_at(f"{several_rates}@0,40,100", "float32")
  (default,) = coders.coders_at(several_rates, "float32")
  files = [coder.compress(image) for coder in [*own, default]]
  assert [bitstream.parse(data)[0].quality for data in files] == [0, 102, 255, 102]
  model = coders.model_files.load(several_rates)
  for coder, data in zip(own, files):
    np.testing.assert_array_equal(coder.decompress(data, image.shape), model.decompress(data))
    assert coder.estimated_bits(image) == sum(model.estimate(image, coder.quality).values())


class _Loaded:
  """Instead of a model: counts what it codes."""

  def __init__(self):
    self.qualities = []

  def compress(self, image, quality):
    self.qualities.append(quality)
    return b""

  def decompress(self, data):
    return None


@pytest.fixture
def loaded(monkeypatch):
  """Weak references to what was loaded instead of models."""
  found = []

  def load(path, precision):
    model = _Loaded()
    found.append(weakref.ref(model))
    return model

  monkeypatch.setattr(coders.model_files, "load", load)
  return found


def test_coders_of_a_path_share_a_model_until_the_last_unloads_it(several_rates, loaded):
  first, second = coders.coders_at(f"{several_rates}@30,50", "float32")
  assert not loaded, "before anything is coded"
  assert first.load() is second.load() is first.load()
  first.unload()
  assert loaded[0]() is second.load()
  second.unload()
  assert loaded[0]() is None
  assert isinstance(first.load(), _Loaded), "what is needed again is loaded again"
  assert len(loaded) == 2


def test_a_shared_model_is_warmed_up_once(several_rates, loaded):
  image = np.zeros((16, 16, 3), np.uint8)
  own = coders.coders_at(f"{several_rates}@30,50", "float32")
  for coder in [*own, *own]:
    coder.warm_up(image)
  assert own[0].load().qualities == [30]


def test_the_default_quality_of_an_older_description_is_that_of_models(several_rates, monkeypatch):
  description = model_folders.read_description(several_rates)
  del description["default_quality"]
  monkeypatch.setattr(coders.model_folders, "read_description", lambda folder: description)
  assert coders.ModelCoder(several_rates).quality == 50.0
