"""Weights of CompressAI: all of them, each where it belongs, and none but them.

The checkpoints are of the published names with fewer filters. What the converted codecs compute is
compared with the original's outputs in tests/parity; here, with plain loops of PyTorch's
definitions.
"""

from __future__ import annotations

import json
import os
import pathlib
import pickle
import re
import zipfile

import numpy as np
import pytest
import tensorflow as tf

from khuvcm_tf import codecs, coding, errors, model_files
from khuvcm_tf.conversion import compressai
from khuvcm_tf.data import image_files, sample_photos
from khuvcm_tf.entropy import gaussian
from khuvcm_tf.training import task
from khuvcm_tf.training.options import CodecOptions
from tests.parity import weights_by_name

ROOT = pathlib.Path(__file__).resolve().parents[2]
PHOTOS = ROOT / "tests" / "photos"

_CHENG = ("cheng2020-anchor", "cheng2020-attn")
_N, _M = 8, 12
# Published sizes (N = 128 and M = 192; N = 128) and what stands for them here.
_SMALL = {128: 8, 192: 12, 288: 18, 384: 24, 512: 32, 640: 40, 768: 48}
_SMALL_CHENG = {64: 4, 128: 8, 192: 12, 256: 16, 341: 21, 426: 26, 512: 32, 768: 48}

_OF_OURS = {
  "bmshj2018-factorized": "bmshj2018_factorized",
  "bmshj2018-hyperprior": "bmshj2018",
  "mbt2018-mean": "mbt2018_mean",
  "mbt2018": "mbt2018",
  "cheng2020-anchor": "cheng2020",
  "cheng2020-attn": "cheng2020",
}


def _shapes(codec: str) -> dict[str, list[int]]:
  small = _SMALL_CHENG if codec in _CHENG else _SMALL
  published = weights_by_name.load_shapes(codec)
  found = {name: [small.get(n, n) for n in shape] for name, shape in published.items()}
  if codec == "mbt2018":
    # Its smallest one has N = M: what it shares with mbt2018-mean is taken from there.
    found.update(_shapes("mbt2018-mean"))
  return found


def _tensors(codec: str) -> dict[str, np.ndarray]:
  return {
    name: weights_by_name.make_weight(codec, name, shape) for name, shape in _shapes(codec).items()
  }


@pytest.fixture(scope="module", autouse=True)
def eagerly():
  """Runs functions as they stand: tracing each takes seconds."""
  tf.config.run_functions_eagerly(True)
  yield
  tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def converted():
  """A function: one of `CODECS` -> the conversion of its checkpoint, made once."""
  found = {}

  def converted_(codec: str) -> compressai.Converted:
    if codec not in found:
      found[codec] = compressai.convert(_tensors(codec))
    return found[codec]

  return converted_


def _values(found: compressai.Converted) -> dict[str, np.ndarray]:
  return {name: weight.numpy() for name, weight in found.codec.named_weights().items()}


def _entropy_model(found: compressai.Converted):
  (branch,) = found.codec.branches
  return branch.entropy_model


def _assert_equal_weights(found: compressai.Converted, expected: compressai.Converted):
  assert found[1:] == expected[1:]
  expected = _values(expected)
  for name, value in _values(found).items():
    np.testing.assert_array_equal(value, expected[name], err_msg=name)


@pytest.fixture(scope="module")
def built():
  """A function like `codecs.create` that builds each codec once: the next call has the same."""
  found, create = {}, codecs.create

  def built_(name: str, **arguments):
    key = name, repr(sorted(arguments.items()))
    if key not in found:
      found[key] = create(name, **arguments)
    return found[key]

  return built_


@pytest.fixture
def convert(built, monkeypatch):
  """`compressai.convert`, whose weights last until the next call."""

  def convert_(*arguments):
    with monkeypatch.context() as patched:
      patched.setattr(codecs, "create", built)
      return compressai.convert(*arguments)

  return convert_


@pytest.fixture
def refused(convert):
  """A function: asserts that a checkpoint is refused in one line."""

  def refused_(tensors, match: str, codec: str | None = None):
    with pytest.raises(compressai.ConversionError, match=match) as caught:
      convert(tensors, codec)
    assert "\n" not in str(caught.value)

  return refused_


# --- Whole checkpoints


