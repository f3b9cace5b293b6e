"""Options of the evaluating programs: quick to import, and the same for programs and callers."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from khuvcm_tf import model_folders, options
from khuvcm_tf.evaluation import anchors
from khuvcm_tf.evaluation.options import DemoOptions, EvaluateOptions, RateDistortionOptions


@pytest.mark.parametrize(
  "modules, absent",
  [
    ("evaluation.options", ("tensorflow",)),
    (
      "results.figures, khuvcm_tf.results.points, khuvcm_tf.results.report",
      ("tensorflow", "matplotlib", "khuvcm_tf.codecs", "khuvcm_tf.coding", "khuvcm_tf.evaluation"),
    ),
  ],
)
def test_imports_bring_nothing_that_is_slow_or_belongs_to_a_codec(modules, absent):
  code = f"import sys, khuvcm_tf.{modules}; print([m for m in {absent} if m in sys.modules])"
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
  assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_help_names_all_anchors():
  (field,) = (f for f in dataclasses.fields(RateDistortionOptions) if f.name == "anchors")
  names = field.metadata["option"].help.partition("some of ")[2].rstrip(".")
  assert names.split(", ") == anchors.names()


@pytest.mark.parametrize(
  "cls, required",
  [
    (DemoOptions, {"output": "o"}),
    (EvaluateOptions, {"images": "i", "output": "o"}),
    (RateDistortionOptions, {"images": "i", "output": "o"}),
  ],
)
def test_defaults_are_allowed_beside_what_is_required(cls, required):
  options.check(cls(**required))
  for name in required:
    with pytest.raises(options.OptionsError, match=f"--{name}"):
      options.check(cls(**{**required, name: None}))


def test_values_out_of_range_are_refused():
  with pytest.raises(options.OptionsError, match="--jobs=0 is out of range, expected at least 1"):
    options.check(RateDistortionOptions(images="i", output="o", jobs=0))
  with pytest.raises(options.OptionsError, match="--precision=half .* one of float32, float64"):
    options.check(EvaluateOptions(images="i", output="o", precision="half"))


@pytest.mark.parametrize("cls", [DemoOptions, EvaluateOptions])
def test_the_model_is_the_default_of_all_programs_where_none_is_given(cls):
  assert cls(output="o").model == model_folders.DEFAULT


def test_a_precision_without_models_is_refused():
  with pytest.raises(
    options.OptionsError, match="^found --precision without --models, expected it"
  ):
    RateDistortionOptions("i", "o", precision="float64", anchors=("jpeg",))
  RateDistortionOptions("i", "o", precision="float64", models=("m",))
