"""What every codec has to pass. A new one needs a line in `_ARGUMENTS`."""

from __future__ import annotations

import json
import os
import zlib

import numpy as np
import pytest
import tensorflow as tf

from khuvcm_tf import bitstream, codecs, model_files
from khuvcm_tf.training import losses, trainer

# Small enough for seconds.
_ARGUMENTS = {
  "bmshj2018": {"num_filters": 8, "latent_depth": 12},
  "mbt2018_mean": {"num_filters": 8, "latent_depth": 12, "activation": "prelu"},
}

_SIZES = [(1, 1), (17, 33), (64, 64)]


def test_every_codec_is_listed_here():
  assert set(_ARGUMENTS) == set(codecs.names())


class _Saved:
  """A codec that was trained for a few steps on one batch, saved and loaded."""

  def __init__(self, name, folder, photo):
    tf.keras.utils.set_random_seed(1)
    self.name, self.folder, self.arguments = name, str(folder), _ARGUMENTS[name]
    self.codec = codecs.create(name, **self.arguments)
    crops = [photo[y : y + 64, x : x + 64] for y, x in ((0, 0), (100, 200), (200, 100), (300, 450))]
    self.losses = _trained(self.codec, np.stack(crops), steps=12)
    self.saved = model_files.save(
      self.folder,
      self.codec,
      {"codec": name, "arguments": self.arguments},
      [photo[:128, :192], photo[200:, 300:]],
    )
    self.model = model_files.load(self.folder)


def _trained(codec, batch, steps):
  """Takes `steps` steps on one batch; returns the loss of each."""
  found = []
  note = tf.keras.callbacks.LambdaCallback(
    on_train_batch_end=lambda batch, logs: found.append(float(logs["loss"]))
  )
  model = trainer.Trainer(codec, 0.01, losses.mse, lambda step: 1e-3)
  model.compile(tf.keras.optimizers.Adam(3e-3, global_clipnorm=1.0))
  dataset = tf.data.Dataset.from_tensors(batch).repeat(steps)
  model.fit(dataset, steps_per_epoch=steps, epochs=1, verbose=0, callbacks=[note])
  return found


@pytest.fixture(scope="module", params=sorted(_ARGUMENTS))
def made(request, tmp_path_factory, coffee):
  return _Saved(request.param, tmp_path_factory.mktemp("models") / request.param, coffee)


def _pictures(photo):
  """A photo, and crops of it of the sizes that every codec takes."""
  return [photo[40:296, 100:420]] + [photo[100 : 100 + h, 200 : 200 + w] for h, w in _SIZES]


def _latents_of(model, picture):
  return model._latents(tf.constant(picture))


class TestTraining:
  def test_lowers_the_loss(self, made):
    assert np.isfinite(made.losses).all()
    assert made.losses[-1] < 0.9 * made.losses[0]

  @pytest.mark.parametrize("size", [(1, 1), (17, 33), (63, 65)])
  def test_decodes_pictures_of_odd_sizes(self, made, coffee, size):
    batch = np.stack([coffee[: size[0], : size[1]], coffee[-size[0] :, -size[1] :]])
    for training in (False, True):
      decoded, bits = made.codec(batch, training=training)
      assert decoded.shape == batch.shape and decoded.dtype == tf.float32
      assert set(bits) == set(made.codec.substreams)
      for value in bits.values():
        assert value.shape == (2,)
        assert np.isfinite(value).all() and np.min(value) > 0


class TestWeights:
  def test_each_trainable_one_has_a_name(self, made):
    named = made.codec.named_weights()
    assert {id(weight) for weight in named.values()} == {
      id(weight) for weight in made.codec.trainable_variables
    }

  def test_of_another_codec_are_refused(self, made):
    values = {name: weight.numpy() for name, weight in made.codec.named_weights().items()}
    name, value = values.popitem()
    with pytest.raises(ValueError, match=rf"weights \['{name}'\] stand on one side only"):
      made.codec.assign_weights(values)
    with pytest.raises(ValueError, match=rf"weight {name} has shape .*, expected \("):
      made.codec.assign_weights({**values, name: np.zeros((1, *value.shape))})


