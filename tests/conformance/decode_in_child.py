"""Decodes a file in a process of its own and prints hashes: `test_exactness_across_processes`.

Usage: decode_in_child.py FOLDER FILE PICTURE.npy PRECISION THREADS
"""

from __future__ import annotations

import hashlib
import json
import sys

import numpy as np


def main():
  folder, file, picture, precision, threads = sys.argv[1:]

  import tensorflow as tf

  tf.config.threading.set_intra_op_parallelism_threads(int(threads))
  tf.config.threading.set_inter_op_parallelism_threads(int(threads))
  print(json.dumps(hashes(folder, file, picture, precision)))


def hashes(folder: str, file: str, picture: str, precision: str) -> dict[str, str]:
  """Returns SHA-256 of the symbols and parameters in a file; in float64 of bytes and pixels too."""
  import tensorflow as tf

  from khuvcm_tf import bitstream, model_files

  model = model_files.load(folder, precision)
  with open(file, "rb") as stream:
    data = stream.read()
  header, substreams = bitstream.parse(data)
  rows, columns = (-(-side // 64) * 4 for side in (header.height, header.width))
  # In a graph, as `decompress` runs it, so that XLA clusters it where it is on.
  decode = tf.function(lambda substreams: model.coder.decode(substreams, rows, columns))
  found = {
    name: _hash(values.numpy())
    for name, values in zip(("z", "y", "means", "rows"), decode(tf.constant(substreams)))
  }
  if precision == "float64":
    found["pixels"] = _hash(model.decompress(data))
    found["bytes"] = hashlib.sha256(model.compress(np.load(picture))).hexdigest()
  return found


def _hash(values: np.ndarray) -> str:
  return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


if __name__ == "__main__":
  main()