@pytest.mark.parametrize("codec", compressai.CODECS)
class TestEachCodec:
  def test_is_recognized_by_its_weights(self, codec, converted):
    found = converted(codec)
    assert found.name == _OF_OURS[codec]
    config = {"prior_layers": 4, "stored_medians": True}
    expected = {"num_filters": _N, "entropy_config": config}
    if codec not in _CHENG:
      expected["latent_depth"] = _M
    if codec != "bmshj2018-factorized":
      config["log_scales"] = False
    if codec not in ("bmshj2018-factorized", "bmshj2018-hyperprior"):
      expected["leaky_slope"] = 0.01
    if codec in _CHENG:
      expected.update(num_mixtures=1, attention=codec == "cheng2020-attn")
    assert found.arguments == expected

  def test_uses_every_weight_for_one_variable_and_fills_all_of_them(self, codec, converted):
    ours = converted(codec).codec
    assigned = list(compressai.assignments(ours))
    assert sorted(each.key for each in assigned) == sorted(_shapes(codec))
    expected = {weight.ref() for weight in ours.named_weights().values()}
    assert {each.variable.ref() for each in assigned} == expected
    assert len(assigned) == len(expected)

  def test_holds_each_value_of_a_weight_in_its_variable_but_those_masked(self, codec, converted):
    tensors = _tensors(codec)
    for each in compressai.assignments(converted(codec).codec):
      theirs = tensors[each.key]
      if each.key == "context_prediction.weight":
        theirs = theirs.reshape(*theirs.shape[:2], 25)[:, :, :12]
      if each.key == "entropy_bottleneck.quantiles":
        theirs = theirs[:, 0, 1]
      np.testing.assert_array_equal(np.sort(each.variable, None), np.sort(theirs, None), each.key)

  def test_is_refused_as_another(self, codec, refused):
    tensors = _tensors(codec)
    for other in set(compressai.CODECS) - {codec}:
      refused(
        tensors,
        rf"^the checkpoint holds weights of {codec}, not of {other}; give --codec={codec}$",
        other,
      )


def test_an_unknown_codec_is_refused_with_those_that_there_are(refused):
  refused(
    _tensors("bmshj2018-factorized"),
    r"^no codec is called 'vvc', expected one of bmshj2018-factorized, .*, cheng2020-attn$",
    "vvc",
  )


@pytest.mark.parametrize(
  "tensors",
  [
    {},
    {"features.0.weight": np.zeros((3, 3)), "features.0.bias": np.zeros(3)},
    {"g_a.0.weight": np.zeros((8, 3, 5, 5))},
  ],
  ids=["none", "another network", "half of one"],
)
def test_weights_of_another_network_are_refused(tensors, refused):
  refused(
    tensors,
    rf"^the checkpoint has no g_a\.0\.weight or no g_s\.0\.weight among {len(tensors)} weights.*, "
    r"expected those of one of bmshj2018-factorized, .*, cheng2020-attn$",
  )


def test_float16_and_float64_weights_are_taken_as_float32(convert):
  tensors = _tensors("mbt2018-mean")
  half = {name: value.astype(np.float16) for name, value in tensors.items()}
  double = {name: value.astype(np.float64) for name, value in half.items()}
  from_half = _values(convert(half))
  for name, value in _values(convert(double, "mbt2018-mean")).items():
    np.testing.assert_array_equal(value, from_half[name])
    assert value.dtype == np.float32


# --- Weights that do not fit


@pytest.mark.parametrize(
  "codec, key",
  [
    ("bmshj2018-factorized", "g_a.6.bias"),
    ("bmshj2018-factorized", "entropy_bottleneck.factors.3"),
    ("bmshj2018-hyperprior", "h_a.0.weight"),
    ("mbt2018-mean", "g_s.5.gamma"),
    ("mbt2018", "entropy_parameters.4.weight"),
    ("cheng2020-anchor", "g_s.3.upsample.0.bias"),
  ],
)
def test_a_missing_weight_is_named(codec, key, refused):
  tensors = _tensors(codec)
  del tensors[key]
  sizes = "N = 8" if codec in _CHENG else "N = 8, M = 12"
  refused(
    tensors,
    rf"^the checkpoint has no {re.escape(key)}, expected one of {codec} with {sizes}; copy it "
    r"again from its source$",
  )


def test_tensors_left_over_are_named(refused):
  tensors = _tensors("bmshj2018-factorized")
  refused(
    {**tensors, "g_a.7.weight": np.zeros(3)},
    r"^the checkpoint holds g_a\.7\.weight, which bmshj2018-factorized does not have; expected its "
    r"weights and nothing else$",
  )
  more = {f"x.{i}": np.zeros(3) for i in range(4)}
  refused({**tensors, **more}, r"^the checkpoint holds x\.0, x\.1, x\.2 and others, which ")


