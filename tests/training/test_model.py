"""Loss and metrics of a codec, and what is computed in which precision."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from khuvcm_tf import codecs
from khuvcm_tf.training import losses
from khuvcm_tf.training.model import RateDistortionModel


@pytest.fixture
def batch(toy) -> tf.Tensor:
  """Two crops of 64x64."""
  return tf.constant(np.stack(toy.images(2, height=64, width=64)))


def _model(
  dtype: str = "float32", distortion="mse", lmbda=0.01, num_qualities=None, **settings
) -> RateDistortionModel:
  """Returns a compiled model with the same first weights each time."""
  tf.keras.utils.set_random_seed(1)
  codec = codecs.create("toy", dtype, num_qualities)
  model = RateDistortionModel(codec, lmbda, losses.create(distortion))
  model.compile(tf.keras.optimizers.Adam(1e-3), **settings)
  return model


def test_the_loss_is_lambda_times_distortion_plus_bits_per_pixel(toy, batch):
  model = _model()
  decoded, metrics = model.decode_and_measure(batch, training=False)
  _, bits = model.codec(model.codec.planes(batch))
  mse = np.mean((batch.numpy() - decoded.numpy().astype(np.float64)) ** 2)
  bpp = sum(float(tf.reduce_sum(each)) for each in bits.values()) / (2 * 64 * 64)
  assert float(metrics["distortion"]) == pytest.approx(mse, rel=1e-5)
  assert float(metrics["bpp"]) == pytest.approx(bpp, rel=1e-5)
  assert float(metrics["bpp_y"] + metrics["bpp_z"]) == pytest.approx(bpp, rel=1e-5)
  assert float(metrics["loss"]) == pytest.approx(0.01 * mse + bpp, rel=1e-5)
  assert float(metrics["psnr"]) == pytest.approx(10 * np.log10(255**2 / mse), rel=1e-5)


def test_lambda_grows_geometrically_with_quality_and_the_weight_falls_as_its_root(toy):
  model = _model(lmbda=(0.0016, 0.1024), num_qualities=7)
  lmbda, weight = model.lambda_and_weight(tf.constant([0.0, 1.0, 2.5, 3.0, 6.0]))
  np.testing.assert_allclose(lmbda, 0.0016 * 2 ** np.array([0, 1, 2.5, 3, 6]), rtol=1e-6)
  np.testing.assert_allclose(weight, [8**0.5, 2, 2**0.25, 1, 8**-0.5], rtol=1e-6)


def test_the_loss_of_several_rates_is_the_mean_of_the_weighted_losses_of_examples(toy, batch):
  low, high, draws = 0.002, 0.05, [0.1, 0.75]
  model = _model(lmbda=(low, high), num_qualities=3)
  _, found = model.decode_and_measure(batch, False, 2.0 * tf.constant(draws))
  alone = []
  for draw, image in zip(draws, batch):
    decoded, metrics = model.decode_and_measure(image[None], False, tf.constant(2.0 * draw))
    mse = np.mean((image.numpy() - decoded.numpy().astype(np.float64)) ** 2)
    lmbda = low * (high / low) ** draw
    loss = lmbda * mse + float(metrics["bpp"])
    alone.append([loss / np.sqrt(lmbda / np.sqrt(low * high)), mse, float(metrics["bpp"])])
  names = ["loss", "distortion", "bpp"]
  np.testing.assert_allclose([found[name] for name in names], np.mean(alone, axis=0), rtol=1e-5)
  assert alone[0][2] != pytest.approx(alone[1][2], rel=0.01)


def test_draws_are_spread_over_all_qualities(toy, batch, monkeypatch):
  model, seen = _model(lmbda=(0.002, 0.05), num_qualities=5), []
  measure = model.decode_and_measure

  def measure_and_note(images, training, quality):
    seen.append((images, training, quality.numpy()))
    return measure(images, training, quality)

  monkeypatch.setattr(model, "decode_and_measure", measure_and_note)
  model.loss_and_metrics((batch, tf.constant([0.0, 0.75])))
  ((images, training, quality),) = seen
  assert images is batch and training
  np.testing.assert_array_equal(quality, [0.0, 3.0])


def test_higher_qualities_cost_more_bits(toy, batch):
  model = _model(lmbda=(0.002, 0.05), num_qualities=3)
  bpp = [float(model.decode_and_measure(batch, False, quality)[1]["bpp_y"]) for quality in range(3)]
  assert bpp[0] < bpp[1] < bpp[2]


@pytest.mark.parametrize("several_rates", [{}, {"lmbda": (0.002, 0.05), "num_qualities": 3}])
def test_all_weights_get_a_gradient(toy, batch, several_rates):
  model = _model(**several_rates)
  examples = (batch, tf.constant([0.3, 0.6])) if several_rates else batch
  with tf.GradientTape() as tape:
    metrics = model.loss_and_metrics(examples)
  variables = model.codec.trainable_variables
  for variable, gradient in zip(variables, tape.gradient(metrics["loss"], variables)):
    assert gradient is not None, variable.name
    assert np.isfinite(gradient).all(), variable.name


def test_a_compiled_step_has_the_loss_of_a_plain_one(toy, batch):
  plain, compiled = _model(), _model(jit_compile=True)
  first = plain.make_train_function()(iter([batch]))
  second = compiled.make_train_function()(iter([batch]))
  assert float(second["distortion"]) == pytest.approx(float(first["distortion"]), rel=1e-4)
  # XLA draws other noise.
  assert float(second["bpp"]) == pytest.approx(float(first["bpp"]), rel=0.02)


@pytest.mark.parametrize(
  "name, arguments, lmbda, draws",
  [
    # Without attention, whose convolutions take as long again.
    ("cheng2020", {"num_filters": 4, "attention": False}, 0.01, None),
    (
      "mbt2018",
      {"num_filters": 4, "latent_depth": 4, "num_qualities": 3},
      (0.002, 0.05),
      [0.3, 0.6],
    ),
  ],
)
def test_the_step_of_a_context_codec_lowers_to_xla(batch, name, arguments, lmbda, draws):
  """To XLA's own graph: making machine code of it takes a CPU minutes."""
  tf.keras.utils.set_random_seed(1)
  codec = codecs.create(name, **arguments)
  model = RateDistortionModel(codec, lmbda, losses.create("mse"))
  model.compile(tf.keras.optimizers.Adam(1e-3))
  examples = batch if draws is None else (batch, tf.constant(draws))
  model.loss_and_metrics(examples)  # builds all weights
  model.optimizer.build(codec.trainable_variables)
  step = tf.function(model.train_step, autograph=False, jit_compile=True)
  lowered = step.experimental_get_compiler_ir(examples)(stage="hlo")
  assert lowered.startswith("HloModule") and "convolution(" in lowered


