"""Files, decoded by processes of other settings: the same symbols in all of them.

Each process starts TensorFlow anew (4 s) and builds graphs for each codec, which takes longest. So
settings are combined: a difference in any of them shows. One of the settings is whether steps run
as graphs or eagerly, op by op; the largest image, of many steps, is decoded by graphs alone. All
processes run at once, and begin with a codec as soon as its files are made. Convolutions in float64
take minutes under XLA: it is left out there.
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
from khuvcm_tf.codecs import codec as codec_lib
from khuvcm_tf.entropy.calibration import conversion
from tests.noting_encoder import NotingEncoder

_HERE = pathlib.Path(__file__).parent
_ROOT = _HERE.parents[1]

_XLA = {"TF_XLA_FLAGS": "--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit"}
_OLD_MACHINE = {"ONEDNN_MAX_CPU_ISA": "SSE41", "DNNL_MAX_CPU_ISA": "SSE41"}
_ONEDNN, _NO_ONEDNN = {"TF_ENABLE_ONEDNN_OPTS": "1"}, {"TF_ENABLE_ONEDNN_OPTS": "0"}

# Arguments, and how many CDF rows a photo shall use at least, for each branch. The last codec is
# given raw frames in place of RGB images; `mbt2018` has several rates.
_CODECS = {
  "mbt2018_mean": ({"num_filters": 16, "latent_depth": 24}, [15]),
  "mbt2018": ({"num_filters": 8, "latent_depth": 12, "num_qualities": 3}, [500]),
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

# Precision, threads, model, way and environment of each child. The process that makes the files is
# one of float32, of all threads, with oneDNN and graphs.
_EAGER = "precise, eager on an old machine"
_CHILDREN = {
  "precise, one thread without oneDNN": ("float64", 1, "model", "graphs", _NO_ONEDNN),
  _EAGER: ("float64", 2, "model", "eagerly", {**_ONEDNN, **_OLD_MACHINE}),
  "old machine, other floats, XLA": (
    *("float32", 2, "changed", "graphs", {**_ONEDNN, **_OLD_MACHINE, **_XLA}),
  ),
}
_PRECISE = [title for title in _CHILDREN if title.startswith("precise")]

# The float networks that have an integer counterpart.
_CONVERTED = ("hyper_synthesis", "context", "entropy_parameters")


def _images(astronaut, coffee):
  """Two photos side by side, mirrored in all ways to uint8 [1080, 1920, 3], and parts of it."""
  photo = np.concatenate([astronaut, np.concatenate([coffee, coffee[:112]])[:, :256]], axis=1)
  wide = np.concatenate([photo, photo[:, ::-1], photo], axis=1)
  return {
    "smallest": photo[200:201, 300:301],
    "odd": photo[100:117, 300:333],
    "photo": photo[:256, 300:620],
    "large": np.concatenate([wide, wide[::-1], wide], axis=0)[:1080, :1920],
  }


def _of_networks(codec, networks):
  """Returns the names of the weights of some networks, in all branches."""
  position = (
    1 if len(codec.branches) > 1 else 0
  )  # Behind the branch's name where there are several.
  found = {name for name in codec.named_weights() if name.split("/")[position] in networks}
  weights = [
    network.trainable_weights
    for branch in codec.branches
    for name, network in branch.networks.items()
    if name in networks
  ]
  assert len(weights) >= len(codec.branches) and len(found) == sum(map(len, weights))
  return found


def _spread_weights(codec, photo):
  """Gives latents and parameters a range as trained ones have, so that many CDF rows are used."""
  rng = np.random.default_rng(0)
  weights = codec.named_weights()
  doubled = _of_networks(codec, ("hyper_analysis", *_CONVERTED))
  for name, weight in weights.items():
    if name.endswith("log_gain"):
      weight.assign_add(rng.normal(scale=0.2, size=weight.shape))
    if name.endswith("kernel"):
      kernel = weight.numpy()
      gain = 2 if name in doubled else 1
      weight.assign(gain * kernel + rng.normal(scale=0.1 * kernel.std(), size=kernel.shape))
  for i, branch in enumerate(codec.branches):
    gain = 6 / np.std(codec.latents(codec.planes(photo[np.newaxis]), codec.qualities[-1])[i])
    joined = "analysis_with_luma" in branch.networks
    last = "analysis_with_luma/conv" if joined else "analysis/conv3"
    prefix = f"{branch.name}/" if len(codec.branches) > 1 else ""
    for part in ("kernel", "bias"):
      weight = weights[f"{prefix}{last}/{part}"]
      weight.assign(weight * gain)


class _Files:
  """A model, and files that it has made of images in this process.

  Attributes:
    hashes: of each file's symbols.
    rows: how many CDF rows the photo uses, of each branch.
  """

  def __init__(self, folder, name, images):
    tf.keras.utils.set_random_seed(4)
    self.folder, (arguments, self.least_rows) = folder, _CODECS[name]
    codec = codecs.create(name, **arguments)
    crop = images["photo"][:, :256]
    _spread_weights(codec, crop)
    description = {"codec": name, "arguments": arguments}
    with pytest.MonkeyPatch.context() as patch:
      # What integers cost is not measured: that takes a graph for each width. The widest are taken.
      losses = itertools.count(0, -1)
      patch.setattr(conversion, "conversion_loss", lambda *_: next(losses))
      self.model = model_files.save(str(folder / "model"), codec, description, [crop])
    self._step = self.model.step(None)  # of the default quality
    self._change_floats()
    depths = [n for each in self.model.entropy_models for n in (each.depth, len(each.medians))]
    signature = [tf.TensorSpec((1, None, None, depth)) for depth in depths]
    self._coded = tf.function(self._code, signature, autograph=False)
    self.hashes = {}
    for title, image in images.items():
      rows = self._write(title, self.latents(image), image.shape[:2])
      if title != "large":
        self._write_image(folder / title, image, name == _OF_FRAMES)
      if title == "photo":
        self.rows = rows
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
    converted = _of_networks(self.model.codec, _CONVERTED)
    for name, value in weights.items():
      if name in converted:
        weights[name] = (value + rng.uniform(-1e-6, 1e-6, value.shape)).astype(value.dtype)
        assert (weights[name] != value).any()
    np.savez(self.folder / "changed" / "weights.npz", **weights)

  def _write_image(self, path, image, as_frame):
    """Writes what children are to compress: RGB, or its levels of 10 bits in 4:2:0."""
    if as_frame:
      planes = self.model.codec.planes(image[np.newaxis])
      y, uv = (np.clip(np.rint(4 * plane[0]), 0, 1023).astype(np.uint16) for plane in planes)
      np.savez(path.with_suffix(".npz"), y=y[..., 0], cb=uv[..., 0], cr=uv[..., 1], bits=10)
    else:
      np.savez(path.with_suffix(".npz"), rgb=image)

  def latents(self, image):
    """Returns (y, z) of each branch of an image, as `compress` finds them."""
    codec, found = self.model.codec, []
    x = codec.samples(codec.planes(image[np.newaxis]))
    quality = None if codec.num_qualities is None else self._step / 255 * (codec.num_qualities - 1)
    context = codec_lib.Context(codec_lib.in_bands, quality=quality)
    for branch, integers in zip(codec.branches, self.model.entropy_models):
      y = branch.encode(x, context)
      z = branch.entropy_model.side_information(y)
      found.append((y, z))
      context = context.after(branch, integers.y_hat(y, z))
    return found

  def _code(self, *latents):
    """Codes y, z of the first branch, then of the next, in the way that `encode` takes.

    Returns:
      z's symbols and y_hat of each branch, the substreams, and how many CDF rows y of each branch
      was coded with.
    """
    found, substreams, rows = [], [], []
    for integers, y, z in zip(self.model.entropy_models, latents[::2], latents[1::2]):
      bytes_of_z, z = integers.code_z(integers.table_coder.encoder(), integers.symbols_of_z(z))
      coder = NotingEncoder.of(integers.y_coder.encoder())
      state, y_hat = integers.code_y(coder, coder.init(), y, z)
      bytes_of_y, of_branch = coder.finalize(state)
      found.append({"z": z, "y_hat": y_hat})
      substreams += [bytes_of_z, bytes_of_y]
      rows.append(of_branch)
    return found, substreams, rows

  def _write(self, title, latents, size):
    """Writes a file of (y, z) of each branch and notes its hashes; returns `_code`'s rows."""
    found, substreams, rows = self._coded(*itertools.chain(*latents))
    header = bitstream.Header(self.model.fingerprint, bitstream.RGB, 8, *size, self._step)
    version = 1 if self.model.codec.num_qualities is None else 2
    data = bitstream.pack(header, [each.numpy() for each in substreams], version)
    (self.folder / f"{title}.kvc").write_bytes(data)
    by_branch = dict(zip(self.model.codec.branches, found))
    self.hashes[title] = {
      name: hashlib.sha256(values.numpy().tobytes()).hexdigest()
      for name, values in self.model.codec.prefixed(by_branch.get).items()
    }
    return [int(each) for each in rows]


