"""Scales of integer networks against logarithms, a plain count, and the float hyperprior."""

from __future__ import annotations

import bisect
import math

import numpy as np
import pytest
import tensorflow as tf

from khuvcm_tf import codecs
from khuvcm_tf.entropy import calibration, gaussian
from khuvcm_tf.entropy.calibration import networks
from khuvcm_tf.entropy.integer import hyperprior as integer_hyperprior
from khuvcm_tf.entropy.integer import scales as scales_lib

_SCALE = 256  # of sigma, as an integer network predicts it
_STEPS = [1, 4]


def _thresholds(steps=1):
  return networks.ScaleOutput(3, log_scales=False, steps=steps).thresholds()


def _layer(outputs=5):
  rng = np.random.default_rng(2)
  kernel = rng.normal(size=(3, 3, 4, outputs))
  return networks.FloatLayer(kernel, rng.normal(size=outputs), 1, 1, 41)


class TestThresholds:
  @pytest.mark.parametrize("steps", _STEPS)
  def test_are_geometric_means_of_neighbouring_scales_in_256ths(self, steps):
    scales = np.geomspace(0.11, 256.0, 63 * steps + 1)
    expected = [round(256 * math.sqrt(a * b)) for a, b in zip(scales, scales[1:])]
    found = _thresholds(steps)
    assert found.dtype == np.int32
    assert found.tolist() == expected
    scales_lib.check(found, steps)

  def test_are_none_where_networks_predict_indices(self):
    assert networks.ScaleOutput(3, log_scales=True).thresholds() is None


class TestIndices:
  @pytest.mark.parametrize("steps", _STEPS)
  def test_are_the_numbers_of_thresholds_below(self, steps):
    thresholds = _thresholds(steps)
    # All that lies near the small thresholds, and every threshold and its neighbours.
    params = np.concatenate([np.arange(-3, 2000), *(thresholds + d for d in (-1, 0, 1))])
    expected = np.count_nonzero(thresholds < params[:, np.newaxis], axis=1)
    found = scales_lib.indices(tf.constant(params, tf.int32), thresholds)
    assert found.dtype == tf.int32
    np.testing.assert_array_equal(found, expected)

  @pytest.mark.parametrize("steps", _STEPS)
  def test_are_the_nearest_in_logarithms_but_for_what_256ths_round(self, steps):
    sigma = np.geomspace(0.11, 256.0, 40_000)
    params = tf.constant(np.rint(_SCALE * sigma), tf.int32)
    found = scales_lib.indices(params, _thresholds(steps)).numpy()
    ideal = np.log(sigma / 0.11) / np.log(256 / 0.11) * 63 * steps
    # Sigma and the threshold are each off by half of 1/256 at most; the least of both counts.
    least = (sigma - 0.5 / _SCALE) * _SCALE
    rounding = np.log1p(1 / (least - 0.5)) / np.log(256 / 0.11) * 63 * steps
    distance = np.abs(found - ideal)
    assert (distance <= 0.5 + rounding).all()
    # Rounding hardly matters where sigma is large: nearest, and all indices occur.
    assert distance[sigma > 10].max() < 0.5 + 0.004 * steps
    assert rounding[sigma > 10].max() < 0.004 * steps
    assert set(found[sigma > 1]) == set(range(found[sigma > 1].min(), 63 * steps + 1))

  def test_go_from_the_first_to_the_last_scale_whatever_is_predicted(self):
    params = tf.constant([-(2**17), -1, 0, 1, 28, 256 * 256, 2**17])
    np.testing.assert_array_equal(
      scales_lib.indices(params, _thresholds()), [0, 0, 0, 0, 0, 63, 63]
    )

  def test_keep_the_shape_of_what_is_predicted(self):
    params = np.random.default_rng(0).integers(-100, 70_000, (2, 3, 4, 5)).astype(np.int32)
    found = scales_lib.indices(tf.constant(params), _thresholds())
    assert found.shape == params.shape
    for at in np.ndindex(2, 3, 4, 5):
      assert found[at] == bisect.bisect_left(_thresholds().tolist(), params[at])

  def test_are_what_is_predicted_where_there_are_no_thresholds(self):
    params = tf.constant([[-5, 0, 70, 2**15]])
    np.testing.assert_array_equal(scales_lib.indices(params, None), params)