@pytest.mark.parametrize(
  "codec, key, change",
  [
    ("bmshj2018-factorized", "g_a.2.weight", lambda w: w[:, :-1]),
    ("bmshj2018-factorized", "g_a.2.weight", lambda w: w[..., :3, :3]),
    ("bmshj2018-factorized", "g_a.2.weight", lambda w: w[0]),
    ("bmshj2018-factorized", "g_a.0.bias", lambda w: w[:, np.newaxis]),
    ("bmshj2018-factorized", "g_a.1.gamma", lambda w: w[0]),
    ("bmshj2018-factorized", "g_a.1.beta", lambda w: w[:-1]),
    ("bmshj2018-factorized", "entropy_bottleneck.quantiles", lambda w: w[:, 0]),
    ("bmshj2018-factorized", "entropy_bottleneck.quantiles", lambda w: w[:-1]),
    ("bmshj2018-factorized", "entropy_bottleneck.matrices.1", lambda w: w[:, :2]),
    ("bmshj2018-factorized", "g_s.2.weight", lambda w: w.reshape(-1)),
    ("mbt2018-mean", "h_s.4.bias", lambda w: w[:-1]),
    ("mbt2018", "context_prediction.weight", lambda w: w[..., :3, :3]),
    ("mbt2018", "context_prediction.weight", lambda w: w[:, :, 0]),
    ("mbt2018", "context_prediction.weight", lambda w: np.ones((*w.shape[:2], 7, 7))),
    ("mbt2018", "entropy_bottleneck.quantiles", lambda w: np.ones((8, 7, 9))),
    ("mbt2018", "entropy_parameters.0.weight", lambda w: w[:, :-2]),
    ("mbt2018", "entropy_parameters.0.weight", lambda w: w[0, :, 0, 0]),
    ("cheng2020-anchor", "g_s.7.0.weight", lambda w: w[:-1]),
    ("cheng2020-anchor", "g_s.7.0.bias", lambda w: w[:-4]),
  ],
)
def test_a_weight_of_another_shape_is_named(codec, key, change, refused):
  tensors = _tensors(codec)
  tensors[key] = change(tensors[key])
  shape = re.escape(str(list(tensors[key].shape)))
  refused(
    tensors,
    rf"^{re.escape(key)} has shape {shape}, which does not fit {codec} with N = 8.*; copy the "
    r"checkpoint again from its source$",
  )


@pytest.mark.parametrize(
  "codec, key",
  [
    ("mbt2018-mean", "g_a.0.weight"),
    ("mbt2018-mean", "h_s.4.weight"),
    ("mbt2018-mean", "h_s.4.bias"),
    ("cheng2020-anchor", "g_a.0.conv1.weight"),
  ],
)
@pytest.mark.parametrize("shape", [(), (0,), (3000, 0, 5, 5)])
def test_a_weight_without_values_is_named(codec, key, shape, refused):
  refused(
    {**_tensors(codec), key: np.ones(shape)},
    rf"^{re.escape(key)} has shape {re.escape(str(list(shape)))}, expected a weight of one value ",
  )


def test_names_from_a_file_are_shown_as_printable_text_of_bounded_length(refused):
  name = "g_a.0.evil\n\x1b[31m" + "x" * 10_000
  refused(
    {**_tensors("mbt2018-mean"), name: np.zeros(3)},
    r"^the checkpoint holds g_a\.0\.evil\\n\\x1b\[31mx{80,110}\.\.\., which mbt2018-mean ",
  )


def test_sizes_far_beyond_the_published_are_refused_before_they_are_built(refused):
  refused(
    {**_tensors("mbt2018-mean"), "g_s.0.weight": np.ones((50_000, 1, 1, 1))},
    r"^g_s\.0\.weight has shape \[50000, 1, 1, 1\], expected at most 1024 channels; published ",
  )


@pytest.mark.parametrize(
  "key, value",
  [
    ("g_a.4.weight", 1e300),
    ("g_a.4.weight", np.nan),
    ("g_a.4.weight", -np.inf),
    ("entropy_bottleneck.quantiles", np.inf),
  ],
)
def test_a_weight_that_is_not_finite_is_named(key, value, refused):
  tensors = _tensors("bmshj2018-factorized")
  tensors[key] = tensors[key].astype(np.float64)
  # Of three quantiles, the middle one.
  tensors[key].reshape(-1)[1] = value
  refused(
    tensors,
    rf"^{re.escape(key)} holds values that are not finite in float32; "
    r"copy the checkpoint again from its source$",
  )


