"""Conversions: the loss that they measure, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from khuvcm_tf import codecs, coding, model_files
from khuvcm_tf.entropy import calibration, entropy_model
from khuvcm_tf.entropy.calibration import tables as calibration_tables
from tests.entropy import factorized_models


@pytest.fixture(scope="module", params=[False, True], ids=["own medians", "stored medians"])
def floats(request):
  return factorized_models.create(stored_medians=request.param, prior_layers=4)


class TestConvert:
  @pytest.fixture(autouse=True)
  def eagerly(self):
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)

  def test_returns_the_loss_of_its_tables_against_floats(self, floats):
    latents = [factorized_models.drawn(floats, 9), factorized_models.around_medians(floats, 2, 7)]
    found = calibration.convert(floats, latents, 0.5)
    bits = sum(float(found.model.estimate(y, None)["y"]) for y in latents)
    # The float model's bits, but no more than 32 for a latent.
    medians = floats.prior.medians().numpy()
    expected = sum(
      np.minimum(floats.prior.bits(np.rint(y - medians) + medians), 32).sum(dtype=np.float64)
      for y in latents
    )
    assert found.loss == pytest.approx(bits / expected - 1, abs=1e-6)

  def test_refuses_a_loss_above_the_greatest_acceptable(self, floats):
    latents = [factorized_models.drawn(floats, seed) for seed in range(2)]
    loss = calibration.convert(floats, latents, 0.01).loss
    assert calibration.convert(floats, latents, loss + 1e-9).loss == pytest.approx(loss)
    with pytest.raises(ValueError, match=r"^integers cost .* more bits than floats, .* -50.00%$"):
      calibration.convert(floats, latents, -0.5)

  def test_what_is_next_to_nothing_is_a_share_of_a_floor(self, floats):
    latents = [factorized_models.drawn(floats, seed) for seed in range(2)]
    loss = calibration.convert(floats, latents, 0.01).loss
    medians = floats.prior.medians().numpy()
    bits = sum(
      float(np.minimum(floats.prior.bits(np.rint(y - medians) + medians), 32).sum(dtype=np.float64))
      for y in latents
    )
    for factor in (0.5, 4.0):  # of the bits, which the floor is below, or above
      found = calibration.convert(floats, latents, 0.01, least_bits=factor * bits).loss
      assert found == pytest.approx(loss / max(factor, 1.0), rel=1e-3)

  def test_refuses_a_model_of_unknown_type(self):
    class Unknown(entropy_model.EntropyModel):
      pass

    unknown = Unknown(2, 2, "noise", entropy_model.DEFAULT, name="unknown")
    with pytest.raises(TypeError, match="^no integer model of Unknown$"):
      calibration.convert(unknown, [], 0.01)


def test_medians_beyond_all_tables_are_refused_in_one_line(tmp_path):
  codec = codecs.create("bmshj2018_factorized", num_filters=4, latent_depth=4, stored_medians=True)
  prior = codec.branches[0].entropy_model.prior
  prior.stored.assign(tf.fill([4], 1e9))
  with pytest.raises(
    ValueError, match=r"^a median of the factorized prior is 1e\+09, expected at most 16384$"
  ):
    calibration_tables.fixed_point_medians(prior)
  # Within that, but so far off that escapes end.
  prior.stored.assign(tf.fill([4], 16_000.0))
  with pytest.raises(coding.ModelError, match="^the model was not converted to integers: "):
    model_files.save(
      str(tmp_path / "m"),
      codec,
      {"codec": "bmshj2018_factorized", "arguments": {}},
      [np.zeros((32, 32, 3), np.uint8)],
    )
