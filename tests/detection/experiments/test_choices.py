"""Predictions of what choices lose: all of them are compared, and what was measured is learned."""

from __future__ import annotations

import itertools
import types

import numpy as np
import pytest

from detection.experiments import choices
from detection.experiments.choices import Budget, Choices
from detection.experiments.rules import NONE, Rule
from detection.experiments.runner import Outcome
from khuvcm_tf.ops.pyramid import LEVELS

_SIZES = {level: 4**i for level, i in zip(LEVELS, (4, 3, 2, 1, 0))}
_TOTAL = sum(_SIZES.values())
_ALL = Budget(1.0, None)


def _count(kept) -> int:
  return sum(max(1, _SIZES[level] // factor**2) for level, factor in kept.items())


def _outcome(rule: Rule, loss: float) -> Outcome:
  return Outcome(rule, {"ap": 0.5 - loss}, _count(rule.kept()), _TOTAL, lambda: np.zeros((1, 6)))


@pytest.fixture(scope="module")
def found():
  """Some candidates, so that all choices can be listed, with a loss of each."""
  kinds = ("up", "down", "degrade4", "conv3")
  some = [c for c in choices.candidates() if any(kind in str(c.rule) for kind in kinds)]
  losses = np.random.default_rng(0).uniform(0.001, 0.1, len(some))
  return some, losses


@pytest.fixture
def space(found):
  some, losses = found
  outcomes = [_outcome(c.rule, loss) for c, loss in zip(some, losses)]
  search = types.SimpleNamespace(count_elements=_count)
  return Choices(search, some, _outcome(NONE, 0.0), outcomes)


def _list_all(found):
  """Yields each choice as a rule with the sum of its losses, by plain enumeration."""
  some, losses = found
  of_level = [
    [(None, 0.0), *((c, x) for c, x in zip(some, losses) if c.level == level)] for level in LEVELS
  ]
  for parts in itertools.product(*of_level):
    kept = {level for level, (candidate, _) in zip(LEVELS, parts) if candidate is None}
    if all(candidate is None or candidate.sources <= kept for candidate, _ in parts):
      terms = tuple(c.rule.terms[0] for c, _ in parts if c is not None)
      yield Rule(terms), sum(loss for _, loss in parts)


def test_the_predicted_front_is_that_of_all_choices(found, space):
  everything = [(_count(rule.kept()), loss, rule) for rule, loss in _list_all(found)]
  assert len(space) == len(everything) > 1000
  best, front = np.inf, set()
  for _, loss, rule in sorted(everything, key=lambda each: each[:2]):
    if loss < best - 1e-12:
      best = loss
      front.add(rule)
  got = space.front([_outcome(NONE, 0.0)], 10_000, _ALL)
  assert set(got) == front - {NONE} and len(got) == len(set(got))


def test_the_nearest_to_the_budget_come_first(space):
  budget = Budget(0.2, None)
  shares = [_count(rule.kept()) / _TOTAL for rule in space.front([], 50, budget)]
  within = [share for share in shares if share <= 0.2]
  assert within and shares[: len(within)] == sorted(within, reverse=True)


def test_what_was_measured_is_learned_and_not_asked_for_again(space):
  first = space.front([_outcome(NONE, 0.0)], 1, Budget(0.3, None))
  measured = [_outcome(NONE, 0.0), _outcome(first[0], 0.4)]
  space.learn(measured)
  later = space.front(measured, 10_000, Budget(0.3, None))
  assert first[0] not in later
  # Other choices that keep the same levels are thought to lose as much more.
  kept = {level for level, factor in first[0].kept().items() if factor == 1}
  alike = [rule for rule in later if kept == {k for k, f in rule.kept().items() if f == 1}]
  assert len(alike) < len(later)
