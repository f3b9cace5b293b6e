"""A model on a set of images: real files, their bytes, and what comes back from them.

A row has the image's name, the quality of a model of several rates, `images.COLUMNS`, and
psnr_jpeg, psnr_webp where asked for: dB of an anchor at exactly these bytes, interpolated; nan
where it does not reach them. The name is the path below the images' common folder, without suffix.
The first image is coded once before anything is timed. An image that cannot be read or coded is
named and left out, the others are evaluated all the same, and `check_complete` then ends the
program with an error.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from typing import Callable, NamedTuple

import numpy as np
import tqdm
from absl import logging

from khuvcm_tf import atomic_files, errors
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
  """Rows as in this module's docstring, by quality and then by path, and what is missing."""

  rows: list[rows.Row]
  left_out: list[dict[str, str]]  # "path" and "reason"


def run(options: EvaluateOptions) -> Evaluation:
  """Evaluates a model and writes `results.csv` and `results.json`.

  Until these are there, `results.part.jsonl` has a line for each row, also of a run that was ended.

  Args:
    options: the model, the images, and how they are evaluated.

  Returns:
    What was evaluated; at least one row.

  Raises:
    OptionsError: an option is out of range.
    EvaluationError: an anchor is unknown, or no image at all could be evaluated.
    image_files.ImageError: there are no images.
    atomic_files.FileError: results cannot be written.
    coders.CoderError: the model has no such quality.
    coding.ModelError: the model cannot be loaded.
  """
  check(options)
  paths = image_files.find_images(options.images)
  _check_anchors(options.anchors)
  at_qualities = coders.coders_at(options.model, options.precision)
  at_qualities[0].load()  # now, as a damaged model is no reason to leave images out
  os.makedirs(options.output, exist_ok=True)
  part = os.path.join(options.output, "results.part.jsonl")
  with tempfile.TemporaryDirectory() as temporary, atomic_files.kept_lines(part) as keep:
    folder = os.path.join(options.output, "files") if options.keep_files else temporary
    evaluation = evaluate(at_qualities, paths, folder, options.alpha, options.anchors, keep)
    _write(options, at_qualities[0], evaluation, len(paths))
  return evaluation


def _write(
  options: EvaluateOptions, coder: coders.ModelCoder, evaluation: Evaluation, count: int
) -> None:
  if not evaluation.rows:
    raise EvaluationError(
      f"none of {count} images was evaluated, expected at least one; the first: "
      f"{evaluation.left_out[0]['reason']}"
    )
  means, counts = _means(evaluation.rows)
  rows.write_csv(
    os.path.join(options.output, "results.csv"),
    [*evaluation.rows, *({"name": "mean", **mean} for mean in means)],
  )
  content = {
    "model": options.model,
    "fingerprint": coder.fingerprint,
    "precision": options.precision,
    "description": coder.description,
    **provenance.describe(),
    "mean": means if len(means) > 1 else means[0],
    "images_in_mean": counts if len(counts) > 1 else counts[0],
    "images": evaluation.rows,
    "left_out": evaluation.left_out,
  }
  rows.write_json(os.path.join(options.output, "results.json"), content)


def evaluate(
  at_qualities: Sequence[coders.Coder],
  paths: Sequence[str],
  folder: str,
  alpha: str = "refuse",
  anchor_names: Sequence[str] = (),
  keep: Callable[[rows.Row], None] = lambda row: None,
) -> Evaluation:
  """Evaluates coders on image files.

  Args:
    at_qualities: coders of one model, one of them where it has one rate.
    paths: of the images.
    folder: for the coded files, those of a quality in a folder such as q30; made where it does not
      exist.
    alpha: what is done with transparency (`image_files.read_image`).
    anchor_names: of `ANCHORS`.
    keep: called with each row as soon as it is measured.

  Returns:
    A row at each quality for each image that could be read and coded.
  """
  found, left_out = [], []

  def measure(path, name):
    image = images.read(path, alpha)
    if not found:
      for coder in at_qualities:
        coder.warm_up(image)
    return [measure_at(coder, image, name) for coder in at_qualities]

  def measure_at(coder, image, name):
    has_quality = coder.quality is not None
    file = os.path.join(folder, f"q{coder.quality:g}" if has_quality else "", name + coder.suffix)
    row, _ = images.code(coder, image, file)
    psnrs = {f"psnr_{a}": _anchor_psnr(a, image, row["bytes"]) for a in anchor_names}
    found = {"name": name, **({"quality": coder.quality} if has_quality else {}), **row, **psnrs}
    keep(rows.to_json(found))
    return found

  bar = tqdm.tqdm(paths, unit="image", disable=True if len(paths) == 1 else None)
  for path, name in zip(bar, images.names(paths)):
    of_image, reason = images.attempt(path, measure, path, name)
    if of_image is None:
      left_out.append({"path": path, "reason": reason})
    else:
      found.append(of_image)
  return Evaluation([row for at_quality in zip(*found) for row in at_quality], left_out)


def table(found: Sequence[rows.Row]) -> str:
  """Returns rows and their means as text, with a line for each mean that leaves images out."""
  means, counts = _means(found)
  columns = [column for column in found[0] if column not in _ONLY_IN_FILES]
  groups, lines, notes = _by_quality(found), [columns], []
  for own in [*groups.values(), [{"name": "mean", **mean} for mean in means]]:
    lines += [None, *([_cell(column, row[column]) for column in columns] for row in own)]
  for (quality, own), count in zip(groups.items(), counts):
    at_quality = f" at quality {quality:g}" if len(groups) > 1 else ""
    for column in columns:
      if count.get(column, len(own)) < len(own):
        mean_of = f"{column}{at_quality}: mean of {count[column]} of {len(own)} images"
        notes.append(mean_of + _comparable_psnr(own, column))
  return "\n".join([rows.table(lines), *notes])


def check_complete(evaluation: Evaluation) -> None:
  """Raises EvaluationError where images were left out."""
  left_out = evaluation.left_out
  if left_out:
    count = len(left_out) + len({row["name"] for row in evaluation.rows})
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


def _by_quality(found: Sequence[rows.Row]) -> dict[float | None, list[rows.Row]]:
  """Returns the rows of each quality; those of a model of one rate as of None."""
  groups: dict[float | None, list[rows.Row]] = {}
  for row in found:
    groups.setdefault(row.get("quality"), []).append(row)
  return groups


def _means(found: Sequence[rows.Row]) -> tuple[list[rows.Row], list[dict[str, int]]]:
  """Returns the means at each quality, and how many rows are in each of them."""
  columns = [column for column in found[0] if column not in ("name", "quality")]
  means, counts = [], []
  for quality, own in _by_quality(found).items():
    mean, count = rows.mean(own, columns)
    means.append(mean if quality is None else {"quality": quality, **mean})
    counts.append(count)
  return means, counts


def _cell(column: str, value: str | float) -> str:
  if column == "name":
    return value
  if column == "quality":
    return f"{value:g}"
  like = images.COLUMNS.get(column, images.COLUMNS["psnr_rgb"])  # an anchor's
  return like.format(value)


def _comparable_psnr(found: Sequence[rows.Row], column: str) -> str:
  """Returns the PSNR to compare a mean with that leaves images out: that of the same images."""
  own = [row for row in found if not math.isnan(row[column])]
  if not column.startswith("psnr_") or not own:
    return ""
  psnr = rows.mean(own, ["psnr_rgb"])[0]["psnr_rgb"]
  return f", on which psnr_rgb is {_cell('psnr_rgb', psnr)}"
