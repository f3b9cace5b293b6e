"""Options, each said once: what flags, checks and flagfiles make of a dataclass."""

from __future__ import annotations

import ast
import builtins
import dataclasses
import importlib
import os
import pathlib
import typing

import pytest
from absl import flags

from khuvcm_tf import options
from khuvcm_tf.options import OptionsError, option

ROOT = pathlib.Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True)
class _Options:
  images: str = option(None, "Images.", required=True)
  mode: str = option("fast", "Mode.", choices=("fast", "slow"))
  jobs: int = option(1, "Jobs.", low=1, high=64)
  rate: float = option(0.5, "Rate.", flag="lambda", above=0, fixed=True)
  limit: float | None = option(None, "Limit.", low=0, below=1)
  quiet: bool = option(False, "Quiet.")
  names: tuple[str, ...] = option(("a", "b"), "Names.")
  weights: tuple[float, ...] | None = option(None, "Weights.", low=0, fixed=True)
  arguments: dict[str, object] = option({"a": 1}, "Arguments.", flag="argument")


@dataclasses.dataclass(frozen=True)
class _Paths:
  input: str | None = option(None, "Input.", path="input")
  models: tuple[str, ...] = option((), "Models.", path="input")
  output: str | None = option(None, "Output.", path="output")
  json: str | None = option(None, "File.", path="file")
  data_dir: str | None = option(None, "Folder or address.", path="url")


def _parsed(*arguments: str, cls: type = _Options):
  values = flags.FlagValues()
  options.define_flags(cls, values)
  values(["program", *arguments])
  return options.from_flags(cls, values)


def test_flags_that_are_not_given_have_the_defaults_of_the_dataclass():
  assert _parsed("--images=x") == _Options(images="x")


_ALL = _Options(
  images="x",
  mode="slow",
  jobs=3,
  rate=1e-4,
  limit=0.25,
  quiet=True,
  names=("c",),
  weights=(4.0, 1.0),
  arguments={"a": "prelu", "b": 3, "c": False},
)


def test_a_flagfile_of_options_is_read_as_the_same_options(tmp_path):
  lines = options.to_flags(_ALL)
  assert {"--lambda=0.0001", "--quiet=true", "--weights=4.0,1.0", "--argument=b=3"} < set(lines)
  (tmp_path / "flags.txt").write_text("\n".join(lines))
  assert _parsed(f"--flagfile={tmp_path}/flags.txt") == _ALL


def test_an_option_that_is_none_has_no_line():
  assert not [line for line in options.to_flags(_Options(images="x")) if "limit" in line]


@pytest.mark.parametrize(
  "field, value, message",
  [
    ("images", None, r"^found no --images, expected one$"),
    ("mode", "slowest", r"^--mode=slowest is out of range, expected one of fast, slow$"),
    ("jobs", 0, r"^--jobs=0 is out of range, expected at least 1, at most 64$"),
    ("jobs", 65, r"^--jobs=65 .*at most 64$"),
    ("rate", 0.0, r"^--lambda=0\.0 is out of range, expected above 0$"),
    ("rate", float("inf"), r"^--lambda=inf is out of range, expected a finite number, above 0$"),
    ("rate", float("nan"), r"^--lambda=nan is out of range, expected a finite number, above 0$"),
    ("limit", 1.0, r"^--limit=1\.0 is out of range, expected at least 0, below 1$"),
    ("weights", (1.0, -1.0), r"^--weights=1\.0,-1\.0 is out of range, expected at least 0$"),
  ],
)
def test_values_out_of_range_are_refused(field, value, message):
  with pytest.raises(OptionsError, match=message):
    options.check(dataclasses.replace(_Options(images="x"), **{field: value}))


@pytest.mark.parametrize(
  "arguments, message",
  [
    (["--images=x", "--lambda=0"], r"^--lambda=0\.0 is out of range"),
    (["--images=x", "--weights=4,one"], r"^--weights=4,one .*expected numbers, as in 4,1,1$"),
  ],
)
def test_flags_are_checked_as_the_options_are(arguments, message):
  with pytest.raises(OptionsError, match=message):
    _parsed(*arguments)


@pytest.mark.parametrize(
  "argument, message",
  [
    ("--jobs=0", "jobs"),
    ("--mode=slowest", "<fast|slow>|fast, slow"),
    ("--quiet", "images"),  # which is required
  ],
)
def test_absl_refuses_what_it_can_check_itself(argument, message):
  with pytest.raises(flags.Error, match=message):
    _parsed(argument)


def test_help_shows_what_absl_does_not():
  values = flags.FlagValues()
  options.define_flags(_Options, values)
  help_ = {name: values[name].help for name in ("lambda", "limit", "images", "jobs")}
  assert help_ == {
    "lambda": "Rate. (above 0)",
    "limit": "Limit. (at least 0, below 1)",
    "images": "Images. (required)",
    "jobs": "Jobs.",
  }


def test_fixed_options_are_named_by_their_flags_and_have_the_lines_of_their_defaults():
  assert options.fixed_flags(_Options) == {"lambda": ["--lambda=0.5"], "weights": []}


