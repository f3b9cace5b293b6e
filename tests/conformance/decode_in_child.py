"""Decodes files in a process of its own and prints hashes: `test_exactness_across_processes`.

Usage: decode_in_child.py PRECISION THREADS MODEL WAY

WAY is "graphs", as the methods of a model and of an exported one run, or "eagerly", op by op, which
leaves out the large image.

Reads folders from its input, one on a line. Each holds a model in the folder MODEL and its files,
NAME.kvc, and images of some of them, NAME.npz: `rgb`, or the parts of a frame.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import pathlib
import sys

import numpy as np


def main():
  precision, threads, model, way = sys.argv[1:]

  import tensorflow as tf

  tf.config.threading.set_intra_op_parallelism_threads(int(threads))
  tf.config.threading.set_inter_op_parallelism_threads(int(threads))
  import khuvcm_tf.model_files  # noqa: F401  While the first files are being made.

  # Nothing looks for garbage: among as many objects as graphs have, that takes long.
  gc.disable()
  folders = (line.rstrip("\n") for line in sys.stdin)
  found = {folder: hashes(pathlib.Path(folder), model, precision, way) for folder in folders}
  print(json.dumps(found), flush=True)
  os._exit(0)  # At once: to take down as many graphs as these takes seconds.


def hashes(folder: pathlib.Path, model: str, precision: str, way: str) -> dict[str, dict[str, str]]:
  """Returns SHA-256 of each file's symbols.

  In float64 of bytes and pixels too, of the files that have an image.
  """
  from khuvcm_tf import bitstream, model_files

  loaded = model_files.load(str(folder / model), precision)
  steps = _Steps(loaded, way)
  results = {}
  for file in sorted(folder.glob("*.kvc")):
    if way == "eagerly" and file.stem == "large":
      continue
    header, substreams = bitstream.parse(file.read_bytes())
    size = header.height, header.width
    found = steps.decode(substreams, *size)
    assert all(each.exact for each in found)
    by_branch = {
      branch: {"z": _hash(each.z), "y_hat": _hash(each.y_hat)}
      for branch, each in zip(loaded.codec.branches, found)
    }
    results[file.stem] = loaded.codec.prefixed(by_branch.get)
    image = file.with_suffix(".npz")
    if precision == "float64" and image.is_file():
      results[file.stem].update(
        pixels=_hash(*steps.pixels([each.y_hat for each in found], *size, header.quality)),
        bytes=hashlib.sha256(steps.compress(_image(image))).hexdigest(),
      )
  return results


class _Steps:
  """The steps of `compress` and `decompress`, run eagerly or as graphs.

  Graphs are what XLA clusters.
  """

  def __init__(self, model, way: str):
    import tensorflow as tf

    assert way in ("eagerly", "graphs")
    self._model, codec, number = model, model.codec, tf.TensorSpec((), tf.int32)
    if way == "graphs":
      y_hats = [tf.TensorSpec((1, None, None, each.depth)) for each in model.entropy_models]
      planes = tuple(
        tf.TensorSpec((1, None, None, channels), codec.plane_dtype)
        for channels in codec.input_format.plane_channels
      )
      self.decode = tf.function(
        self.decode, (tf.TensorSpec((None,), tf.string), number, number), autograph=False
      )
      self.pixels = tf.function(self.pixels, (y_hats, number, number, number), autograph=False)
      quality = [] if codec.num_qualities is None else [50.0]
      inputs = (planes, number, number, *(tf.TensorSpec(()) for _ in quality))
      compress = tf.function(model.compress_graph, inputs, autograph=False)

      def as_bytes(image):
        planes, header = model._planes(image)
        return compress(planes, header.input_format, header.bit_depth, *quality).numpy()

      self.compress = as_bytes

  def decode(self, substreams, height, width):
    """Returns what each entropy model decodes."""
    from khuvcm_tf.ops.padding import padded_size

    codec = self._model.codec
    rows, columns = (
      padded_size(side, codec.stride) // codec.latent_stride for side in (height, width)
    )
    found, first = [], 0
    for entropy_model in self._model.entropy_models:
      last = first + len(entropy_model.substreams)
      found.append(entropy_model.decode(substreams[first:last], rows, columns))
      first = last
    return found

  def pixels(self, y_hats, height, width, step):
    """Returns levels for y_hat of each branch: of the image, and of the frame if it is one."""
    import tensorflow as tf

    from khuvcm_tf.ops import color

    codec = self._model.codec
    planes = codec.decode(y_hats, height, width, self._model._quality(step))
    levels = [color.levels(codec.input_format.to_rgb(planes))]
    if codec.input_format.has_frames:
      levels += [tf.round(4.0 * plane) for plane in planes]  # Of 10 bits, but for clipping.
    return levels

  def compress(self, image) -> bytes:
    return self._model.compress(image)


def _image(path):
  """Returns an image to compress: RGB, or a frame."""
  from khuvcm_tf.data import frames

  with np.load(path) as arrays:
    parts = dict(arrays)
  if "rgb" in parts:
    return parts["rgb"]
  return frames.Frame(parts["y"], parts["cb"], parts["cr"], int(parts["bits"]))


def _hash(*values) -> str:
  digest = hashlib.sha256()
  for each in values:
    digest.update(np.ascontiguousarray(each).tobytes())
  return digest.hexdigest()


if __name__ == "__main__":
  main()
