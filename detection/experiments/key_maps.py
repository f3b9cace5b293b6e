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

import itertools
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from absl import logging

from detection.coco import bootstrap
from detection.config import LEVELS
from detection.experiments import ExperimentError, prediction, reconstruction, rules, tables
from detection.experiments.rules import NONE, Rule, max_factor, parse
from detection.experiments.runner import KEYS, Outcome, Runner
from khuvcm_tf import atomic_files
from khuvcm_tf.results import curves, figures
from khuvcm_tf.results.rows import Row

NAME = "key maps"
_ROUND = 6  # choices that are evaluated before the front is predicted again
_FIT_IMAGES = 100  # at most, of the search images, that candidates are fitted on
_FRONTS = ("ap", "aps", "apm", "apl")


class Candidate(NamedTuple):
  """A way to rebuild a level.

  Attributes:
    rule: of this level alone.
    level: that it rebuilds.
    sources: whole levels that it needs.
    factor: by which the level itself is degraded; 0 if it needs none of it.
  """

  rule: Rule
  level: str
  sources: frozenset[str]
  factor: int


class Budget(NamedTuple):
  """What a choice may keep or lose; one of the two is None.

  Attributes:
    max_share: of the elements that may be kept; as little AP as possible is lost then.
    max_loss: AP that may be lost, 0..1; as few elements as possible are kept then.
  """

  max_share: float | None
  max_loss: float | None

  def distance(self, share: float, loss: float) -> tuple[bool, float]:
    """Returns a key that sorts choices by how near they come to the budget, those within first."""
    value, limit = (loss, self.max_loss) if self.max_share is None else (share, self.max_share)
    return value > limit, abs(value - limit)

  def choose(self, measured: Sequence[Outcome]) -> Rule:
    """Returns the best rule within the budget; the first outcome is that of all levels.

    Raises:
      ExperimentError: there is none.
    """
    ap = measured[0].metrics["ap"]
    if self.max_share is None:
      fit = [each for each in measured if ap - each.metrics["ap"] <= self.max_loss]
      return min(fit, key=lambda each: (each.elements, -each.metrics["ap"])).rule
    fit = [each for each in measured if each.elements / each.all_elements <= self.max_share]
    if not fit:
      raise ExperimentError(
        f"none of {len(measured)} choices keeps at most {100 * self.max_share:.3g} % of the "
        "elements, expected one; raise --max_share or --evaluations"
      )
    return max(fit, key=lambda each: (each.metrics["ap"], -each.elements)).rule


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


def candidates() -> list[Candidate]:
  """Returns all ways to rebuild each level; weights of sums are yet to be fitted."""
  found = []
  for level in LEVELS:
    finer, coarser = [x for x in LEVELS if x < level], [x for x in LEVELS if x > level]
    texts = [f"{level}={x}:down" for x in finer] + [f"{level}={x}:up" for x in coarser]
    texts += [f"{level}={x}:pick" for x in finer]
    texts += [f"{level}=conv3({x})" for x in (*finer[-1:], *coarser[:1])]
    for fine, coarse in itertools.product(finer, coarser):
      texts += [f"{level}={fine}:down+{coarse}:up", f"{level}=conv3({fine},{coarse})"]
    texts += [
      f"{level}={level}:degrade{2**step}" for step in range(1, max_factor(level).bit_length())
    ]
    found += [_candidate(level, parse(text)) for text in texts]
  return found


def _candidate(level: str, rule: Rule) -> Candidate:
  terms = dict(rule.terms)[level]
  sources = frozenset(x for term in terms for x in term.sources if x != level)
  return Candidate(rule, level, sources, max(t.number * (t.operation == "degrade") for t in terms))


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
  space = _Space(search, found, unchanged, outcomes)
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
    *(space.num_choices, len(measured), len(found)),
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
    "choices": space.num_choices,
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
    reconstruction.SHARE,
    reconstruction.METRICS,
    curves_of(rows),
    102.0,
  )
  _write_predictors(output, [rule for rule in (chosen, *fronts) if rule.predicted], predictors)
  (choice,) = (row for row in rows if row["is_chosen"])
  return KeyMaps(choice, comparison, rows, len(measured), space.num_choices)


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


