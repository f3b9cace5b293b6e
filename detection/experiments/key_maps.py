"""The search for key maps: which levels to keep, and how each of the others is best rebuilt.

1. Candidates. Each level alone is rebuilt from each other level and from each pair of a finer and
   a coarser one (resized, a fitted sum, or a fitted 3x3 convolution), or degraded by each factor.
   Fits are by least squares on features of the search images.
2. Evaluate each candidate alone, all other levels being as they were: about 80 evaluations.
3. Predict each choice of levels to keep and of candidates for the others, about 14,000: what the
   candidates lose alone is added up.
4. Evaluate the choices on the predicted front of elements against AP, those nearest to the budget
   first. What a set of rebuilt levels loses beyond the sum is added to all predictions of that
   set, and the front is predicted again, until it holds no choice that was not evaluated, or the
   evaluations are used up.
5. Evaluate the fronts of AP, APs, APm and APl on images that the search did not see, beside the
   study's rules.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from absl import logging

from detection.coco import bootstrap
from detection.experiments import prediction, reconstruction, rules, tables
from detection.experiments.choices import Budget, Candidate, Choices, candidates
from detection.experiments.rules import NONE, Rule
from detection.experiments.runner import Outcome, Runner
from khuvcm_tf import atomic_files
from khuvcm_tf.results import curves, figures
from khuvcm_tf.results.rows import Row

NAME = "key maps"
_ROUND = 6  # choices that are evaluated before the front is predicted again
_FIT_IMAGES = 100  # at most, of the search images, that candidates are fitted on
_FRONTS = ("ap", "aps", "apm", "apl")


class Comparison(NamedTuple):
  """The choice against the best of the study's rules that rebuild from P3 and P5.

  Attributes:
    name: of the study's rule.
    share: of the elements that it keeps.
    ap: by how much more the choice reaches, 0..1.
    low, high: ends of its 95 % interval.
  """

  name: str
  share: float
  ap: float
  low: float
  high: float


class KeyMaps(NamedTuple):
  """What the search found.

  Attributes:
    choice: row of the choice, on the held-out images.
    comparison: on the same images.
    rows: on the held-out images, of the features as they were, the fronts, and the study's rules;
      with `name`, `origin` ("none", "search" or "study"), `front` (of which numbers the rule is on
      the front of the search images, such as "AP APs") and `is_chosen`.
    num_evaluations: of rules on the search images.
    num_choices: that were compared by prediction.
  """

  choice: Row
  comparison: Comparison
  rows: list[Row]
  num_evaluations: int
  num_choices: int


def run(
  search: Runner,
  held_out: Runner,
  output: str,
  max_share: float | None = None,
  max_loss: float | None = None,
  max_evaluations: int = 30,
) -> KeyMaps:
  """Searches; writes results.

  Args:
    search: detector and the images to search with.
    held_out: the same detector and other images.
    output: folder, which exists.
    max_share: of the elements that may be kept; by default as many as the study keeps, unless
      `max_loss` is given.
    max_loss: AP that may be lost, 0..1; the least elements are kept then.
    max_evaluations: of choices, beside those of single candidates.

  Raises:
    ExperimentError: no image could be used, or nothing meets the budget.
    atomic_files.FileError: a file cannot be written.
  """
  (unchanged,) = search.evaluate([NONE])
  found, predictors = _fitted(search)
  outcomes = search.evaluate([each.rule for each in found], predictors)
  space = Choices(search, found, unchanged, outcomes)
  of_study = reconstruction.rules_of_study()
  if max_share is None and max_loss is None:
    kept = search.count_elements(of_study["Mix-2"].kept())
    max_share = kept / unchanged.elements
  budget = Budget(max_share, max_loss)
  # Single candidates are choices too, and so is to keep everything.
  measured = [unchanged, *outcomes]
  most = len(measured) + max_evaluations
  while len(measured) < most:
    space.learn(measured)
    wanted = space.front(measured, min(_ROUND, most - len(measured)), budget)
    if not wanted:
      break
    measured += search.evaluate(wanted, predictors)
  logging.info(
    "%d choices predicted, %d rules evaluated, %d of them single candidates",
    *(len(space), len(measured), len(found)),
  )
  chosen = budget.choose(measured)
  fronts = _fronts(measured)
  rows, comparison = _on_held_out(held_out, fronts, of_study, predictors, chosen)
  metadata = {
    "budget": budget._asdict(),
    "choice": str(chosen),
    "against_the_study": comparison._asdict(),
    "search_images": len(search.dataset) - len(search.left_out),
    "evaluations": len(measured),
    "choices": len(space),
    "single_candidates": [
      {
        "rule": str(each.rule),
        **each.metrics,
        "elements_kept": each.elements,
        "factor": each.factor,
      }
      for each in outcomes
    ],
  }
  tables.write(held_out, output, NAME, rows, metadata)
  figures.write(
    os.path.join(output, "plots"),
    tables.SHARE,
    tables.METRICS,
    curves_of(rows),
    102.0,
  )
  _write_predictors(output, [rule for rule in (chosen, *fronts) if rule.predicted], predictors)
  (choice,) = (row for row in rows if row["is_chosen"])
  return KeyMaps(choice, comparison, rows, len(measured), len(space))


def _fitted(search: Runner) -> tuple[list[Candidate], rules.Predictors]:
  """Returns all candidates, those of sums with their weights, and the weights of convolutions."""
  found, fits = candidates(), {}
  channels = search.model.detector.config.fpn_channels
  for each in found:
    terms = dict(each.rule.terms)[each.level]
    if terms[0].operation == "conv":
      fits[each] = prediction.ConvolutionFit(each.level, terms[0], channels)
    elif len(terms) > 1:
      fits[each] = prediction.SumFit(each.level, terms)
  prediction.fit(list(fits.values()), search.features(_FIT_IMAGES))
  predictors, complete = {}, []
  for each in found:
    fit = fits.get(each)
    if isinstance(fit, prediction.ConvolutionFit):
      predictors[fit.name] = fit.solve()
    elif fit is not None:
      each = each._replace(rule=fit.solve())
    complete.append(each)
  return complete, predictors


def _fronts(outcomes: Sequence[Outcome]) -> dict[Rule, list[str]]:
  """Returns the rules that no other beats in elements and a number, each with these numbers."""
  found: dict[Rule, list[str]] = {}
  for key in _FRONTS:
    best = -np.inf
    for each in sorted(outcomes, key=lambda o: (o.elements, -np.nan_to_num(o.metrics[key]))):
      if each.metrics[key] > best:
        best = each.metrics[key]
        found.setdefault(each.rule, []).append(tables.LABELS[key])
  return found


def _on_held_out(
  held_out: Runner,
  fronts: dict[Rule, list[str]],
  of_study: dict[str, Rule],
  predictors: rules.Predictors,
  chosen: Rule,
) -> tuple[list[Row], Comparison]:
  """Returns rows of the features as they were, of the study's rules and of the search's."""
  names = {NONE: ("none", "none")}
  names.update({rule: (name, "study") for name, rule in of_study.items() if rule != NONE})
  for rule in (chosen, *fronts):
    if rule != NONE:
      names[rule] = (str(rule), "search")
  outcomes = dict(zip(names, held_out.evaluate(list(names), predictors)))
  rows = [
    tables.make_row(
      outcome,
      outcomes[NONE],
      name=names[rule][0],
      origin=names[rule][1],
      front=" ".join(fronts.get(rule, [])),
      is_chosen=rule == chosen,
    )
    for rule, outcome in outcomes.items()
  ]
  of_keys = [rule for rule in of_study.values() if set(rule.kept()) == {"p3", "p5"}]
  best = max(of_keys, key=lambda rule: outcomes[rule].metrics["ap"])
  ours, theirs = outcomes[chosen], outcomes[best]
  interval = bootstrap.interval(ours.draws[:, 0] - theirs.draws[:, 0])
  difference = ours.metrics["ap"] - theirs.metrics["ap"]
  (name,) = (name for name, rule in of_study.items() if rule == best)
  return rows, Comparison(name, 1 / theirs.factor, difference, *interval)


def _write_predictors(output: str, used: Sequence[Rule], predictors: rules.Predictors) -> None:
  """Writes kernels and biases of the rules, by the names of their terms."""
  arrays = {}
  for rule in used:
    for each in rule.predicted:
      name = rules.predictor_name(*each)
      kernel, bias = predictors[name]
      arrays.update({f"{name}.kernel": kernel.numpy(), f"{name}.bias": bias.numpy()})
  if arrays:
    with atomic_files.new_file(os.path.join(output, "predictors.npz")) as path:
      with open(path, "wb") as file:
        np.savez(file, **arrays)


def curves_of(all_rows: Sequence[Row]) -> list[curves.Curve]:
  """Returns what is kept against what is found, in percent: all levels, search, and study.

  Of the search, rules on the front of AP, and the choice; those on other fronts alone are left out.
  """
  groups = {
    "none": ("All levels", "plain"),
    "search": ("Search, front of AP", "strong"),
    "study": ("Rules of the study", "plain"),
  }
  drawn = []
  for origin, (name, style) in groups.items():
    own = [row for row in all_rows if row["origin"] == origin]
    if origin == "search":
      own = [row for row in own if row["is_chosen"] or "AP" in row["front"].split()]
    points = [
      tables.point(row, ("the choice: " if row["is_chosen"] else "") + row["rule"]) for row in own
    ]
    if points:
      drawn.append(curves.curve(name, "Rules", style, points))
  return drawn


def text(found: KeyMaps) -> str:
  """Returns the results as a table, by rising elements; the choice is marked by >."""
  rows = sorted(found.rows, key=lambda row: -row["factor"])
  shown = [
    {**row, "": ">" if row["is_chosen"] else "", "share": f"{100 / row['factor']:.1f} %"}
    for row in rows
  ]
  return tables.text(shown, ("", "origin", "share", "front", "name"), _FRONTS)
