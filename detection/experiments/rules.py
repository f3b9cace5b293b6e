"""Rules: how each level of a pyramid is made of the levels that are kept.

    p2=p3:up, p4=0.5*p3:down+0.5*p5:up, p6=p5:pick

A rule is a list of levels with what each becomes: a sum of terms, each an original level with an
operation, times a number where there is one. A level that is not mentioned stays as it is.

    p3              the level itself
    p3:up           for a finer level: P3 enlarged to its size by bilinear interpolation
    p3:down         for a coarser level: P3 shrunk to its size, likewise
    p5:pick         for a coarser level: every second element of P5 (every fourth, ... of levels
                    that lie farther apart)
    p2:degrade64    for P2 itself: shrunk by 64 and enlarged again
    conv3(p3,p5)    these levels resized to its size, then a learned 3x3 convolution of all of them
    conv1(p3,p5)    likewise, with a 1x1 convolution

The terms of a level see the levels as the detector made them, not what a rule makes of them.
`detection.experiments.resampling` says how levels are resized, `prediction` how convolutions are
learned.

What is kept is what the terms need: whole levels, and of levels that only `degrade` needs the
shrunk ones. Elements are positions, of C channels each.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from detection.experiments import ExperimentError, resampling
from khuvcm_tf.ops.pyramid import LEVELS

_LEVEL = r"p[2-6]"
_NUMBER = r"[+-]?\d+(?:\.\d*)?(?:e[+-]?\d+)?"
_PREDICTED = re.compile(rf"conv([13])\(({_LEVEL}(?:,{_LEVEL})*)\)")
_TERM = re.compile(rf"(?:({_NUMBER})\*)?({_LEVEL})(?::([a-z]+)(\d*))?")
_EXPECTED = (
  "expected such as p2=p3:up, p4=0.5*p3:down+0.5*p5:up, p6=p5:pick, p2=p2:degrade64 or "
  "p4=conv3(p3,p5)"
)

# By the text of the term: kernel [k, k, inputs * C, C] and bias [C].
Predictors = Mapping[str, tuple[tf.Tensor, tf.Tensor]]


class RuleError(ExperimentError):
  """A text that is no rule."""


class Term(NamedTuple):
  """A part of the sum that a level becomes.

  Attributes:
    sources: the levels that it needs.
    operation: "same", "up", "down", "pick", "degrade" or "conv".
    number: factor of "degrade", or size of the kernel of "conv"; else 0.
    weight: factor of the term.
  """

  sources: tuple[str, ...]
  operation: str
  number: int
  weight: float

  def __str__(self) -> str:
    if self.operation == "conv":
      return f"conv{self.number}({','.join(self.sources)})"
    name = "" if self.operation == "same" else f":{self.operation}{self.number or ''}"
    short = f"{self.weight:g}"
    weight = short if float(short) == self.weight else repr(self.weight)
    return f"{weight}*" * (self.weight != 1) + self.sources[0] + name


@dataclasses.dataclass(frozen=True)
class Rule:
  """What each level becomes; made by `parse`.

  Attributes:
    terms: of the levels that are mentioned.
  """

  terms: tuple[tuple[str, tuple[Term, ...]], ...]

  def __str__(self) -> str:
    sums = {level: "+".join(map(str, terms)).replace("+-", "-") for level, terms in self.terms}
    return ", ".join(f"{level}={total}" for level, total in sums.items()) or "none"

  @property
  def predicted(self) -> list[tuple[str, Term]]:
    """The levels and terms that a convolution makes."""
    return [(level, t) for level, terms in self.terms for t in terms if t.operation == "conv"]

  def apply(
    self, features: dict[str, tf.Tensor], predictors: Predictors | None = None
  ) -> dict[str, tf.Tensor]:
    """Returns the levels that the rule makes of `p2` to `p6`, each [B, H, W, C].

    Args:
      features: of a detector.
      predictors: kernels and biases by `predictor_name`, where the rule has convolutions.
    """
    made = dict(features)
    for level, terms in self.terms:
      parts = [_apply(level, term, features, predictors or {}) for term in terms]
      made[level] = parts[0] if len(parts) == 1 else tf.add_n(parts)
    return made

  def kept(self) -> dict[str, int]:
    """Returns the levels that are kept, each with the factor by which it is shrunk; 1 of whole
    ones."""
    factors: dict[str, int] = {}
    mentioned = dict(self.terms)
    for level in LEVELS:
      for term in mentioned.get(level, (Term((level,), "same", 0, 1.0),)):
        for source in term.sources:
          factor = term.number if term.operation == "degrade" else 1
          factors[source] = min(factor, factors.get(source, factor))
    return {level: factors[level] for level in LEVELS if level in factors}


NONE = Rule(())


def count_positions(kept: Mapping[str, int], sizes: Mapping[str, tuple[int, int]]) -> int:
  """Returns how many positions levels have, each shrunk by a factor.

  Args:
    kept: factors by level, as `Rule.kept` gives them.
    sizes: height and width of each level.
  """
  shrunk = (resampling.degraded_size(*sizes[level], factor) for level, factor in kept.items())
  return sum(height * width for height, width in shrunk)


def predictor_name(level: str, term: Term) -> str:
  """Returns the name of a convolution's weights, such as "p4=conv3(p3,p5)"."""
  return f"{level}={term}"