class TestScaleOutput:
  @pytest.mark.parametrize("count", [1, 2, 5])
  def test_moves_the_bias_of_the_last_outputs_alone(self, count):
    layer = _layer()
    kernel, bias = layer.kernel.copy(), layer.bias.copy()
    found = networks.ScaleOutput(count, log_scales=True).prepared(layer)
    moved = np.array([0.0] * (5 - count) + [math.log(0.11)] * count)
    np.testing.assert_allclose(found.bias, bias - moved, rtol=1e-14)
    np.testing.assert_array_equal(found.bias[: 5 - count], bias[: 5 - count])
    np.testing.assert_array_equal(found.kernel, kernel)
    assert found[2:] == layer[2:]
    # The layer that was given stays as it was.
    np.testing.assert_array_equal(layer.bias, bias)

  def test_leaves_a_layer_that_predicts_sigma_as_it_is(self):
    layer = _layer()
    assert networks.ScaleOutput(2, log_scales=False).prepared(layer) is layer

  @pytest.mark.parametrize("steps", _STEPS)
  def test_turns_logarithms_into_indices(self, steps):
    """0 at the least scale, the last index at the greatest, in even steps between."""
    output = networks.ScaleOutput(3, log_scales=True, steps=steps)
    layer = networks.FloatLayer(np.zeros((1, 1, 1, 3)), np.zeros(3), 1, 1, None)
    for i, sigma in enumerate(np.geomspace(0.11, 256.0, 63 * steps + 1)):
      predicted = output.prepared(layer._replace(bias=np.full(3, math.log(sigma)))).bias
      np.testing.assert_allclose(predicted * output.t_out, i, atol=1e-9)

  def test_takes_sigma_in_256ths(self):
    np.testing.assert_array_equal(
      networks.ScaleOutput(3, log_scales=False, steps=4).t_out, [256, 256, 256]
    )

  @pytest.mark.parametrize("steps", _STEPS)
  def test_has_room_for_the_greatest_scale(self, steps):
    assert networks.ScaleOutput(1, log_scales=False, steps=steps).limit > 256 * _SCALE
    assert networks.ScaleOutput(1, log_scales=True, steps=steps).limit > 63 * steps