@pytest.mark.parametrize(
  ("name", "arguments"),
  [("mbt2018", {"num_filters": 4, "latent_depth": 4}), ("cheng2020", {"num_filters": 4})],
)
def test_mixed_precision_keeps_bits_of_a_context_codec_in_float32(name, arguments, batch):
  codec = codecs.create(name, "mixed_bfloat16", **arguments)
  (decoded,), bits = codec(codec.planes(batch), training=True)
  assert {decoded.dtype, *(each.dtype for each in bits.values())} == {tf.float32}
  assert np.isfinite(bits["y"]).all()


def test_mixed_precision_keeps_weights_bits_and_pixels_in_float32(toy, batch):
  single, mixed = _model(), _model("mixed_bfloat16")
  codec = mixed.codec
  assert {weight.dtype for weight in codec.trainable_variables} == {tf.float32}
  (branch,), planes = codec.branches, codec.planes(batch)
  y = branch.g_a(codec.input_format.to_samples(planes, 64, codec.compute_dtype))
  assert y.dtype == tf.bfloat16
  y_hat, bits = branch.entropy_model(y, training=True)
  decoded, metrics = mixed.decode_and_measure(batch, training=False)
  assert {y_hat.dtype, decoded.dtype, *(each.dtype for each in bits.values())} == {tf.float32}
  _, expected = single.decode_and_measure(batch, training=False)
  assert float(metrics["loss"]) == pytest.approx(float(expected["loss"]), rel=0.02)


def test_mixed_precision_keeps_gains_exact(toy, batch):
  several_rates = {"lmbda": (0.002, 0.05), "num_qualities": 3}
  single, mixed = _model(**several_rates), _model("mixed_bfloat16", **several_rates)
  quality = tf.constant([0.3, 1.6])
  for name, gain in mixed.codec.branches[0].gains.items():
    expected = single.codec.branches[0].gains[name]
    values = np.random.default_rng(3).normal(size=[3, 8]).astype(np.float32)
    for each in (gain, expected):
      each.log_gain.assign(values)
    assert gain.gains(quality).dtype == gain.log_gain.dtype == tf.float32
    np.testing.assert_array_equal(gain.gains(quality), expected.gains(quality))
  expected, found = (
    float(model.decode_and_measure(batch, False, quality)[1]["loss"]) for model in (single, mixed)
  )
  assert found == pytest.approx(expected, rel=0.02)


def test_ms_ssim_trains_an_untrained_codec(toy):
  crops = tf.constant(np.stack(toy.images(2, height=176, width=176)))
  model = _model(distortion="ms_ssim")
  metrics = model.train_step(crops)
  assert 0.0 < float(metrics["distortion"]) <= 1.0
  assert np.isfinite(float(metrics["grad_norm"]))
