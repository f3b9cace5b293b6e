"""Files, decoded by processes of other settings: the same symbols in all of them.

Each process starts TensorFlow anew (3 s), so settings are combined, and each decodes the files of
several codecs: a difference in any of them shows. Most of the time goes into building graphs: where
codecs share their layers and their entropy model, one of them stands for both under a setting.
Graphs take one core: all processes run at once, and begin with a codec as soon as its files are
made. Convolutions in float64 take minutes under XLA: it is left out there.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from khuvcm_tf import bitstream, codecs, model_files
from khuvcm_tf.entropy import integer_coder, range_coder

_HERE = pathlib.Path(__file__).parent
_ROOT = _HERE.parents[1]

_XLA = {"TF_XLA_FLAGS": "--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit"}
_OLD_MACHINE = {"ONEDNN_MAX_CPU_ISA": "SSE41", "DNNL_MAX_CPU_ISA": "SSE41"}
_ONEDNN, _NO_ONEDNN = {"TF_ENABLE_ONEDNN_OPTS": "1"}, {"TF_ENABLE_ONEDNN_OPTS": "0"}

# Arguments, and how many rows of its tables a photo shall use at least, for each branch. The last
# codec is given raw frames in place of RGB pictures.
_CODECS = {
  "mbt2018_mean": ({"num_filters": 16, "latent_depth": 24}, [15]),
  "mbt2018": ({"num_filters": 8, "latent_depth": 12}, [500]),
  "cheng2020": ({"num_filters": 8, "num_mixtures": 3}, [500]),
  "luma_chroma420": (
    {"num_filters": 8, "latent_depth": 12, "entropy_model": "mixture"},
    [500],
  ),
  "cross_component": (
    {"num_filters": 8, "latent_depth": 12, "condition": "both", "entropy_model": "context"},
    [500, 500],
  ),
}
_OF_FRAMES = "cross_component"

# Precision, threads, model and environment of each child, and its codecs. The process that makes
# the files is one of float32, of all threads and with oneDNN.
_CHILDREN = {
  "precise": ("float64", 2, "model", _ONEDNN, tuple(_CODECS)),
  "precise, one thread without oneDNN": (
    *("float64", 1, "model", _NO_ONEDNN),
    ("mbt2018_mean", "mbt2018", "cross_component"),
  ),
  "precise on an old machine": (
    *("float64", 1, "model", {**_ONEDNN, **_OLD_MACHINE}),
    ("mbt2018_mean", "cheng2020", "luma_chroma420"),
  ),
  "old machine, other floats, XLA": (
    *("float32", 2, "changed", {**_ONEDNN, **_OLD_MACHINE, **_XLA}),
    tuple(_CODECS),
  ),
}
_PRECISE = [title for title in _CHILDREN if title.startswith("precise")]
_FAST = [title for title in _CHILDREN if title not in _PRECISE]

# Of the float networks that have an integer twin.
_TWINNED = ("hyper_synthesis", "context", "entropy_parameters")


def _pictures(astronaut, coffee):
  """Photos: two side by side, uint8 [512, 768, 3], corners of it, and it mirrored in all ways."""
  photo = np.concatenate([astronaut, np.concatenate([coffee, coffee[:112]])[:, :256]], axis=1)
  wide = np.concatenate([photo, photo[:, ::-1], photo], axis=1)
  return {
    "smallest": photo[200:201, 300:301],
    "odd": photo[100:117, 300:333],
    "photo": photo,
    "large": np.concatenate([wide, wide[::-1], wide], axis=0)[:1080, :1920],
  }


def _of_networks(codec, networks):
  """Returns the names of the weights of some networks, in all branches."""
  place = 1 if len(codec.branches) > 1 else 0  # Behind the branch's name where there are several.
  found = {name for name in codec.named_weights() if name.split("/")[place] in networks}
  weights = [
    network.trainable_weights
    for branch in codec.branches
    for name, network in branch.networks.items()
    if name in networks
  ]
  assert len(weights) >= len(codec.branches) and len(found) == sum(map(len, weights))
  return found


def _spread_weights(codec, photo):
  """Gives latents and parameters a range as trained ones have, so that all tables are at work."""
  rng = np.random.default_rng(0)
  weights = codec.named_weights()
  doubled = _of_networks(codec, ("hyper_analysis", *_TWINNED))
  for name, weight in weights.items():
    if name.endswith("kernel"):
      kernel = weight.numpy()
      gain = 2 if name in doubled else 1
      weight.assign(gain * kernel + rng.normal(scale=0.1 * kernel.std(), size=kernel.shape))
  for i, branch in enumerate(codec.branches):
    gain = 6 / np.std(codec.latents(codec.planes(photo[np.newaxis]))[i])
    joined = "analysis_with_luma" in branch.networks
    last = "analysis_with_luma/conv" if joined else "analysis/conv3"
    prefix = f"{branch.name}/" if len(codec.branches) > 1 else ""
    for part in ("kernel", "bias"):
      weight = weights[f"{prefix}{last}/{part}"]
      weight.assign(weight * gain)


class _Writer(range_coder.Writer):
  """Notes by which rows of its lookup it codes."""

  def open(self):
    return super().open(), tf.zeros(tf.shape(self._lookup), tf.bool)

  def code(self, state, rows, symbols):
    handle, noted = state
    handle, symbols = super().code(handle, rows, symbols)
    noted = tf.tensor_scatter_nd_update(noted, rows[:, tf.newaxis], tf.ones_like(rows, tf.bool))
    return (handle, noted), symbols

  def close(self, state):
    """Returns the bytes, and how many rows were noted."""
    handle, noted = state
    return super().close(handle), tf.math.count_nonzero(noted)


class _Files:
  """A model, and files that it has made of pictures in this process.

  Attributes:
    hashes: of each file's symbols.
    rows: how many rows of the tables a corner of the photo uses, of each branch.
  """

  def __init__(self, folder, name, pictures):
    tf.keras.utils.set_random_seed(4)
    self.folder, (arguments, self.least_rows) = folder, _CODECS[name]
    codec = codecs.create(name, **arguments)
    crop = pictures["photo"][:256, 300:556]
    _spread_weights(codec, crop)
    description = {"codec": name, "arguments": arguments}
    with pytest.MonkeyPatch.context() as patch:
      # What integers cost is not measured: that takes a graph for each width. The widest are taken.
      costs = itertools.count(0, -1)
      patch.setattr(integer_coder, "loss_of", lambda *_: next(costs))
      self.model = model_files.save(str(folder / "model"), codec, description, [crop])
    self._change_floats()
    depths = [n for coder in self.model.coders for n in (coder.depth, len(coder.medians))]
    signature = [tf.TensorSpec((1, None, None, depth)) for depth in depths]
    self._coded = tf.function(self._code, signature, autograph=False)
    self.hashes = {}
    for title, picture in pictures.items():
      self._write(title, self.latents(picture), picture.shape[:2])
      if title != "large":
        self._write_picture(folder / title, picture, name == _OF_FRAMES)
    *_, self.rows = self._coded(*itertools.chain(*self.latents(pictures["photo"][:256, :256])))
    # Latents far outside all windows, among them the farthest that can be coded.
    latents = self.latents(crop[:64, :128])
    far = [(y * (60_000 / np.abs(y).max()), z) for y, z in latents]
    self._write("far", far, (64, 128))

  def _change_floats(self):
    """Writes the model anew, as one whose floats another machine has rounded otherwise."""
    shutil.copytree(self.folder / "model", self.folder / "changed")
    with np.load(self.folder / "model" / "weights.npz") as arrays:
      weights = dict(arrays)
    rng = np.random.default_rng(1)
    twinned = _of_networks(self.model.codec, _TWINNED)
    for name, value in weights.items():
      if name in twinned:
        weights[name] = (value + rng.uniform(-1e-6, 1e-6, value.shape)).astype(value.dtype)
        assert (weights[name] != value).any()
    np.savez(self.folder / "changed" / "weights.npz", **weights)

  def _write_picture(self, path, picture, as_frame):
    """Writes what children are to compress: RGB, or its levels of 10 bits in 4:2:0."""
    if as_frame:
      planes = self.model.codec.planes(picture[np.newaxis])
      y, uv = (np.clip(np.rint(4 * plane[0]), 0, 1023).astype(np.uint16) for plane in planes)
      np.savez(path.with_suffix(".npz"), y=y[..., 0], cb=uv[..., 0], cr=uv[..., 1], bits=10)
    else:
      np.savez(path.with_suffix(".npz"), rgb=picture)

  def latents(self, picture):
    """Returns (y, z) of each branch of a picture, as `compress` finds them."""
    found = []

    def pass_on(branch, y):
      found.append((y, branch.latent_coder.side_information(y)))
      return self.model.coders[len(found) - 1].y_hat(*found[-1])

    codec = self.model.codec
    codec.encode(codec.planes(picture[np.newaxis]), pass_on)
    return found

  def _code(self, *latents):
    """Returns z's symbols and y_hat of each branch, the substreams, and how many rows told each y.

    All on the way that `encode` takes.

    Args:
      *latents: y, z of the first branch, then of the next.
    """
    found, substreams, rows = [], [], []
    for coder, y, z in zip(self.model.coders, latents[::2], latents[1::2]):
      bytes_of_z, z = coder.pass_z(coder.table_coder.writer(), coder.symbols_of_z(z))
      stream = _Writer(coder.y_coder.writer()._lookup)
      state, y_hat = coder.code_y(stream, stream.open(), y, z)
      bytes_of_y, of_branch = stream.close(state)
      found.append({"z": z, "y_hat": y_hat})
      substreams += [bytes_of_z, bytes_of_y]
      rows.append(of_branch)
    return found, tf.stack(substreams), rows

  def _write(self, title, latents, size):
    found, substreams, _ = self._coded(*itertools.chain(*latents))
    header = bitstream.Header(self.model.fingerprint, bitstream.RGB, 8, *size)
    (self.folder / f"{title}.kvc").write_bytes(bitstream.pack(header, substreams).numpy())
    by_branch = dict(zip(self.model.codec.branches, found))
    self.hashes[title] = {
      name: hashlib.sha256(values.numpy().tobytes()).hexdigest()
      for name, values in self.model.codec.prefixed(by_branch.get).items()
    }


class _Child:
  """A process of other settings, which decodes the files in the folders that it is told of."""

  def __init__(self, precision, threads, model, environment, codec_names):
    self.codec_names = codec_names
    path = os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])
    self.process = subprocess.Popen(
      [sys.executable, str(_HERE / "decode_in_child.py"), precision, str(threads), model],
      env={**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  def tell(self, folder):
    with contextlib.suppress(BrokenPipeError):  # It has failed; `hashes` will say why.
      self.process.stdin.write(f"{folder}\n")
      self.process.stdin.flush()

  def hashes(self):
    """Returns the hashes that it has found, by folder and file."""
    output, errors = self.process.communicate()
    assert self.process.returncode == 0, errors[-2000:]
    return json.loads(output.splitlines()[-1])


@contextlib.contextmanager
def _no_collection():
  """Lets nothing look for garbage: among as many objects as graphs have, that takes long."""
  gc.collect()
  gc.disable()
  try:
    yield
  finally:
    gc.enable()


@pytest.fixture(scope="module")
def pictures(astronaut, coffee):
  return _pictures(astronaut, coffee)


@pytest.fixture(scope="module")
def started(tmp_path_factory, pictures):
  """_Files of each codec, and each _Child at work on them."""
  root = tmp_path_factory.mktemp("exactness")
  found = {}
  with contextlib.ExitStack() as stack:
    children = {title: _Child(*settings) for title, settings in _CHILDREN.items()}
    for child in children.values():
      stack.enter_context(child.process)  # Waits for its end, whatever happens here.
    with _no_collection():
      for name in _CODECS:
        (root / name).mkdir()
        found[name] = _Files(root / name, name, pictures)
        for child in children.values():
          if name in child.codec_names:
            child.tell(root / name)
    yield found, children


@pytest.fixture(scope="module")
def made(started):
  """_Files of each codec."""
  return started[0]


@pytest.fixture(scope="module")
def children(started):
  """What each child finds, by its title and the codec's name."""
  files, children = started
  found = {title: child.hashes() for title, child in children.items()}
  return {
    title: {name: each[str(files[name].folder)] for name in children[title].codec_names}
    for title, each in found.items()
  }