class _Space:
  """All choices of levels to keep and of candidates for the others, with what each should lose.

  Args:
    search: whose images say how many elements a level has.
    found: candidates.
    unchanged, outcomes: of the features as they were, and of each candidate alone.
  """

  def __init__(
    self,
    search: Runner,
    found: Sequence[Candidate],
    unchanged: Outcome,
    outcomes: Sequence[Outcome],
  ):
    ap = unchanged.metrics["ap"]
    self._ap, self._total = ap, unchanged.elements
    self._found = found
    self._loss = np.array([ap - outcome.metrics["ap"] for outcome in outcomes])
    count = search.count_elements
    self._level_elements = {level: count({level: 1}) for level in LEVELS}
    self._elements = np.array([count({c.level: c.factor} if c.factor else {}) for c in found])
    self._excess: dict[frozenset[str], float] = {}
    self._measured: set[tuple[int, ...]] = set()
    # For each set of kept levels: the candidates of each other level, and all combinations.
    self._choices = [self._combine(kept) for kept in _subsets()]
    self.num_choices = sum(len(choice.loss) for choice in self._choices)

  class _Choice(NamedTuple):
    kept: frozenset[str]
    picks: np.ndarray  # int32 [combinations, levels that are rebuilt], indices of candidates
    loss: np.ndarray  # of AP, the sum of the candidates' own
    elements: np.ndarray

  def _combine(self, kept: frozenset[str]) -> _Choice:
    rebuilt = [level for level in LEVELS if level not in kept]
    options = [
      [i for i, c in enumerate(self._found) if c.level == level and c.sources <= kept]
      for level in rebuilt
    ]
    combinations = list(itertools.product(*options))
    picks = np.array(combinations, np.int32).reshape(len(combinations), len(rebuilt))
    elements = sum(self._level_elements[level] for level in kept)
    return self._Choice(
      kept, picks, self._loss[picks].sum(1), elements + self._elements[picks].sum(1)
    )

  def _rule(self, picks: np.ndarray) -> Rule:
    terms = {level: t for i in picks for level, t in self._found[i].rule.terms}
    return Rule(tuple((level, terms[level]) for level in LEVELS if level in terms))

  def front(self, measured: Sequence[Outcome], count: int, budget: Budget) -> list[Rule]:
    """Returns choices on the predicted front of elements against AP, `count` at most.

    Those are left out that were measured, or that a measured one beats. The nearest to the budget
    come first, since the choice will be one of them.
    """
    entries = [(each.elements, self._ap - each.metrics["ap"], None) for each in measured]
    for choice in self._choices:
      loss = choice.loss + self._excess.get(choice.kept, 0.0)
      best = np.inf
      for i in np.lexsort((loss, choice.elements)):  # the front of this set of kept levels
        picks = tuple(choice.picks[i].tolist())
        if loss[i] < best and picks not in self._measured:
          best = loss[i]
          entries.append((int(choice.elements[i]), float(loss[i]), picks))
    best, wanted = np.inf, []
    for elements, loss, picks in sorted(entries, key=lambda each: each[:2]):
      if loss < best:
        best = loss
        if picks is not None:
          wanted.append((budget.distance(elements / self._total, loss), picks))
    return [self._rule(picks) for _, picks in sorted(wanted)[:count]]

  def learn(self, measured: Sequence[Outcome]) -> None:
    """Learns what sets of kept levels lose beyond the sum of their candidates' own losses."""
    beyond: dict[frozenset[str], list[float]] = {}
    indices = {c.rule.terms[0]: i for i, c in enumerate(self._found)}
    self._measured = set()
    for outcome in measured:
      picks = tuple(indices[pair] for pair in outcome.rule.terms)
      kept = frozenset(LEVELS) - {level for level, _ in outcome.rule.terms}
      lost = self._ap - outcome.metrics["ap"]
      beyond.setdefault(kept, []).append(lost - sum(self._loss[i] for i in picks))
      self._measured.add(picks)
    self._excess = {kept: float(np.mean(values)) for kept, values in beyond.items()}


def _subsets() -> Iterator[frozenset[str]]:
  """Yields all sets of levels that may be kept whole."""
  for count in range(len(LEVELS) + 1):
    yield from map(frozenset, itertools.combinations(LEVELS, count))


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
  """Returns what is kept against what is found, in percent: all levels, search, and study."""
  groups = {
    "none": ("All levels", "plain"),
    "search": ("Search", "strong"),
    "study": ("Rules of the study", "plain"),
  }
  drawn = []
  for origin, (name, style) in groups.items():
    own = [row for row in all_rows if row["origin"] == origin]
    points = [
      curves.Point(
        ("the choice: " if row["is_chosen"] else "") + row["rule"],
        100 / row["factor"],
        {key: 100 * row[key] for key in KEYS},
      )
      for row in own
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