# --- Names


_CURRENT = re.compile(r"entropy_bottleneck\.(matrices|biases|factors)\.(\d)")
_SINGULARS = {"matrices": "_matrix", "biases": "_bias", "factors": "_factor"}


def _with_underscores(key: str) -> str:
  return _CURRENT.sub(r"entropy_bottleneck._\1.\2", key)


def _numbered(key: str) -> str:
  return _CURRENT.sub(lambda found: f"entropy_bottleneck.{_SINGULARS[found[1]]}{found[2]}", key)


@pytest.mark.parametrize(
  "codec, spelling",
  [
    ("bmshj2018-factorized", _with_underscores),
    ("bmshj2018-factorized", _numbered),
    ("bmshj2018-factorized", lambda key: f"module.{_numbered(key)}"),
    ("cheng2020-anchor", lambda key: f"module.{key.replace('.skip.', '.downsample.')}"),
  ],
  ids=["lists", "numbered", "module", "downsample"],
)
def test_every_spelling_of_names_gives_the_same_weights(codec, spelling, convert, converted):
  tensors = {spelling(key): value for key, value in _tensors(codec).items()}
  assert sum(key not in _shapes(codec) for key in tensors) >= 3
  _assert_equal_weights(convert(tensors), converted(codec))


@pytest.mark.parametrize(
  "spelling, key",
  [
    ("entropy_bottleneck._matrices.0", "entropy_bottleneck.matrices.0"),
    ("entropy_bottleneck._matrix0", "entropy_bottleneck.matrices.0"),
    ("entropy_bottleneck._bias4", "entropy_bottleneck.biases.4"),
    ("entropy_bottleneck._biases.4", "entropy_bottleneck.biases.4"),
    ("entropy_bottleneck._factor3", "entropy_bottleneck.factors.3"),
    ("entropy_bottleneck._factors.3", "entropy_bottleneck.factors.3"),
    ("module.g_a.0.weight", "g_a.0.weight"),
  ],
)
def test_a_weight_under_two_spellings_is_refused(spelling, key, refused):
  tensors = _tensors("bmshj2018-factorized")
  tensors[spelling] = tensors[key]
  refused(
    tensors,
    rf"^the checkpoint holds {re.escape(key)} twice, as {re.escape(spelling)} too; expected each "
    r"weight once$",
  )


def test_constants_and_tables_of_the_range_coder_are_ignored(convert, converted):
  tensors = _tensors("mbt2018")
  odd = np.array([np.nan, 3.0])
  tensors.update(
    {
      f"{prefix}{key}": odd
      for prefix in ("", "module.")
      for key in (
        "entropy_bottleneck._offset",
        "entropy_bottleneck._quantized_cdf",
        "entropy_bottleneck._cdf_length",
        "entropy_bottleneck.target",
        "entropy_bottleneck.likelihood_lower_bound.bound",
        "gaussian_conditional._offset",
        "gaussian_conditional._quantized_cdf",
        "gaussian_conditional._cdf_length",
        "gaussian_conditional.scale_table",
        "gaussian_conditional.scale_bound",
        "gaussian_conditional.lower_bound_scale.bound",
        "g_a.1.beta_reparam.pedestal",
        "g_a.1.beta_reparam.lower_bound.bound",
        "g_s.5.gamma_reparam.pedestal",
        "g_s.5.gamma_reparam.lower_bound.bound",
        "context_prediction.mask",
      )
    }
  )
  _assert_equal_weights(convert(tensors), converted("mbt2018"))


# --- Values and their order


def test_values_under_the_mask_do_not_matter(convert, converted):
  tensors = _tensors("mbt2018")
  masked = tensors["context_prediction.weight"]
  # Type A of 5x5: rows 0 and 1, and the first two of row 2, are seen.
  masked[:, :, 2, 2:] = np.nan
  masked[:, :, 3:] = 1e9
  _assert_equal_weights(convert(tensors), converted("mbt2018"))
  tensors["context_prediction.weight"][5, 3, 2, 1] += 1
  values = _values(converted("mbt2018"))
  changed = {
    name for name, value in _values(convert(tensors)).items() if np.any(value != values[name])
  }
  assert changed == {"context/masked/kernel"}


