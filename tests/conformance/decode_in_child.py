"""Decodes files in a process of its own and prints hashes: `test_exactness_across_processes`.

Usage: decode_in_child.py PRECISION THREADS MODEL

Reads folders from its input, one on a line. Each holds a model in the folder MODEL and its files,
NAME.kvc, and pictures of some of them, NAME.npz: `rgb`, or the parts of a frame.
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
  precision, threads, model = sys.argv[1:]

  import tensorflow as tf

  tf.config.threading.set_intra_op_parallelism_threads(int(threads))
  tf.config.threading.set_inter_op_parallelism_threads(int(threads))
  import khuvcm_tf.model_files  # noqa: F401  While the first files are being made.

  # Nothing looks for garbage: among as many objects as graphs have, that takes long.
  gc.disable()
  folders = (line.rstrip("\n") for line in sys.stdin)
  found = {folder: hashes(pathlib.Path(folder), model, precision) for folder in folders}
  print(json.dumps(found), flush=True)
  os._exit(0)  # At once: to take down as many graphs as these takes seconds.


def hashes(folder: pathlib.Path, model: str, precision: str) -> dict[str, dict[str, str]]:
  """Returns SHA-256 of each file's symbols.

  In float64 of bytes and pixels too, of the files that have a picture.
  """
  from khuvcm_tf import bitstream, model_files

  loaded = model_files.load(str(folder / model), precision)
  decode, pixels = _graphs(loaded)
  results = {}
  for file in sorted(folder.glob("*.kvc")):
    header, substreams = bitstream.parse(file.read_bytes())
    size = header.height, header.width
    found = decode(substreams, *size)
    assert all(each.exact for each in found)
    by_branch = {
      branch: {"z": _hash(each.z), "y_hat": _hash(each.y_hat)}
      for branch, each in zip(loaded.codec.branches, found)
    }
    results[file.stem] = loaded.codec.prefixed(by_branch.get)
    picture = file.with_suffix(".npz")
    if precision == "float64" and picture.is_file():
      results[file.stem].update(
        pixels=_hash(*pixels([each.y_hat for each in found], *size)),
        bytes=hashlib.sha256(loaded.compress(_picture(picture))).hexdigest(),
      )
  return results


def _graphs(model):
  """Returns the two halves of `decompress` as graphs, as it runs them: so XLA clusters them too.

  (substreams, height, width) -> what they tell each branch
  (y_hat of each branch, height, width) -> levels of the picture
  """
  import tensorflow as tf

  from khuvcm_tf.ops import color
  from khuvcm_tf.ops.padding import padded_size

  codec, number = model.codec, tf.TensorSpec((), tf.int32)

  def decode(substreams, height, width):
    rows, columns = (
      padded_size(side, codec.stride) // codec.latent_stride for side in (height, width)
    )
    found, first = [], 0
    for coder in model.coders:
      last = first + len(coder.substreams)
      found.append(coder.decode(substreams[first:last], rows, columns))
      first = last
    return found

  def pixels(y_hats, height, width):
    planes = codec.decode(y_hats, height, width)
    levels = [color.levels(codec.picture_format.rgb(planes))]
    if codec.picture_format.has_frames:
      levels += [tf.round(4.0 * plane) for plane in planes]  # Of 10 bits, but for clipping.
    return levels

  y_hats = [tf.TensorSpec((1, None, None, coder.depth)) for coder in model.coders]
  return (
    tf.function(decode, (tf.TensorSpec((None,), tf.string), number, number), autograph=False),
    tf.function(pixels, (y_hats, number, number), autograph=False),
  )


def _picture(path):
  """Returns a picture to compress: RGB, or a frame."""
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
