"""The train step: what is summed, clipped, averaged and kept in which precision."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from khuvcm_tf import codecs
from khuvcm_tf.training import losses, schedules, trainer


@pytest.fixture
def batch(toy) -> tf.Tensor:
  """Two crops of 64x64."""
  return tf.constant(np.stack(toy.pictures(2, height=64, width=64)))


def _trainer(dtype: str = "float32", distortion="mse", optimizer=None, **settings):
  """A compiled trainer with the same first weights each time."""
  tf.keras.utils.set_random_seed(1)
  schedule = schedules.Schedule(1e-3, "constant", 0, 10)
  made = trainer.Trainer(codecs.create("toy", dtype), 0.01, losses.create(distortion), schedule)
  made.compile(optimizer or tf.keras.optimizers.Adam(schedule), **settings)
  return made


def test_the_loss_is_lambda_times_distortion_plus_bits_per_pixel(toy, batch):
  made = _trainer()
  decoded, terms = made.terms(batch, training=False)
  _, bits = made.codec(made.codec.planes(batch))
  mse = np.mean((batch.numpy() - decoded.numpy().astype(np.float64)) ** 2)
  bpp = sum(float(tf.reduce_sum(each)) for each in bits.values()) / (2 * 64 * 64)
  assert float(terms["distortion"]) == pytest.approx(mse, rel=1e-5)
  assert float(terms["bpp"]) == pytest.approx(bpp, rel=1e-5)
  assert float(terms["bpp_y"] + terms["bpp_z"]) == pytest.approx(bpp, rel=1e-5)
  assert float(terms["loss"]) == pytest.approx(0.01 * mse + bpp, rel=1e-5)
  assert float(terms["psnr"]) == pytest.approx(10 * np.log10(255**2 / mse), rel=1e-5)


def test_a_step_moves_the_weights_by_no_more_than_the_clipped_gradient(toy, batch):
  made = _trainer(optimizer=tf.keras.optimizers.SGD(1.0, global_clipnorm=0.125))
  before = [weight.numpy() for weight in made.codec.trainable_variables]
  terms = made.train_step(batch)
  moved = [after.numpy() - was for after, was in zip(made.codec.trainable_variables, before)]
  assert float(terms["grad_norm"]) > 1.0
  assert np.sqrt(sum(np.sum(each**2) for each in moved)) == pytest.approx(0.125, rel=1e-3)


def test_all_weights_get_a_gradient(toy, batch):
  made = _trainer()
  with tf.GradientTape() as tape:
    _, terms = made.terms(batch, training=True)
  variables = made.codec.trainable_variables
  for variable, gradient in zip(variables, tape.gradient(terms["loss"], variables)):
    assert gradient is not None, variable.name
    assert np.isfinite(gradient).all(), variable.name


def test_a_mirrored_strategy_on_one_device_makes_the_step_of_none(toy, batch):
  one = _trainer()
  strategy = tf.distribute.MirroredStrategy(["CPU:0"])
  with strategy.scope():
    other = _trainer()
  first = one.make_train_function()(iter([batch]))
  data = strategy.experimental_distribute_dataset(tf.data.Dataset.from_tensors(batch))
  second = other.make_train_function()(iter(data))
  # The generators' streams differ: a replica's is split off.
  assert float(second["distortion"]) == pytest.approx(float(first["distortion"]), rel=1e-5)
  assert float(second["bpp"]) == pytest.approx(float(first["bpp"]), rel=0.02)
  assert float(second["grad_norm"]) == pytest.approx(float(first["grad_norm"]), rel=0.05)


def test_a_compiled_step_has_the_loss_of_a_plain_one(toy, batch):
  plain, compiled = _trainer(), _trainer(jit_compile=True)
  first = plain.make_train_function()(iter([batch]))
  second = compiled.make_train_function()(iter([batch]))
  assert float(second["distortion"]) == pytest.approx(float(first["distortion"]), rel=1e-4)
  # XLA draws other noise.
  assert float(second["bpp"]) == pytest.approx(float(first["bpp"]), rel=0.02)


def test_the_step_of_a_context_codec_lowers_to_xla(batch):
  """To XLA's own graph: making machine code of it takes a CPU minutes."""
  tf.keras.utils.set_random_seed(1)
  codec = codecs.create("cheng2020", num_filters=4)
  made = trainer.Trainer(codec, 0.01, losses.create("mse"), lambda step: 1e-3)
  made.compile(tf.keras.optimizers.Adam(1e-3))
  codec(codec.planes(batch), training=True)
  made.optimizer.build(codec.trainable_variables)
  step = tf.function(made.train_step, autograph=False, jit_compile=True)
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
  single, mixed = _trainer(), _trainer("mixed_bfloat16")
  codec = mixed.codec
  assert {weight.dtype for weight in codec.trainable_variables} == {tf.float32}
  (branch,), planes = codec.branches, codec.planes(batch)
  y = branch.analysis(codec.picture_format.to_network(planes, 64, codec.compute_dtype))
  assert y.dtype == tf.bfloat16
  y_hat, bits = branch.latent_coder(y, training=True)
  decoded, terms = mixed.terms(batch, training=False)
  assert {y_hat.dtype, decoded.dtype, *(each.dtype for each in bits.values())} == {tf.float32}
  _, expected = single.terms(batch, training=False)
  assert float(terms["loss"]) == pytest.approx(float(expected["loss"]), rel=0.02)


def test_ms_ssim_trains_an_untrained_codec(toy):
  crops = tf.constant(np.stack(toy.pictures(2, height=176, width=176)))
  made = _trainer(distortion="ms_ssim", optimizer=tf.keras.optimizers.Adam(1e-3))
  terms = made.train_step(crops)
  assert 0.0 < float(terms["distortion"]) <= 1.0
  assert np.isfinite(float(terms["grad_norm"]))