def _plain_context(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
  """The masked convolution as PyTorch defines it, x [C, H, W]: zeros of 2 around, type A."""
  masked = weight.copy()
  masked[:, :, 2, 2:] = 0
  masked[:, :, 3:] = 0
  return _plain_conv(x, masked, bias, stride=1)


def _plain_conv(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int) -> np.ndarray:
  """Conv2d as PyTorch defines it: x [C, H, W], weight [O, C, k, k], padding k // 2."""
  size = weight.shape[2]
  padded = np.pad(x, ((0, 0), (size // 2, size // 2), (size // 2, size // 2)))
  height, width = ((n + 2 * (size // 2) - size) // stride + 1 for n in x.shape[1:])
  out = np.zeros((len(weight), height, width))
  for o, i, j in np.ndindex(out.shape):
    window = padded[:, i * stride : i * stride + size, j * stride : j * stride + size]
    out[o, i, j] = bias[o] + (window * weight[o]).sum()
  return out


def _plain_transposed(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
  """ConvTranspose2d(5, stride=2, padding=2, output_padding=1): weight [C, O, k, k]."""
  height, width = 2 * x.shape[1], 2 * x.shape[2]
  # Without padding, (n - 1) 2 + 5 + 1 long; padding of 2 is cut off on both sides.
  whole = np.zeros((weight.shape[1], height + 4, width + 4))
  for c, i, j in np.ndindex(x.shape):
    whole[:, 2 * i : 2 * i + 5, 2 * j : 2 * j + 5] += x[c, i, j] * weight[c]
  return whole[:, 2:-2, 2:-2] + bias[:, np.newaxis, np.newaxis]


def _plain_shuffled(x: np.ndarray) -> np.ndarray:
  """PixelShuffle(2) as PyTorch defines it: [4 C, H, W] -> [C, 2 H, 2 W]."""
  out = np.zeros((x.shape[0] // 4, 2 * x.shape[1], 2 * x.shape[2]))
  for c, y, x_ in np.ndindex(out.shape):
    out[c, y, x_] = x[c * 4 + 2 * (y % 2) + x_ % 2, y // 2, x_ // 2]
  return out


def _input(channels: int, height: int, width: int) -> np.ndarray:
  return np.random.default_rng(1).normal(size=(channels, height, width))


def _applied(layer, x: np.ndarray) -> np.ndarray:
  """Applies a layer of ours to [C, H, W]."""
  found = layer(tf.constant(x.transpose(1, 2, 0)[np.newaxis], tf.float32))
  return found.numpy()[0].transpose(2, 0, 1)


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 1)])
class TestLayersComputeWhatPyTorchDefines:
  def test_a_convolution_of_stride_2(self, converted, size):
    x, tensors = _input(_N, *size), _tensors("mbt2018-mean")
    expected = _plain_conv(x, tensors["g_a.6.weight"], tensors["g_a.6.bias"], stride=2)
    (branch,) = converted("mbt2018-mean").codec.branches
    np.testing.assert_allclose(_applied(branch.g_a.layers[6], x), expected, atol=1e-4)

  def test_a_transposed_convolution_of_stride_2(self, converted, size):
    x, tensors = _input(_M, *size), _tensors("mbt2018-mean")
    expected = _plain_transposed(x, tensors["g_s.0.weight"], tensors["g_s.0.bias"])
    (branch,) = converted("mbt2018-mean").codec.branches
    np.testing.assert_allclose(_applied(branch.g_s.layers[0], x), expected, atol=1e-4)

  @pytest.mark.parametrize("key, network, number", [("g_s.7.0", 0, 7), ("h_s.6.0", 1, 6)])
  def test_a_subpixel_convolution(self, converted, size, key, network, number):
    tensors = _tensors("cheng2020-anchor")
    weight, bias = tensors[f"{key}.weight"], tensors[f"{key}.bias"]
    x = _input(weight.shape[1], *size)
    found = converted("cheng2020-anchor")
    layers = (found.codec.branches[0].g_s, _entropy_model(found).h_s)[network].layers
    expected = _plain_shuffled(_plain_conv(x, weight, bias, stride=1))
    np.testing.assert_allclose(_applied(layers[number], x), expected, atol=1e-4)

  def test_a_masked_convolution(self, converted, size):
    x, tensors = _input(_M, *size), _tensors("mbt2018")
    expected = _plain_context(
      x, tensors["context_prediction.weight"], tensors["context_prediction.bias"]
    )
    context = _entropy_model(converted("mbt2018")).context
    np.testing.assert_allclose(_applied(context, x), expected, atol=1e-4)

  @pytest.mark.parametrize("part, inverse", [("g_a", False), ("g_s", True)])
  def test_a_normalization(self, converted, size, part, inverse):
    """Both parameters are stored as square roots; below a bound they count as the bound."""
    x, tensors = _input(_N, *size), _tensors("mbt2018-mean")
    offset = 2.0**-36
    beta = np.maximum(tensors[f"{part}.1.beta"], np.sqrt(1e-6 + offset)) ** 2 - offset
    gamma = np.maximum(tensors[f"{part}.1.gamma"], np.sqrt(offset)) ** 2 - offset
    assert (tensors[f"{part}.1.gamma"] < 0).any()
    norm = np.zeros(x.shape)
    for i, j in np.ndindex(gamma.shape):  # of output i by input j
      norm[i] += gamma[i, j] * x[j] ** 2
    norm = np.sqrt(norm + beta[:, np.newaxis, np.newaxis])
    (branch,) = converted("mbt2018-mean").codec.branches
    layer = (branch.g_s if inverse else branch.g_a).layers[1]
    np.testing.assert_allclose(_applied(layer, x), x * norm if inverse else x / norm, atol=1e-4)


def _index(sigma: np.ndarray) -> np.ndarray:
  return np.log(sigma / 0.11) / gaussian.LOG_STEP


class TestEntropyModels:
  def test_a_hyperprior_predicts_scales_in_the_first_half_and_means_in_the_second(self, convert):
    tensors = _tensors("mbt2018-mean")
    sigma, mean = np.geomspace(0.2, 200.0, _M), np.linspace(-5.0, 5.0, _M)
    tensors["h_s.4.weight"][:] = 0
    tensors["h_s.4.bias"][:] = np.concatenate([sigma, mean])
    means, scales = _entropy_model(convert(tensors)).predicted(tf.zeros((1, 1, 2, _N)))
    np.testing.assert_allclose(means, np.tile(mean, (1, 4, 8, 1)), rtol=1e-6)
    np.testing.assert_allclose(scales, np.tile(sigma, (1, 4, 8, 1)), rtol=1e-5)

  def test_a_scale_hyperprior_predicts_sigma_in_order(self, convert):
    tensors = _tensors("bmshj2018-hyperprior")
    sigma = np.geomspace(0.2, 200.0, _M)
    tensors["h_s.4.weight"][:] = 0
    tensors["h_s.4.bias"][:] = sigma
    means, scales = _entropy_model(convert(tensors)).predicted(tf.zeros((1, 1, 1, _N)))
    assert means == 0.0
    np.testing.assert_allclose(scales, np.tile(sigma, (1, 4, 4, 1)), rtol=1e-5)

  @pytest.mark.parametrize("codec, depth", [("mbt2018", _M), ("cheng2020-anchor", _N)])
  def test_a_context_model_takes_side_information_first_and_predicts_scales_first(
    self, codec, depth, convert
  ):
    """Features of known values, of which single ones are passed on to single parameters."""
    tensors = _tensors(codec)
    side, context = np.linspace(1, 2, 2 * depth), np.linspace(3, 4, 2 * depth)
    last = "h_s.8" if codec in _CHENG else "h_s.4"
    for key, values in ((last, side), ("context_prediction", context)):
      tensors[f"{key}.weight"][:] = 0
      tensors[f"{key}.bias"][:] = values
    for i, width in ((0, 4 * depth), (2, 10 * depth // 3), (4, 8 * depth // 3)):
      weight = tensors[f"entropy_parameters.{i}.weight"]
      assert weight.shape[1] == width
      weight[:] = 0
      tensors[f"entropy_parameters.{i}.bias"][:] = 0
    # Scale 1 is the fourth feature of side information, mean 2 the third of the context; all
    # values are positive, so that rectifiers pass them.
    tensors["entropy_parameters.0.weight"][[5, 6], [3, 2 * depth + 2]] = 1
    tensors["entropy_parameters.2.weight"][[1, 0], [5, 6]] = 1
    tensors["entropy_parameters.4.weight"][[1, depth + 2], [1, 0]] = 1
    weights, means, indices = _entropy_model(convert(tensors)).predicted(
      tf.zeros((1, 4, 4, depth)), tf.zeros((1, 1, 1, _N))
    )
    assert weights is None
    expected_means, expected_indices = np.zeros(depth), np.zeros(depth)
    expected_means[2], expected_indices[1] = context[2], _index(side[3])
    np.testing.assert_allclose(means[0, 0, 0, 0], expected_means, atol=1e-5)
    np.testing.assert_allclose(indices[0, 3, 2, 0], expected_indices, atol=1e-4)

  def test_the_middle_quantile_is_what_values_are_rounded_around(self, converted):
    for codec in ("bmshj2018-factorized", "mbt2018-mean"):
      tensors = _tensors(codec)
      medians = tensors["entropy_bottleneck.quantiles"][:, 0, 1]
      assert np.ptp(medians) > 0.5
      np.testing.assert_array_equal(_entropy_model(converted(codec)).prior.medians(), medians)

  def test_the_density_is_the_distribution_whose_median_was_stored(self, converted):
    """Stored medians of these checkpoints are the densities' own, to 1/32."""
    prior = _entropy_model(converted("bmshj2018-factorized")).prior
    medians = prior.medians().numpy()
    for step, below in ((-1 / 32, True), (1 / 32, False)):
      found = prior.noisy.base.cdf(tf.constant(medians + step)[tf.newaxis]).numpy()
      assert ((found < 0.5) == below).all()


# --- The program and what follows


@pytest.fixture(scope="module")
def model(tmp_path_factory, run_program):
  """bin/convert_compressai.py on a checkpoint: its folder, exit code, stdout and stderr."""
  here = tmp_path_factory.mktemp("here")
  np.savez(here / "small.npz", **_tensors("mbt2018-mean"))
  found = run_program(
    "convert_compressai.py",
    "--checkpoint=small.npz",
    "--output=converted",
    f"--calibration_images={PHOTOS}",
    "--weights_dtype=float32",
    cwd=here,
  )
  return here / "converted", *found


def test_the_program_writes_a_model_that_codes_images(model, converted):
  folder, code, out, err = model
  assert (code, err.splitlines()[-1]) == (0, "notice: calibrates integers on 4 images")
  first, second, third = out.splitlines()
  assert first.startswith("converted: mbt2018_mean, {'num_filters': 8, 'latent_depth': 12, ")
  assert re.fullmatch(
    r"integers in place of floats change the bits by [+-]\d\.\d{3} %; next:", second
  )
  assert third == (
    "  python bin/compress.py --model=converted --input=photo.png --output=photo.kvc"
  )
  loaded = model_files.load(str(folder))
  assert loaded.description["data"] == "published weights, converted from small.npz"
  assert loaded.description["calibration"] == "4 images"
  for name, value in _values(converted("mbt2018-mean")).items():
    np.testing.assert_array_equal(loaded.codec.named_weights()[name], value)
  photo = image_files.read_image(str(PHOTOS / "chelsea.jpg"))[:100, :75]
  data = loaded.compress(photo)
  decoded = loaded.decompress(data)
  assert decoded.shape == photo.shape
  np.testing.assert_array_equal(decoded, loaded.decompress(data))
  # Beside what the tables give there are a header and the ends of substreams.
  assert 0 < len(data) - sum(loaded.estimate(photo).values()) / 8 < 40


def test_a_converted_hyperprior_codes_at_rates_around_its_own(model):
  loaded = model_files.load(str(model[0]))
  assert loaded.default_quality == 50
  photo = image_files.read_image(str(PHOTOS / "chelsea.jpg"))[:100, :75]
  files = {quality: loaded.compress(photo, quality) for quality in (0, 25, 49, 50, 75, 100)}
  assert loaded.compress(photo) == files[50]
  # 13 rates; what is next to the own quality is the own rate, in another byte of the header.
  assert files[49][13:15] == files[50][13:15] and files[49][-200:-4] == files[50][-200:-4]
  assert len(files[0]) < len(files[25]) < len(files[50]) < len(files[75]) < len(files[100])
  for quality, data in files.items():
    assert loaded.decompress(data).shape == photo.shape
    estimate = sum(loaded.estimate(photo, quality).values()) / 8
    assert 0 < len(data) - estimate < 40


def test_a_context_codec_keeps_its_one_rate(tmp_path, monkeypatch):
  monkeypatch.setattr(model_files, "MAX_LOSS", 1.0)  # of random weights
  np.savez(tmp_path / "c.npz", **_tensors("mbt2018"))
  found = compressai.convert_file(
    str(tmp_path / "c.npz"), "mbt2018", str(tmp_path / "out"), str(PHOTOS)
  )
  assert found.default_quality is None and "default_quality" not in found.description


@pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning")  # of tf.data
def test_a_converted_model_is_trained_on_as_the_codec_that_it_is(model, tmp_path):
  folder = model[0]
  trained = task.train(
    CodecOptions(
      workdir=str(tmp_path / "w"),
      init_from=str(folder),
      train_images=str(PHOTOS),
      validation_limit=1,
      crop_size=64,
      batch_size=1,
      max_steps=1,
      learning_rate=1e-5,
      learning_rate_schedule="constant",
    )
  )
  before, after = model_files.load(str(folder)), model_files.load(trained)
  for key in ("codec", "arguments"):
    assert after.description[key] == before.description[key]
  values, trained_values = (each.codec.named_weights() for each in (before, after))
  moved = {name for name in values if np.any(values[name].numpy() != trained_values[name].numpy())}
  assert any(name.startswith("synthesis/") for name in moved)
  assert "prior/medians" not in moved
  for name in values:  # one step of Adam
    np.testing.assert_allclose(trained_values[name], values[name], atol=1.1e-5)
  assert after.fingerprint != before.fingerprint


class _Attack:
  def __init__(self, marker: pathlib.Path):
    self._marker = marker

  def __reduce__(self):
    return os.system, (f"touch {self._marker}",)


def test_the_program_refuses_a_checkpoint_that_means_harm_in_one_line(tmp_path, run_program):
  marker, path = tmp_path / "marker", tmp_path / "bad.pth"
  content = {"state_dict": {"g_a.0.weight": _Attack(marker)}}
  with zipfile.ZipFile(path, "w") as file:
    file.writestr("bad/data.pkl", pickle.dumps(content, protocol=2))
    file.writestr("bad/version", "3\n")
  code, out, err = run_program(
    "convert_compressai.py", "--checkpoint=bad.pth", "--output=converted", cwd=tmp_path
  )
  assert (code, out) == (1, "")
  assert re.fullmatch(
    r"convert_compressai\.py: error: bad\.pth[^\n]* posix\.system, expected [^\n]*; nothing of it "
    r"was run; [^\n]*\n",
    err,
  )
  assert sorted(os.listdir(tmp_path)) == ["bad.pth"]


class TestConvertFile:
  @pytest.fixture
  def checkpoint(self, tmp_path):
    np.savez(tmp_path / "c.npz", **_tensors("bmshj2018-factorized"))
    return str(tmp_path / "c.npz")

  def test_refuses_another_codec_and_writes_nothing(self, checkpoint, tmp_path):
    output = tmp_path / "out"
    with pytest.raises(compressai.ConversionError, match=r"; give --codec=bmshj2018-factorized$"):
      compressai.convert_file(checkpoint, "mbt2018", str(output), str(PHOTOS))
    assert not output.exists()

  def test_refuses_images_that_are_not_there_and_writes_nothing(self, checkpoint, tmp_path):
    output = tmp_path / "out"
    with pytest.raises(errors.Error, match="nowhere"):
      compressai.convert_file(checkpoint, None, str(output), str(tmp_path / "nowhere"))
    assert not output.exists()

  def test_refuses_a_folder_that_holds_something_else(self, checkpoint, tmp_path):
    with pytest.raises(coding.ModelError, match="holds something else than a model"):
      compressai.convert_file(checkpoint, None, str(tmp_path), str(PHOTOS))
    assert os.listdir(tmp_path) == ["c.npz"]

  def test_calibrates_on_the_sample_photos_by_default(self, checkpoint, tmp_path, monkeypatch):
    photo, seen = image_files.read_image(str(PHOTOS / "coffee.jpg"))[:64, :96], []
    monkeypatch.setattr(sample_photos, "load", lambda: {"one": photo, "two": photo[:48]})

    def save(folder, codec, description, images, *more, **named):
      seen.extend(images)
      return plain(folder, codec, description, images, *more, **named)

    plain = model_files.save
    monkeypatch.setattr(model_files, "save", save)
    output = tmp_path / "out"
    model = compressai.convert_file(
      checkpoint, "bmshj2018-factorized", str(output), weights_dtype="float16"
    )
    assert [image.shape for image in seen] == [(64, 96, 3), (48, 96, 3)]
    np.testing.assert_array_equal(seen[0], photo)
    description = json.loads((output / "model.json").read_text(encoding="utf-8"))
    assert description["codec"] == "bmshj2018_factorized"
    assert description["calibration"] == "2 images"
    with np.load(output / "weights.npz") as stored:
      assert {stored[name].dtype for name in stored.files} == {np.dtype(np.float16)}
    np.testing.assert_array_equal(
      model_files.load(str(output)).decompress(model.compress(photo)),
      model.decompress(model.compress(photo)),
    )
