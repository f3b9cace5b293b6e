"""Models and files of earlier versions: files are decoded and written as they were then.

REGENERATE=1 trains the models of codecs that have none and writes files and hashes anew. What is
in the repository is replaced only where a format has a new version number.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from khuvcm_tf import bitstream, codecs, coding, model_files
from khuvcm_tf.codecs import codec as codec_lib
from khuvcm_tf.data import frames
from khuvcm_tf.entropy.integer import entropy_model as integer_entropy_model
from khuvcm_tf.entropy.integer import hyperprior as integer_hyperprior
from khuvcm_tf.ops import padding
from tests.noting_encoder import NotingEncoder

HERE = pathlib.Path(__file__).parent

_ARGUMENTS = {
  "bmshj2018_factorized": {"num_filters": 8, "latent_depth": 12},
  "bmshj2018": {"num_filters": 8, "latent_depth": 12},
  "mbt2018_mean": {"num_filters": 8, "latent_depth": 12},
  "mbt2018": {"num_filters": 8, "latent_depth": 8},
  "cheng2020": {"num_filters": 6},
  "ycbcr444": {"model": "mbt2018_mean", "num_filters": 8, "latent_depth": 12},
  "luma_chroma420": {"num_filters": 8, "latent_depth": 8},
  "cross_component": {"num_filters": 8, "latent_depth": 8, "entropy_model": "hyperprior"},
}
# A codec of several rates: the model `mbt2018`, with gains.
_VARIABLE = "mbt2018_variable"
_QUALITIES = {"lowest": 0, "highest": 100}
_OF_FRAMES = ("luma_chroma420", "cross_component")
_STEPS = 150


def _hash(values: np.ndarray) -> str:
  return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def _contents(model: coding.Model, data: bytes) -> dict[str, object]:
  """What a file holds: the shape of its image, SHA-256 of symbols and of float64's pixels."""
  image, hashes = model.decompress(data), {}
  for branch, integers, found in zip(
    model.codec.branches, model.entropy_models, _decoded(model, data)
  ):
    symbols = {"z": found.z, "y": found.y_hat}
    if isinstance(integers, integer_hyperprior.IntegerHyperprior):
      means, _ = integers.parameters(found.z)
      symbols.update(y=integers.symbols_of_y(found.y_hat, means), means=means)
    prefix = "" if len(model.entropy_models) == 1 else f"{branch.name}_"
    for name, values in symbols.items():
      hashes[prefix + name] = _hash(values.numpy().astype("<i4"))
  planes = image[:3] if isinstance(image, frames.Frame) else [image]
  pixels = _hash(np.concatenate([plane.reshape(-1) for plane in planes]))
  return {"shape": list(planes[0].shape), **hashes, "pixels": pixels}


@functools.lru_cache  # Several tests look at the same files.
def _decoded(model: coding.Model, data: bytes) -> list[integer_entropy_model.Decoded]:
  """Returns what is decoded of each branch's substreams."""
  header, substreams = bitstream.parse(data)
  rows, columns = (
    padding.padded_size(side, model.codec.stride) // model.codec.latent_stride
    for side in (header.height, header.width)
  )
  found, rest = [], list(substreams)
  for integers in model.entropy_models:
    own = [rest.pop(0) for _ in integers.substreams]
    found.append(integers.decode(tf.constant(own), rows, columns))
  assert all(each.exact for each in found)
  return found


def _images(name: str) -> dict[str, np.ndarray | frames.Frame]:
  import skimage.data

  photo = skimage.data.astronaut()
  images = {
    "smallest": photo[200:201, 200:201],
    "grey": photo[30:47, 200:233, :1],
    "photo": photo[60:156, 180:308],
  }
  if name == _VARIABLE:
    images.update(dict.fromkeys(_QUALITIES, images["photo"]))
  if name in _OF_FRAMES:
    planes = (photo[60:131, 180:253, 0], photo[60:131:2, 180:253:2, 1], photo[::2, ::2, 2])
    y, cb, cr = (4 * plane[:71, :73].astype(np.uint16) for plane in planes)
    images["frame"] = frames.Frame(y, cb, cr[:36, :37], 10)
  return images


def _with_gains() -> codec_lib.Codec:
  codec = codecs.create("mbt2018", num_qualities=3, **_ARGUMENTS["mbt2018"])
  values = model_files.read_weights(str(HERE / "mbt2018" / "model"))
  rng, depth = np.random.default_rng(0), codec.branches[0].entropy_model.latent_depth
  steps = 0.5 * np.arange(-1, 2)[:, np.newaxis]
  gains = {
    "analysis_gain/log_gain": steps + rng.normal(scale=0.2, size=(3, depth)),
    "synthesis_gain/log_gain": -steps + rng.normal(scale=0.2, size=(3, depth)),
  }
  codec.assign_weights({**values, **gains})
  return codec


