"""flags.txt: what a run records, and what it refuses when it is resumed."""

from __future__ import annotations

import dataclasses

import pytest

from khuvcm_tf.options import option
from khuvcm_tf.runs import RunError, workdir
from khuvcm_tf.runs.options import RunOptions


@dataclasses.dataclass(frozen=True)
class _Options(RunOptions):
  degree: int = option(1, "Of the polynomial.", fixed=True)
  terms: dict[str, object] = option({}, "Of it.", flag="term", fixed=True)


def test_flags_txt_has_the_options_and_is_the_only_file(tmp_path):
  options = _Options(workdir=str(tmp_path), terms={"b": "x", "a": 3}, profile=True)
  workdir.record_flags(options)
  lines = (tmp_path / "flags.txt").read_text().splitlines()
  assert {f"--workdir={tmp_path}", "--profile=true", "--degree=1", "--ema=0.0"} < set(lines)
  assert [line for line in lines if "term" in line] == ["--term=a=3", "--term=b=x"]
  assert [path.name for path in tmp_path.iterdir()] == ["flags.txt"]
  assert workdir.recorded(str(tmp_path), "term") == ["a=3", "b=x"]
  assert workdir.recorded(str(tmp_path), "rate") == []


def test_a_workdir_without_flags_has_recorded_none(tmp_path):
  assert workdir.recorded(str(tmp_path), "degree") == []


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"degree": 2}, r"has --degree=1, found --degree=2: resume with the same, or give another"),
    ({"terms": {"n": 8}}, r"has no --term, found --term=n=8: "),
  ],
)
def test_another_run_in_the_workdir_is_refused_and_left_as_it_is(tmp_path, fields, message):
  workdir.record_flags(_Options(workdir=str(tmp_path)))
  before = (tmp_path / "flags.txt").read_text()
  with pytest.raises(RunError, match=rf"flags\.txt {message}"):
    workdir.record_flags(_Options(workdir=str(tmp_path), **fields))
  assert (tmp_path / "flags.txt").read_text() == before


def test_an_option_that_is_newer_than_the_run_has_its_default(tmp_path):
  workdir.record_flags(_Options(workdir=str(tmp_path)))
  lines = (tmp_path / "flags.txt").read_text().splitlines(keepends=True)
  older = [line for line in lines if not line.startswith("--degree=")]
  (tmp_path / "flags.txt").write_text("".join(older))
  with pytest.raises(RunError, match=r"flags\.txt has --degree=1, found --degree=2"):
    workdir.record_flags(_Options(workdir=str(tmp_path), degree=2))
  workdir.record_flags(_Options(workdir=str(tmp_path)))
  assert (tmp_path / "flags.txt").read_text() == "".join(lines)


def test_a_run_may_be_resumed_for_longer_and_with_another_learning_rate(tmp_path):
  workdir.record_flags(_Options(workdir=str(tmp_path), max_steps=100))
  workdir.record_flags(_Options(workdir=str(tmp_path), max_steps=200, learning_rate=1e-5))
  assert "--max_steps=200\n" in (tmp_path / "flags.txt").read_text()
