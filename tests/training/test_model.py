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


def _model(dtype: str = "float32", distortion="mse", **settings) -> RateDistortionModel:
  """Returns a compiled model with the same first weights each time."""
  tf.keras.utils.set_random_seed(1)
  model = RateDistortionModel(codecs.create("toy", dtype), 0.01, losses.create(distortion))
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


def test_all_weights_get_a_gradient(toy, batch):
  model = _model()
  with tf.GradientTape() as tape:
    _, metrics = model.decode_and_measure(batch, training=True)
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


def test_the_step_of_a_context_codec_lowers_to_xla(batch):
  """To XLA's own graph: making machine code of it takes a CPU minutes."""
  tf.keras.utils.set_random_seed(1)
  # Without attention, whose convolutions take as long again.
  codec = codecs.create("cheng2020", num_filters=4, attention=False)
  model = RateDistortionModel(codec, 0.01, losses.create("mse"))
  model.compile(tf.keras.optimizers.Adam(1e-3))
  codec(codec.planes(batch), training=True)
  model.optimizer.build(codec.trainable_variables)
  step = tf.function(model.train_step, autograph=False, jit_compile=True)
  lowered = step.experimental_get_compiler_ir(batch)(stage="hlo")
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


def test_ms_ssim_trains_an_untrained_codec(toy):
  crops = tf.constant(np.stack(toy.images(2, height=176, width=176)))
  model = _model(distortion="ms_ssim")
  metrics = model.train_step(crops)
  assert 0.0 < float(metrics["distortion"]) <= 1.0
  assert np.isfinite(float(metrics["grad_norm"]))
