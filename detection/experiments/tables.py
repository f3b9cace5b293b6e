"""Rows of an experiment: what a rule leads to, against the features as they were."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from detection.coco import bootstrap
from detection.experiments import ExperimentError
from detection.experiments.runner import KEYS, Outcome, Runner
from khuvcm_tf.results import curves, provenance, rows
from khuvcm_tf.results.rows import Quantity, Row

LABELS = dict(zip(KEYS, ("AP", "AP50", "AP75", "APs", "APm", "APl")))
SIZES = {"aps": "small", "apm": "medium", "apl": "large"}
# The axes of curves of rules.
SHARE = Quantity("share", "elements kept in %", "", 1)
METRICS = [Quantity(key, label, "%", 1) for key, label in LABELS.items()]
_BYTES = 4  # of an element, as float32


def make_row(outcome: Outcome, unchanged: Outcome, **more: str | int) -> Row:
  """Returns the row of a rule.

  Args:
    outcome: of the rule.
    unchanged: of the features as they were, on the same images.
    **more: further columns, the first ones.

  Returns:
    `rule`; COCO's numbers, 0..1, by `KEYS`; by KEY_change the change against `unchanged`, with the
    ends of its 95 % interval, KEY_low and KEY_high (paired bootstrap over images); numbers that are
    kept of all images, `elements_kept`, and their `bytes_kept` as float32; and `factor`, how many
    times less that is than all levels.
  """
  row = {**more, "rule": str(outcome.rule), **outcome.metrics}
  for index, key in enumerate(KEYS):
    low, high = bootstrap.interval(outcome.draws[:, index] - unchanged.draws[:, index])
    change = outcome.metrics[key] - unchanged.metrics[key]
    row.update({f"{key}_change": change, f"{key}_low": low, f"{key}_high": high})
  kept = outcome.elements
  return {**row, "elements_kept": kept, "bytes_kept": _BYTES * kept, "factor": outcome.factor}


def point(row: Row, label: str) -> curves.Point:
  """Returns what is kept against what is found, in percent, as a point of a curve."""
  return curves.Point(label, 100 / row["factor"], {key: 100 * row[key] for key in KEYS})


def check_output(output: str, experiment: str) -> None:
  """Raises ExperimentError where a folder holds the results of another experiment."""
  path = os.path.join(output, "results.json")
  if not os.path.exists(path):
    return
  try:
    with open(path, encoding="utf-8") as file:
      found = json.load(file)["experiment"]
  except (OSError, ValueError, KeyError, TypeError):
    found = None
  if found != experiment:
    raise ExperimentError(
      f"{path}: found results of {found or 'something else'}, expected those of {experiment} or "
      "none; give another --output"
    )


def write(
  runner: Runner,
  output: str,
  experiment: str,
  all_rows: Sequence[Row],
  metadata: dict[str, object] | None = None,
) -> None:
  """Writes results.json and results.csv.

  Args:
    runner: of the experiment.
    output: folder, which exists.
    experiment: its name.
    all_rows: of the experiment, in their order.
    metadata: what else results.json says.

  Raises:
    atomic_files.FileError: a file cannot be written.
  """
  content = {
    "experiment": experiment,
    "rows": list(all_rows),
    **(metadata or {}),
    "fingerprint": runner.model.fingerprint,
    "config": runner.model.detector.config.to_json(),
    "dataset": runner.dataset.name,
    "images": len(runner.dataset) - len(runner.left_out),
    "features": runner.source.dtype,
    "draws": runner.num_draws,
    "notes": runner.notes,
    "left_out": runner.left_out,
    **provenance.describe(),
  }
  rows.write_json(os.path.join(output, "results.json"), content)
  rows.write_csv(os.path.join(output, "results.csv"), all_rows)


def text(all_rows: Sequence[Row], columns: Sequence[str], keys: Sequence[str] = KEYS) -> str:
  """Returns rows as a table: numbers in percent with their change, and the factor.

  Args:
    all_rows: as `make_row` returns them.
    columns: texts that stand first.
    keys: of COCO's numbers.
  """
  lines = [[*columns, *(LABELS[key] for key in keys), "factor"], None]
  for row in all_rows:
    numbers = [f"{percent(row[key])} ({change(row, key)})" for key in keys]
    lines.append([*(str(row[name]) for name in columns), *numbers, f"{row['factor']:.2f}"])
  return rows.table(lines, len(columns))


def percent(value: float) -> str:
  """Returns a fraction in percent; – for nan."""
  return "–" if value != value else f"{100 * value:.1f}"


def change(row: Row, key: str) -> str:
  """Returns how many percent points a number changed, with a * where 0 is not in the interval."""
  value = row[f"{key}_change"]
  if value != value:
    return "–"
  return f"{100 * value:+.1f}{'*' if is_clear(row, key) else ''}"


def is_clear(row: Row, key: str) -> bool:
  """Returns whether 0 is not in the interval: the choice of images does not explain the change.

  Of draws that are all the same, as those of one image are, nothing is clear.
  """
  low, high = row[f"{key}_low"], row[f"{key}_high"]
  return low < high and (low > 0 or high < 0)