def parse(text: str) -> Rule:
  """Parses a rule; "" or "none" changes nothing.

  Raises:
    RuleError: the text is no rule.

  Example:
    >>> str(parse("p2 = p3:up, p4 = .5*p3:down + 0.50*p5:up"))
    'p2=p3:up, p4=0.5*p3:down+0.5*p5:up'
    >>> parse("p2=p3:up, p4=p5:up, p6=p5:pick").kept()
    {'p3': 1, 'p5': 1}
  """
  compact = re.sub(r"\s", "", text)
  if compact in ("", "none"):
    return NONE
  found: dict[str, tuple[Term, ...]] = {}
  for assignment in re.split(rf",(?={_LEVEL}=)", compact):
    level, equals, value = assignment.partition("=")
    if not equals or not re.fullmatch(_LEVEL, level):
      raise RuleError(f"{text!r}: found {assignment!r}, {_EXPECTED}")
    if level in found:
      raise RuleError(f"{text!r}: found {level} twice, expected it once")
    # A sign begins a term where one ends, so not in an exponent.
    parts = re.split(r"(?<=[a-df-z0-9)])(?:\+|(?=-))", value)
    found[level] = tuple(_parse_term(text, level, part) for part in parts)
  return Rule(tuple((level, found[level]) for level in LEVELS if level in found))


def _parse_term(text: str, level: str, part: str) -> Term:
  predicted = _PREDICTED.fullmatch(part)
  if predicted:
    sources = tuple(predicted[2].split(","))
    if level in sources or list(sources) != sorted(set(sources)):
      raise RuleError(
        f"{text!r}: found {part!r} for {level}, expected other levels, from fine to coarse"
      )
    return Term(sources, "conv", int(predicted[1]), 1.0)
  match = _TERM.fullmatch(re.sub(r"^([+-]?)\.", r"\g<1>0.", part))
  if not match:
    raise RuleError(f"{text!r}: found {part!r}, {_EXPECTED}")
  weight, source, operation, number = match.groups()
  operation = operation or "same"
  term = Term((source,), operation, int(number or 0), float(weight or 1))
  problem = _problem(level, term)
  if problem:
    raise RuleError(f"{text!r}: found {part!r} for {level}, {problem}")
  return term


def _problem(level: str, term: Term) -> str | None:
  """Returns what is wrong with a term for a level, or None."""
  (source,), operation = term.sources, term.operation
  if operation not in ("same", "up", "down", "pick", "degrade"):
    return "expected one of up, down, pick and degradeK, such as degrade4"
  if operation in ("same", "degrade") and source != level:
    return f"expected {level} itself, or {'up' if source > level else 'down'}"
  if operation == "up" and source <= level:
    return "expected a coarser level to enlarge"
  if operation in ("down", "pick") and source >= level:
    return "expected a finer level to shrink"
  if operation == "degrade" and not 1 <= term.number <= max_factor(level):
    return f"expected a factor of 1 to {max_factor(level)}"
  if operation != "degrade" and term.number:
    return f"expected no number after {operation}"
  return None


def max_factor(level: str) -> int:
  """Returns the greatest factor by which the study shrinks a level: 64 of P2, ... 4 of P6."""
  return 64 >> LEVELS.index(level)


def factors(level: str) -> list[int]:
  """Returns the factors by which a level is degraded: 2, 4, ... `max_factor`."""
  return [2**step for step in range(1, max_factor(level).bit_length())]


def _apply(
  level: str, term: Term, features: dict[str, tf.Tensor], predictors: Predictors
) -> tf.Tensor:
  """Returns what a term gives for a level."""
  if term.operation == "conv":
    kernel, bias = predictors[predictor_name(level, term)]
    return tf.nn.bias_add(
      tf.nn.conv2d(inputs(level, term.sources, features), kernel, 1, "SAME"), bias
    )
  source, target = features[term.sources[0]], features[level]
  if term.operation == "same":
    made = source
  elif term.operation == "degrade":
    made = resampling.degrade(source, term.number)
  elif term.operation == "pick":
    made = resampling.pick(source, 1 << (int(level[1]) - int(term.sources[0][1])))
  else:
    made = resampling.resize(source, tf.shape(target)[1], tf.shape(target)[2])
  return made if term.weight == 1 else term.weight * made


def inputs(level: str, sources: tuple[str, ...], features: dict[str, tf.Tensor]) -> tf.Tensor:
  """Returns levels resized to the size of another, side by side: [B, H, W, n C]."""
  height, width = tf.shape(features[level])[1], tf.shape(features[level])[2]
  return tf.concat([resampling.resize(features[each], height, width) for each in sources], -1)
