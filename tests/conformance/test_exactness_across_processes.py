"""Files, decoded by processes of other settings: the same symbols in all of them.

Each process starts TensorFlow anew (5 s and more), so settings are combined, and each decodes the
files of all codecs: a difference in any of them shows. Convolutions in float64 take minutes under
XLA: it is left out there.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
from concurrent import futures

import numpy as np
import pytest
import tensorflow as tf

from khuvcm_tf import bitstream, codecs, model_files

_HERE = pathlib.Path(__file__).parent
_ROOT = _HERE.parents[1]

_XLA = {"TF_XLA_FLAGS": "--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit"}
_OLD_MACHINE = {"ONEDNN_MAX_CPU_ISA": "SSE41", "DNNL_MAX_CPU_ISA": "SSE41"}
_ONEDNN, _NO_ONEDNN = {"TF_ENABLE_ONEDNN_OPTS": "1"}, {"TF_ENABLE_ONEDNN_OPTS": "0"}

# Precision, threads, model and environment of each child.
_CHILDREN = {
  "one thread without oneDNN with XLA": ("float32", 1, "model", {**_NO_ONEDNN, **_XLA}),
  "old instructions, other floats": ("float32", 2, "changed", {**_ONEDNN, **_OLD_MACHINE, **_XLA}),
  "precise": ("float64", 2, "model", _ONEDNN),
  "precise without oneDNN": ("float64", 1, "model", _NO_ONEDNN),
  "precise on an old machine": ("float64", 1, "model", {**_ONEDNN, **_OLD_MACHINE}),
}
_PRECISE = [title for title in _CHILDREN if title.startswith("precise")]

# Arguments, and how many rows of its tables a photo shall use at least.
_CODECS = {
  "mbt2018_mean": ({"num_filters": 16, "latent_depth": 24}, 15),
  "mbt2018": ({"num_filters": 8, "latent_depth": 12}, 500),
  "cheng2020": ({"num_filters": 8, "num_mixtures": 3}, 500),
}

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


def _spread_weights(codec, photo):
  """Gives latents and parameters a range as trained ones have, so that all tables are at work."""
  rng = np.random.default_rng(0)
  weights = codec.named_weights()
  for name, weight in weights.items():
    if name.endswith("kernel"):
      kernel = weight.numpy()
      gain = 2 if name.split("/")[0] in ("hyper_analysis", *_TWINNED) else 1
      weight.assign(gain * kernel + rng.normal(scale=0.1 * kernel.std(), size=kernel.shape))
  gain = 6 / np.std(codec.latents(codec.planes(photo[np.newaxis]))[0])
  for name in ("analysis/conv3/kernel", "analysis/conv3/bias"):
    weights[name].assign(weights[name] * gain)


class _Files:
  """A model, and files that it has made of pictures in this process.

  Attributes:
    hashes: of each file's symbols.
  """

  def __init__(self, folder, name, pictures):
    tf.keras.utils.set_random_seed(4)
    self.folder, (arguments, self.least_rows) = folder, _CODECS[name]
    codec = codecs.create(name, **arguments)
    crop = pictures["photo"][:256, 300:556]
    _spread_weights(codec, crop)
    description = {"codec": name, "arguments": arguments}
    with pytest.MonkeyPatch.context() as patch:
      # Such weights tell little of the latents, so that it costs bits to tell it less exactly.
      patch.setattr(model_files, "LOSS_LIMIT", 1.0)
      self.model = model_files.save(str(folder / "model"), codec, description, [crop])
    self._change_floats()
    coder = self.model.coders[0]
    signature = [tf.TensorSpec((1, None, None, n)) for n in (coder.depth, len(coder.medians))]
    self._coded = tf.function(self._code, signature, autograph=False)
    self.hashes = {}
    for title, picture in pictures.items():
      y, z = self.model._latents(tf.constant(picture))
      self._write(title, y, z, picture.shape[:2])
      if title != "large":
        np.save(folder / f"{title}.npy", picture)
    # Latents far outside all windows, among them the farthest that can be coded.
    y, z = self.model._latents(tf.constant(crop[:64, :128]))
    self._write("far", y * (60_000 / np.abs(y).max()), z, (64, 128))

  def _change_floats(self):
    """Writes the model anew, as one whose floats another machine has rounded otherwise."""
    shutil.copytree(self.folder / "model", self.folder / "changed")
    with np.load(self.folder / "model" / "weights.npz") as arrays:
      weights = dict(arrays)
    rng = np.random.default_rng(1)
    for name, value in weights.items():
      if name.startswith(_TWINNED):
        weights[name] = (value + rng.uniform(-1e-6, 1e-6, value.shape)).astype(value.dtype)
    np.savez(self.folder / "changed" / "weights.npz", **weights)

  def _code(self, y, z):
    """Returns z's symbols, y_hat and the substreams, on the way that `encode` takes."""
    coder = self.model.coders[0]
    bytes_of_z, z = coder.pass_z(coder.table_coder.writer(), coder.symbols_of_z(z))
    stream = coder.y_coder.writer()
    state, y_hat = coder.code_y(stream, stream.open(), y, z)
    return z, y_hat, tf.stack([bytes_of_z, stream.close(state)])

  def _write(self, title, y, z, size):
    z, y_hat, substreams = self._coded(y, z)
    header = bitstream.Header(self.model.fingerprint, bitstream.RGB, 8, *size)
    (self.folder / f"{title}.kvc").write_bytes(bitstream.pack(header, substreams).numpy())
    self.hashes[title] = {
      name: hashlib.sha256(values.numpy().tobytes()).hexdigest()
      for name, values in (("z", z), ("y_hat", y_hat))
    }


