"""Options of a program, each said once: the fields of a dataclass, with default, range and help.

  @dataclasses.dataclass(frozen=True)
  class Options:
    images: str | None = option(None, "Image, folder or quoted glob.", required=True)
    jobs: int = option(1, "Images coded side by side.", low=1)

  define_flags(Options)             # in a program, before its flags are parsed: --images, --jobs
  options = from_flags(Options)     # behind that; checked
  check(Options(images="a.png"))    # as a function that takes options does at its door

Nothing here imports TensorFlow, so that programs show their help at once.

The type of a field says how its flag is read: `str`, `int`, `float`, `bool`, `tuple[str, ...]` and
`tuple[float, ...]` (comma-separated), `dict[str, object]` (NAME=VALUE, repeated), each also
`| None`. Annotations are read as text and never evaluated, as Python 3.9 cannot evaluate
`str | None`; so a module of options begins with `from __future__ import annotations`.
"""

from __future__ import annotations

import ast
import csv
import dataclasses
import io
import math
import os
from collections.abc import Sequence
from typing import Any

from absl import flags

from khuvcm_tf import atomic_files, errors, paths

# The flags belong to the program that calls `define_flags`, and are listed in its --helpshort.
flags.disclaim_key_flags()


class OptionsError(errors.Error):
  """An option that is missing, or has a value out of its range."""


@dataclasses.dataclass(frozen=True)
class _Spec:
  """The arguments of `option` beside the default."""

  help: str
  flag: str | None
  low: float | None
  high: float | None
  above: float | None
  below: float | None
  choices: tuple[str, ...] | None
  required: bool
  fixed: bool
  path: str | None

  def allows(self, value) -> bool:
    """Whether a value that is not None lies in the range (of a tuple: each of its elements)."""
    if isinstance(value, (tuple, list)):
      return all(map(self.allows, value))
    if self.choices is not None:
      return value in self.choices
    if not isinstance(value, (int, float)):
      return True
    return (
      math.isfinite(value)
      and (self.low is None or value >= self.low)
      and (self.high is None or value <= self.high)
      and (self.above is None or value > self.above)
      and (self.below is None or value < self.below)
    )

  def expected(self, value: object = None) -> str:
    """The range or the choices as text, for a value that lies not in it."""
    if self.choices is not None:
      return f"one of {', '.join(self.choices)}"
    bounds = (
      ("at least", self.low),
      ("above", self.above),
      ("at most", self.high),
      ("below", self.below),
    )
    texts = [f"{relation} {bound:g}" for relation, bound in bounds if bound is not None]
    if not texts or (isinstance(value, float) and not math.isfinite(value)):
      texts.insert(0, "a finite number")
    return ", ".join(texts)

  def flag_help(self) -> str:
    """The help, with what absl does not show: open bounds, and whether the flag is required."""
    bounds = f" ({self.expected()})" if (self.above, self.below) != (None, None) else ""
    return f"{self.help}{bounds}{' (required)' if self.required else ''}"


def option(
  default: Any,
  help: str,
  *,
  flag: str | None = None,
  low: float | None = None,
  high: float | None = None,
  above: float | None = None,
  below: float | None = None,
  choices: Sequence[str] | None = None,
  required: bool = False,
  fixed: bool = False,
  path: str | None = None,
) -> Any:
  """Returns a field of a dataclass of options.

  Args:
    default: value of the option where it is not given.
    help: what the option means, for `--help`.
    flag: name of the flag where it differs from the field's, such as "lambda".
    low, high: smallest and largest value; of a tuple: of each element.
    above, below: bounds that the value must not reach.
    choices: all values that a text may have.
    required: whether the option must be given; its default is None then.
    fixed: whether work that is resumed must be given the value that it was begun with.
    path: that it is a path, or several: "input" of what is read, a name too; "output" of what is
      written, which is tried at once, or "file" where it is a file in a folder that exists; "url"
      of what may be an address too. Flags replace their `~`.
  """
  choices = None if choices is None else tuple(choices)
  spec = _Spec(help, flag, low, high, above, below, choices, required, fixed, path)
  if isinstance(default, dict):
    return dataclasses.field(default_factory=default.copy, metadata={"option": spec})
  return dataclasses.field(default=default, metadata={"option": spec})