def _trained(name: str) -> codec_lib.Codec:
  import skimage.data

  from khuvcm_tf.training import losses
  from khuvcm_tf.training.model import RateDistortionModel

  tf.keras.utils.set_random_seed(1)
  codec = codecs.create(name, **_ARGUMENTS[name])
  photo = skimage.data.coffee()
  crops = [photo[y : y + 64, x : x + 64] for y, x in ((0, 0), (100, 200), (200, 100), (300, 450))]
  model = RateDistortionModel(codec, 0.02, losses.create("mse"))
  model.compile(tf.keras.optimizers.Adam(3e-3, global_clipnorm=1.0))
  model.fit(tf.data.Dataset.from_tensors(np.stack(crops)).repeat(_STEPS), verbose=0)
  # After so few steps most latents are 0 yet: this gives them many values.
  latents = codec.latents(codec.planes(photo[np.newaxis, :256, :256]))
  for branch, y in zip(codec.branches, latents):
    for weight in branch.g_a.layers[-1].trainable_weights:
      weight.assign(3 / np.std(y) * weight)
  return codec


def _regenerate(name: str) -> None:
  folder = HERE / name
  folder.mkdir(exist_ok=True)
  if not (folder / "model" / "model.json").is_file():
    if name == _VARIABLE:
      codec, arguments = _with_gains(), {**_ARGUMENTS["mbt2018"], "num_qualities": 3}
      description = {"codec": "mbt2018", "arguments": arguments}
    else:
      codec = _trained(name)
      description = {"codec": name, "arguments": _ARGUMENTS[name], "steps": _STEPS}
    photo = _images(name)["photo"]
    model_files.save(str(folder / "model"), codec, description, [photo], "float16")
  model = model_files.load(str(folder / "model"), "float64")
  expected = {}
  for title, image in _images(name).items():
    data = model.compress(image, _QUALITIES.get(title))
    (folder / f"{title}.kvc").write_bytes(data)
    expected[title] = _contents(model, data)
  (folder / "expected.json").write_text(json.dumps(expected, indent=2) + "\n")


@pytest.fixture(scope="module", params=[*codecs.names(), _VARIABLE])
def golden(request):
  """(folder, its model in float64) of each codec."""
  if os.environ.get("REGENERATE") == "1":
    _regenerate(request.param)
  folder = HERE / request.param
  assert folder.is_dir(), f"no golden files of {request.param}: run this test with REGENERATE=1"
  return folder, model_files.load(str(folder / "model"), "float64")


def test_files_of_an_earlier_version_decode_to_what_they_held(golden):
  folder, model = golden
  expected = json.loads((folder / "expected.json").read_text())
  assert set(expected) == set(_images(folder.name))
  for title, held in expected.items():
    assert _contents(model, (folder / f"{title}.kvc").read_bytes()) == held, title


def test_images_are_written_as_by_an_earlier_version_byte_for_byte(golden):
  folder, model = golden
  for title, image in _images(folder.name).items():
    data = model.compress(image, _QUALITIES.get(title))
    assert data == (folder / f"{title}.kvc").read_bytes(), title


def test_golden_files_use_several_cdf_rows_and_symbols(golden):
  folder, model = golden
  for path in folder.glob("*.kvc"):
    _, substreams = bitstream.parse(path.read_bytes())
    assert all(substreams), path
  decoded = _decoded(model, (folder / "photo.kvc").read_bytes())
  for integers, (z, y_hat, _) in zip(model.entropy_models, decoded):
    coder = NotingEncoder.of(integers.y_coder.encoder())
    if "z" in integers.substreams:
      state, _ = integers.code_y(coder, coder.init(), y_hat, z)
      _, rows = coder.finalize(state)
    else:
      (_, rows), _ = integers.code_z(coder, z)
    assert rows > 5
    assert np.unique(np.rint(y_hat)).size > 5


def test_integers_of_an_earlier_version_would_be_stored_as_they_are(golden):
  folder, model = golden
  arrays = dict(zip(model.codec.branches, (each.to_arrays() for each in model.entropy_models)))
  arrays = model.codec.prefixed(arrays.get)
  with np.load(folder / "model" / "integer.npz") as stored:
    assert set(stored.files) == set(arrays)
    for name in stored.files:
      found = np.asarray(arrays[name])
      assert (found.dtype, found.shape) == (stored[name].dtype, stored[name].shape), name
      np.testing.assert_array_equal(found, stored[name], name)


def test_the_model_of_an_earlier_version_has_the_fingerprint_that_its_files_carry(golden):
  folder, model = golden
  for path in folder.glob("*.kvc"):
    header, _ = bitstream.parse(path.read_bytes())
    assert header.fingerprint == model.fingerprint, path
