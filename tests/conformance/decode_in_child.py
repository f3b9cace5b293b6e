"""Decodes files in a process of its own and prints hashes: `test_exactness_across_processes`.

Usage: decode_in_child.py PRECISION THREADS MODEL FOLDER...

Each folder holds a model in the folder MODEL and its files, NAME.kvc, and pictures of some of them,
NAME.npy.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
import sys

import numpy as np


def main():
  precision, threads, model, *folders = sys.argv[1:]

  import tensorflow as tf

  tf.config.threading.set_intra_op_parallelism_threads(int(threads))
  tf.config.threading.set_inter_op_parallelism_threads(int(threads))
  found = {folder: hashes(pathlib.Path(folder), model, precision) for folder in folders}
  print(json.dumps(found))


def hashes(folder: pathlib.Path, model: str, precision: str) -> dict[str, dict[str, str]]:
  """Returns SHA-256 of each file's symbols.

  In float64 of bytes and pixels too, of the files that have a picture, and of these alone.
  """
  import tensorflow as tf

  from khuvcm_tf import bitstream, model_files

  loaded = model_files.load(str(folder / model), precision)
  precise = precision == "float64"
  size = tf.TensorSpec((), tf.int32)

  # In a graph, as `decompress` runs it, so that XLA clusters it where it is on.
  def decode(substreams, height, width):
    rows, columns = (-(-side // 64) * 4 for side in (height, width))
    found = loaded.coders[0].decode(substreams, rows, columns)
    pixels = loaded.codec.reconstruction(found.y_hat, height, width) if precise else ()
    return found, pixels

  decode = tf.function(decode, (tf.TensorSpec((None,), tf.string), size, size), autograph=False)
  results = {}
  for file in sorted(folder.glob("*.kvc")):
    picture = file.with_suffix(".npy")
    if precise and not picture.is_file():
      continue
    header, substreams = bitstream.parse(file.read_bytes())
    found, pixels = decode(substreams, header.height, header.width)
    assert found.exact
    results[file.stem] = {"z": _hash(found.z), "y_hat": _hash(found.y_hat)}
    if precise:
      data = loaded.compress(np.load(picture))
      results[file.stem].update(pixels=_hash(pixels), bytes=hashlib.sha256(data).hexdigest())
  return results


def _hash(values) -> str:
  return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


if __name__ == "__main__":
  main()
