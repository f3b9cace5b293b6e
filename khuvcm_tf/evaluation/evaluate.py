"""A model on a set of pictures: real files, their bytes, and what comes back from them.

Each picture is compressed to a file, which is read again and decompressed. A row says

  name            the path below the pictures' common folder, without suffix
  height, width   pixels
  bytes           of the file, as the file system counts them
  bpp             8 bytes / (height width)
  estimated_bpp   what the coder's tables give to the symbols alone: without header and checksum
  psnr_rgb        dB; psnr_y of luma, psnr_ycbcr (4 Y + Cb + Cr) / 6, which grey pictures lack
  ssim            0..1; nan where a side is below 11; ms_ssim where one is below 161
  psnr_hvs        dB, of luma as it is seen; psnr_hvs_m with masking; nan where a side is below 8
  encode_s        wall time from uint8 array to bytes
  decode_s        wall time from bytes to uint8 array
  psnr_jpeg, ...  dB of an anchor at exactly these bytes, interpolated; nan where out of its reach

Times leave out files, measures and TensorFlow's tracing: the first picture is coded once before
anything is timed. A picture that cannot be read or coded is told and left out, and the others are
evaluated all the same; `check_complete` then ends the program with an error.
"""

from __future__ import annotations

import csv
import datetime
import importlib.metadata
import io
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import NamedTuple, Union

import numpy as np
import PIL
import tensorflow as tf
import tqdm
from absl import logging

import khuvcm_tf
from khuvcm_tf import coding, errors, model_files
from khuvcm_tf.data import images
from khuvcm_tf.evaluation import anchors, metrics

Row = dict[str, Union[str, int, float]]

ANCHORS = ("jpeg", "webp")  # fast enough to be bisected for each picture

_DECIMALS = {"bpp": 4, "estimated_bpp": 4, "ssim": 4, "ms_ssim": 4}
_DECIMALS.update(encode_s=3, decode_s=3)
# Columns of the written files that would make the table too wide.
_FILES_ONLY = ("height", "width", "psnr_y", "psnr_hvs_m")


class EvaluationError(errors.Error):
  """An evaluation that cannot begin, or that had to leave pictures out."""


class Failure(NamedTuple):
  """A picture that is not among the rows."""

  path: str
  reason: str


class Evaluation(NamedTuple):
  """Rows as in this module's docstring, in the order of the paths, and what is missing."""

  rows: list[Row]
  failures: list[Failure]


def run(
  model: str,
  pattern: str,
  output: str,
  precision: str = "float32",
  alpha: str = "refuse",
  anchor_names: Sequence[str] = (),
  keep_files: bool = False,
) -> Evaluation:
  """Evaluates a model and writes `results.csv` and `results.json`.

  Args:
    model: as `model_files.load` takes it.
    pattern: a picture, a folder or a glob.
    output: folder for the results; made where it does not exist.
    precision: of the transforms, "float32" or "float64".
    alpha: what is done with transparency (`images.read_image`).
    anchor_names: of `ANCHORS`.
    keep_files: whether the .kvc files stay, in `output`/files.

  Returns:
    What was evaluated; at least one row.

  Raises:
    EvaluationError: an anchor is unknown, or no picture at all could be evaluated.
    images.ImageError: there are no pictures, or results cannot be written.
    coding.ModelError: the model cannot be loaded.
  """
  paths = images.find_images(pattern)
  _check_anchors(anchor_names)
  loaded = model_files.load(model, precision)
  os.makedirs(output, exist_ok=True)
  with tempfile.TemporaryDirectory() as temporary:
    folder = os.path.join(output, "files") if keep_files else temporary
    evaluation = evaluate(loaded, paths, folder, alpha, anchor_names)
  if not evaluation.rows:
    raise EvaluationError(
      f"none of {len(paths)} pictures was evaluated, expected at least one; the first: "
      f"{evaluation.failures[0].reason}"
    )
  about = {
    "model": model,
    "fingerprint": loaded.fingerprint.hex(),
    "precision": precision,
    "description": loaded.description,
    "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    "environment": environment(),
  }
  images.write_text(os.path.join(output, "results.csv"), to_csv(evaluation.rows))
  images.write_text(os.path.join(output, "results.json"), to_json(evaluation, about))
  return evaluation


