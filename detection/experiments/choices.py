"""All choices of levels to keep and of a way to rebuild each of the others, with predicted losses.

What a choice loses is predicted as the sum of what its parts lose alone, plus what sets of levels
that were measured lost beyond the sum.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from detection.experiments import ExperimentError
from detection.experiments.rules import Rule, factors, parse
from detection.experiments.runner import Outcome, Runner
from khuvcm_tf.ops.pyramid import LEVELS


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
    texts += [f"{level}={level}:degrade{factor}" for factor in factors(level)]
    found += [_candidate(level, parse(text)) for text in texts]
  return found


def _candidate(level: str, rule: Rule) -> Candidate:
  terms = dict(rule.terms)[level]
  sources = frozenset(x for term in terms for x in term.sources if x != level)
  return Candidate(rule, level, sources, max(t.number * (t.operation == "degrade") for t in terms))


class _Set(NamedTuple):
  """All choices that keep the same levels whole.

  Attributes:
    kept: these levels.
    picks: candidates of the other levels, by number, int32 [choices, levels].
    loss: of AP, the sum of the candidates' own, [choices].
    elements: that are kept, [choices].
  """

  kept: frozenset[str]
  picks: np.ndarray
  loss: np.ndarray
  elements: np.ndarray


class Choices:
  """All choices of a detector; `len` says how many.

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
    self._sets = [self._combine(kept) for kept in _subsets()]

  def __len__(self) -> int:
    return sum(len(each.loss) for each in self._sets)

  def _combine(self, kept: frozenset[str]) -> _Set:
    rebuilt = [level for level in LEVELS if level not in kept]
    options = [
      [i for i, c in enumerate(self._found) if c.level == level and c.sources <= kept]
      for level in rebuilt
    ]
    combinations = list(itertools.product(*options))
    picks = np.array(combinations, np.int32).reshape(len(combinations), len(rebuilt))
    elements = sum(self._level_elements[level] for level in kept)
    return _Set(kept, picks, self._loss[picks].sum(1), elements + self._elements[picks].sum(1))

  def _rule(self, picks: np.ndarray) -> Rule:
    terms = {level: t for i in picks for level, t in self._found[i].rule.terms}
    return Rule(tuple((level, terms[level]) for level in LEVELS if level in terms))

  def front(self, measured: Sequence[Outcome], count: int, budget: Budget) -> list[Rule]:
    """Returns choices on the predicted front of elements against AP, `count` at most.

    Those are left out that were measured, or that a measured one beats. The nearest to the budget
    come first, since the choice will be one of them.
    """
    entries = [(each.elements, self._ap - each.metrics["ap"], None) for each in measured]
    for choice in self._sets:
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
