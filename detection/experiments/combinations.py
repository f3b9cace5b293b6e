"""Experiment 2: several levels are degraded at maximum together, pairs by default."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from typing import NamedTuple

from detection.experiments import ExperimentError, figures, tables
from detection.experiments.rules import NONE, Rule, max_factor, parse
from detection.experiments.runner import Runner
from khuvcm_tf.ops.pyramid import LEVELS
from khuvcm_tf.results.rows import Row

NAME = "combinations"
PAIRS = tuple("+".join(pair) for pair in itertools.combinations(LEVELS, 2))
EVERY = "+".join(LEVELS)


class Combinations(NamedTuple):
  """What the experiment found; rows have `levels`, such as "p2+p3".

  Attributes:
    unchanged: row of the features as they were.
    singles: of each level alone.
    rows: of each set.
    every: of all levels.
  """

  unchanged: Row
  singles: list[Row]
  rows: list[Row]
  every: Row


def damaged(levels: str) -> Rule:
  """Returns the rule that degrades levels, such as "p2+p3", at maximum.

  Raises:
    ExperimentError: one is no level, or is named twice.
  """
  names = levels.split("+")
  if not set(names) <= set(LEVELS) or len(set(names)) < len(names):
    raise ExperimentError(f"found the levels {levels!r}, expected such as p2+p3")
  return parse(", ".join(f"{each}={each}:degrade{max_factor(each)}" for each in names))


def run(runner: Runner, output: str, sets: Sequence[str] = PAIRS) -> Combinations:
  """Runs the experiment; writes results and figures.

  Args:
    runner: detector and data set.
    output: folder, which exists.
    sets: of levels, each such as "p2+p3".

  Raises:
    ExperimentError: a set is none, or no image could be used.
    atomic_files.FileError: a file cannot be written.
  """
  names = list(dict.fromkeys([*LEVELS, *sets, EVERY]))
  unchanged, *outcomes = runner.evaluate([NONE, *map(damaged, names)])
  rows = {
    name: tables.make_row(outcome, unchanged, levels=name) for name, outcome in zip(names, outcomes)
  }
  found = Combinations(
    tables.make_row(unchanged, unchanged, levels="none"),
    [rows[level] for level in LEVELS],
    [rows[name] for name in dict.fromkeys(sets)],
    rows[EVERY],
  )
  tables.write(runner, output, NAME, [found.unchanged, *rows.values()])
  lines = {key: (min(row[key] for row in found.singles), found.every[key]) for key in tables.SIZES}
  figures.bars_by_size(os.path.join(output, "plots", "combinations"), found.rows, lines)
  return found


def text(found: Combinations) -> str:
  """Returns the results as a table."""
  rows = {row["levels"]: row for row in (found.unchanged, *found.singles, *found.rows, found.every)}
  return tables.text(list(rows.values()), ("levels",))