class TestRoundTrip:
  def test_gives_back_the_symbols(self, made, coffee):
    coder = made.model.coder
    for picture in _pictures(coffee):
      y, z = _latents_of(made.model, picture)
      z_symbols = coder.symbols_of_z(z)
      mean, rows = coder.parameters(z_symbols)
      substreams = coder.encode(y, z)
      found = coder.decode(substreams, y.shape[1], y.shape[2])
      expected = z_symbols, coder.symbols_of_y(y, mean), mean, rows
      for values, each in zip(found, expected):
        np.testing.assert_array_equal(values, each)

  def test_gives_back_pictures_of_every_size_as_the_codec_decodes_them(self, made, coffee):
    for picture in _pictures(coffee):
      decoded = made.model.decompress(made.model.compress(picture))
      assert decoded.shape == picture.shape and decoded.dtype == np.uint8
      floats, _ = made.codec(picture[np.newaxis])
      expected = np.clip(np.rint(floats[0]), 0, 255)
      # Means rounded to 1/64, scales by integers: few pixels differ by more than a level.
      assert np.mean(np.abs(decoded - expected)) < 1.5

  def test_gives_back_grey_pictures_as_grey(self, made, coffee):
    grey = coffee[:65, :30, :1]
    decoded = made.model.decompress(made.model.compress(grey))
    assert decoded.shape == grey.shape
    colour = made.model.decompress(made.model.compress(np.repeat(grey, 3, axis=2)))
    np.testing.assert_array_equal(decoded, colour[..., :1])

  def test_gives_the_same_bytes_twice(self, made, coffee):
    for picture in _pictures(coffee):
      assert made.model.compress(picture) == made.model.compress(picture)


class TestRate:
  def test_of_a_photo_is_the_estimate_within_a_percent_and_64_bytes(self, made, coffee):
    photo = _pictures(coffee)[0]
    estimates = made.model.estimate(photo)
    assert set(estimates) == set(made.codec.substreams)
    real, estimate = len(made.model.compress(photo)), sum(estimates.values()) / 8
    assert estimate <= real <= 1.01 * estimate + 64

  def test_of_a_photo_is_at_most_3_percent_more_than_the_float_codec_counts(self, made, coffee):
    photo = _pictures(coffee)[0]
    _, bits = made.codec(photo[np.newaxis])
    counted = sum(float(value[0]) for value in bits.values())
    # It may well be less: an escape's 32 bits are few for an outlier of a narrow density.
    assert 0.8 * counted < sum(made.model.estimate(photo).values()) < 1.03 * counted


class TestSavedModel:
  def test_loaded_gives_the_same_bytes_and_pixels(self, made, coffee):
    crop = coffee[100:164, 200:264]
    assert made.saved.compress(crop) == made.model.compress(crop)
    # Pixels follow from the symbols and these.
    loaded = made.model.codec.named_weights()
    for name, weight in made.codec.named_weights().items():
      np.testing.assert_array_equal(weight, loaded[name])
    y_hat = np.random.default_rng(0).normal(size=(1, 4, 4, made.model.coder.depth))
    np.testing.assert_array_equal(
      made.codec.reconstruction(y_hat, 64, 64), made.model.codec.reconstruction(y_hat, 64, 64)
    )

  def test_says_what_it_is(self, made):
    with open(os.path.join(made.folder, "model.json"), encoding="utf-8") as file:
      description = json.load(file)
    assert description["codec"] == made.name
    assert description["arguments"] == made.arguments
    assert description["integer_loss"] <= model_files.LOSS_LIMIT
    assert model_files.read_fingerprint(made.folder) == made.model.fingerprint

  def test_loads_in_float64_and_goes_round(self, made, coffee):
    precise = model_files.load(made.folder, precision="float64")
    photo = coffee[100:228, 200:328]
    data = precise.compress(photo)
    # Few latents lie so near to a half that float32 rounds them otherwise.
    assert len(data) == pytest.approx(len(made.model.compress(photo)), rel=0.01)
    difference = precise.decompress(data).astype(int) - made.model.decompress(data)
    assert np.abs(difference).max() <= 1
    assert np.mean(difference != 0) < 0.01


class TestDamage:
  def _refused(self, model, data):
    with pytest.raises(bitstream.BitstreamError) as caught:
      model.decompress(bytes(data))
    assert "\n" not in str(caught.value)
    return str(caught.value)

  def test_is_found_by_the_checksum(self, made, coffee):
    data = made.model.compress(coffee[:64, :64])
    for place in (13, len(data) // 2, len(data) - 1):
      damaged = bytearray(data)
      damaged[place] ^= 4
      assert "CRC-32" in self._refused(made.model, damaged)
    for length in (0, 10, len(data) - 1):
      self._refused(made.model, data[:length])

  def test_behind_a_good_checksum_is_refused_or_decoded_to_a_picture_of_that_size(
    self, made, coffee
  ):
    data = made.model.compress(coffee[:64, :128])
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(20):
      damaged = bytearray(data[:-4])
      # Of the substreams alone: the header has tests of its own.
      place = rng.integers(len(damaged) - 40, len(damaged))
      damaged[place] ^= rng.integers(1, 256)
      damaged += zlib.crc32(damaged).to_bytes(4, "little")
      try:
        assert made.model.decompress(bytes(damaged)).shape == (64, 128, 3)
      except bitstream.BitstreamError:
        refused += 1
    assert refused < 20

  def test_of_bytes_left_over_is_found_behind_a_good_checksum(self, made, coffee):
    data = made.model.compress(coffee[:64, :64])[:-4] + bytes(8) + b"\x01"
    repaired = data + zlib.crc32(data).to_bytes(4, "little")
    assert "other bytes than their symbols encode to" in self._refused(made.model, repaired)
