"""Models and classic codecs on a set of images: real files, all metrics, a curve for each.

A codec has one or several rate points: an anchor its qualities, a model of several rates those that
are asked for, other models the runs that were trained at several rates. Each image is coded at each
rate point to DIR/files/CODEC/RATE_POINT/IMAGE.*, and its numbers are stored in
DIR/points/CODEC/RATE_POINT/IMAGE.json, so that a run that was interrupted can be resumed
(`results.points`).

DIR/results.json has a row for each image and rate point, the means, BD-rates and where all that
comes from; DIR/results.csv the rows alone. `rate_distortion_report` makes a page of them.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
import os
import pathlib
import re
import threading
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from absl import logging

from khuvcm_tf import errors
from khuvcm_tf.data import image_files, inputs
from khuvcm_tf.data.inputs import Input
from khuvcm_tf.evaluation import anchors, coders, images, metrics
from khuvcm_tf.evaluation.options import RateDistortionOptions
from khuvcm_tf.executor import HERE, Executor, Here, Progress
from khuvcm_tf.options import check
from khuvcm_tf.results import bjontegaard, points, provenance, rows

_PUBLISHED = pathlib.Path(__file__).with_name("published_kodak.json")
_TABLE = ("bpp", "psnr_rgb", "psnr_ycbcr", "ms_ssim", "encode_s", "decode_s")

# A codec's coders by rate point, from low to high rate as far as that is known.
Coders = Mapping[str, coders.Coder]


class ComparisonError(errors.Error):
  """A comparison that cannot begin, or that had to leave something out."""


class Comparison(NamedTuple):
  """The content of results.json."""

  metadata: dict[str, object]  # where the results come from, and names of the images
  codecs: dict[str, dict]  # by name, as `_describe` returns them
  rows: list[rows.Row]  # codec, rate_point and image, then `images.COLUMNS`
  not_compared: list[str]  # images that not all codecs coded: in rows, but in nothing below
  means: list[rows.Row]  # codec, rate_point and images (their number), then the same columns
  bd_rate: dict[str, object]  # {"anchor": codec, "metrics": {metric: `bjontegaard.bd_rates`}}
  published: dict[str, dict]  # curves to draw beside, by name
  left_out: list[dict[str, str]]  # "reason" and "codec" or "image" of what is missing


def run(options: RateDistortionOptions, executor: Executor = HERE) -> Comparison:
  """Compares codecs and writes `results.json` and `results.csv`.

  Args:
    options: what is compared, and how.
    executor: codes the images; in this process `options.jobs` at the same time.

  Raises:
    OptionsError: an option is out of range.
    ComparisonError: there is nothing to compare, a name is unknown or given twice, or no image was
      coded by all codecs.
    coders.CoderError, anchors.AnchorError, coding.ModelError: there is no such model or anchor.
    image_files.ImageError: there are no images.
    atomic_files.FileError: results cannot be written.
  """
  check(options)
  if not executor.resumes:
    executor = Here(options.jobs)
  elif options.jobs > 1:
    raise ComparisonError(
      f"found --jobs={options.jobs} with --cluster, expected one of them; give --workers"
    )
  # Without what an earlier run wrote, and this one would replace.
  output = os.path.realpath(options.output)
  own = tuple(os.path.join(output, name, "") for name in ("files", "images", "plots"))
  listed = inputs.find_images(options.images)
  found = [each for each in listed if not os.path.realpath(each.path).startswith(own)]
  if not found:
    raise ComparisonError(
      f"{options.images}: all {len(listed)} images are files of an earlier run in "
      f"{options.output}, which would be replaced, expected others; give another --output"
    )
  codecs, left_out = _codecs(options)
  published = _published(options.published)
  os.makedirs(options.output, exist_ok=True)
  names = _names(found)
  all_rows, failures = _measure(options, codecs, found, names, executor)
  left_out += failures
  if not all_rows:
    raise ComparisonError(f"nothing was coded, expected at least one file; {left_out[0]['reason']}")
  compared, not_compared = rows.common(all_rows, "image", "codec", "rate_point")
  if not compared:
    raise ComparisonError(
      f"none of {len(found)} images was coded by all codecs at all rate points, expected at least "
      f"one to compare them by; {left_out[0]['reason']}; leave a codec out, or give other images"
    )
  descriptions = {codec: _describe(codec, own, compared) for codec, own in codecs.items()}
  for row in all_rows:
    del row["conversion_psnr"]
  # The first anchor, or the first codec where there is none.
  kinds = {codec: description["kind"] for codec, description in descriptions.items()}
  anchor = options.bd_anchor or min(kinds, key=lambda codec: kinds[codec] != "anchor")
  more = {"jobs": options.jobs, "precision": options.precision, "images": names}
  comparison = Comparison(
    metadata={**provenance.describe(), **more},
    codecs=descriptions,
    rows=all_rows,
    not_compared=not_compared,
    means=_means(compared),
    bd_rate={"anchor": anchor, "metrics": bd_rates(compared, anchor)},
    published=published,
    left_out=left_out,
  )
  rows.write_json(os.path.join(options.output, "results.json"), comparison._asdict())
  rows.write_csv(os.path.join(options.output, "results.csv"), all_rows)
  return comparison


def bd_rates(all_rows: Sequence[rows.Row], anchor: str) -> dict[str, dict]:
  """Returns BD-rates of all codecs, of which each has rows of the same images, by metric.

  A curve's points are the means of bpp and of dB over the images; similarities are turned to dB
  image by image. Images without a value (`nan`) are left out.
  """
  found = {}
  for metric in metrics.METRICS.values():
    curves: dict[str, list] = {}
    defined = [row for row in all_rows if not math.isnan(row[metric.name])]
    for (codec, _), own in rows.grouped(defined, "codec", "rate_point").items():
      values = [(row["bpp"], metric.comparable(row[metric.name])) for row in own]
      curves.setdefault(codec, []).append(tuple(np.mean(values, axis=0)))
    found[metric.name] = bjontegaard.bd_rates(curves, anchor)
  return found


def table(comparison: Comparison) -> str:
  """Returns the means and BD-rates as text."""
  lines: list = [["codec", "rate_point", *_TABLE]]
  for row in comparison.means:
    cells = (images.COLUMNS[column].format(row[column]) for column in _TABLE)
    lines.append([row["codec"], row["rate_point"], *cells])
  text = [rows.table(lines, texts=2)]
  anchor = comparison.bd_rate["anchor"]
  for name, rate in comparison.bd_rate["metrics"]["psnr_rgb"].items():
    value = rate["error"] if "error" in rate else f"{rate['value']:+.1f} %"
    text.append(f"BD-rate (PSNR RGB) of {name} against {anchor}: {value}")
  if comparison.not_compared:
    text.append(not_compared_text(comparison))
  return "\n".join(text)


def not_compared_text(comparison: Comparison) -> str:
  """Returns which images are in no mean and no BD-rate, and why."""
  names = comparison.not_compared
  count = len({row["image"] for row in comparison.rows})
  return (
    f"means and BD-rates are over {count - len(names)} of {count} images: not all codecs coded "
    f"{', '.join(names)}"
  )


def check_complete(comparison: Comparison) -> None:
  """Raises ComparisonError where codecs or images were left out."""
  left_out = comparison.left_out
  if left_out:
    raise ComparisonError(
      f"{len(left_out)} left out, expected none: {left_out[0]['reason']}"
      f"{' and others' if len(left_out) > 1 else ''}; the results are those of the rest"
    )


@functools.cache
def published_curves() -> dict[str, dict]:
  """Returns published curves on Kodak by name."""
  return json.loads(_PUBLISHED.read_text(encoding="utf-8"))


class _Item(NamedTuple):
  """An image at a rate point of a codec."""

  codec: str
  rate_point: str
  source: Input
  name: str  # in the results
  is_shown: bool  # whether the decoded image is kept


def _measure(
  options: RateDistortionOptions,
  codecs: Mapping[str, Coders],
  found: Sequence[Input],
  names: Sequence[str],
  executor: Executor,
) -> tuple[list[rows.Row], list[dict[str, str]]]:
  """Returns rows, with a column conversion_psnr beside theirs, and images that are left out."""
  items = [
    _Item(codec, rate_point, source, name, index < options.shown)
    for codec, own in codecs.items()
    for rate_point in own
    for index, (source, name) in enumerate(zip(found, names))
  ]
  measured, left_out = {}, {}
  with Progress(len(items), "file", executor, options.output) as progress:
    for index, row, error in executor.map(_RatePoints(options, codecs), items):
      item = items[index]
      if error is None:
        measured[index] = row
        progress.add(size=row["bytes"])
        continue
      at = f"{item.codec} at {item.rate_point}, "
      reason = images.left_out(error, item.source.label, prefix=at)
      left_out[index] = {"image": item.name, "reason": reason}
      progress.fail(f"{at}{item.name}", reason)
  all_rows = [
    {"codec": item.codec, "rate_point": item.rate_point, "image": item.name, **measured[index]}
    for index, item in enumerate(items)
    if index in measured
  ]
  return all_rows, [left_out[index] for index in sorted(left_out)]


class _RatePoints:
  """Measures images at rate points of codecs, or reads what was measured before.

  The model of one rate point is freed when the next begins.
  """

  def __init__(self, options: RateDistortionOptions, codecs: Mapping[str, Coders]):
    self._options, self._codecs = options, codecs
    self._coder, self._lock = None, threading.Lock()

  def __reduce__(self):
    return _RatePoints, (self._options, self._codecs)

  def __call__(self, item: _Item) -> rows.Row:
    """Returns an image's numbers, conversion_psnr among them."""
    output, folder = pathlib.Path(self._options.output), pathlib.Path(item.codec, item.rate_point)
    coder = self._codecs[item.codec][item.rate_point]
    file = output / "files" / folder / f"{item.name}{coder.suffix}"
    decoded = output / "images" / folder / f"{item.name}.png"
    content = hashlib.sha256(item.source.content()).hexdigest()
    return points.load_or_make(
      output / "points" / folder / f"{item.name}.json",
      key=f"{coder.key} {content} {self._options.alpha}",
      columns=[*images.COLUMNS, "conversion_psnr"],
      make=lambda: self._make(coder, item.source, file, decoded, item.is_shown),
      is_current=lambda row: (
        file.exists()
        and file.stat().st_size == row["bytes"]
        and (decoded.exists() or not item.is_shown)
      ),
    )

  def _make(
    self,
    coder: coders.Coder,
    source: Input,
    file: pathlib.Path,
    shown: pathlib.Path,
    is_shown: bool,
  ) -> rows.Row:
    image = images.read(source, self._options.alpha)
    is_grey = image.shape[2] == 1
    if is_grey:  # anchors decode to RGB
      image = np.repeat(image, 3, axis=2)
    self._begin(coder, image)
    row, decoded = images.code(coder, image, str(file))
    if is_grey:  # its chroma was never coded as such
      row.update({m.name: math.nan for m in metrics.METRICS.values() if m.needs_colour})
    shown.unlink(missing_ok=True)
    if is_shown:
      original = pathlib.Path(self._options.output, "images", "original", shown.name)
      for target, content in ((original, image), (shown, decoded)):
        target.parent.mkdir(parents=True, exist_ok=True)
        image_files.write_image(str(target), content)
    return {**row, "conversion_psnr": coder.conversion_psnr(image)}

  def _begin(self, coder: coders.Coder, image: np.ndarray) -> None:
    """Makes a coder ready for its first image here."""
    with self._lock:
      if self._coder is not coder:
        if self._coder is not None:
          self._coder.unload()
        coder.warm_up(image)
        self._coder = coder


