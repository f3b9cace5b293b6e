"""The transforms' strides, halos and sizes."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from khuvcm_tf import codecs, layers
from khuvcm_tf.ops import banding


class TestFourStages:
  @pytest.fixture(scope="class")
  def pair(self):
    return layers.four_stage_analysis(8, 6, "prelu"), layers.four_stage_synthesis(8, 6, "prelu")

  def test_strides_are_16_and_halos_30_pixels_and_2_latents(self, pair):
    analysis, synthesis = pair
    assert (analysis.stride, analysis.halo, analysis.enlarges) == (16, 30, False)
    assert (synthesis.stride, synthesis.halo, synthesis.enlarges) == (16, 2, True)
    assert analysis.filters == synthesis.filters == 8

  @pytest.mark.parametrize("height,width", [(16, 16), (16, 48), (64, 32)])
  def test_synthesis_gives_back_the_size_that_analysis_was_given(self, pair, height, width):
    analysis, synthesis = pair
    y = analysis(tf.zeros((2, height, width, 3)))
    assert y.shape == (2, height // 16, width // 16, 6)
    assert synthesis(y).shape == (2, height, width, 3)

  def test_analysis_of_an_image_reads_30_pixels_beyond_a_latents_own(self, pair):
    """A change 30 rows above a latent's first row changes it; one 31 rows above does not."""
    analysis, _ = pair
    plain = np.zeros((1, 128, 16, 3), np.float32)
    row_of_latents = 4
    for distance, changes in ((30, True), (31, False)):
      changed = plain.copy()
      changed[:, 16 * row_of_latents - distance] = 1e3
      difference = np.abs(analysis(changed) - analysis(plain))[0, row_of_latents].max()
      assert (difference > 0) == changes


@pytest.fixture(scope="module", params=["attention", "anchor"])
def residual_pair(request):
  """Transforms of residual blocks, in float64, with weights such that each branch contributes."""
  tf.keras.utils.set_random_seed(4)
  attention = request.param == "attention"
  codec = codecs.create("cheng2020", "float64", num_filters=4, attention=attention)
  rng = np.random.default_rng(5)
  for transform in (codec.branches[0].g_a, codec.branches[0].g_s):
    for weight in transform.trainable_weights:
      if "bias" in weight.name:
        # Rectifiers stay open.
        weight.assign(rng.uniform(1, 2, weight.shape))
  return codec.branches[0].g_a, codec.branches[0].g_s


def _receptive_rows(transform, shape, rows):
  """Returns the first and last input row that some rows of the output depend on."""
  x = tf.constant(np.random.default_rng(2).uniform(size=shape))
  with tf.GradientTape() as tape:
    tape.watch(x)
    total = tf.reduce_sum(transform(x)[:, rows] ** 2)
  found = np.flatnonzero(np.abs(tape.gradient(total, x)[0]).sum(axis=(1, 2)))
  return found.min(), found.max()


class TestResidualTransforms:
  def test_of_an_analysis_read_their_halo_and_no_more(self, residual_pair):
    analysis, _ = residual_pair
    row = 10
    first, last = _receptive_rows(analysis, (1, 16 * 21, 16, 3), slice(row, row + 1))
    assert analysis.halo == 16 * row - first
    assert last - (16 * row + 15) <= analysis.halo

  def test_of_a_synthesis_read_their_halo_and_no_more(self, residual_pair):
    _, synthesis = residual_pair
    row = 14
    first, last = _receptive_rows(synthesis, (1, 2 * row + 1, 1, 4), slice(16 * row, 16 * row + 16))
    assert synthesis.halo == max(row - first, last - row)

  # Bands of 32 rows: less than one, one, more, and several.
  @pytest.mark.parametrize("height", [16, 32, 48, 96])
  def test_of_an_analysis_in_bands_equal_the_whole(
    self, residual_pair, monkeypatch, count_calls, height
  ):
    analysis, _ = residual_pair
    halo = -(-analysis.halo // 16) * 16
    monkeypatch.setattr(banding, "BAND_BYTES", (32 + 2 * halo) * 16 * 5 * 4 * 2)
    x = tf.constant(np.random.default_rng(height).uniform(size=(1, height, 16, 3)))
    whole = analysis(x)
    calls = count_calls(analysis)
    joined = analysis.in_bands(x)
    assert len(calls) == -(-height // 32)
    np.testing.assert_allclose(joined, whole, rtol=1e-9, atol=1e-11)

  @pytest.mark.parametrize("height", [1, 2, 3, 9])
  def test_of_a_synthesis_in_bands_equal_the_whole(
    self, residual_pair, monkeypatch, count_calls, height
  ):
    _, synthesis = residual_pair
    halo = 16 * synthesis.halo
    monkeypatch.setattr(banding, "BAND_BYTES", (32 + 2 * halo) * 16 * 12 * 4 * 2)
    y = tf.constant(np.random.default_rng(height).normal(size=(1, height, 1, 4)) * 3)
    whole = synthesis(y)
    calls = count_calls(synthesis)
    joined = synthesis.in_bands(y)
    assert len(calls) == -(-height // 2)
    np.testing.assert_allclose(joined, whole, rtol=1e-9, atol=1e-11)
