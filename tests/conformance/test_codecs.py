"""What every codec has to pass. A new one needs a line in `_MODELS`.

Graphs take longest to build: what is wanted once is done without (`_eagerly`).
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib

import numpy as np
import pytest
import tensorflow as tf

from khuvcm_tf import bitstream, codecs, model_files, model_folders
from khuvcm_tf.entropy import context
from khuvcm_tf.entropy.calibration import conversion
from khuvcm_tf.training import losses
from khuvcm_tf.training.model import RateDistortionModel

# Title: codec and arguments, small enough for seconds.
_PUBLISHED = {"log_scales": False, "prior_layers": 4, "stored_medians": True}
_MODELS = {
  "bmshj2018_factorized": ("bmshj2018_factorized", {"num_filters": 8, "latent_depth": 12}),
  "bmshj2018": ("bmshj2018", {"num_filters": 8, "latent_depth": 12, **_PUBLISHED}),
  "mbt2018_mean": (
    "mbt2018_mean",
    {"num_filters": 8, "latent_depth": 12, "activation": "prelu"},
  ),
  "mbt2018": ("mbt2018", {"num_filters": 8, "latent_depth": 12, **_PUBLISHED}),
  "cheng2020": ("cheng2020", {"num_filters": 8}),
  "ycbcr444": ("ycbcr444", {"model": "mbt2018_mean", "num_filters": 8, "latent_depth": 12}),
  "luma_chroma420": (
    "luma_chroma420",
    {"num_filters": 8, "latent_depth": 12, "entropy_model": "hyperprior"},
  ),
  "cross_component": (
    "cross_component",
    {"num_filters": 8, "latent_depth": 12, "entropy_model": "hyperprior"},
  ),
  # Of several rates, with one branch and with two.
  "mbt2018_mean, 3 qualities": (
    "mbt2018_mean",
    {"num_filters": 8, "latent_depth": 12, "num_qualities": 3},
  ),
  "cross_component, 3 qualities": (
    "cross_component",
    {"num_filters": 8, "latent_depth": 12, "entropy_model": "hyperprior", "num_qualities": 3},
  ),
}

_SIZES = [(1, 1), (17, 33), (64, 64)]


def test_every_codec_is_listed_here():
  assert {name for name, _ in _MODELS.values()} == set(codecs.names())


@contextlib.contextmanager
def _eagerly():
  tf.config.run_functions_eagerly(True)
  try:
    yield
  finally:
    tf.config.run_functions_eagerly(False)


class _Saved:
  """A codec that was trained for a few steps on one batch, saved and loaded."""

  def __init__(self, title, folder, photo):
    tf.keras.utils.set_random_seed(1)
    self.folder, (self.name, self.arguments) = str(folder), _MODELS[title]
    self.codec = codecs.create(self.name, **self.arguments)
    crops = [photo[y : y + 64, x : x + 64] for y, x in ((0, 0), (100, 200), (200, 100), (300, 450))]
    self.losses = _trained(self.codec, np.stack(crops), steps=8)
    images = [photo[:128, :192], photo[200:, 300:]]
    if any(isinstance(each.entropy_model, context.ContextModel) for each in self.codec.branches):
      images = [photo[100:228, 200:328]]  # each wavefront takes long where there is no graph
    description = {"codec": self.name, "arguments": self.arguments}
    with _eagerly():
      self.saved = model_files.save(self.folder, self.codec, description, images)
    self.model = model_files.load(self.folder)


def _trained(codec, batch, steps):
  """Takes `steps` steps on one batch; returns the loss of each."""
  batch, lmbda = tf.constant(batch), 0.01
  if codec.num_qualities is not None:
    batch, lmbda = (batch, tf.constant([0.0, 0.3, 0.6, 1.0])), (0.005, 0.02)
  model = RateDistortionModel(codec, lmbda, losses.create("mse"))
  model.compile(tf.keras.optimizers.Adam(3e-3, global_clipnorm=1.0))
  return [float(model.train_step(batch)["loss"]) for _ in range(steps)]


def _default_quality(codec) -> float | None:
  """Returns q of the files that `compress` writes by default."""
  return None if codec.num_qualities is None else 128 / 255 * (codec.num_qualities - 1)


@pytest.fixture(scope="module", params=_MODELS)
def made(request, tmp_path_factory, coffee):
  return _Saved(request.param, tmp_path_factory.mktemp("models") / request.param, coffee)


def _images(photo):
  """A photo, and crops of it of the sizes that every codec takes."""
  return [photo[40:296, 100:420]] + [photo[100 : 100 + h, 200 : 200 + w] for h, w in _SIZES]


def _latents_of(model, image):
  """Returns (integer entropy model, y, z or None) of each branch."""
  codec = model.codec
  y = codec.latents(codec.planes(image[np.newaxis]), _default_quality(codec))
  branches = zip(model.entropy_models, model.codec.branches, y)
  return [
    (integers, y, branch.entropy_model.side_information(y)) for integers, branch, y in branches
  ]


def _decoded_in_floats(codec, images, training=False):
  """Returns RGB [B, H, W, 3] and the bits of substreams."""
  planes, bits = codec(codec.planes(images), training=training, quality=_default_quality(codec))
  return codec.input_format.to_rgb(planes), bits


def _round_as_integers(integers, entropy_model, monkeypatch):
  """Lets floats round latents as integers do: few otherwise, as means are in fixed point."""
  in_floats = entropy_model.call

  def call(y, training):
    y_hat, bits = in_floats(y, training=training)
    rounded = integers.y_hat(y, entropy_model.side_information(y))
    assert np.mean(np.abs(rounded - y_hat) > 0.1) < 0.1
    return rounded, bits

  monkeypatch.setattr(entropy_model, "call", call)


class TestTraining:
  def test_lowers_the_loss(self, made):
    assert np.isfinite(made.losses).all()
    assert min(made.losses) < 0.9 * made.losses[0]

  @pytest.mark.parametrize("size", [(1, 1), (17, 33), (63, 65)])
  def test_decodes_images_of_odd_sizes(self, made, coffee, size):
    batch = np.stack([coffee[: size[0], : size[1]], coffee[-size[0] :, -size[1] :]])
    for training in (False, True):
      decoded, bits = _decoded_in_floats(made.codec, batch, training)
      assert decoded.shape == batch.shape and decoded.dtype == tf.float32
      assert set(bits) == set(made.codec.substreams)
      for value in bits.values():
        assert value.shape == (2,)
        assert np.isfinite(value).all() and np.min(value) > 0


class TestWeights:
  def test_each_trainable_one_has_a_name(self, made):
    named = made.codec.named_weights()
    # And the medians of z, which stay as they are.
    others = {name for name, weight in named.items() if not weight.trainable}
    assert others == ({"prior/medians"} if "stored_medians" in made.arguments else set())
    assert {id(named[name]) for name in set(named) - others} == {
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
  def _goes_round(self, integers, y, z):
    found = integers.decode(integers.encode(y, z), *y.shape[1:3])
    assert found.exact
    coded_around_medians = y if z is None else z
    np.testing.assert_array_equal(
      found.z, np.rint(coded_around_medians - integers.medians / np.float32(64))
    )
    np.testing.assert_array_equal(found.y_hat, integers.y_hat(y, z))
    # Rounded to integers, or to whole distances from a mean.
    assert np.abs(found.y_hat - y).max() <= 0.5 + 1e-6 * np.abs(y).max()

  def test_gives_back_latents_rounded(self, made, coffee):
    for image in (*_images(coffee)[1:], coffee[40:168, 100:292]):
      for integers, y, z in _latents_of(made.model, image):
        self._goes_round(integers, y, z)

  @pytest.mark.parametrize("size", _SIZES)
  def test_gives_back_latents_far_outside_all_alphabets(self, made, coffee, size):
    image = coffee[100 : 100 + size[0], 200 : 200 + size[1]]
    for integers, y, z in _latents_of(made.model, image):
      far = 60_000 / np.abs(y).max()
      assert far > 1000
      self._goes_round(integers, y * far, None if z is None else z * 1000)
      # One such latent among common ones.
      one = np.zeros(y.shape, np.float32)
      one[0, -1, -1, 3] = -65_000
      self._goes_round(integers, y + one, z)

  def test_gives_back_images_of_every_size_as_the_codec_decodes_them(
    self, made, coffee, monkeypatch
  ):
    for integers, branch in zip(made.model.entropy_models, made.codec.branches):
      _round_as_integers(integers, branch.entropy_model, monkeypatch)
    for image in _images(coffee):
      decoded = made.model.decompress(made.model.compress(image))
      assert decoded.shape == image.shape and decoded.dtype == np.uint8
      floats, _ = _decoded_in_floats(made.codec, image[np.newaxis])
      difference = np.abs(decoded - np.clip(np.rint(floats[0]), 0, 255))
      assert difference.max() <= 1 and np.mean(difference != 0) < 0.01

  def test_gives_back_grey_images_as_grey(self, made, coffee, monkeypatch):
    for integers, branch in zip(made.model.entropy_models, made.codec.branches):
      _round_as_integers(integers, branch.entropy_model, monkeypatch)
    grey = coffee[:65, :30, :1]
    data = made.model.compress(grey)
    decoded = made.model.decompress(data)
    assert decoded.shape == grey.shape
    same_in_colour = made.model.compress(np.repeat(grey, 3, axis=2))
    assert bitstream.parse(same_in_colour)[1] == bitstream.parse(data)[1]
    if made.codec.input_format.components == ("r", "g", "b"):
      np.testing.assert_array_equal(decoded, made.model.decompress(same_in_colour)[..., :1])
    else:
      codec, in_colour = made.codec, np.repeat(grey, 3, axis=2)[np.newaxis]
      (luma, *_), _ = codec(codec.planes(in_colour), quality=_default_quality(codec))
      difference = np.abs(decoded - np.clip(np.rint(luma[0, ..., :1]), 0, 255))
      assert difference.max() <= 1 and np.mean(difference != 0) < 0.01

  def test_gives_the_same_bytes_twice(self, made, coffee):
    for image in _images(coffee):
      assert made.model.compress(image) == made.model.compress(image)

  def test_of_every_quality_goes_as_the_encoder_foresees(self, made, coffee):
    if made.codec.num_qualities is None:
      pytest.skip("a codec of one rate")
    prepared = made.model.prepare(coffee[100:164, 200:264])
    files = {step: made.model.file(prepared, step) for step in (0, 1, 100, 255)}
    assert len(set(files.values())) == len(files)
    for step, data in files.items():
      assert bitstream.parse(data)[0].quality == step
      decoded = made.model.decompress(data)
      np.testing.assert_array_equal(decoded, made.model.decoded(prepared, step))


class TestRate:
  def test_of_a_photo_is_the_estimate_within_a_percent_and_64_bytes(self, made, coffee):
    photo = _images(coffee)[0]
    estimates = made.model.estimate(photo)
    assert set(estimates) == set(made.codec.substreams)
    real, estimate = len(made.model.compress(photo)), sum(estimates.values()) / 8
    assert estimate <= real <= 1.01 * estimate + 64

  def test_of_a_photo_is_at_most_3_percent_more_than_that_of_the_float_codec(self, made, coffee):
    photo = _images(coffee)[0]
    codec = made.codec
    latents = codec.latents(codec.planes(photo[np.newaxis]), _default_quality(codec))
    in_floats = sum(
      conversion.for_rate(bits)
      for branch, y in zip(made.codec.branches, latents)
      for bits in branch.entropy_model.element_bits(y)[1].values()
    )
    # It may be less: an outlier of a narrow density, counted as 32 bits, may lie within its table.
    assert 0.6 * in_floats < sum(made.model.estimate(photo).values()) < 1.03 * in_floats


class TestSavedModel:
  def test_loaded_gives_the_same_bytes_and_pixels(self, made, coffee):
    crop = coffee[100:164, 200:264]
    with _eagerly():
      data = made.saved.compress(crop)
    assert data == made.model.compress(crop)
    # Pixels follow from the symbols and these.
    loaded = made.model.codec.named_weights()
    for name, weight in made.codec.named_weights().items():
      np.testing.assert_array_equal(weight, loaded[name])
    rng = np.random.default_rng(0)
    y_hats = [rng.normal(size=(1, 4, 4, integers.depth)) for integers in made.model.entropy_models]
    planes = (
      each.decode(y_hats, 64, 64, _default_quality(each)) for each in (made.codec, made.model.codec)
    )
    for one, other in zip(*planes):
      np.testing.assert_array_equal(one, other)

  def test_says_what_it_is(self, made):
    with open(os.path.join(made.folder, "model.json"), encoding="utf-8") as file:
      description = json.load(file)
    assert description["codec"] == made.name
    assert description["arguments"] == made.arguments
    assert description["integer_loss"] <= model_files.MAX_LOSS
    assert model_folders.read_fingerprint(made.folder) == made.model.fingerprint

  def test_loads_in_float64_and_goes_round(self, made, coffee):
    precise = model_files.load(made.folder, precision="float64")
    photo = coffee[100:164, 200:328]
    with _eagerly():
      data = precise.compress(photo)
      decoded = precise.decompress(data)
    # Few latents lie so near to a half that float32 rounds them otherwise.
    assert len(data) == pytest.approx(len(made.model.compress(photo)), rel=0.01)
    difference = decoded.astype(int) - made.model.decompress(data)
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
    for position in (13, len(data) // 2, len(data) - 1):
      damaged = bytearray(data)
      damaged[position] ^= 4
      assert "CRC-32" in self._refused(made.model, damaged)
    for length in (0, 10, len(data) - 1):
      self._refused(made.model, data[:length])

  def test_behind_a_good_checksum_is_refused_or_decoded_to_an_image_of_that_size(
    self, made, coffee
  ):
    # Of many values, which those of codecs trained for a few steps are not.
    substreams = [
      substream
      for integers, y, z in _latents_of(made.model, coffee[:64, :128])
      for substream in integers.encode(y * (20 / np.abs(y).max()), z).numpy()
    ]
    header, _ = bitstream.parse(made.model.compress(coffee[:64, :128]))
    version = 1 if made.codec.num_qualities is None else 2
    body = bitstream.pack(header, substreams, version)[:-4]
    rng = np.random.default_rng(0)
    # Of the substreams alone: the header has tests of its own.
    damaged = [body[:-i] for i in range(1, 20)]
    for _ in range(20):
      changed = bytearray(body)
      changed[rng.integers(len(body) - 40, len(body))] ^= rng.integers(1, 256)
      damaged.append(bytes(changed))
    refused = 0
    for each in damaged:
      try:
        data = each + zlib.crc32(each).to_bytes(4, "little")
        assert made.model.decompress(data).shape == (64, 128, 3)
      except bitstream.BitstreamError:
        refused += 1
    assert 0 < refused < len(damaged)

  def test_of_bytes_left_over_is_found_behind_a_good_checksum(self, made, coffee):
    data = made.model.compress(coffee[:64, :64])[:-4] + bytes(8) + b"\x01"
    repaired = data + zlib.crc32(data).to_bytes(4, "little")
    assert "other bytes than their symbols encode to" in self._refused(made.model, repaired)


def test_cheng2020_without_attention_and_mixtures_goes_round(coffee, tmp_path, monkeypatch):
  monkeypatch.setattr(model_files, "MAX_LOSS", 1.0)  # It is not trained.
  arguments = {"num_filters": 8, "num_mixtures": 1, "attention": False, "activation": "prelu"}
  description = {"codec": "cheng2020", "arguments": arguments}
  tf.keras.utils.set_random_seed(1)
  codec, crop = codecs.create("cheng2020", **arguments), coffee[100:164, 200:264]
  with _eagerly():
    data = model_files.save(str(tmp_path / "model"), codec, description, [crop]).compress(crop)
    decoded = model_files.load(str(tmp_path / "model")).decompress(data)
  floats, _ = _decoded_in_floats(codec, crop[np.newaxis])
  difference = np.abs(decoded - np.clip(np.rint(floats[0]), 0, 255))
  assert difference.max() <= 1 and np.mean(difference != 0) < 0.01