def evaluate(
  model: coding.Model,
  paths: Sequence[str],
  folder: str,
  alpha: str = "refuse",
  anchor_names: Sequence[str] = (),
) -> Evaluation:
  """Evaluates a model on picture files.

  Args:
    model: to evaluate.
    paths: of the pictures.
    folder: for the .kvc files; made where it does not exist.
    alpha: what is done with transparency (`images.read_image`).
    anchor_names: of `ANCHORS`.

  Returns:
    A row for each picture that could be read and coded.
  """
  _check_anchors(anchor_names)
  rows, failures = [], []
  for path, name in zip(_with_progress(paths), names(paths)):
    try:
      # Reading may warn; a bar that is drawn would be torn by that.
      with tqdm.tqdm.external_write_mode(sys.stderr):
        picture = images.read_image(path, alpha)
      if not rows:
        model.decompress(model.compress(picture))
      kvc = os.path.join(folder, name + ".kvc")
      rows.append({"name": name, **evaluate_picture(model, picture, kvc, anchor_names)})
    except (errors.Error, MemoryError, tf.errors.ResourceExhaustedError) as error:
      reason = f"out of memory: {error}" if not isinstance(error, errors.Error) else str(error)
      failures.append(Failure(path, reason if path in reason else f"{path}: {reason}"))
      with tqdm.tqdm.external_write_mode(sys.stderr):
        logging.warning("left out: %s", failures[-1].reason)
  return Evaluation(rows, failures)


def evaluate_picture(
  model: coding.Model, picture: np.ndarray, kvc: str, anchor_names: Sequence[str] = ()
) -> Row:
  """Codes a picture by way of a file and measures it.

  Args:
    model: to evaluate.
    picture: uint8 [H, W, 3] or [H, W, 1].
    kvc: the file to write, replaced where it exists.
    anchor_names: of `ANCHORS`.

  Returns:
    A row without its name.
  """
  row, _ = code_picture(_ModelCoder(model), picture, kvc)
  return {
    **row,
    **{f"psnr_{name}": _anchor_psnr(name, picture, row["bytes"]) for name in anchor_names},
  }


class _ModelCoder:
  """A model as `code_picture` takes it."""

  def __init__(self, model: coding.Model):
    self._model, self.compress = model, model.compress

  def decompress(self, data, picture):
    """A file tells the size by itself."""
    del picture
    return self._model.decompress(data)

  def estimated_bits(self, picture):
    return sum(self._model.estimate(picture).values())


def code_picture(coder, picture: np.ndarray, path: str) -> tuple[Row, np.ndarray]:
  """Codes a picture by way of a file and measures it.

  Args:
    coder: has `compress(picture)`, `decompress(data, picture)`, which looks at the picture's shape
      alone, and `estimated_bits(picture)`.
    picture: uint8 [H, W, 3] or [H, W, 1].
    path: of the file to write, replaced where it exists.

  Returns:
    (a row without its name, the decoded picture).
  """
  height, width, _ = picture.shape
  start = time.perf_counter()
  data = coder.compress(picture)
  encode_seconds = time.perf_counter() - start
  os.makedirs(os.path.dirname(path), exist_ok=True)
  images.write_bytes(path, data)
  with open(path, "rb") as file:
    data = file.read()
  start = time.perf_counter()
  decoded = coder.decompress(data, picture)
  decode_seconds = time.perf_counter() - start
  size = os.path.getsize(path)
  row = {
    "height": height,
    "width": width,
    "bytes": size,
    "bpp": 8 * size / (height * width),
    "estimated_bpp": coder.estimated_bits(picture) / (height * width),
    **metrics.measures(picture, decoded),
    "encode_s": encode_seconds,
    "decode_s": decode_seconds,
  }
  return row, decoded


def names(paths: Sequence[str]) -> list[str]:
  """Returns the paths below their common folder, without suffixes where they differ without.

  Example:
    >>> names(["a/b/x.png", "a/c/x.png"]), names(["x.png", "x.jpg"])
    (['b/x', 'c/x'], ['x.png', 'x.jpg'])
  """
  root = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
  whole = [os.path.relpath(path, root) for path in paths]
  stems = [os.path.splitext(name)[0] for name in whole]
  return stems if len(set(stems)) == len(stems) else whole


def mean(rows: Sequence[Row]) -> tuple[Row, dict[str, int]]:
  """Averages each column over the pictures that have a value in it.

  Returns:
    (means, number of pictures in each); the mean of no values is nan.
  """
  means, counts = {}, {}
  for column in rows[0]:
    if column != "name":
      values = [row[column] for row in rows if not math.isnan(row[column])]
      means[column] = sum(values) / len(values) if values else math.nan
      counts[column] = len(values)
  return means, counts