class TestCheck:
  @pytest.mark.parametrize(
    "thresholds",
    [
      np.append(np.arange(62), 60).astype(np.int32),
      np.arange(-1, 62, dtype=np.int32),
      np.arange(62, dtype=np.int32),
      np.arange(63 * 4, dtype=np.int32),
      np.zeros((63, 1), np.int32),
      np.arange(63),
      np.arange(63.0),
      np.array(5, np.int32),
    ],
    ids=["falls", "negative", "short", "long", "matrix", "int64", "float", "number"],
  )
  def test_refuses_what_are_no_thresholds(self, thresholds):
    with pytest.raises(ValueError, match="^`thresholds` of scales are not 63 int32 numbers "):
      scales_lib.check(thresholds)

  @pytest.mark.parametrize("thresholds", [None, np.arange(63, dtype=np.int32) // 2])
  def test_lets_numbers_that_do_not_fall_pass(self, thresholds):
    scales_lib.check(thresholds)


class TestToArrays:
  def test_holds_thresholds_where_there_are_some(self):
    assert scales_lib.to_arrays(None) == {}
    thresholds = _thresholds()
    np.testing.assert_array_equal(scales_lib.to_arrays(thresholds)["thresholds"], thresholds)


@pytest.fixture(scope="module", params=["bmshj2018", "mbt2018_mean"])
def pair(request):
  """A float hyperprior that predicts sigma, its conversion, and side information of an image."""
  tf.keras.utils.set_random_seed(1)
  codec = codecs.create(request.param, num_filters=8, latent_depth=12, log_scales=False)
  floats = codec.branches[0].entropy_model
  rng = np.random.default_rng(6)
  *_, kernel, bias = floats.h_s.trainable_weights
  for weight in floats.h_s.trainable_weights:
    if "kernel" in weight.name:
      weight.assign_add(rng.normal(scale=0.15, size=weight.shape))
  # Sigma from below the least scale to some tens.
  bias.assign(np.concatenate([np.zeros(bias.shape[0] - 12), np.geomspace(0.05, 40.0, 12)]))
  kernel.assign(kernel * np.concatenate([np.ones(bias.shape[0] - 12), np.geomspace(0.02, 1, 12)]))
  z_hat = np.rint(rng.normal(scale=2, size=(1, 4, 3, 8))) + floats.prior.medians().numpy()
  z = tf.constant(z_hat + rng.uniform(-0.4, 0.4, z_hat.shape), tf.float32)
  mean, scale = floats.predicted(tf.constant(z_hat, tf.float32))
  index = gaussian.index_of(scale, log_scales=False)
  scale = 0.11 * np.exp(gaussian.LOG_STEP * index.numpy())
  y = tf.constant(mean + scale * rng.normal(size=scale.shape), tf.float32)
  floats.side_information = lambda _: z
  tf.config.run_functions_eagerly(True)  # tracing each width takes seconds
  try:
    conversion = calibration.convert(floats, [y], 0.01)
  finally:
    tf.config.run_functions_eagerly(False)
  return floats, conversion, z, y


def _predicted(model, z):
  """Returns means in fixed point, and indices of scales."""
  mean, rows = model.parameters(model.symbols_of_z(z))
  return mean.numpy(), rows.numpy() - 1 - len(model.medians)


class TestHyperpriorThatPredictsSigma:
  def test_predicts_the_float_indices_within_one(self, pair):
    floats, conversion, z, _ = pair
    model = conversion.model
    z_hat = model.z_hat(model.symbols_of_z(z)).numpy() / np.float32(64)
    mean, scale = floats.predicted(z_hat)
    ideal = gaussian.index_of(scale, log_scales=False)
    found_mean, found = _predicted(model, z)
    assert ideal.numpy().min() == 0.0 and np.ptp(found) > 40
    assert np.abs(found - ideal).max() <= 1.0
    assert np.abs(np.mean(found - ideal)) < 0.1
    assert np.abs(found_mean / 64 - mean).max() < 0.1
    assert abs(conversion.loss) < 0.01

  def test_keeps_its_thresholds_in_its_arrays(self, pair):
    floats, conversion, z, y = pair
    arrays = conversion.model.to_arrays()
    np.testing.assert_array_equal(arrays["thresholds"], _thresholds())
    again = integer_hyperprior.IntegerHyperprior.from_arrays(arrays)
    again.check_arithmetic()
    np.testing.assert_array_equal(again.thresholds, conversion.model.thresholds)
    np.testing.assert_array_equal(_predicted(again, z), _predicted(conversion.model, z))
    np.testing.assert_array_equal(again.encode(y, z), conversion.model.encode(y, z))
    assert again.to_arrays().keys() == arrays.keys()

  def test_gives_back_what_it_has_encoded(self, pair):
    _, conversion, z, y = pair
    found = conversion.model.decode(conversion.model.encode(y, z), *y.shape[1:3])
    assert found.exact
    np.testing.assert_array_equal(found.y_hat, conversion.model.y_hat(y, z))

  def test_refuses_thresholds_that_fall(self, pair):
    arrays = pair[1].model.to_arrays()
    arrays["thresholds"] = arrays["thresholds"][::-1].copy()
    with pytest.raises(ValueError, match="thresholds"):
      integer_hyperprior.IntegerHyperprior.from_arrays(arrays)