def _pairs(titles):
  """Returns each (title, codec) that there is."""
  return [(title, name) for title in titles for name in _CHILDREN[title][-1]]


class TestExactness:
  @pytest.mark.parametrize("name", _CODECS)
  def test_is_tested_with_many_rows_of_the_tables(self, made, name):
    assert len(made[name].rows) == len(made[name].least_rows)
    for rows, least in zip(made[name].rows, made[name].least_rows):
      assert rows > least

  @pytest.mark.parametrize("title, name", _pairs(_PRECISE))
  def test_of_symbols_holds_in_float64(self, made, children, title, name):
    found = {
      file: {part: hashes[part] for part in hashes if part not in ("pixels", "bytes")}
      for file, hashes in children[title][name].items()
    }
    assert found == made[name].hashes

  @pytest.mark.parametrize("title, name", _pairs(_FAST))
  def test_of_symbols_holds_in_float32(self, made, children, title, name):
    """Other floats outside the synthesis are no other fingerprint: the model decodes alike."""
    assert children[title][name] == made[name].hashes

  @pytest.mark.parametrize("name", _CODECS)
  def test_of_pixels_and_bytes_holds_under_all_settings_in_float64(self, children, name):
    first, *others = (children[title][name] for title in _PRECISE if name in children[title])
    assert others and others == [first] * len(others)
    assert {file for file, hashes in first.items() if {"pixels", "bytes"} <= set(hashes)} == {
      "smallest",
      "odd",
      "photo",
    }
