"""Experiment 3: some levels are kept, the others are rebuilt from them by rules."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from detection.experiments import study, tables
from detection.experiments.rules import NONE, Rule, RuleError, parse
from detection.experiments.runner import Runner
from khuvcm_tf.results import curves, figures
from khuvcm_tf.results.rows import Row

NAME = "reconstruction"


class Reconstruction(NamedTuple):
  """What the experiment found; rows have `name`.

  Attributes:
    rows: of each rule, that of the features as they were first.
  """

  rows: list[Row]


def rules_of_study() -> dict[str, Rule]:
  """Returns the rules of the study's seven rows by name; its mixes are sums of P3 and P5."""
  return {name: parse(row[0]) for name, row in study.RECONSTRUCTION.items()}


def sweep(count: int) -> dict[str, Rule]:
  """Returns rules that mix P4 of P3 and P5 in `count` equal steps between the two."""
  found = {}
  for step in range(1, count):
    share = step / count
    text = f"p2=p3:up, p4={share:g}*p3:down+{1 - share:g}*p5:up, p6=p5:down"
    found[f"P4 {share:g} of P3"] = parse(text)
  return found


def parse_all(text: str) -> dict[str, Rule]:
  """Returns rules that are separated by semicolons, by their texts.

  Raises:
    RuleError: one is no rule, or there is none.
  """
  found = [parse(each) for each in text.split(";") if each.strip()]
  if not found:
    raise RuleError("found no rule, expected such as 'p2=p3:up, p6=p5:pick; p4=p5:up'")
  return {str(rule): rule for rule in found}


def check(rules: Mapping[str, Rule]) -> None:
  """Raises RuleError where a rule has a convolution, whose weights only the search learns."""
  for rule in rules.values():
    if rule.predicted:
      raise RuleError(
        f"found {rule} with a learned convolution, expected a rule without one; "
        "bin/find_key_maps.py learns and evaluates them"
      )


def run(runner: Runner, output: str, rules: Mapping[str, Rule]) -> Reconstruction:
  """Runs the experiment; writes results and figures.

  Args:
    runner: detector and data set.
    output: folder, which exists.
    rules: by name.

  Raises:
    ExperimentError: no image could be used, or a rule has a convolution, whose weights are known
      to the search for key maps alone.
    atomic_files.FileError: a file cannot be written.
  """
  check(rules)
  unchanged, *outcomes = runner.evaluate([NONE, *rules.values()])
  named = {"none": unchanged, **dict(zip(rules, outcomes))}
  rows = [tables.make_row(outcome, unchanged, name=name) for name, outcome in named.items()]
  tables.write(runner, output, NAME, rows)
  drawn = points(rows)
  figures.write(os.path.join(output, "plots"), tables.SHARE, tables.METRICS[:1], drawn, 105.0)
  return Reconstruction(rows)


def points(rows: Sequence[Row]) -> list[curves.Curve]:
  """Returns a curve of one point for each row: what is kept against what is found, in percent."""
  return [
    curves.curve(row["name"], "Rules", "strong", [tables.point(row, row["rule"])]) for row in rows
  ]


def text(found: Reconstruction) -> str:
  """Returns the results as a table."""
  return tables.text(found.rows, ("name",))