class _Child:
  """A process of other settings, which decodes the files in the folders that it is given."""

  def __init__(self, precision, threads, model, way, environment):
    path = os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])
    self.process = subprocess.Popen(
      [sys.executable, str(_HERE / "decode_in_child.py"), precision, str(threads), model, way],
      env={**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  def add(self, folder):
    """Gives it a folder of finished files."""
    with contextlib.suppress(BrokenPipeError):  # It has failed; `hashes` will say why.
      self.process.stdin.write(f"{folder}\n")
      self.process.stdin.flush()

  def hashes(self):
    """Returns the hashes that it has found, by folder and file."""
    output, errors = self.process.communicate(timeout=1800)
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
def images(astronaut, coffee):
  return _images(astronaut, coffee)


@pytest.fixture(scope="module")
def started(tmp_path_factory, images):
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
        found[name] = _Files(root / name, name, images)
        for child in children.values():
          child.add(root / name)
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
    title: {name: each[str(files[name].folder)] for name in _CODECS}
    for title, each in found.items()
  }


def _symbols(found):
  """Returns the hashes of symbols alone, by file."""
  return {
    file: {part: hashes[part] for part in hashes if part not in ("pixels", "bytes")}
    for file, hashes in found.items()
  }


class TestExactness:
  @pytest.mark.parametrize("name", _CODECS)
  def test_is_tested_with_many_cdf_rows(self, made, name):
    assert len(made[name].rows) == len(made[name].least_rows)
    for rows, least in zip(made[name].rows, made[name].least_rows):
      assert rows > least

  @pytest.mark.parametrize("title", _CHILDREN)
  @pytest.mark.parametrize("name", _CODECS)
  def test_of_symbols_holds_in_all_processes(self, made, children, title, name):
    """Other floats outside the synthesis are no other fingerprint: the model decodes alike."""
    expected = dict(made[name].hashes)
    if title == _EAGER:
      del expected["large"]
    assert _symbols(children[title][name]) == expected

  @pytest.mark.parametrize("name", _CODECS)
  def test_of_pixels_and_bytes_holds_under_all_settings_in_float64(self, children, name):
    graphs, eager = (
      {
        file: {part: hashes[part] for part in ("pixels", "bytes")}
        for file, hashes in children[title][name].items()
        if "pixels" in hashes
      }
      for title in _PRECISE
    )
    assert set(graphs) == {"smallest", "odd", "photo"}
    assert eager == graphs