def test_flags_of_paths_take_the_home_folder_by_its_sign(monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", str(tmp_path))
  given = _parsed("--input=~/a", "--models=~/b,~,c~", "--output=~/d", "--data_dir=~/e", cls=_Paths)
  home = str(tmp_path)
  models = (f"{home}/b", home, "c~")
  assert given == _Paths(f"{home}/a", models, f"{home}/d", data_dir=f"{home}/e")


@pytest.mark.parametrize(
  "argument",
  ["--input=gs://bucket/a", "--output=s3://b", "--models=a,mine=https://c/d", "--json=file:///e"],
)
def test_addresses_are_refused_where_a_path_is_expected(argument):
  with pytest.raises(OptionsError, match=r"^--\w+=\S+ is an address, expected a path of this mach"):
    _parsed(argument, cls=_Paths)


def test_an_address_is_passed_on_where_it_may_be_one():
  assert _parsed("--data_dir=gs://tfds-data", cls=_Paths).data_dir == "gs://tfds-data"


def test_what_cannot_be_written_is_refused_at_once_and_nothing_is_left(tmp_path):
  (tmp_path / "file").write_text("mine")
  for output in ("/proc/none/a", f"{tmp_path}/file/a"):
    with pytest.raises(
      OptionsError, match=rf"^--output={output}: cannot be written: \w.*; expected"
    ):
      options.check(_Paths(output=output))
  for json in ("", "/absent/b.json"):
    with pytest.raises(
      OptionsError, match=r"^--json=\S* is no file's name in a folder that exists"
    ):
      options.check(_Paths(json=f"{tmp_path}{json}"))
  options.check(_Paths(output=f"{tmp_path}/new/folder", json=f"{tmp_path}/new.json"))
  options.check(_Paths(output=f"{tmp_path}/file"))
  assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_output_that_is_an_input_is_refused(tmp_path):
  (tmp_path / "a.png").write_text("mine")
  os.symlink("a.png", tmp_path / "link.png")
  for output in ("a.png", "link.png", "../" + tmp_path.name + "/a.png"):
    given = _Paths(f"{tmp_path}/a.png", output=f"{tmp_path}/{output}")
    with pytest.raises(
      OptionsError, match=r"^--output=\S+ is the file of --input, which it would re"
    ):
      options.check(given)
  options.check(_Paths(str(tmp_path), output=str(tmp_path)))  # Folders hold many files.


def test_options_without_effect_are_refused_by_their_flags():
  options.refuse_given(_Options(images="x", rate=0.5), ("rate", "jobs"), "without effect")
  with pytest.raises(OptionsError, match="^found --lambda beside --quiet; leave it out$"):
    options.refuse_given(_Options(rate=0.25), ("jobs", "rate"), "beside --quiet")


def test_texts_with_commas_come_back_from_a_flagfile(tmp_path):
  given = _Paths(models=("a,b", 'c"d', "e"))
  path = tmp_path / "f.flags"
  path.write_text("\n".join(options.to_flags(given)))
  assert _parsed(f"--flagfile={path}", cls=_Paths) == given


def test_annotations_are_never_evaluated(monkeypatch):
  """Python 3.9 has no `str | None`."""

  def fail(*_, **__):
    raise TypeError("unsupported operand type(s) for |: 'type' and 'NoneType'")

  monkeypatch.setattr(typing, "get_type_hints", fail)
  monkeypatch.setattr(builtins, "eval", fail)
  assert _parsed("--images=x", "--limit=0.5").limit == 0.5


def test_a_type_that_no_flag_has_is_refused():
  cls = dataclasses.make_dataclass("Odd", [("when", "complex", option(None, "When."))])
  with pytest.raises(TypeError, match="option `when` is of type complex, which no flag has"):
    options.define_flags(cls, flags.FlagValues())


def _all_options() -> list[type]:
  paths = [p.relative_to(ROOT).with_suffix("") for p in ROOT.glob("khuvcm_tf/**/*options.py")]
  modules = [importlib.import_module(".".join(path.parts)) for path in sorted(paths)]
  return [
    cls
    for module in modules
    for cls in vars(module).values()
    if dataclasses.is_dataclass(cls) and options._options(cls)
  ]


@pytest.mark.parametrize("cls", _all_options(), ids=lambda cls: cls.__name__)
def test_no_help_repeats_its_default(cls):
  for field, spec, _ in options._options(cls):
    text = spec.help.lower()
    for words in (f"default: {field.default}", f"{field.default} (default)"):
      assert words.lower() not in text, field.name


@pytest.mark.parametrize("path", sorted((ROOT / "bin").glob("*.py")), ids=lambda path: path.name)
def test_no_program_says_a_default_beside_its_options(path):
  calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if type(node) is ast.Call]
  names = {func.attr if isinstance(func, ast.Attribute) else "" for func in calls}
  if "define_flags" in names:
    assert not [name for name in names if name.startswith("DEFINE_")]
    assert not [name for name in names if name.endswith("Options")]
