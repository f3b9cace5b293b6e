"""NanoDet-g's trunk equals its reference, a plain loop, and itself inside a `tf.function`."""

from __future__ import annotations

import json
import os
import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf

from detection import layers, trunks
from khuvcm_tf import errors

_STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


@pytest.fixture
def trunk():
  """A trunk with random weights, and biases such that many values are negative."""
  tf.keras.utils.set_random_seed(0)
  layer = trunks.NanoDetG()
  for variable in layer.trainable_variables:
    if variable.shape.rank == 1:
      variable.assign(tf.random.normal(variable.shape, -1.0))
  return layer


@pytest.fixture
def reference():
  """The folder with the weights, and what its reference.json says."""
  if "KHUVCM_REFERENCE" not in os.environ:
    pytest.skip("KHUVCM_REFERENCE is not set")
  folder = pathlib.Path(os.environ["KHUVCM_REFERENCE"], "data", "backbones", "nanodet_g")
  return folder, json.loads((folder / "reference.json").read_text("utf-8"))


def _image(height, width, batch=1):
  return np.random.default_rng(1).normal(size=(batch, height, width, 3)).astype("float32")


def _reference_image():
  """The input of reference.json, by its formula, float32 [1, 96, 128, 3]."""
  y, x = np.mgrid[:96, :128].astype("float64")
  channels = [np.sin(x / 7) + np.cos(y / 5), np.sin((x + y) / 9), np.cos(x * y / 900)]
  return np.stack(channels, -1)[None].astype("float32")


def test_taps_equal_the_reference(trunk, reference):
  folder, expected = reference
  weights = trunks.nanodet_g_weights(folder / "nanodet_g_f16.npz")
  for name, variable in layers.named_weights(trunk).items():
    variable.assign(weights[name])
  taps = trunk(_reference_image())
  assert [list(tap.shape) for tap in taps.values()] == expected["shapes"]
  found = [[np.mean(tap), np.std(tap)] for tap in taps.values()]
  np.testing.assert_allclose(found, expected["c2..c5 mean,std"], rtol=0, atol=1e-5)
  vector = taps["res5"][0, 1, 2, :8]
  np.testing.assert_allclose(vector, expected["c5[0,1,2,:8]"], rtol=0, atol=1e-5)


def _plain_conv(x, conv, stride):
  weight, bias = conv.weight.numpy().astype("float64"), conv.bias.numpy()
  x = np.pad(x, ((1, 1), (1, 1), (0, 0)))
  rows, columns = range(0, x.shape[0] - 2, stride), range(0, x.shape[1] - 2, stride)
  y = [[np.tensordot(x[i : i + 3, j : j + 3], weight, 3) for j in columns] for i in rows] + bias
  return np.where(y < 0, 0.1 * y, y)


def _plain_taps(trunk, x):
  """The taps of one picture [H, W, 3], float64, by loops over the positions."""
  x = _plain_conv(x, trunk.conv00, 2)
  rows, columns = range(0, x.shape[0], 2), range(0, x.shape[1], 2)
  windows = [[x[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2] for j in columns] for i in rows]
  x = np.array([[window.max((0, 1)) for window in row] for row in windows])
  convs = iter([getattr(trunk, f"conv{i:02}") for i in range(1, 25)])
  taps = {}
  for tap, n, stride in [("res2", 1, 1), ("res3", 2, 2), ("res4", 2, 2), ("res5", 3, 2)]:
    a = y = _plain_conv(x, next(convs), stride)
    for _ in range(n):
      p = _plain_conv(y, next(convs), 1)
      q = _plain_conv(p, next(convs), 1)
      y = np.concatenate([q, p], -1)
    x = taps[tap] = np.concatenate([_plain_conv(y, next(convs), 1), a], -1)
  return taps


@pytest.mark.parametrize("size", [(33, 18), (24, 31)])
def test_taps_equal_plain_loops(trunk, size):
  x = _image(*size)
  found, expected = trunk(x), _plain_taps(trunk, x[0])
  assert expected["res2"].min() < 0
  for tap, values in expected.items():
    np.testing.assert_allclose(found[tap][0], values, rtol=0, atol=1e-4 * np.std(values))


@pytest.mark.parametrize("size", [(1, 1), (33, 17), (64, 96), (95, 130)])
def test_a_tap_has_the_size_over_its_stride_rounded_up(trunk, size):
  graph = tf.function(trunk, input_signature=[tf.TensorSpec([None, None, None, 3])])
  taps = graph(_image(*size, batch=2))
  assert list(taps) == list(trunk.channels) == list(_STRIDES)
  for tap, stride in _STRIDES.items():
    sizes = [-(-length // stride) for length in size]
    assert taps[tap].shape == (2, *sizes, trunk.channels[tap])


def test_channels_of_the_taps_are_those_published():
  assert trunks.NanoDetG().channels == {"res2": 64, "res3": 128, "res4": 256, "res5": 512}


def test_gradients_in_a_graph_equal_those_outside(trunk):
  def gradients(x):
    with tf.GradientTape() as tape:
      loss = tf.add_n([tf.reduce_mean(tap**2) for tap in trunk(x, training=True).values()])
    return tape.gradient(loss, trunk.trainable_variables)

  x = tf.constant(_image(45, 38))
  outside, inside = gradients(x), tf.function(gradients)(x)
  assert len(outside) == 2 * 25
  for a, b in zip(outside, inside):
    assert np.std(a) > 0
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.std(a))


def _arrays():
  return {k: v.numpy() for k, v in layers.named_weights(trunks.NanoDetG()).items()}


def test_weights_are_those_of_the_trunk_in_float32(tmp_path):
  arrays = {name: np.asfortranarray(array, "float16") for name, array in _arrays().items()}
  np.savez(tmp_path / "weights.npz", **arrays, **{"conv25.weight": np.ones(3)})
  weights = trunks.nanodet_g_weights(tmp_path / "weights.npz")
  names = {f"conv{i:02}.{kind}" for i in range(25) for kind in ("weight", "bias")}
  assert weights.keys() == arrays.keys() == names
  for name, array in weights.items():
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, arrays[name])


@pytest.mark.parametrize(
  "name, array, message",
  [
    ("conv07.bias", None, "lacks conv07.bias; expected conv00..conv24"),
    (
      "conv03.weight",
      np.ones((3, 3, 16, 8)),
      "conv03.weight is float64 [3, 3, 16, 8], not floating",
    ),
    ("conv24.bias", np.ones(256, int), "conv24.bias is int64 [256], not floating [256]; expected"),
    ("conv00.bias", np.array([None] * 32), "cannot be read: Object arrays cannot be loaded"),
  ],
)
def test_a_wrong_array_is_told_in_one_line(tmp_path, name, array, message):
  arrays = _arrays()
  del arrays[name]
  path = tmp_path / "weights.npz"
  np.savez(path, **arrays, **({} if array is None else {name: array}))
  with pytest.raises(errors.Error, match=re.escape(f"{path}: {message}")) as raised:
    trunks.nanodet_g_weights(path)
  assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [None, b"", b"no zip file", b"PK\x03\x04 half a zip file"])
def test_a_file_that_cannot_be_read_is_told_in_one_line(tmp_path, content):
  path = tmp_path / "weights.npz"
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(
    trunks.TrunkError, match="weights.npz: cannot be read: .*give its npz"
  ) as raised:
    trunks.nanodet_g_weights(path)
  assert "\n" not in str(raised.value)
