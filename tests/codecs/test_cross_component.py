"""What chroma depends on of luma, that luma does not depend on chroma, and files against floats."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from khuvcm_tf import bitstream, codecs, errors, model_files
from khuvcm_tf.codecs import codec as codec_lib
from khuvcm_tf.data import frames
from khuvcm_tf.entropy import context, hyperprior

_CONDITIONS = ("latents", "samples", "both")
_ARGUMENTS = {"num_filters": 4, "latent_depth": 6, "entropy_model": "hyperprior"}


def _codec(dtype="float32", **arguments):
  """With latents of many values, as trained ones have, and samples that depend on them."""
  tf.keras.utils.set_random_seed(1)
  codec = codecs.create("cross_component", dtype, **{**_ARGUMENTS, **arguments})
  for name, weight in codec.named_weights().items():
    if name.endswith("analysis/conv3/kernel"):
      weight.assign(weight * 30)
  return codec


@pytest.fixture(scope="module", params=_CONDITIONS)
def codec(request):
  return _codec(condition=request.param)


def _planes(height=64, width=64, seed=2):
  rng = np.random.default_rng(seed)
  half = (height + 1) // 2, (width + 1) // 2
  return tuple(
    tf.constant(rng.uniform(0, 255, shape), tf.float32)
    for shape in ((1, height, width, 1), (1, *half, 2))
  )


def _normal(seed, *shape):
  return tf.constant(np.random.default_rng(seed).normal(size=shape) * 3, tf.float32)


def _context(y_hat, x_hat, run=codec_lib.plain):
  """Returns the context of chroma, given decoded luma."""
  return codec_lib.Context(run, (codec_lib.DecodedBranch(y_hat, x_hat),))


class TestLuma:
  def test_has_latents_bits_and_pixels_that_do_not_depend_on_chroma(self, codec):
    y, uv = _planes()
    other_uv = _planes(seed=3)[1]
    one, other = codec.latents((y, uv)), codec.latents((y, other_uv))
    assert np.std(one[0]) > 0.5
    np.testing.assert_array_equal(one[0], other[0])
    assert np.any(one[1] != other[1])
    (y_one, _), bits_one = codec((y, uv))
    (y_other, _), bits_other = codec((y, other_uv))
    np.testing.assert_array_equal(y_one, y_other)
    for name in ("luma_z", "luma_y"):
      assert float(bits_one[name]) == float(bits_other[name]) > 0
    assert float(bits_one["chroma_y"]) != float(bits_other["chroma_y"])

  def test_is_what_the_first_branch_alone_decodes(self, codec):
    y_hats = [_normal(4, 1, 4, 4, 6), _normal(5, 1, 4, 4, 3)]
    y, uv = codec.decode(y_hats, 49, 51)
    assert (y.shape, uv.shape) == ((1, 49, 51, 1), (1, 25, 26, 2))
    alone, none = codec.decode(y_hats[:1], 49, 51)
    assert none.shape == (1, 25, 26, 0)
    np.testing.assert_array_equal(alone, y)
    assert np.std(y) > 1


class TestChroma:
  """Its condition is decoded luma: latents, samples, or both."""

  def _differences(self, codec, function):
    """Returns by how much other latents, and other samples of luma, change what is computed."""
    latents = [_normal(seed, 1, 4, 4, 6) for seed in (4, 5)]
    samples = [_normal(seed, 1, 32, 32, 4) for seed in (6, 7)]
    plain = function(_context(latents[0], samples[0]))
    in_bands = function(_context(latents[0], samples[0], codec_lib.in_bands))
    np.testing.assert_allclose(in_bands, plain, rtol=1e-4, atol=1e-5)
    others = _context(latents[1], samples[0]), _context(latents[0], samples[1])
    return [np.abs(function(context) - plain).max() for context in others]

  @pytest.mark.parametrize("condition", _CONDITIONS)
  @pytest.mark.parametrize("step", ["analyze", "synthesize"])
  def test_depends_on_lumas_latents_and_samples_as_the_condition_says(self, condition, step):
    codec = _codec(condition=condition)
    chroma = codec.branches[1]

    def analyze(context):
      return chroma.analyze(_normal(8, 1, 32, 32, 6), context)

    def synthesize(context):
      return chroma.synthesize(_normal(9, 1, 4, 4, 3), context)

    function = analyze if step == "analyze" else synthesize
    by_latents, by_samples = self._differences(codec, function)
    assert (by_latents > 1e-3) == (condition in ("latents", "both"))
    assert (by_samples > 1e-3) == (condition in ("samples", "both"))
    # What is no part of the condition makes no difference at all.
    assert {by_latents, by_samples} & {0.0} or condition == "both"

  @pytest.mark.parametrize("condition", _CONDITIONS)
  def test_as_decoded_depends_on_what_luma_is_decoded_to(self, condition):
    codec = _codec(condition=condition)
    y_hats = [_normal(4, 1, 4, 4, 6), _normal(5, 1, 4, 4, 3)]
    y, uv = codec.decode(y_hats, 64, 64)
    _, of_other_latents = codec.decode([_normal(6, 1, 4, 4, 6), y_hats[1]], 64, 64)
    assert np.abs(of_other_latents - uv).max() > 0.1
    # The same latents of luma, other samples.
    codec.named_weights()["luma/synthesis/conv3/conv/bias"].assign([0.5])
    y_shifted, uv_shifted = codec.decode(y_hats, 64, 64)
    np.testing.assert_allclose(y_shifted, y + 127.5, atol=1e-3)
    difference = np.abs(uv_shifted - uv).max()
    assert difference == 0 if condition == "latents" else difference > 0.1

  def test_does_not_depend_on_luma_itself(self, codec):
    """Nor could the decoder: other luma under the same latents and samples."""
    samples = _normal(8, 1, 32, 32, 6).numpy()
    context = _context(_normal(4, 1, 4, 4, 6), _normal(6, 1, 32, 32, 4))
    plain = codec.branches[1].analyze(tf.constant(samples), context)
    samples[..., :4] += 1
    other = codec.branches[1].analyze(tf.constant(samples), context)
    np.testing.assert_array_equal(other, plain)


class TestArguments:
  def test_make_chroma_half_as_wide_unless_they_say_otherwise(self):
    for arguments, n, m in (
      ({}, 2, 3),
      ({"chroma_filters": 7, "chroma_depth": 5}, 7, 5),
      ({"num_filters": 1, "latent_depth": 1}, 1, 1),
    ):
      codec = _codec(condition="samples", **arguments)
      chroma = codec.branches[1]
      assert chroma.g_a.out_channels == chroma.entropy_model.latent_depth == m
      assert codec.named_weights()["chroma/analysis/conv1/kernel"].shape == (5, 5, n, n)
      assert chroma.entropy_model.hyper_depth == n

  def test_choose_the_entropy_model_of_both(self):
    for kind, expected, mixtures in (
      ("hyperprior", hyperprior.Hyperprior, None),
      ("context", context.ContextModel, 1),
      ("mixture", context.ContextModel, 3),
    ):
      for branch in _codec(entropy_model=kind).branches:
        assert type(branch.entropy_model) is expected
        assert getattr(branch.entropy_model, "num_mixtures", None) == mixtures

  @pytest.mark.parametrize(
    "arguments, message",
    [
      ({"condition": "luma"}, r"`condition` is 'luma', expected one of latents, samples, both"),
      ({"entropy_model": "zip"}, r"`entropy_model` is 'zip', expected one of hyperprior, context"),
      ({"activation": "relu"}, r"`activation` is 'relu', expected 'gdn' or 'prelu'"),
    ],
  )
  def test_that_are_wrong_are_refused(self, arguments, message):
    with pytest.raises(errors.Error, match=rf"^codec cross_component was not .*: {message}"):
      _codec(**arguments)


def test_the_gradient_of_distortion_and_rate_reaches_every_weight(codec):
  planes = _planes()
  with tf.GradientTape() as tape:
    decoded, bits = codec(planes, training=True)
    errors_ = codec.input_format.squared_errors(planes, decoded)
    loss = tf.reduce_sum(errors_) + tf.add_n([tf.reduce_sum(each) for each in bits.values()])
  weights = codec.named_weights()
  for name, gradient in zip(weights, tape.gradient(loss, list(weights.values()))):
    assert gradient is not None, name
    assert np.isfinite(gradient).all() and np.any(gradient != 0), name


class TestFiles:
  @pytest.fixture(scope="class")
  def model(self, tmp_path_factory):
    codec = _codec(condition="both")
    image = np.random.default_rng(3).integers(0, 256, (64, 64, 3), np.uint8)
    folder = str(tmp_path_factory.mktemp("models") / "model")
    tf.config.run_functions_eagerly(True)
    with pytest.MonkeyPatch.context() as patch:
      # What integers cost is no matter of weights that were never trained.
      patch.setattr(model_files, "MAX_LOSS", 1e3)
      description = {"codec": "cross_component", "arguments": _ARGUMENTS}
      yield model_files.save(folder, codec, description, [image])
    tf.config.run_functions_eagerly(False)

  @pytest.fixture(scope="class")
  def frame(self):
    rng = np.random.default_rng(4)
    shapes = (33, 70), (17, 35), (17, 35)
    return frames.Frame(*(rng.integers(60, 200, shape, np.uint8) for shape in shapes))

  def test_hold_lumas_substreams_then_chromas_side_information_first(self, model, frame):
    _, found = bitstream.parse(model.compress(frame))
    assert model.codec.substreams == ("luma_z", "luma_y", "chroma_z", "chroma_y")
    y_hats, substreams = _coded(model, frame)
    assert list(found) == substreams
    assert all(np.unique(each).size > 10 for each in y_hats)

  def test_are_decoded_to_what_floats_make_of_their_latents(self, model, frame):
    y_hats, _ = _coded(model, frame)
    y, uv = model.codec.decode(y_hats, *frame.y.shape)
    decoded = model.decompress(model.compress(frame))
    for found, floats in (
      (decoded.y, y[0, ..., 0]),
      (decoded.cb, uv[0, ..., 0]),
      (decoded.cr, uv[0, ..., 1]),
    ):
      np.testing.assert_array_equal(found, np.clip(np.rint(floats), 0, 255))
      assert np.std(found) > 1


def _coded(model, frame):
  """Codes a frame branch by branch; returns y_hat of each, and all substreams."""
  planes = frame.y[..., np.newaxis], np.stack([frame.cb, frame.cr], axis=-1)
  planes = tuple(tf.constant(plane[np.newaxis], tf.float32) for plane in planes)
  x, context = model.codec.samples(planes), codec_lib.Context(codec_lib.in_bands)
  y_hats, substreams = [], []
  for branch, integers in zip(model.codec.branches, model.entropy_models):
    y = branch.analyze(x, context)
    z = branch.entropy_model.side_information(y)
    y_hats.append(integers.y_hat(y, z))
    substreams.extend(integers.encode(y, z).numpy())
    context = context.after(branch, y_hats[-1])
  return y_hats, substreams
