"""The transforms' strides, halos and sizes."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from khuvcm_tf import layers


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

  def test_analysis_of_a_picture_reads_30_pixels_beyond_a_latents_own(self, pair):
    """A change 30 rows above a latent's first row tells on it; one 31 rows above does not."""
    analysis, _ = pair
    plain = np.zeros((1, 128, 16, 3), np.float32)
    row_of_latents = 4
    for distance, tells in ((30, True), (31, False)):
      changed = plain.copy()
      changed[:, 16 * row_of_latents - distance] = 1e3
      difference = np.abs(analysis(changed) - analysis(plain))[0, row_of_latents].max()
      assert (difference > 0) == tells
