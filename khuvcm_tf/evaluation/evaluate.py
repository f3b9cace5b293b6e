"""A model on a set of images: real files, their bytes, and what comes back from them.

A row has the image's name, `images.COLUMNS`, and psnr_jpeg, psnr_webp where asked for: dB of an
anchor at exactly these bytes, interpolated; nan where it does not reach them. The name is the path
below the images' common folder, without suffix. The first image is coded once before anything is
timed. An image that cannot be read or coded is named and left out, the others are evaluated all the
same, and `check_complete` then ends the program with an error.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tqdm
from absl import logging

from khuvcm_tf import errors
from khuvcm_tf.data import image_files
from khuvcm_tf.evaluation import anchors, coders, images
from khuvcm_tf.evaluation.options import EvaluateOptions
from khuvcm_tf.options import check
from khuvcm_tf.results import provenance, rows

ANCHORS = ("jpeg", "webp")  # fast enough to be bisected for each image

# Columns of the written files that would make the table too wide.
_ONLY_IN_FILES = ("height", "width", "psnr_y", "psnr_hvs_m")


class EvaluationError(errors.Error):
  """An evaluation that cannot begin, or that had to leave images out."""


class Evaluation(NamedTuple):
  """Rows as in this module's docstring, in the order of the paths, and what is missing."""

  rows: list[rows.Row]
  left_out: list[dict[str, str]]  # "path" and "reason"


def run(options: EvaluateOptions) -> Evaluation:
  """Evaluates a model and writes `results.csv` and `results.json`.

  Args:
    options: the model, the images, and how they are evaluated.

  Returns:
    What was evaluated; at least one row.

  Raises:
    OptionsError: an option is out of range.
    EvaluationError: an anchor is unknown, or no image at all could be evaluated.
    image_files.ImageError: there are no images.
    atomic_files.FileError: results cannot be written.
    coding.ModelError: the model cannot be loaded.
  """
  check(options)
  paths = image_files.find_images(options.images)
  _check_anchors(options.anchors)
  coder = coders.ModelCoder(options.model, options.precision)
  coder.load()  # now, as a damaged model is no reason to leave images out
  os.makedirs(options.output, exist_ok=True)
  with tempfile.TemporaryDirectory() as temporary:
    folder = os.path.join(options.output, "files") if options.keep_files else temporary
    evaluation = evaluate(coder, paths, folder, options.alpha, options.anchors)
  if not evaluation.rows:
    raise EvaluationError(
      f"none of {len(paths)} images was evaluated, expected at least one; the first: "
      f"{evaluation.left_out[0]['reason']}"
    )
  means, counts = _means(evaluation.rows)
  rows.write_csv(
    os.path.join(options.output, "results.csv"), [*evaluation.rows, {"name": "mean", **means}]
  )
  content = {
    "model": options.model,
    "fingerprint": coder.fingerprint,
    "precision": options.precision,
    "description": coder.description,
    **provenance.describe(),
    "mean": means,
    "images_in_mean": counts,
    "images": evaluation.rows,
    "left_out": evaluation.left_out,
  }
  rows.write_json(os.path.join(options.output, "results.json"), content)
  return evaluation


def evaluate(
  coder: coders.Coder,
  paths: Sequence[str],
  folder: str,
  alpha: str = "refuse",
  anchor_names: Sequence[str] = (),
) -> Evaluation:
  """Evaluates a coder on image files.

  Args:
    coder: to evaluate.
    paths: of the images.
    folder: for the coded files; made where it does not exist.
    alpha: what is done with transparency (`image_files.read_image`).
    anchor_names: of `ANCHORS`.

  Returns:
    A row for each image that could be read and coded.
  """
  found, left_out = [], []

  def measure(path, name):
    image = images.read(path, alpha)
    if not found:
      coder.warm_up(image)
    row, _ = images.code(coder, image, os.path.join(folder, name + coder.suffix))
    psnrs = {f"psnr_{a}": _anchor_psnr(a, image, row["bytes"]) for a in anchor_names}
    return {"name": name, **row, **psnrs}

  bar = tqdm.tqdm(paths, unit="image", disable=True if len(paths) == 1 else None)
  for path, name in zip(bar, images.names(paths)):
    row, reason = images.attempt(path, measure, path, name)
    if row is None:
      left_out.append({"path": path, "reason": reason})
    else:
      found.append(row)
  return Evaluation(found, left_out)


def table(found: Sequence[rows.Row]) -> str:
  """Returns rows and their means as text, with a line for each mean that leaves images out."""
  means, counts = _means(found)
  columns = [column for column in found[0] if column not in _ONLY_IN_FILES]
  lines = [[_cell(c, row[c]) for c in columns] for row in [*found, {"name": "mean", **means}]]
  text = [rows.table([columns, None, *lines[:-1], None, lines[-1]])]
  for column in columns[1:]:
    if counts[column] < len(found):
      mean_of = f"{column}: mean of {counts[column]} of {len(found)} images"
      text.append(mean_of + _comparable_psnr(found, column))
  return "\n".join(text)


def check_complete(evaluation: Evaluation) -> None:
  """Raises EvaluationError where images were left out."""
  left_out = evaluation.left_out
  if left_out:
    count = len(left_out) + len(evaluation.rows)
    raise EvaluationError(
      f"{len(left_out)} of {count} images left out, expected none: "
      f"{', '.join(each['path'] for each in left_out)}; the results are those of the others"
    )


def _check_anchors(anchor_names: Sequence[str]):
  for name in anchor_names:
    if name not in ANCHORS:
      raise EvaluationError(
        f"no anchor is called {name!r}; expected some of {', '.join(ANCHORS)}; write "
        "--anchors=jpeg,webp"
      )


def _anchor_psnr(name: str, image: np.ndarray, size: int) -> float:
  try:
    return anchors.psnr_at_bytes(anchors.create(name), image, size)
  except anchors.AnchorError as error:
    logging.warning("%s", error)
    return math.nan


def _means(found: Sequence[rows.Row]) -> tuple[rows.Row, dict[str, int]]:
  return rows.mean(found, [column for column in found[0] if column != "name"])


def _cell(column: str, value: str | float) -> str:
  if column == "name":
    return value
  like = images.COLUMNS.get(column, images.COLUMNS["psnr_rgb"])  # an anchor's
  return like.format(value)


def _comparable_psnr(found: Sequence[rows.Row], column: str) -> str:
  """Returns the PSNR to compare a mean with that leaves images out: that of the same images."""
  own = [row for row in found if not math.isnan(row[column])]
  if not column.startswith("psnr_") or not own:
    return ""
  psnr = rows.mean(own, ["psnr_rgb"])[0]["psnr_rgb"]
  return f", on which psnr_rgb is {_cell('psnr_rgb', psnr)}"
