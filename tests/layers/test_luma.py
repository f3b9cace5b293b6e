"""The stages at luma's resolution against plain loops, and the bands of transforms with them."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from khuvcm_tf import codecs, layers
from khuvcm_tf.layers import signal
from khuvcm_tf.ops import banding

_SIZES = pytest.mark.parametrize("height,width", [(1, 1), (2, 3), (5, 4)])


@pytest.fixture(autouse=True)
def float64():
  policy = tf.keras.mixed_precision.global_policy()
  tf.keras.mixed_precision.set_global_policy("float64")
  yield
  tf.keras.mixed_precision.set_global_policy(policy)


def _built(layer, channels):
  layer(tf.zeros((1, 2, 2, channels), tf.float64))
  rng = np.random.default_rng(1)
  for weight in layer.trainable_weights:
    weight.assign(rng.normal(size=weight.shape))
  return layer


def _pixels(samples):
  """Returns [2h, 2w] of [h, w, 4]: the first two values above the other two."""
  height, width, _ = samples.shape
  pixels = np.empty((2 * height, 2 * width))
  for row, column in np.ndindex(pixels.shape):
    pixels[row, column] = samples[row // 2, column // 2, 2 * (row % 2) + column % 2]
  return pixels


class TestLumaDown:
  @_SIZES
  def test_is_a_5x5_convolution_at_every_second_pixel(self, height, width):
    layer = _built(layers.LumaDown(3, name="luma"), 4)
    samples = np.random.default_rng(2).normal(size=(1, height, width, 4))
    kernel, bias = layer.conv.kernel.numpy(), layer.conv.bias.numpy()
    assert kernel.shape == (5, 5, 1, 3)
    pixels = np.pad(_pixels(samples[0]), 2)
    found = layer(samples)[0]
    assert found.shape == (height, width, 3)
    for row, column in np.ndindex(height, width):
      window = pixels[2 * row : 2 * row + 5, 2 * column : 2 * column + 5]
      expected = np.einsum("ji,jic->c", window, kernel[:, :, 0]) + bias
      np.testing.assert_allclose(found[row, column], expected, rtol=1e-9, atol=1e-9)


class TestLumaUp:
  @_SIZES
  def test_is_a_5x5_transposed_convolution_to_twice_as_many_pixels(self, height, width):
    layer = _built(layers.LumaUp(name="luma"), 3)
    x = np.random.default_rng(3).normal(size=(1, height, width, 3))
    kernel, bias = layer.conv.kernel.numpy(), layer.conv.bias.numpy()
    assert kernel.shape == (5, 5, 3, 1)
    pixels = np.zeros((2 * height + 4, 2 * width + 4))
    for row, column in np.ndindex(height, width):
      pixels[2 * row : 2 * row + 5, 2 * column : 2 * column + 5] += (
        kernel[..., 0] @ x[0, row, column]
      )
    expected = pixels[2:-2, 2:-2] + bias
    np.testing.assert_allclose(_pixels(layer(x)[0].numpy()), expected, rtol=1e-9, atol=1e-9)


def _receptive_rows(transform, x, rows):
  """Returns the first and last input row that some rows of the output depend on."""
  x = tf.constant(x)
  with tf.GradientTape() as tape:
    tape.watch(x)
    total = tf.reduce_sum(transform(x)[:, rows] ** 2)
  found = np.flatnonzero(np.abs(tape.gradient(total, x)[0]).sum(axis=(1, 2)))
  return found.min(), found.max()


@pytest.mark.parametrize(
  ("layer", "channels"), [(layers.LumaDown(3, "d"), 4), (layers.LumaUp("u"), 3)]
)
def test_an_output_depends_on_the_next_samples_and_no_others(layer, channels):
  layer = _built(layer, channels)
  x = np.random.default_rng(4).normal(size=(1, 9, 3, channels))
  ((kernel, down, up),) = signal.convolutions(layer)
  assert (down, up) == (1, 1)
  assert _receptive_rows(layer, x, slice(4, 5)) == (4 - kernel // 2, 4 + kernel // 2)


# Codec, branch and transform: halo in input rows, stride, channels of the input.
_TRANSFORMS = {
  ("luma_chroma420", 0, "g_a"): (15, 8, 6),
  ("luma_chroma420", 0, "g_s"): (2, 8, 4),
  ("cross_component", 0, "g_a"): (15, 8, 4),
  ("cross_component", 0, "g_s"): (2, 8, 4),
  ("cross_component", 1, "g_a"): (15, 8, 6),
  ("cross_component", 1, "g_s"): (2, 8, 6),
  ("cross_component", 1, "merge"): (2, 1, 20),
}


@pytest.fixture(scope="module")
def made():
  tf.keras.utils.set_random_seed(5)
  arguments = {"num_filters": 4, "latent_depth": 4, "entropy_model": "hyperprior"}
  return {
    name: codecs.create(name, "float64", **arguments)
    for name in ("luma_chroma420", "cross_component")
  }


@pytest.fixture(params=_TRANSFORMS, ids=lambda key: "-".join(map(str, key)))
def transform(request, made):
  """A transform, and the halo, stride and input channels that it should have."""
  name, branch, part = request.param
  return getattr(made[name].branches[branch], part), *_TRANSFORMS[request.param]


class TestTransforms:
  def test_read_their_halo_and_no_more(self, transform):
    transform, halo, stride, channels = transform
    assert (transform.halo, transform.stride) == (halo, stride)
    if transform.enlarges:
      x = np.random.default_rng(6).normal(size=(1, 9, 1, channels))
      first, last = _receptive_rows(transform, x, slice(4 * stride, 5 * stride))
      assert max(4 - first, last - 4) == halo
    else:
      x = np.random.default_rng(6).normal(size=(1, 9 * stride, stride, channels))
      first, last = _receptive_rows(transform, x, slice(4, 5))
      assert 4 * stride - first == halo
      assert last - (5 * stride - 1) <= halo

  # Bands of two rows of latents: fewer rows, as many, one more, and several bands.
  @pytest.mark.parametrize("rows", [1, 2, 3, 9])
  def test_in_bands_equal_the_whole(self, transform, monkeypatch, count_calls, rows):
    transform, halo, stride, channels = transform
    latent = 1 if transform.enlarges else stride
    # Of samples, on both sides of a cut; as measured a sample of 2x2 pixels needs so many bytes.
    halo = halo * stride if transform.enlarges else -(-halo // stride) * stride
    bytes_per_sample = (12 if transform.enlarges else 5) * 4 * transform.filters * 2
    width = 2 * stride
    limit = (2 * stride + 2 * halo) * width * bytes_per_sample
    monkeypatch.setattr(banding, "BAND_BYTES", limit)
    x = np.random.default_rng(rows).normal(size=(1, rows * latent, 2 * latent, channels)) * 3
    whole = transform(tf.constant(x))
    calls = count_calls(transform)
    joined = transform.in_bands(tf.constant(x))
    assert len(calls) == -(-rows // 2)
    np.testing.assert_allclose(joined, whole, rtol=1e-9, atol=1e-11)