def _in_child(folders, precision, threads, model, environment):
  """Returns the hashes that a process of other settings finds, by folder and file."""
  path = os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])
  finished = subprocess.run(
    [sys.executable, str(_HERE / "decode_in_child.py"), precision, str(threads), model, *folders],
    env={**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
    capture_output=True,
    text=True,
    check=False,
  )
  assert finished.returncode == 0, finished.stderr[-2000:]
  return json.loads(finished.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def pictures(astronaut, coffee):
  return _pictures(astronaut, coffee)


@pytest.fixture(scope="module")
def made(tmp_path_factory, pictures):
  """_Files of each codec."""
  root = tmp_path_factory.mktemp("exactness")
  found = {}
  for name in _CODECS:
    (root / name).mkdir()
    found[name] = _Files(root / name, name, pictures)
  return found


@pytest.fixture(scope="module")
def children(made):
  """What each child finds, by its title and the codec's name."""
  folders = {name: str(files.folder) for name, files in made.items()}
  # Two at a time: each traces graphs on one core for most of its time.
  with futures.ThreadPoolExecutor(2) as pool:
    found = pool.map(lambda settings: _in_child(folders.values(), *settings), _CHILDREN.values())
    return {
      title: {name: each[folder] for name, folder in folders.items()}
      for title, each in zip(_CHILDREN, found)
    }


@pytest.mark.parametrize("name", _CODECS)
class TestExactness:
  def test_is_tested_with_many_rows_of_the_tables(self, made, pictures, rows_seen, name):
    model, seen = made[name].model, rows_seen()
    y, z = model._latents(tf.constant(pictures["photo"][:256, :256]))
    model.coders[0].code_y(seen, 0, y, model.coders[0].symbols_of_z(z))
    assert len(seen.rows) > made[name].least_rows

  def test_of_symbols_holds_on_one_thread_without_onednn_with_xla(self, made, children, name):
    assert children["one thread without oneDNN with XLA"][name] == made[name].hashes

  def test_of_symbols_holds_with_old_instructions_and_other_floats(self, made, children, name):
    """The fingerprint is of integers and of the synthesis: such a model loads; it decodes alike."""
    assert children["old instructions, other floats"][name] == made[name].hashes

  def test_of_pixels_and_bytes_holds_under_all_settings_in_float64(self, made, children, name):
    first, *others = (children[title][name] for title in _PRECISE)
    assert others == [first] * len(others)
    assert set(first) == {"smallest", "odd", "photo"}
    for title, hashes in first.items():
      assert {part: hashes[part] for part in ("z", "y_hat")} == made[name].hashes[title]
      assert set(hashes) == {"z", "y_hat", "pixels", "bytes"}
