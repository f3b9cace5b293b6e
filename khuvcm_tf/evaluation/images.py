"""One image through a coder: by way of a file, measured; and what is left out with its reason.

A row of results has these columns:

  height, width   pixels
  bytes           of the file, as the file system counts them
  bpp             8 bytes / (height width)
  estimated_bpp   of what the coder's tables give to the symbols alone: without header and checksum
  psnr_rgb, ...   `metrics.METRICS`
  encode_s        wall time from uint8 array to bytes
  decode_s        wall time from bytes to uint8 array

Times leave out files and metrics.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

import numpy as np
import tqdm
from absl import logging

from khuvcm_tf import atomic_files, executor
from khuvcm_tf.data.inputs import Input
from khuvcm_tf.evaluation import coders, metrics
from khuvcm_tf.results.rows import Quantity, Row

COLUMNS: dict[str, Quantity] = {
  quantity.key: quantity
  for quantity in (
    Quantity("height", "Height", "", 0),
    Quantity("width", "Width", "", 0),
    Quantity("bytes", "Bytes", "", 0),
    Quantity("bpp", "bpp", "", 4),
    Quantity("estimated_bpp", "Estimated bpp", "", 4),
    *(Quantity(m.name, m.label, m.unit, m.decimals) for m in metrics.METRICS.values()),
    Quantity("encode_s", "Encode", "s", 3),
    Quantity("decode_s", "Decode", "s", 3),
  )
}


def code(coder: coders.Coder, image: np.ndarray, path: str) -> tuple[Row, np.ndarray]:
  """Codes an image by way of a file and measures it.

  Args:
    coder: to measure.
    image: uint8 [H, W, 3] or [H, W, 1].
    path: of the file to write, replaced where it exists.

  Returns:
    (a row of `COLUMNS`, the decoded image).
  """
  height, width, _ = image.shape
  start = time.perf_counter()
  data = coder.compress(image)
  encode_seconds = time.perf_counter() - start
  os.makedirs(os.path.dirname(path), exist_ok=True)
  atomic_files.write_bytes(path, data)
  with open(path, "rb") as file:
    data = file.read()
  start = time.perf_counter()
  decoded = coder.decompress(data, image.shape)
  decode_seconds = time.perf_counter() - start
  size = os.path.getsize(path)
  row = {
    "height": height,
    "width": width,
    "bytes": size,
    "bpp": 8 * size / (height * width),
    "estimated_bpp": coder.estimated_bits(image) / (height * width),
    **metrics.measure(image, decoded),
    "encode_s": encode_seconds,
    "decode_s": decode_seconds,
  }
  return row, decoded


def read(source: Input, alpha: str) -> np.ndarray:
  """Reads an image as `image_files.read_image` does; warnings do not tear a progress bar."""
  with tqdm.tqdm.external_write_mode(sys.stderr):
    return source.read_image(alpha)


def left_out(error: Exception, name: str, prefix: str = "") -> str:
  """Returns why an image is left out, which is logged; begins with `prefix`."""
  reason = prefix + executor.reason(error, name)
  with tqdm.tqdm.external_write_mode(sys.stderr):
    logging.warning("left out: %s", reason)
  return reason


def names(found: Sequence[Input]) -> list[str]:
  """Returns the names below the images' common folder, without suffixes where they differ without.

  Example:
    >>> from khuvcm_tf.data import inputs
    >>> names(inputs.of_files(["a/b/x.png", "a/c/x.png"]))
    ['b/x', 'c/x']
    >>> names(inputs.of_files(["x.png", "x.jpg"]))
    ['x.png', 'x.jpg']
  """
  root = os.path.commonpath([os.path.join(os.sep, os.path.dirname(each.name)) for each in found])
  whole = [os.path.relpath(os.path.join(os.sep, each.name), root) for each in found]
  stems = [os.path.splitext(name)[0] for name in whole]
  return stems if len(set(stems)) == len(stems) else whole