def table(rows: Sequence[Row]) -> str:
  """Returns rows and their means as text, with a line for each mean that leaves pictures out."""
  means, counts = mean(rows)
  columns = [column for column in rows[0] if column not in _FILES_ONLY]
  lines = [columns]
  lines += [[_cell(c, row[c]) for c in columns] for row in [*rows, {"name": "mean", **means}]]
  widths = [max(map(len, cells)) for cells in zip(*lines)]
  text = [
    "  ".join([cells[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(cells[1:], widths[1:])])
    for cells in lines
  ]
  text[1:1] = text[-1:-1] = ["-" * len(text[0])]
  for column in columns[1:]:
    count = counts[column]
    if count < len(rows):
      text.append(f"{column}: mean of {count} of {len(rows)} pictures{_peer(rows, column)}")
  return "\n".join(text)


def to_csv(rows: Sequence[Row]) -> str:
  """Returns the rows and, last, their mean as CSV."""
  file = io.StringIO()
  writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
  writer.writeheader()
  writer.writerows([*rows, {"name": "mean", **mean(rows)[0]}])
  return file.getvalue()


def to_json(evaluation: Evaluation, about: dict[str, object]) -> str:
  """Returns an evaluation as JSON.

  JSON has no word for nan and infinity: nan becomes null, infinity (PSNR of equal pictures) "inf".

  Args:
    evaluation: with at least one row.
    about: further fields, put first.
  """
  means, counts = mean(evaluation.rows)
  content = {
    **about,
    "mean": _for_json(means),
    "pictures_in_mean": counts,
    "pictures": [_for_json(row) for row in evaluation.rows],
    "left_out": [failure._asdict() for failure in evaluation.failures],
  }
  return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def check_complete(evaluation: Evaluation) -> None:
  """Raises EvaluationError where pictures were left out."""
  failures = evaluation.failures
  if failures:
    count = len(failures) + len(evaluation.rows)
    raise EvaluationError(
      f"{len(failures)} of {count} pictures left out, expected none: "
      f"{', '.join(failure.path for failure in failures)}; the results are those of the others"
    )


def environment() -> dict[str, object]:
  """Returns what times and the last bits depend on: versions, processor, threads, load."""
  return {
    "khuvcm_tf": khuvcm_tf.__version__,
    "python": platform.python_version(),
    "tensorflow": tf.__version__,
    "tensorflow_compression": importlib.metadata.version("tensorflow-compression"),
    "numpy": np.__version__,
    "pillow": PIL.__version__,
    "system": platform.platform(),
    "cpu": _cpu(),
    "cores": os.cpu_count(),
    "load_average": os.getloadavg()[0],  # runnable processes, mean of the last minute
    "threads": tf.config.threading.get_intra_op_parallelism_threads() or "one for each core",
    "gpus": [
      tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
      for gpu in tf.config.list_physical_devices("GPU")
    ],
  }


def _check_anchors(anchor_names: Sequence[str]):
  for name in anchor_names:
    if name not in ANCHORS:
      raise EvaluationError(
        f"no anchor is called {name!r}; expected some of {', '.join(ANCHORS)}; write "
        "--anchors=jpeg,webp"
      )


def _anchor_psnr(name: str, picture: np.ndarray, size: int) -> float:
  try:
    return anchors.psnr_at_bytes(anchors.create(name), picture, size)
  except anchors.AnchorError as error:
    logging.warning("%s", error)
    return math.nan


def _with_progress(paths: Sequence[str]):
  """Shows a bar where there are several pictures and a terminal."""
  return tqdm.tqdm(paths, unit="picture", disable=True if len(paths) == 1 else None)


def _cell(column: str, value: str | float) -> str:
  if isinstance(value, str):
    return value
  return f"{value:.{2 if column.startswith('psnr') else _DECIMALS.get(column, 0)}f}"


def _peer(rows: Sequence[Row], column: str) -> str:
  """Says what PSNR is fair to compare with a mean that leaves pictures out."""
  there = [row for row in rows if not math.isnan(row[column])]
  if not column.startswith("psnr_") or not there:
    return ""
  return f", on which psnr_rgb is {_cell('psnr_rgb', mean(there)[0]['psnr_rgb'])}"


def _for_json(row: Row) -> dict[str, object]:
  def value_of(value):
    if isinstance(value, float) and not math.isfinite(value):
      return None if math.isnan(value) else "inf"
    return value

  return {column: value_of(value) for column, value in row.items()}


def _cpu() -> str:
  try:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
      models = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
  except OSError:  # not Linux
    models = []
  return models[0] if models else platform.processor() or platform.machine()
