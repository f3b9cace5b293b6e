"""The experiments with a tiny detector: rows, files, findings, the search, the report."""

from __future__ import annotations

import csv
import dataclasses
import json
import re

import numpy as np
import pytest

from detection.coco.detection_store import DetectionStore
from detection.experiments import (
  ExperimentError,
  choices,
  combinations,
  degradation,
  key_maps,
  reconstruction,
  report,
  study,
  tables,
)
from detection.experiments.degradation import Degradation
from detection.experiments.features import FeatureSource
from detection.experiments.rules import RuleError, parse
from detection.experiments.runner import KEYS, Outcome, Runner
from khuvcm_tf.ops.pyramid import LEVELS


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
  return tmp_path_factory.mktemp("experiments")


@pytest.fixture(scope="module")
def store(outputs):
  return DetectionStore(str(outputs / "found"))


@pytest.fixture(scope="module")
def runner(model, dataset, store):
  return Runner(model, dataset, store, FeatureSource(model), num_draws=30)


def _written(outputs):
  content = json.loads((outputs / "results.json").read_text())
  with open(outputs / "results.csv", newline="") as file:
    table = list(csv.DictReader(file))
  assert [row["rule"] for row in content["rows"]] == [row["rule"] for row in table]
  return content


def _part(outputs, name):
  (outputs / name).mkdir(exist_ok=True)
  return outputs / name


@pytest.fixture(scope="module")
def degraded(runner, outputs):
  return degradation.run(runner, str(_part(outputs, "degradation")))


@pytest.fixture(scope="module")
def combined(runner, outputs):
  return combinations.run(runner, str(_part(outputs, "combinations")), ("p2+p3", "p2+p3+p4"))


@pytest.fixture(scope="module")
def rebuilt(runner, outputs):
  rules = {**reconstruction.rules_of_study(), **reconstruction.sweep(4)}
  return reconstruction.run(runner, str(_part(outputs, "reconstruction")), rules)


@pytest.fixture(scope="module")
def halves(model, dataset, store):
  """Runners for two images each."""
  return [
    Runner(
      model, dataclasses.replace(dataset, records=part), store, FeatureSource(model), num_draws=30
    )
    for part in (dataset.records[:2], dataset.records[2:])
  ]


@pytest.fixture(scope="module")
def searched(halves, outputs):
  return key_maps.run(*halves, str(_part(outputs, "key_maps")), max_evaluations=8)


def test_each_level_is_degraded_by_each_factor_up_to_its_greatest(degraded, outputs):
  factors = {level: [] for level in LEVELS}
  for row in degraded.rows:
    factors[row["level"]].append(row["degraded_by"])
    assert row["rule"] == f"{row['level']}={row['level']}:degrade{row['degraded_by']}"
  steps = [2, 4, 8, 16, 32, 64]
  assert factors == {level: steps[: 6 - number] for number, level in enumerate(LEVELS)}
  content = _written(outputs / "degradation")
  assert content["rows"][0]["rule"] == "none" and len(content["rows"]) == 21
  assert content["images"] == 4 and content["left_out"] == []
  plots = outputs / "degradation" / "plots"
  for name in ("degradation", "levels"):
    assert (plots / f"{name}.png").stat().st_size > 10_000
    assert b"<svg" in (plots / f"{name}.svg").read_bytes()
  lines = degradation.text(degraded).splitlines()
  assert lines[2].startswith("none") and len(lines) == 2 + 21


def test_a_row_tells_numbers_changes_and_what_is_kept(degraded):
  unchanged, row = degraded.unchanged, degraded.rows[5]
  for key in KEYS:
    value, base = row[key], unchanged[key]
    if not np.isnan(value):
      assert row[f"{key}_change"] == pytest.approx(value - base)
      assert row[f"{key}_low"] <= row[f"{key}_high"]
    assert unchanged[f"{key}_change"] == 0 or np.isnan(base)
  assert row["ap_change"] < 0
  assert row["bytes_kept"] == 4 * row["elements_kept"]
  assert row["factor"] == pytest.approx(unchanged["elements_kept"] / row["elements_kept"])
  # Of four images, P2 has about 3/4 of all elements.
  assert 3 < row["factor"] < 4.1


