"""The codec of two branches against the layers that the study lists, written out in SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
import tensorflow as tf

from khuvcm_tf import codecs, errors
from khuvcm_tf.entropy import context, hyperprior

_N, _M = 6, 5


def _codec(entropy_model="hyperprior", dtype="float32", **arguments):
  tf.keras.utils.set_random_seed(1)
  sizes = {"num_filters": _N, "latent_depth": _M}
  return codecs.create(
    "luma_chroma420", dtype, **{**sizes, "entropy_model": entropy_model, **arguments}
  )


@pytest.fixture(scope="module")
def codec():
  """In float64, with biases and slopes that all differ."""
  made = _codec(dtype="float64")
  rng = np.random.default_rng(2)
  for name, weight in made.named_weights().items():
    if name.endswith("/bias"):
      weight.assign(rng.normal(scale=0.3, size=weight.shape))
    if name.endswith("/alpha"):
      weight.assign(rng.uniform(0.1, 0.4, weight.shape))
  return made


def _samples(height, width, channels=6):
  return np.random.default_rng(3).normal(size=(1, height, width, channels))


class _Network:
  """A transform's layers by the names of their weights, [H, W, C] -> [H, W, C]."""

  def __init__(self, codec, part):
    self.weights = {
      name[len(part) + 1 :]: weight.numpy()
      for name, weight in codec.named_weights().items()
      if name.startswith(part + "/")
    }
    self.used = set()

  def _take(self, name):
    self.used.add(name)
    return self.weights[name]

  def conv(self, name, size, x, stride=1):
    kernel = self._take(f"{name}/kernel")
    assert kernel.shape[:2] == (size, size)
    padded = np.pad(x, ((size // 2, size // 2), (size // 2, size // 2), (0, 0)))
    y = [
      sum(
        scipy.signal.correlate(padded[..., i], kernel[..., i, o], "valid")
        for i in range(kernel.shape[2])
      )
      for o in range(kernel.shape[3])
    ]
    return np.stack(y, axis=-1)[::stride, ::stride] + self._take(f"{name}/bias")

  def conv_up(self, name, size, x):
    """Zeros between the samples, and a convolution (with the kernel turned)."""
    kernel = self._take(f"{name}/kernel")
    assert kernel.shape[:2] == (size, size)
    spread = np.zeros((2 * x.shape[0], 2 * x.shape[1], x.shape[2]))
    spread[::2, ::2] = x
    y = [
      sum(
        scipy.signal.convolve(spread[..., i], kernel[..., i, o], "same")
        for i in range(kernel.shape[2])
      )
      for o in range(kernel.shape[3])
    ]
    return np.stack(y, axis=-1) + self._take(f"{name}/bias")

  def prelu(self, name, x):
    alpha = self._take(f"{name}/alpha")
    assert alpha.shape == (1, 1, x.shape[-1])
    return np.where(x > 0, x, alpha * x)


class TestTransforms:
  @pytest.mark.parametrize("height,width", [(16, 16), (32, 48)])
  def test_of_the_analysis_are_the_studys_layers(self, codec, height, width):
    y = np.random.default_rng(4).normal(size=(height, width, 1))
    uv = np.random.default_rng(5).normal(size=(height // 2, width // 2, 2))
    net = _Network(codec, "analysis")
    luma = net.prelu("join/luma_act", net.conv("join/luma/conv", 5, y, stride=2))
    chroma = net.prelu("join/chroma_act", net.conv("join/chroma", 3, uv))
    assert luma.shape == chroma.shape == (height // 2, width // 2, _N // 2)
    x = net.conv("join/mix", 1, np.concatenate([luma, chroma], axis=-1))
    x = net.prelu("act1", net.conv("conv1", 5, x, stride=2))
    x = net.prelu("act2", net.conv("conv2", 5, x, stride=2))
    x = net.conv("conv3", 5, x, stride=2)
    assert x.shape == (height // 16, width // 16, _M)
    samples = np.concatenate([tf.nn.space_to_depth(y[np.newaxis], 2)[0], uv], axis=-1)
    found = codec.branches[0].g_a(samples[np.newaxis])[0]
    np.testing.assert_allclose(found, x, rtol=1e-9, atol=1e-11)
    assert net.used == set(net.weights)

  @pytest.mark.parametrize("height,width", [(1, 1), (2, 3)])
  def test_of_the_synthesis_mirror_them(self, codec, height, width):
    y_hat = np.random.default_rng(6).normal(size=(height, width, _M)) * 3
    net = _Network(codec, "synthesis")
    x = net.prelu("act0", net.conv_up("conv0", 5, y_hat))
    x = net.prelu("act1", net.conv_up("conv1", 5, x))
    x = net.conv("split/mix", 1, net.conv_up("conv2", 5, x))
    luma = net.conv_up("split/luma/conv", 5, net.prelu("split/luma_act", x[..., : _N // 2]))
    chroma = net.conv("split/chroma", 3, net.prelu("split/chroma_act", x[..., _N // 2 :]))
    assert luma.shape == (16 * height, 16 * width, 1)
    assert chroma.shape == (8 * height, 8 * width, 2)
    expected = np.concatenate([tf.nn.space_to_depth(luma[np.newaxis], 2)[0], chroma], axis=-1)
    found = codec.branches[0].g_s(y_hat[np.newaxis])[0]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)
    assert net.used == set(net.weights)

  def test_keep_luma_and_chroma_apart_before_the_join(self):
    join = _codec().branches[0].g_a.layers[0]
    join.mix.trainable_weights[0].assign(np.eye(_N)[np.newaxis, np.newaxis])
    plain = join(_samples(4, 4))
    for inputs, branch, other in (
      (slice(0, 4), slice(0, _N // 2), slice(_N // 2, _N)),
      (slice(4, 6), slice(_N // 2, _N), slice(0, _N // 2)),
    ):
      changed = _samples(4, 4)
      changed[..., inputs] += 1
      difference = np.abs(join(changed) - plain)
      assert difference[..., branch].max() > 0.1
      assert difference[..., other].max() == 0

  def test_keep_luma_and_chroma_apart_behind_the_split(self):
    split = _codec().branches[0].g_s.layers[-1]
    split.mix.trainable_weights[0].assign(np.eye(_N)[np.newaxis, np.newaxis])
    plain = split(_samples(4, 4, _N))
    for branch, outputs, other in (
      (slice(0, _N // 2), slice(0, 4), slice(4, 6)),
      (slice(_N // 2, _N), slice(4, 6), slice(0, 4)),
    ):
      changed = _samples(4, 4, _N)
      changed[..., branch] += 1
      difference = np.abs(split(changed) - plain)
      assert difference[..., outputs].max() > 0.1
      assert difference[..., other].max() == 0

  def test_have_no_slopes_with_gdn(self):
    names = _codec(activation="gdn").named_weights()
    assert not any(name.endswith("alpha") for name in names)
    assert {name.split("/")[1] for name in names if "gamma" in name} == {
      *("join", "act1", "act2"),
      *("split", "act0"),
    }


class TestEntropyModel:
  def test_is_the_hyperprior_the_context_model_or_its_mixture_by_argument(self):
    assert type(_codec("hyperprior").branches[0].entropy_model) is hyperprior.Hyperprior
    for kind, mixtures in (("context", 1), ("mixture", 3)):
      entropy_model = _codec(kind).branches[0].entropy_model
      assert type(entropy_model) is context.ContextModel
      assert entropy_model.num_mixtures == mixtures
      assert (entropy_model.latent_depth, entropy_model.hyper_depth) == (_M, _N)


@pytest.mark.parametrize(
  "arguments, message",
  [
    ({"num_filters": 5}, r"`num_filters` is 5, expected an even number"),
    ({"entropy_model": "zip"}, r"`entropy_model` is 'zip', expected one of hyperprior, context, m"),
    ({"activation": "relu"}, r"`activation` is 'relu', expected 'gdn' or 'prelu'"),
    ({"condition": "both"}, r"unexpected keyword argument 'condition'"),
  ],
)
def test_wrong_arguments_are_refused(arguments, message):
  with pytest.raises(errors.Error, match=rf"^codec luma_chroma420 was not built from .*{message}"):
    _codec(**arguments)


@pytest.mark.parametrize("kind", ["hyperprior", "context", "mixture"])
def test_the_gradient_of_distortion_and_rate_reaches_every_weight(kind):
  codec = _codec(kind)
  last = codec.named_weights()["analysis/conv3/kernel"]
  last.assign(last * 30)  # latents of many values, as trained ones have
  image = np.random.default_rng(7).integers(0, 256, (2, 64, 64, 3), np.uint8)
  planes = codec.planes(tf.constant(image))
  with tf.GradientTape() as tape:
    decoded, bits = codec(planes, training=True)
    errors_ = codec.input_format.squared_errors(planes, decoded)
    loss = tf.reduce_sum(errors_) + tf.add_n([tf.reduce_sum(each) for each in bits.values()])
  weights = codec.named_weights()
  for name, gradient in zip(weights, tape.gradient(loss, list(weights.values()))):
    assert gradient is not None, name
    assert np.isfinite(gradient).all() and np.any(gradient != 0), name