def define_flags(cls: type, flag_values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines a flag for each option of a dataclass."""
  for field, spec, kind in _options(cls):
    name, default, text = _flag(field, spec), _default(field), spec.flag_help()
    bounds = {"lower_bound": spec.low, "upper_bound": spec.high}
    to = {"flag_values": flag_values}
    if kind == "dict[str, object]":
      pairs = [f"{key}={value}" for key, value in default.items()]
      flags.DEFINE_multi_string(name, pairs, text, **to)
    elif kind in ("tuple[str, ...]", "tuple[float, ...]"):
      flags.DEFINE_list(name, default and [str(each) for each in default], text, **to)
    elif spec.choices is not None:
      flags.DEFINE_enum(name, default, list(spec.choices), text, **to)
    elif kind == "str":
      flags.DEFINE_string(name, default, text, **to)
    elif kind == "bool":
      flags.DEFINE_bool(name, default, text, **to)
    elif kind == "int":
      flags.DEFINE_integer(name, default, text, **bounds, **to)
    elif kind == "float":
      flags.DEFINE_float(name, default, text, **bounds, **to)
    else:
      raise TypeError(f"option `{field.name}` is of type {kind}, which no flag has")
    if spec.required:
      flags.mark_flag_as_required(name, flag_values)


def from_flags(cls: type, flag_values: flags.FlagValues = flags.FLAGS):
  """Returns the options that the parsed flags give, checked.

  Raises:
    OptionsError: a value is out of its option's range.
  """
  values = {}
  for field, spec, kind in _options(cls):
    name = _flag(field, spec)
    value = flag_values[name].value
    if kind == "dict[str, object]":
      value = read_pairs(value)
    elif kind.startswith("tuple") and value is not None:
      value = tuple(value) if kind == "tuple[str, ...]" else _numbers(name, value)
    if spec.path and isinstance(value, tuple):
      value = tuple(map(paths.expanded, value))
    elif spec.path and value is not None:
      value = paths.expanded(value)
    values[field.name] = value
  return check(cls(**values))


def check(options):
  """Returns the options if each that is required is given and each value is right.

  Raises:
    OptionsError: one is missing or out of range, is an address, cannot be written, or would replace
      a file that another one names.
  """
  for field, spec, _ in _options(type(options)):
    value, name = getattr(options, field.name), _flag(field, spec)
    if value is None and spec.required:
      raise OptionsError(f"found no --{name}, expected one")
    if value is not None and not spec.allows(value):
      raise OptionsError(
        f"--{name}={_as_text(value)} is out of range, expected {spec.expected(value)}"
      )
  _check_paths(options)
  return options


def _check_paths(options) -> None:
  given = [
    (path, _flag(field, spec), spec.path)
    for field, spec, _ in _options(type(options))
    for path in _texts(getattr(options, field.name))
    if spec.path
  ]
  for path, name, kind in given:
    if kind != "url" and paths.is_url(path):
      raise OptionsError(f"--{name}={path} is an address, expected a path of this machine's files")
    if kind not in ("output", "file"):
      continue
    for other, other_name, other_kind in given:
      if other_kind == "input" and paths.is_same_file(path, other):
        raise OptionsError(
          f"--{name}={path} is the file of --{other_name}, which it would replace, expected another"
        )
    if kind == "file" and (os.path.isdir(path) or not os.path.isdir(os.path.dirname(path) or ".")):
      raise OptionsError(f"--{name}={path} is no file's name in a folder that exists, expected one")
    try:
      atomic_files.check_writable(path)
    except atomic_files.FileError as error:
      raise OptionsError(f"--{name}={error}") from error


def _texts(value) -> tuple[str, ...]:
  return value if isinstance(value, tuple) else () if value is None else (value,)


def to_flags(options) -> list[str]:
  """Returns the lines of a flagfile that gives these options.

  An option that is None is left out, as no flag gives None.

  Example:
    >>> @dataclasses.dataclass(frozen=True)
    ... class Options:
    ...   jobs: int = option(1, "Images coded side by side.", low=1)
    ...   alpha: str | None = option(None, "Background of transparent images.")
    >>> to_flags(Options(jobs=2))
    ['--jobs=2']
  """
  lines = []
  for field, spec, _ in _options(type(options)):
    lines += _lines(_flag(field, spec), getattr(options, field.name))
  return lines


def _lines(name: str, value) -> list[str]:
  if isinstance(value, dict):
    return [f"--{name}={key}={value[key]}" for key in sorted(value)]
  return [] if value is None else [f"--{name}={_as_text(value)}"]


def fixed_flags(cls: type) -> dict[str, list[str]]:
  """Returns the flags whose values work that is resumed must not change.

  Returns:
    Name -> the lines of a flagfile that give its default.
  """
  return {
    _flag(field, spec): _lines(_flag(field, spec), _default(field))
    for field, spec, _ in _options(cls)
    if spec.fixed
  }


def refuse_given(options, names: Sequence[str], why: str) -> None:
  """Refuses options that have no effect.

  Args:
    options: a dataclass of options.
    names: of fields.
    why: they have none, and what is expected.

  Raises:
    OptionsError: one of them has another value than its default.
  """
  for field, spec, _ in _options(type(options)):
    if field.name in names and getattr(options, field.name) != _default(field):
      raise OptionsError(f"found --{_flag(field, spec)} {why}; leave it out")


def read_pairs(texts: Sequence[str]) -> dict[str, object]:
  """Reads NAME=VALUE texts; a value that is no Python literal stays text.

  Example:
    >>> read_pairs(["num_filters=128", "attention=False", "activation=prelu"])
    {'num_filters': 128, 'attention': False, 'activation': 'prelu'}
  """
  found = {}
  for text in texts:
    name, _, value = text.partition("=")
    try:
      found[name] = ast.literal_eval(value)
    except (ValueError, SyntaxError):
      found[name] = value
  return found


def _as_text(value) -> str:
  """Writes a value as a flag takes it."""
  if isinstance(value, (tuple, list)):
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(value)  # a text with a comma stands in quotes
    return line.getvalue()
  return str(value).lower() if isinstance(value, bool) else str(value)


def _numbers(name: str, texts: Sequence[str]) -> tuple[float, ...]:
  try:
    return tuple(map(float, texts))
  except ValueError as error:
    raise OptionsError(
      f"--{name}={','.join(texts)} is out of range, expected numbers, as in 4,1,1"
    ) from error


def _options(cls: type) -> list[tuple[dataclasses.Field, _Spec, str]]:
  """Returns the fields that are options, and the names of their types without `| None`."""
  return [
    (field, field.metadata["option"], str(field.type).replace(" | None", ""))
    for field in dataclasses.fields(cls)
    if "option" in field.metadata
  ]


def _flag(field: dataclasses.Field, spec: _Spec) -> str:
  return spec.flag or field.name


def _default(field: dataclasses.Field):
  is_made = field.default is dataclasses.MISSING
  return field.default_factory() if is_made else field.default
