"""One file, decoded by processes of other settings: the same symbols in all of them.

Each process starts TensorFlow anew (5 s and more), so settings are combined: a difference in any
of them shows. Convolutions in float64 take minutes under XLA: it is left out there.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from khuvcm_tf import codecs, model_files

_HERE = pathlib.Path(__file__).parent
_ROOT = _HERE.parents[1]

_XLA = {"TF_XLA_FLAGS": "--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit"}
_OLD_MACHINE = {"ONEDNN_MAX_CPU_ISA": "SSE41", "DNNL_MAX_CPU_ISA": "SSE41"}
_ONEDNN, _NO_ONEDNN = {"TF_ENABLE_ONEDNN_OPTS": "1"}, {"TF_ENABLE_ONEDNN_OPTS": "0"}

# Threads and environment of each child.
_OTHER_KERNELS = (1, {**_NO_ONEDNN, **_XLA})
_OTHER_MACHINE = (2, {**_ONEDNN, **_OLD_MACHINE, **_XLA})
_PRECISE = [
  (2, _ONEDNN),
  (1, _NO_ONEDNN),
  (1, {**_ONEDNN, **_OLD_MACHINE}),
]

_ARGUMENTS = {"num_filters": 16, "latent_depth": 24}


def _photo(astronaut, coffee):
  """Two photos side by side, uint8 [512, 808, 3]."""
  return np.concatenate([astronaut, np.concatenate([coffee, coffee[:112]])[:, :296]], axis=1)


def _with_spread_weights(codec):
  """Gives latents and parameters a range as trained ones have, so that all tables are at work."""
  rng = np.random.default_rng(0)
  for name, weight in codec.named_weights().items():
    if name.endswith("kernel"):
      kernel = weight.numpy()
      gain = {"analysis": 3, "hyper_analysis": 2, "hyper_synthesis": 2}.get(name.split("/")[0], 1)
      weight.assign(gain * kernel + rng.normal(scale=0.1 * kernel.std(), size=kernel.shape))


class _Files:
  """A model, a photo, and the file made of it in this process."""

  def __init__(self, root, photo):
    tf.keras.utils.set_random_seed(4)
    codec = codecs.create("mbt2018_mean", **_ARGUMENTS)
    _with_spread_weights(codec)
    self.folder = str(root / "model")
    self.model = model_files.save(
      self.folder, codec, {"codec": "mbt2018_mean", "arguments": _ARGUMENTS}, [photo[:256, 300:556]]
    )
    self.file, self.picture = str(root / "photo.kvc"), str(root / "photo.npy")
    np.save(self.picture, photo)
    with open(self.file, "wb") as stream:
      stream.write(self.model.compress(photo))
    y, z = self.model._latents(tf.constant(photo))
    coder = self.model.coder
    z_symbols = coder.symbols_of_z(z)
    mean, rows = coder.parameters(z_symbols)
    parts = z_symbols, coder.symbols_of_y(y, mean), mean, rows
    self.spread = np.unique(rows).size
    self.hashes = {
      name: hashlib.sha256(values.numpy().tobytes()).hexdigest()
      for name, values in zip(("z", "y", "means", "rows"), parts)
    }

  def in_child(self, precision, threads, environment, folder=None):
    """Returns the hashes that a process of other settings finds."""
    path = os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])
    finished = subprocess.run(
      [sys.executable, str(_HERE / "decode_in_child.py"), folder or self.folder]
      + [self.file, self.picture, precision, str(threads)],
      env={**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
      capture_output=True,
      text=True,
      check=False,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    return json.loads(finished.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def files(tmp_path_factory, astronaut, coffee):
  return _Files(tmp_path_factory.mktemp("exactness"), _photo(astronaut, coffee))


def test_the_photo_uses_many_scales(files):
  assert files.spread > 15


def test_symbols_of_a_file_are_equal_on_one_thread_without_onednn_with_xla(files):
  assert files.in_child("float32", *_OTHER_KERNELS) == files.hashes


def test_symbols_are_equal_with_old_instructions_and_other_floats_in_the_hyper_synthesis(
  files, tmp_path
):
  """The fingerprint is of integers and of the synthesis: such a model loads, and decodes alike."""
  folder = str(tmp_path / "changed")
  shutil.copytree(files.folder, folder)
  path = os.path.join(folder, "weights.npz")
  with np.load(path) as arrays:
    weights = dict(arrays)
  rng = np.random.default_rng(1)
  for name, value in weights.items():
    if name.startswith("hyper_synthesis/"):
      noise = rng.uniform(-1e-6, 1e-6, value.shape)
      weights[name] = (value + noise).astype(value.dtype)
  np.savez(path, **weights)
  assert files.in_child("float32", *_OTHER_MACHINE, folder) == files.hashes


def test_pixels_and_bytes_are_equal_under_all_settings_in_float64(files):
  found = [files.in_child("float64", *settings) for settings in _PRECISE]
  for name in ("pixels", "bytes"):
    assert len({each[name] for each in found}) == 1
  for each in found:
    assert {name: each[name] for name in files.hashes} == files.hashes
