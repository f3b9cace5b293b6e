"""Least squares: what was made by a rule is found again, and noise is not fitted."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from detection.experiments import prediction
from detection.experiments.prediction import ConvolutionFit, SumFit
from detection.experiments.rules import parse

_SIZES = {"p2": (32, 40), "p3": (16, 20), "p4": (8, 10), "p5": (4, 5), "p6": (2, 3)}


def _images(count: int, change=None):
  rng = np.random.default_rng(0)
  for _ in range(count):
    levels = {k: rng.normal(size=(*size, 3)).astype(np.float32) for k, size in _SIZES.items()}
    yield {**levels, **(change(levels) if change else {})}


def _made_by(text: str, level: str, predictors=None):
  def change(levels):
    features = {k: tf.constant(v[np.newaxis]) for k, v in levels.items()}
    return {level: parse(text).apply(features, predictors)[level][0].numpy()}

  return change


def test_the_weights_of_a_sum_are_found():
  terms = dict(parse("p4=p3:down+p5:up").terms)["p4"]
  fitted = SumFit("p4", terms)
  prediction.fit([fitted], _images(3, _made_by("p4=0.3*p3:down+0.75*p5:up", "p4")))
  assert str(fitted.solve()) == "p4=0.3*p3:down+0.75*p5:up"


@pytest.mark.parametrize("size", [1, 3])
def test_a_convolution_is_found(size):
  rule = parse(f"p3=conv{size}(p2,p4)")
  ((level, term),) = rule.predicted
  rng = np.random.default_rng(1)
  kernel = rng.normal(size=(size, size, 6, 3)).astype(np.float32)
  bias = np.array([1.0, -2.0, 0.5], np.float32)
  made = _made_by(str(rule), "p3", {str(rule): (kernel, bias)})
  fitted = ConvolutionFit(level, term, 3)
  assert fitted.name == str(rule)
  prediction.fit([fitted], _images(40, made))
  found_kernel, found_bias = fitted.solve()
  np.testing.assert_allclose(found_bias, bias, atol=0.05)
  np.testing.assert_allclose(found_kernel, kernel, atol=0.1)


def test_of_large_maps_some_positions_count():
  ((level, term),) = parse("p2=conv1(p3)").predicted
  fitted = ConvolutionFit(level, term, 3)
  prediction.fit([fitted], _images(2))
  assert fitted._matrix[-1, -1] == 2 * 256 < 2 * 32 * 40
  kernel, bias = fitted.solve()
  # The levels have nothing in common.
  assert np.abs(kernel).max() < 0.25 and np.abs(bias).max() < 0.25
