"""Gains of latents against a slow plain version, in all types of networks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from khuvcm_tf import codecs, errors, layers
from khuvcm_tf.codecs import codec as codec_lib

_LOGS = np.random.default_rng(0).normal(size=(4, 5))


def _plain_gain(quality: float, channel: int) -> np.float32:
  logs = _LOGS.astype(np.float32).astype(np.float64)
  k = min(math.floor(quality), 2)
  share = quality - k
  return np.float32(math.exp((1 - share) * logs[k, channel] + share * logs[k + 1, channel]))


def test_gains_are_interpolated_in_the_logarithm():
  gain = layers.Gain(_LOGS, "gain")
  for quality in (0.0, 0.25, 1.0, 1.7, 2.999, 3.0):
    found = gain.gains(tf.constant(quality, tf.float64)).numpy()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [_plain_gain(quality, i) for i in range(5)])


def test_each_image_has_its_own_quality():
  y = np.random.default_rng(1).normal(size=(3, 2, 4, 5)).astype(np.float32)
  qualities = [0.5, 2.0, 3.0]
  found = layers.Gain(_LOGS, "gain")(y, tf.constant(qualities))
  for of_image, x, quality in zip(found, y, qualities):
    np.testing.assert_array_equal(of_image, x * [_plain_gain(quality, i) for i in range(5)])
  np.testing.assert_array_equal(layers.Gain(_LOGS, "gain")(y, 2.0)[1], found[1])


@pytest.mark.parametrize("policy", ["float32", "float64", "mixed_bfloat16"])
def test_gains_are_the_same_whatever_networks_compute_in(policy):
  codec = codecs.create("mbt2018_mean", policy, num_qualities=3, num_filters=4, latent_depth=6)
  (branch,) = codec.branches
  gain = branch.gains["analysis_gain"]
  assert gain.log_gain.dtype == tf.float32
  expected = np.exp(np.float64(gain.log_gain.numpy()[0] + gain.log_gain.numpy()[1]) / 2)
  y = tf.ones([1, 2, 2, 6], codec.compute_dtype)
  scaled = branch.scaled(y, codec_lib.Context(codec_lib.plain, quality=tf.constant(0.5)))
  assert scaled.dtype == codec.compute_dtype
  expected = tf.cast(expected.astype(np.float32), codec.compute_dtype)
  np.testing.assert_array_equal(scaled[0, 0, 0], expected)


def test_gains_learn():
  gain = layers.Gain(_LOGS, "gain")
  with tf.GradientTape() as tape:
    loss = tf.reduce_sum(gain(tf.ones([2, 1, 1, 5]), tf.constant([0.25, 2.0])))
  gradient = tape.gradient(loss, gain.log_gain).numpy()
  expected = np.zeros((4, 5))
  for i in range(5):
    expected[0, i] = 0.75 * _plain_gain(0.25, i)
    expected[1, i] = 0.25 * _plain_gain(0.25, i)
    expected[2, i] = _plain_gain(2.0, i)
  np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_the_first_gains_follow_the_octaves_of_lambda():
  logs = layers.first_log_gains(np.array([-1.0, 0.0, 2.0]), 3)
  np.testing.assert_allclose(np.exp(logs), [[2**-0.4] * 3, [1.0] * 3, [2**0.8] * 3])


@pytest.mark.parametrize("name", codecs.names())
def test_every_codec_has_them_in_all_branches(name):
  arguments = {"num_filters": 4} if name == "cheng2020" else {"num_filters": 4, "latent_depth": 6}
  fixed = codecs.create(name, **arguments)
  codec = codecs.create(name, num_qualities=3, **arguments)
  more = set(codec.named_weights()) - set(fixed.named_weights())
  assert len(more) == 2 * len(codec.branches)
  assert {each.split("/")[-2] for each in more} == {"analysis_gain", "synthesis_gain"}
  assert codec.qualities == [0.0, 1.0, 2.0] and fixed.qualities == [None]


@pytest.mark.parametrize("count", [0, 1, -3, 2.0, True, "7"])
def test_other_numbers_of_qualities_are_refused(count):
  with pytest.raises(
    errors.Error, match=r"`num_qualities` is .*, expected an integer of 2 or more"
  ):
    codecs.create("mbt2018_mean", num_qualities=count, num_filters=4, latent_depth=6)
