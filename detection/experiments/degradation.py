"""Experiment 1: each level alone is degraded by each factor; what is lost by objects of each size.

A level is degraded by k when it is shrunk k times by bilinear interpolation and enlarged again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from detection.experiments import figures, tables
from detection.experiments.rules import NONE, factors, parse
from detection.experiments.runner import Runner
from khuvcm_tf.ops.pyramid import LEVELS
from khuvcm_tf.results.rows import Row

NAME = "degradation"


class Degradation(NamedTuple):
  """What the experiment found.

  Attributes:
    unchanged: row of the features as they were.
    rows: of each level and factor, with `level` and `degraded_by`.
  """

  unchanged: Row
  rows: list[Row]


def run(runner: Runner, output: str, levels: Sequence[str] = LEVELS) -> Degradation:
  """Runs the experiment; writes results and figures.

  Args:
    runner: detector and data set.
    output: folder, which exists.
    levels: that are degraded.

  Raises:
    ExperimentError: no image could be used.
    atomic_files.FileError: a file cannot be written.
  """
  wanted = {
    (level, factor): parse(f"{level}={level}:degrade{factor}")
    for level in levels
    for factor in factors(level)
  }
  unchanged, *outcomes = runner.evaluate([NONE, *wanted.values()])
  rows = [
    tables.make_row(outcome, unchanged, level=level, degraded_by=factor)
    for (level, factor), outcome in zip(wanted, outcomes)
  ]
  found = Degradation(tables.make_row(unchanged, unchanged, level="none", degraded_by=1), rows)
  tables.write(runner, output, NAME, [found.unchanged, *rows])
  figures.heat_table(os.path.join(output, "plots", "degradation"), rows)
  figures.lines_by_level(os.path.join(output, "plots", "levels"), rows, found.unchanged)
  return found


def text(found: Degradation) -> str:
  """Returns the results as a table."""
  return tables.text([found.unchanged, *found.rows], ("level", "degraded_by"))
