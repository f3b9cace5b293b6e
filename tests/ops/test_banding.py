"""Bands against whole images, and halos against receptive fields found by trying."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from khuvcm_tf import layers
from khuvcm_tf.layers import stack
from khuvcm_tf.ops import banding

# Kernels and strides, from input to output.
_STACKS = st.lists(
  st.tuples(st.sampled_from([1, 3, 5, 7]), st.sampled_from([1, 2])), min_size=1, max_size=4
)


def _inputs_of_convolution(outputs, kernel, stride):
  return {stride * n + tap - kernel // 2 for n in outputs for tap in range(kernel)}


def _inputs_of_transposed_convolution(outputs, kernel, stride):
  """Input m reaches the outputs stride m - k // 2 to stride m + k // 2."""
  low, high = min(outputs) // stride - kernel, max(outputs) // stride + kernel
  return {
    m
    for m in range(low, high + 1)
    if any(stride * m + tap - kernel // 2 in outputs for tap in range(kernel))
  }


def _reach(stack, outputs, inputs_of):
  """Returns the first and last input row that rows `outputs` of a stack read."""
  for kernel, stride in reversed(stack):
    outputs = inputs_of(outputs, kernel, stride)
  return min(outputs), max(outputs)


class TestHalo:
  @settings(max_examples=60, deadline=None)
  @given(_STACKS)
  def test_of_an_analysis_is_the_reach_of_its_kernels(self, stack):
    kernels, strides = zip(*stack)
    total = int(np.prod(strides))
    first, last = _reach(stack, {0}, _inputs_of_convolution)
    halo = banding.analysis_halo(kernels, strides)
    assert halo == -first
    # Below, the row itself already covers `total` input rows.
    assert last - (total - 1) <= halo

  @settings(max_examples=60, deadline=None)
  @given(_STACKS)
  def test_of_a_synthesis_covers_the_reach_of_its_kernels_and_is_not_larger(self, stack):
    kernels, strides = zip(*stack)
    total = int(np.prod(strides))
    first, last = _reach(stack, set(range(total)), _inputs_of_transposed_convolution)
    assert banding.synthesis_halo(kernels, strides) == max(-first, last)


def _bands_seen(transform, x, rows, halo, numerator, denominator):
  """Returns the joined bands, and the rows that each call of `transform` saw."""
  seen = []

  def noting(band):
    seen.append(int(band.shape[1]))
    return transform(band)

  return banding.in_bands(noting, x, rows, halo, numerator, denominator).numpy(), seen


class TestInBands:
  @pytest.mark.parametrize("height", [1, 2, 15, 16, 17, 31, 32, 33, 50])
  def test_of_a_convolution_equal_the_whole_at_every_size_around_the_cut(self, height):
    x = np.random.default_rng(height).normal(size=(2, height, 5, 1)).astype(np.float64)
    kernel = np.arange(1.0, 26.0).reshape(5, 5, 1, 1)

    def transform(x):
      return tf.nn.conv2d(x, kernel, 1, "SAME")

    joined, seen = _bands_seen(transform, x, rows=16, halo=2, numerator=1, denominator=1)
    np.testing.assert_allclose(joined, transform(x), rtol=1e-12)
    assert len(seen) == -(-height // 16)
    assert max(seen) <= 16 + 2 * 2

  def test_with_a_smaller_halo_differ(self):
    x = np.random.default_rng(0).normal(size=(1, 33, 5, 1))
    kernel = np.arange(1.0, 26.0).reshape(5, 5, 1, 1)
    joined, _ = _bands_seen(
      lambda x: tf.nn.conv2d(x, kernel, 1, "SAME"), x, rows=16, halo=1, numerator=1, denominator=1
    )
    assert np.abs(joined - tf.nn.conv2d(x, kernel, 1, "SAME")).max() > 0.1


class TestBandRows:
  @pytest.mark.parametrize("width", [1, 64, 4000, 65535])
  def test_a_band_with_its_halo_needs_no_more_than_allowed(self, width):
    rows = int(banding.band_rows(width, 12.0 * 192, unit=16, halo=32))
    assert rows % 16 == 0
    assert rows >= 16
    if rows > 16:
      assert (rows + 64) * width * 12 * 192 <= banding.BAND_BYTES
      assert (rows + 16 + 64) * width * 12 * 192 > banding.BAND_BYTES


@pytest.fixture(scope="module", params=["gdn", "prelu"])
def transforms(request):
  tf.keras.utils.set_random_seed(3)
  policy = tf.keras.mixed_precision.global_policy()
  tf.keras.mixed_precision.set_global_policy("float64")
  try:
    analysis = layers.four_stage_analysis(8, 6, request.param)
    synthesis = layers.four_stage_synthesis(8, 6, request.param)
  finally:
    tf.keras.mixed_precision.set_global_policy(policy)
  return analysis, synthesis


def _limited_to(monkeypatch, rows, halo, width, bytes_per_pixel):
  """Lowers what a band may need so that bands have `rows` rows of pixels."""
  monkeypatch.setattr(banding, "BAND_BYTES", (rows + 2 * halo) * width * bytes_per_pixel)


class TestTransformInBands:
  # Bands of 48 rows: one row of latents, just below, at and above the cut, and several bands.
  @pytest.mark.parametrize("height", [16, 32, 48, 64, 160])
  def test_of_an_analysis_equals_the_whole(self, transforms, monkeypatch, count_calls, height):
    analysis, _ = transforms
    x = np.random.default_rng(height).uniform(size=(1, height, 32, 3))
    _limited_to(monkeypatch, 48, 32, 32, 5 * 8 * 2)
    calls = count_calls(analysis)
    joined = analysis.in_bands(tf.constant(x))
    assert len(calls) == -(-height // 48)
    whole = stack.Stack.call(analysis, tf.constant(x))
    np.testing.assert_allclose(joined, whole, rtol=1e-10, atol=1e-12)

  @pytest.mark.parametrize("height", [1, 2, 3, 4, 10])
  def test_of_a_synthesis_equals_the_whole(self, transforms, monkeypatch, count_calls, height):
    _, synthesis = transforms
    y = np.random.default_rng(height).normal(size=(1, height, 2, 6)) * 3
    _limited_to(monkeypatch, 48, 32, 32, 12 * 8 * 2)
    calls = count_calls(synthesis)
    joined = synthesis.in_bands(tf.constant(y))
    assert len(calls) == -(-height // 3)
    whole = stack.Stack.call(synthesis, tf.constant(y))
    np.testing.assert_allclose(joined, whole, rtol=1e-10, atol=1e-12)

  def test_works_in_graphs_of_unknown_size(self, transforms, monkeypatch):
    analysis, _ = transforms
    _limited_to(monkeypatch, 48, 32, 32, 5 * 8 * 2)
    in_graph = tf.function(
      analysis.in_bands, input_signature=[tf.TensorSpec((None, None, None, 3), tf.float64)]
    )
    for height in (48, 160):
      x = tf.constant(np.random.default_rng(height).uniform(size=(1, height, 32, 3)))
      np.testing.assert_allclose(in_graph(x), analysis(x), rtol=1e-10, atol=1e-12)
