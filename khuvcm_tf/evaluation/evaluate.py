"""A model on a set of images: real files, their bytes, and what comes back from them.

A row has the image's name, the quality of a model of several rates, `images.COLUMNS`, and
psnr_jpeg, psnr_webp where asked for: dB of an anchor at exactly these bytes, interpolated; nan
where it does not reach them. The name is the path below the images' common folder, without suffix.
The first image is coded once before anything is timed. An image that cannot be read or coded is
named and left out, the others are evaluated all the same, and `check_complete` then ends the
program with an error.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Callable, NamedTuple

import numpy as np
from absl import logging

from khuvcm_tf import atomic_files, errors
from khuvcm_tf.data import inputs
from khuvcm_tf.data.inputs import Input
from khuvcm_tf.evaluation import anchors, coders, images
from khuvcm_tf.evaluation.options import EvaluateOptions
from khuvcm_tf.executor import HERE, Executor, Progress
from khuvcm_tf.options import check
from khuvcm_tf.results import points, provenance, rows

ANCHORS = ("jpeg", "webp")  # fast enough to be bisected for each image

# Columns of the written files that would make the table too wide.
_ONLY_IN_FILES = ("height", "width", "psnr_y", "psnr_hvs_m")


class EvaluationError(errors.Error):
  """An evaluation that cannot begin, or that had to leave images out."""


class Evaluation(NamedTuple):
  """Rows as in this module's docstring, by quality and then by path, and what is missing."""

  rows: list[rows.Row]
  left_out: list[dict[str, str]]  # "path" and "reason"


def run(options: EvaluateOptions, executor: Executor = HERE) -> Evaluation:
  """Evaluates a model and writes `results.csv` and `results.json`.

  Until these are there, `results.part.jsonl` has a line for each row, also of a run that was ended.

  Args:
    options: the model, the images, and how they are evaluated.
    executor: evaluates them. Where it resumes, rows are kept in `points`, and not made again.

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
  found = inputs.find_images(options.images)
  _check_anchors(options.anchors)
  at_qualities = coders.coders_at(options.model, options.precision)
  at_qualities[0].load()  # now, as a damaged model is no reason to leave images out
  os.makedirs(options.output, exist_ok=True)
  part = os.path.join(options.output, "results.part.jsonl")
  measure = Measure(
    at_qualities,
    os.path.join(options.output, "files") if options.keep_files else None,
    options.alpha,
    options.anchors,
    os.path.join(options.output, "points") if executor.resumes else None,
  )
  with atomic_files.kept_lines(part) as keep:
    evaluation = evaluate(measure, found, executor, options.output, keep)
    _write(options, at_qualities[0], evaluation, len(found))
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


class Measure:
  """Measures an image with coders.

  Args:
    at_qualities: coders of one model, one of them where it has one rate.
    folder: for the coded files, those of a quality in a folder such as q30; made where it does not
      exist. None: they are not kept.
    alpha: what is done with transparency (`image_files.read_image`).
    anchor_names: of `ANCHORS`.
    points: folder for rows, from which they are taken where they are there; None: there is none.
  """

  def __init__(
    self,
    at_qualities: Sequence[coders.Coder],
    folder: str | None = None,
    alpha: str = "refuse",
    anchor_names: Sequence[str] = (),
    points: str | None = None,
  ):
    self._coders, self._folder, self._alpha = at_qualities, folder, alpha
    self._anchors, self._points, self._is_warm = anchor_names, points, False

  def __call__(self, item: tuple[Input, str]) -> list[rows.Row]:
    """Returns the rows of an image, by quality, given with its name."""
    source, name = item
    read = functools.lru_cache(maxsize=1)(lambda: self._read(source))
    return [self._row(coder, source, name, read) for coder in self._coders]

  def _read(self, source: Input) -> np.ndarray:
    image = images.read(source, self._alpha)
    if not self._is_warm:
      for coder in self._coders:
        coder.warm_up(image)
      self._is_warm = True
    return image

  def _row(
    self, coder: coders.Coder, source: Input, name: str, read: Callable[[], np.ndarray]
  ) -> rows.Row:
    at_quality = "" if coder.quality is None else f"q{coder.quality:g}"
    file = os.path.join(self._folder, at_quality, name + coder.suffix) if self._folder else None
    make = functools.partial(self._make, coder, file, read)
    if self._points:
      content = hashlib.sha256(source.content()).hexdigest()
      row = points.load_or_make(
        pathlib.Path(self._points, at_quality, f"{name}.json"),
        key=f"{coder.key} {content} {self._alpha}",
        columns=[*images.COLUMNS, *map(_column, self._anchors)],
        make=make,
        is_current=lambda row: not file or os.path.exists(file),
      )
    else:
      row = make()
    quality = {} if coder.quality is None else {"quality": coder.quality}
    return {"name": name, **quality, **row}

  def _make(
    self, coder: coders.Coder, file: str | None, read: Callable[[], np.ndarray]
  ) -> rows.Row:
    image = read()
    with tempfile.TemporaryDirectory() as temporary:
      row, _ = images.code(coder, image, file or os.path.join(temporary, "image"))
    return {**row, **{_column(a): _anchor_psnr(a, image, row["bytes"]) for a in self._anchors}}


def evaluate(
  measure: Callable[[tuple[Input, str]], list[rows.Row]],
  found: Sequence[Input],
  executor: Executor = HERE,
  output: str | None = None,
  keep: Callable[[rows.Row], None] = lambda row: None,
) -> Evaluation:
  """Evaluates coders on images.

  Args:
    measure: a `Measure`.
    found: the images.
    executor: calls it.
    output: folder for the list of failures; None for none.
    keep: called with each row as it comes.

  Returns:
    A row at each quality for each image that could be read and coded.
  """
  items, of_images, left_out = list(zip(found, images.names(found))), {}, {}
  is_quiet = True if len(items) == 1 else None
  with Progress(len(items), "image", executor, output, is_quiet) as progress:
    for index, result, error in executor.map(measure, items):
      if error is None:
        of_images[index] = result
        for row in result:
          keep(rows.to_json(row))
        progress.add(size=sum(row["bytes"] for row in result))
        continue
      path = found[index].label
      left_out[index] = {"path": path, "reason": images.left_out(error, path)}
      progress.fail(path, left_out[index]["reason"])
  in_order = [of_images[index] for index in sorted(of_images)]
  return Evaluation(
    [row for at_quality in zip(*in_order) for row in at_quality],
    [left_out[index] for index in sorted(left_out)],
  )


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


def _column(anchor: str) -> str:
  return f"psnr_{anchor}"


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
