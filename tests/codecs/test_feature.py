"""Feature maps through a codec and back, by way of files."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from khuvcm_tf import (
  batch_coding,
  bitstream,
  codecs,
  coding,
  errors,
  model_files,
  rate_control,
  saved_model,
)
from khuvcm_tf.data.stored_features import ImageFeatures
from khuvcm_tf.ops import pyramid

_CHANNELS = 16


def _features(height=100, width=150, seed=0, levels=pyramid.LEVELS) -> ImageFeatures:
  rng, made = np.random.default_rng(seed), {}
  for level, size in pyramid.level_sizes((height, width)).items():
    made[level] = (3 * rng.normal(size=(*size, _CHANNELS))).astype(np.float32)
  made["p6"] = made["p5"][::2, ::2]
  return ImageFeatures({k: made[k] for k in levels}, (height, width), (2 * height, 2 * width))


def _save(folder, **arguments):
  tf.keras.utils.set_random_seed(0)
  arguments = {
    **{"model": "mbt2018_mean", "channels": _CHANNELS, "planes": 4},
    **{"num_filters": 8, "latent_depth": 12},
    **arguments,
  }
  codec = codecs.create("feature", **arguments)
  for name, weight in codec.named_weights().items():
    if name == "synthesis/conv3/kernel" or name == "analysis/conv3/kernel":
      weight.assign(4.0 * weight)  # so that something is coded
  description = {"codec": "feature", "arguments": arguments, "detector": "f" * 16}
  return model_files.save(str(folder), codec, description, [_features(), _features(64, 96, 1)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("feature") / "model"
  _save(folder, num_qualities=3)
  return folder


@pytest.fixture(scope="module")
def model(folder):
  return model_files.load(str(folder))


@pytest.mark.parametrize("square", [None, 64])
@pytest.mark.parametrize("planes", [1, 4, 16])
def test_maps_go_onto_a_canvas_and_come_back(planes, square):
  codec = codecs.create(
    *("feature",), channels=_CHANNELS, planes=planes, square=square, num_filters=4, latent_depth=4
  )
  form, features = codec.input_format, _features()
  form.normalization.set(np.full((4, _CHANNELS), 0.5), np.full((4, _CHANNELS), 2.0))
  canvas = form.to_canvas(features.levels)
  assert canvas.shape[1:3] == form.canvas_size(features.image_size, pyramid.BOX_LEVELS)
  assert canvas.shape[3] == planes
  back = form.from_canvas(canvas, features.image_size, pyramid.BOX_LEVELS)
  for level in pyramid.BOX_LEVELS:
    np.testing.assert_allclose(back[level], features.levels[level], atol=1e-6)


def test_a_file_holds_all_that_is_needed(model):
  features = _features()
  data = model.compress(features, 40)
  header, _ = bitstream.parse(data)
  assert bitstream.version_of(data) == 3
  assert header._replace(fingerprint=b"") == bitstream.Header(
    b"", bitstream.FEATURES, 32, 100, 150, 102, 15, 200, 300
  )
  found = model.decompress(data)
  assert (found.image_size, found.original_size) == ((100, 150), (200, 300))
  for level in pyramid.LEVELS:
    assert found.levels[level].shape == features.levels[level].shape
    assert found.levels[level].dtype == np.float32
  np.testing.assert_array_equal(found.levels["p6"], found.levels["p5"][::2, ::2])
  again = model.decoded(model.prepare(features), coding.step_of(40))
  for level in pyramid.LEVELS:
    np.testing.assert_allclose(found.levels[level], again.levels[level], atol=1e-4)


def test_more_bits_are_taken_at_a_higher_quality(model):
  sizes = [len(model.compress(_features(), quality)) for quality in (0, 50, 100)]
  assert sizes[0] < sizes[1] < sizes[2]
  data = rate_control.compress(model, _features(), rate_control.Rate(bytes=sizes[1]))
  assert len(data) <= sizes[1]
  with pytest.raises(coding.ModelError, match="found features, expected an image"):
    rate_control.compress(model, _features(), rate_control.Rate(psnr=30.0))


def test_some_levels_alone_are_coded(model):
  whole, some = _features(), _features(levels=("p3", "p5"))
  found = model.decompress(model.compress(some))
  assert sorted(found.levels) == ["p3", "p5", "p6"]
  assert len(model.compress(some)) < 0.5 * len(model.compress(whole))


def test_another_process_decodes_the_same(folder, model, tmp_path):
  features = _features()
  data = model.compress(features)
  (tmp_path / "f.kvc").write_bytes(data)
  code = (
    "import sys, numpy as np\n"
    "from khuvcm_tf import model_files\n"
    "model = model_files.load(sys.argv[1], 'float64')\n"
    "found = model.decompress(open(sys.argv[2], 'rb').read())\n"
    "np.savez(sys.argv[3], **found.levels)\n"
  )
  arguments = [str(folder), str(tmp_path / "f.kvc"), str(tmp_path / "out.npz")]
  subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)
  expected = model_files.load(str(folder), "float64").decompress(data).levels
  with np.load(tmp_path / "out.npz") as found:
    for level in pyramid.LEVELS:
      np.testing.assert_array_equal(found[level], expected[level])


@pytest.mark.parametrize(
  "change, text",
  [
    (lambda f: f._replace(levels={"p6": f.levels["p6"]}), "found levels .*p6.*, expected some of"),
    (lambda f: f._replace(image_size=(64, 96)), r"p2 is \[32, 40, 16\], expected \[16, 24, 16\]"),
    (lambda f: f._replace(image_size=(0, 96)), "found an image of sides"),
    (
      lambda f: f._replace(levels={"p4": np.full_like(f.levels["p4"], np.nan)}),
      "p4 has values that are not finite",
    ),
  ],
)
def test_features_that_are_none_are_refused(model, change, text):
  with pytest.raises(coding.ModelError, match=text):
    model.compress(change(_features()))


def test_each_kind_of_model_refuses_the_others_inputs(model):
  image = np.zeros((32, 32, 3), np.uint8)
  with pytest.raises(coding.ModelError, match="codec feature was given an image, expected feat"):
    model.compress(image)
  images = model_files.load("mbt2018_mean")
  with pytest.raises(coding.ModelError, match="mbt2018_mean was given features, expected an image"):
    images.compress(_features())
  data = model.compress(_features())
  with pytest.raises(coding.ModelError, match="the file was made with model"):
    images.decompress(data)


def test_only_models_of_images_are_exported(model, tmp_path):
  with pytest.raises(coding.ModelError, match="codec feature cannot be exported, expected one of"):
    saved_model.export(model, str(tmp_path / "e"))


def test_a_file_that_is_cut_short_is_told_to_be_damaged_whatever_its_output(model, tmp_path):
  path = tmp_path / "f.kvc"
  path.write_bytes(model.compress(_features())[:-10])
  for name in ("f.npz", "f.png"):
    with pytest.raises(bitstream.BitstreamError, match="f.kvc: the file is damaged, cut short or"):
      batch_coding.decompress(lambda data: model, str(path), str(tmp_path / name))


def test_damaged_files_end_in_one_error(model):
  data = model.compress(_features())
  for position in range(0, len(data), 7):
    damaged = data[:position] + bytes([data[position] ^ 0x55]) + data[position + 1 :]
    with pytest.raises(errors.Error) as caught:
      model.decompress(damaged)
    assert "\n" not in str(caught.value)


def test_maps_larger_than_their_square_are_refused(tmp_path):
  model = _save(tmp_path / "model", square=64)
  with pytest.raises(coding.ModelError, match="P2 has a side of 80, expected at most 64"):
    model.compress(_features(300, 96))
  assert model.decompress(model.compress(_features())).levels["p2"].shape == (32, 40, 16)


@pytest.mark.parametrize(
  "arguments, text",
  [
    ({"planes": 5}, "found 5 planes, expected a divisor of the 16 channels"),
    ({"model": "ycbcr444"}, "`model` is 'ycbcr444', expected one of bmshj2018_factorized"),
  ],
)
def test_arguments_out_of_range_are_refused(arguments, text):
  with pytest.raises(errors.Error, match=text):
    codecs.create("feature", channels=_CHANNELS, **arguments)


@pytest.mark.parametrize("name", ["bmshj2018_factorized", "bmshj2018", "mbt2018", "cheng2020"])
def test_any_codec_of_images_codes_planes(name):
  depth = {} if name == "cheng2020" else {"latent_depth": 6}
  codec = codecs.create("feature", model=name, channels=_CHANNELS, num_filters=6, **depth)
  planes = codec.planes(codec.input_format.example(_features(40, 60))[np.newaxis])
  decoded, bits = codec(planes)
  assert decoded[0].shape == planes[0].shape and set(bits) == set(codec.substreams)