def _codecs(options: RateDistortionOptions) -> tuple[dict[str, Coders], list[dict[str, str]]]:
  """Returns the codecs that can be run, and those that cannot with the reason."""
  found, left_out = coders.model_coders(options.models, options.precision), []
  for name in options.anchors:
    anchor = anchors.create(name)
    missing = anchor.missing()
    if missing:
      left_out.append({"codec": name, "reason": missing})
      logging.warning("left out: %s", missing)
    else:
      found.append((name, coders.anchor_coders(anchor)))
  names = [name for name, _ in found]
  if not names:
    raise ComparisonError(
      "there is no codec to run; give --models, or --anchors that are installed"
    )
  for name in names:
    if names.count(name) > 1 or not re.fullmatch(r"\w[\w.+-]*", name):
      raise ComparisonError(
        f"a codec is called {name!r}; expected names of letters, digits and ._+-, each once; give "
        "names as in --models=NAME=W1:W2"
      )
  if options.bd_anchor not in (None, *names):
    raise ComparisonError(
      f"--bd_anchor={options.bd_anchor} is none of the codecs; expected one of {', '.join(names)}"
    )
  return dict(found), left_out


def _describe(codec: str, own: Coders, compared: Sequence[rows.Row]) -> dict[str, object]:
  """Returns what is the same for all images, and the PSNR of the conversion over them, dB."""
  first = next(iter(own.values()))
  psnrs = (row["conversion_psnr"] for row in compared if row["codec"] == codec)
  finite = [psnr for psnr in psnrs if math.isfinite(psnr)]
  return {
    "kind": first.kind,
    "rate_points": {rate_point: coder.notes for rate_point, coder in own.items()},
    "conversion_psnr": {"mean": float(np.mean(finite)), "min": min(finite)} if finite else None,
    "version": first.version,
    "conversion": first.conversion,
    "description": first.description,
  }


def _means(all_rows: Sequence[rows.Row]) -> list[rows.Row]:
  return [
    {
      **{"codec": codec, "rate_point": rate_point, "images": len(own)},
      **rows.mean(own, list(images.COLUMNS))[0],
    }
    for (codec, rate_point), own in rows.grouped(all_rows, "codec", "rate_point").items()
  ]


def _names(found: Sequence[Input]) -> list[str]:
  """Returns a name of its own for each image, without folders."""
  names: dict[str, None] = {}
  for name in images.names(found):
    whole = name.replace(os.sep, "_")
    candidates = (whole if n == 1 else f"{whole}_{n}" for n in itertools.count(1))
    names[next(candidate for candidate in candidates if candidate not in names)] = None
  return list(names)


def _published(names: Sequence[str]) -> dict[str, dict]:
  known = published_curves()
  names = list(known) if list(names) == ["all"] else names
  for name in names:
    if name not in known:
      raise ComparisonError(
        f"no published curve is called {name!r}; expected some of {', '.join(known)}"
      )
  return {name: known[name] for name in names}