def test_levels_are_degraded_together(combined, outputs):
  assert [row["levels"] for row in combined.rows] == ["p2+p3", "p2+p3+p4"]
  assert [row["levels"] for row in combined.singles] == list(LEVELS)
  content = _written(outputs / "combinations")
  assert content["rows"][-1]["levels"] == combinations.EVERY
  assert combined.every["ap"] <= combined.unchanged["ap"]
  assert combinations.text(combined).count("\n") == 1 + 1 + 5 + 2 + 1
  assert (outputs / "combinations" / "plots" / "combinations.svg").exists()


@pytest.mark.parametrize("levels", ["p2+p7", "p2+p2", "p2,p3", ""])
def test_levels_that_are_none_are_refused(levels):
  with pytest.raises(ExperimentError, match="expected such as p2[+]p3"):
    combinations.damaged(levels)


def test_the_rules_of_the_study_and_a_sweep(rebuilt, outputs):
  names = [row["name"] for row in rebuilt.rows]
  assert names == [*study.RECONSTRUCTION, "P4 0.25 of P3", "P4 0.5 of P3", "P4 0.75 of P3"]
  by_name = {row["name"]: row for row in rebuilt.rows}
  assert by_name["Mix-1"]["ap"] == by_name["P4 0.25 of P3"]["ap"]
  assert by_name["Mix-2"]["factor"] == pytest.approx(5.0, abs=0.3)
  rows = _written(outputs / "reconstruction")["rows"]
  wanted = {"rule", "ap", "ap50", "ap75", "aps", "apm", "apl", "elements_kept", "factor"}
  assert all(wanted <= set(row) for row in rows)


def test_rules_are_parsed_from_a_list():
  found = reconstruction.parse_all("p2=p3:up, p6=p5:pick;p4=p5:up; ")
  assert list(found) == ["p2=p3:up, p6=p5:pick", "p4=p5:up"]
  with pytest.raises(RuleError, match="found no rule"):
    reconstruction.parse_all(" ; ")
  with pytest.raises(RuleError, match="with a learned convolution"):
    reconstruction.check({"x": parse("p4=conv3(p3)")})


def test_the_search_keeps_within_its_budget(searched, outputs):
  assert searched.choice["origin"] == "search" and searched.choice["is_chosen"]
  content = _written(outputs / "key_maps")
  share = content["budget"]["max_share"]
  assert share == pytest.approx(1 / 5, abs=0.02)
  assert content["search_images"] == content["images"] == 2
  assert content["evaluations"] <= 1 + 90 + 8 < content["choices"]
  assert sum(row["is_chosen"] for row in content["rows"]) == 1
  origins = [row["origin"] for row in content["rows"]]
  assert origins.count("study") == 6 and origins.count("none") == 1
  comparison = content["against_the_study"]
  assert comparison["low"] <= comparison["ap"] + 1e-9 and comparison["name"] in study.RECONSTRUCTION
  marked = [line for line in key_maps.text(searched).splitlines() if line.startswith(">")]
  assert len(marked) == 1 and content["choice"] in marked[0]


def test_of_single_candidates_none_is_forgotten():
  found = choices.candidates()
  texts = [str(each.rule) for each in found]
  assert len(set(texts)) == len(texts)
  assert {"p6=p5:pick", "p2=p2:degrade64", "p4=p3:down+p5:up", "p4=conv3(p3,p5)"} <= set(texts)
  by_text = dict(zip(texts, found))
  assert by_text["p4=conv3(p3,p5)"].sources == {"p3", "p5"}
  assert by_text["p2=p2:degrade64"].factor == 64 and not by_text["p2=p2:degrade64"].sources
  assert by_text["p6=p5:pick"].factor == 0


def test_a_search_for_little_loss_keeps_no_more_than_without_p6(halves, tmp_path):
  search, _ = halves
  found = key_maps.run(search, search, str(tmp_path), max_loss=0.01, max_evaluations=6)
  assert found.choice["ap_change"] >= -0.01 - 1e-9
  # P6 is every second element of P5: to pick it loses nothing.
  (picked,) = search.evaluate([parse("p6=p5:pick")])
  assert found.choice["factor"] >= picked.factor > 1


def _outcome(rule: str, ap: float, elements: int) -> Outcome:
  return Outcome(parse(rule), {"ap": ap}, elements, 100, lambda: np.zeros((1, 6)))


