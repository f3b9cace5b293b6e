"""The language of rules: what it says, what it makes of features, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from detection.experiments import resampling, rules
from detection.experiments.rules import RuleError, parse
from khuvcm_tf.ops.pyramid import LEVELS

_SIZES = {"p2": (16, 24), "p3": (8, 12), "p4": (4, 6), "p5": (2, 3), "p6": (1, 2)}
_SQUARE = {level: (256 >> i, 256 >> i) for i, level in enumerate(LEVELS)}


@pytest.fixture(scope="module")
def features():
  rng = np.random.default_rng(0)
  return {
    level: tf.constant(rng.normal(size=(1, *size, 4)), tf.float32) for level, size in _SIZES.items()
  }


@pytest.mark.parametrize(
  "text, level, expected",
  [
    ("p3=p3", "p3", lambda f: f["p3"]),
    ("p2=p3:up", "p2", lambda f: resampling.resize(f["p3"], 16, 24)),
    ("p2=p6:up", "p2", lambda f: resampling.resize(f["p6"], 16, 24)),
    ("p5=p2:down", "p5", lambda f: resampling.resize(f["p2"], 2, 3)),
    ("p6=p5:pick", "p6", lambda f: f["p5"][:, ::2, ::2]),
    ("p6=p3:pick", "p6", lambda f: f["p3"][:, ::8, ::8]),
    ("p2=p2:degrade64", "p2", lambda f: resampling.degrade(f["p2"], 64)),
    (
      "p4=0.25*p3:down+0.75*p5:up",
      "p4",
      lambda f: 0.25 * resampling.resize(f["p3"], 4, 6) + 0.75 * resampling.resize(f["p5"], 4, 6),
    ),
    (
      "p4=p3:down-2e-1*p5:up",
      "p4",
      lambda f: resampling.resize(f["p3"], 4, 6) - 0.2 * resampling.resize(f["p5"], 4, 6),
    ),
  ],
)
def test_a_rule_makes_what_it_says(features, text, level, expected):
  made = parse(text).apply(features)
  np.testing.assert_allclose(made[level], expected(features), atol=1e-6)
  for other in set(LEVELS) - {level}:
    np.testing.assert_array_equal(made[other], features[other])


def test_a_convolution_sees_the_levels_at_its_size(features):
  rng = np.random.default_rng(1)
  kernel = tf.constant(rng.normal(size=(3, 3, 8, 4)), tf.float32)
  rule = parse("p4=conv3(p3,p5)")
  assert [rules.predictor_name(*each) for each in rule.predicted] == ["p4=conv3(p3,p5)"]
  made = rule.apply(features, {"p4=conv3(p3,p5)": (kernel, tf.constant([1.0, 2, 3, 4]))})
  stack = np.concatenate(
    [resampling.resize(features["p3"], 4, 6), resampling.resize(features["p5"], 4, 6)], -1
  )
  middle = np.einsum("hwc,hwcd->d", stack[0, :3, :3], kernel) + [1, 2, 3, 4]
  np.testing.assert_allclose(made["p4"][0, 1, 1], middle, atol=1e-4)


def test_terms_see_the_levels_as_they_were(features):
  made = parse("p2=p3:up, p3=p4:up").apply(features)
  np.testing.assert_array_equal(made["p2"], resampling.resize(features["p3"], 16, 24))


@pytest.mark.parametrize(
  "text, kept",
  [
    ("none", dict.fromkeys(LEVELS, 1)),
    ("p2=p3:up, p4=p3:down, p6=p5:pick", {"p3": 1, "p5": 1}),
    ("p2=p2:degrade64", {**dict.fromkeys(LEVELS, 1), "p2": 64}),
    ("p2=p2:degrade8, p3=p2:down", {**dict.fromkeys(("p2", "p4", "p5", "p6"), 1)}),
    ("p2=p3:up, p3=p4:up", {"p3": 1, "p4": 1, "p5": 1, "p6": 1}),
    ("p4=conv3(p3,p5), p2=p3:up, p6=p5:pick", {"p3": 1, "p5": 1}),
  ],
)
def test_what_is_kept(text, kept):
  assert parse(text).kept() == kept


def test_the_factor_of_the_study():
  sizes = _SQUARE

  def count(text):
    return rules.count_positions(parse(text).kept(), sizes)

  of_all, kept = count("none"), count("p2=p3:up, p4=0.5*p3:down+0.5*p5:up, p6=p5:down")
  # (1 + 1/4 + 1/16 + 1/64 + 1/256) / (1/4 + 1/64), 5.01; the study says 5.02.
  assert of_all / kept == pytest.approx(1.33203125 / 0.265625)
  assert abs(of_all / kept - 5.02) < 0.01
  degraded = count("p2=p2:degrade64,p4=p4:degrade16,p6=p6:degrade4")
  assert degraded == 128**2 + 32**2 + 3 * 4**2


def test_sizes_that_do_not_divide_are_rounded_up():
  kept = parse("p2=p2:degrade64").kept()
  assert rules.count_positions(kept, {**_SIZES, "p2": (65, 24)}) == 2 + 96 + 24 + 6 + 2


_TERMS = st.sampled_from(
  ["p3:up", "0.5*p4:up", "-0.25*p5:up", "p6:up", "p2:degrade4", "p2", "conv1(p3,p5)", "1e-09*p3:up"]
)


@given(st.lists(_TERMS, min_size=1, max_size=4), st.sampled_from(["", ", p6=p5:pick"]))
def test_a_rule_is_parsed_from_what_it_prints(terms, more):
  rule = parse(f"p2={'+'.join(terms)}{more}")
  assert parse(str(rule)) == rule and len(dict(rule.terms)["p2"]) == len(terms)


@pytest.mark.parametrize(
  "text, message",
  [
    ("p7=p3:up", r"found 'p7=p3:up', expected such as"),
    ("p3", r"found 'p3', expected such as"),
    ("p2=p3:sideways", r"found 'p3:sideways' for p2, expected one of up, down, pick and degradeK"),
    ("p2=p3", r"found 'p3' for p2, expected p2 itself, or up"),
    ("p4=p3", r"found 'p3' for p4, expected p4 itself, or down"),
    ("p3=p2:up", r"found 'p2:up' for p3, expected a coarser level"),
    ("p3=p4:down", r"found 'p4:down' for p3, expected a finer level"),
    ("p3=p4:pick", r"expected a finer level"),
    ("p2=p3:degrade4", r"found 'p3:degrade4' for p2, expected p2 itself"),
    ("p2=p2:degrade", r"expected a factor of 1 to 64"),
    ("p6=p6:degrade8", r"expected a factor of 1 to 4"),
    ("p2=p3:up2", r"expected no number after up"),
    ("p2=p3:up, p2=p4:up", r"found p2 twice"),
    ("p2=", r"found '' for|found '', expected such as"),
    ("p2=p3:up+", r"found '', expected such as"),
    ("p2=a*p3:up", r"found 'a\*p3:up', expected such as"),
    ("p4=conv3(p3,p4)", r"expected other levels, from fine to coarse"),
    ("p4=conv3(p5,p3)", r"expected other levels, from fine to coarse"),
    ("p4=conv5(p3)", r"found 'conv5\(p3\)', expected such as"),
  ],
)
def test_what_is_no_rule_is_refused(text, message):
  with pytest.raises(RuleError, match=message):
    parse(text)