def test_a_budget_chooses_the_best_within_it():
  measured = [
    _outcome("none", 0.40, 100),
    _outcome("p6=p5:pick", 0.40, 99),
    _outcome("p2=p3:up", 0.35, 25),
    _outcome("p2=p4:up", 0.37, 25),
    _outcome("p3=p4:up", 0.20, 10),
  ]
  chosen = {
    choices.Budget(1.0, None): "p6=p5:pick",
    choices.Budget(0.25, None): "p2=p4:up",
    choices.Budget(0.2, None): "p3=p4:up",
    choices.Budget(None, 0.0): "p6=p5:pick",
    choices.Budget(None, 0.04): "p2=p4:up",
    choices.Budget(None, 0.5): "p3=p4:up",
  }
  for budget, rule in chosen.items():
    assert str(budget.choose(measured)) == rule, budget
  with pytest.raises(ExperimentError, match="none of 5 choices keeps at most 5 % of the elements"):
    choices.Budget(0.05, None).choose(measured)


def test_the_report_holds_all_experiments(runner, outputs, degraded, combined, rebuilt, searched):
  results = report.Results(degraded, combined, rebuilt, searched)
  left_out = [{"file_name": "x.png", "reason": "x.png: damaged"}]
  path = report.write(runner, str(outputs), "tiny", results, 5, left_out)
  page = open(path, encoding="utf-8").read()
  titles = re.findall(r"<h2[^>]*>([^<]+)</h2>", page)
  assert titles == [
    "Each level degraded",
    "Levels degraded together",
    "Levels rebuilt",
    "Key maps",
    "What is known elsewhere",
    "What was run",
  ]
  assert page.count('src="data:image/svg') == 3
  assert "1 image left out" in page and "x.png: damaged" in page
  assert "43.0" in page and "41.6" in page and study.NAME in page
  assert searched.choice["rule"] in page and "arXiv 2503.19278" in page


def _row(level: str, factor: int, **changes: tuple[float, float, float]) -> dict:
  row = {"level": level, "degraded_by": factor}
  for key in KEYS:
    change, low, high = changes.get(key, (0.0, -0.005, 0.005))
    row.update({key: 0.5, f"{key}_change": change, f"{key}_low": low, f"{key}_high": high})
  return row


def test_findings_come_from_the_figures_and_say_what_is_clear():
  rows = [
    _row("p2", 64, aps=(-0.10, -0.12, -0.08)),
    _row("p3", 32, aps=(-0.04, -0.06, -0.02), apm=(-0.06, -0.2, -0.004), apl=(-0.2, -0.3, -0.1)),
    _row("p4", 16, apm=(-0.05, -0.11, 0.01), apl=(-0.1, -0.2, -0.05)),
    _row("p5", 8, apl=(-0.02, -0.04, -0.01)),
    _row("p6", 4),
  ]
  small, medium, large = report.findings(Degradation(_row("none", 1), rows))
  assert small == (
    "small objects",
    "they lose most by P2 (-10.0, -12.0 to -8.0), then P3 (-4.0, -6.0 to -2.0); as the study "
    "found: P2 and P3.",
  )
  assert medium[1].startswith("they lose most by P3 (-6.0") and "P4 (" not in medium[1]
  assert "the intervals do not decide whether most by P4 and P5" in medium[1]
  assert large[1].endswith("unlike the study, which found P5 and P6.")
  # One other level that costs more than one of the study's is enough; how the rest compare is open.
  rows[0] = _row("p2", 64, apm=(-0.2, -0.3, -0.1))
  _, medium, _ = report.findings(Degradation(_row("none", 1), rows))
  assert medium[1].endswith("unlike the study, which found P4 and P5.")


def test_findings_of_what_was_not_measured_say_so():
  rows = [_row(level, factor) for level, factor in (("p2", 64), ("p3", 32))]
  for row in rows:
    row["apl"] = row["apl_change"] = float("nan")
  small, _, large = report.findings(Degradation(_row("none", 1), rows))
  assert small[1] == "no level is clearly missed."
  assert large[1] == "the data set has none."


def test_results_of_another_experiment_are_not_replaced(outputs, degraded):
  tables.check_output(str(outputs / "degradation"), "degradation")
  with pytest.raises(ExperimentError, match="found results of degradation, expected those of key"):
    tables.check_output(str(outputs / "degradation"), "key maps")
