"""Models and classic codecs on a set of pictures: real files, all measures, a curve for each.

A codec has one or several settings: an anchor its qualities, a model the runs that were trained at
several rates. Each picture is coded by each setting to DIR/files/CODEC/SETTING/IMAGE.*, and what
was measured stands in DIR/points/CODEC/SETTING/IMAGE.json. A point is not made again where it was
made of the same picture by the same coder, so that a run that was cut off goes on where it was.

DIR/results.json has a row for each picture and setting, the means, BD-rates, and all that tells how
the figures came about; DIR/results.csv the rows alone. `report` makes a page of them.
"""

from __future__ import annotations

import csv
import datetime
import functools
import hashlib
import io
import itertools
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent import futures
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tqdm
from absl import logging

from khuvcm_tf import errors, model_files
from khuvcm_tf.data import images
from khuvcm_tf.evaluation import anchors, bjontegaard, evaluate, metrics

# Of these BD-rates are told; similarities are compared in dB.
MEASURES = ("psnr_rgb", "psnr_ycbcr", "psnr_y", "ssim", "ms_ssim", "psnr_hvs", "psnr_hvs_m")
_SIMILARITIES = ("ssim", "ms_ssim")

_COLUMNS = (
  *("height", "width", "bytes", "bpp", "estimated_bpp"),
  *MEASURES,
  *("encode_s", "decode_s"),
)

_PUBLISHED = pathlib.Path(__file__).with_name("published_kodak.json")


class ComparisonError(errors.Error):
  """A comparison that cannot begin, or that had to leave something out."""


class Options(NamedTuple):
  """How a comparison is made.

  Attributes:
    models: NAME=W1:W2:... or W, each W as `model_files.load` takes it.
    anchors: of `anchors.names()`.
    bd_anchor: the codec that BD-rates compare with; the first anchor where None.
    published: of `published_names()`, drawn beside.
    jobs: pictures that are coded side by side; more than one disturbs the seconds.
    shown: of so many pictures the decoded ones are kept, for the report.
    precision: of models' transforms.
    alpha: what is done with transparency (`images.read_image`).
  """

  models: Sequence[str] = ()
  anchors: Sequence[str] = ()
  bd_anchor: str | None = None
  published: Sequence[str] = ()
  jobs: int = 1
  shown: int = 4
  precision: str = "float32"
  alpha: str = "refuse"


class ModelCoder:
  """A model as a comparison needs it; loaded when it is first asked to code."""

  suffix = ".kvc"
  kind = "model"

  def __init__(self, path: str, precision: str):
    self._path, self._precision = path, precision
    folder = model_files.find(path)
    self.description = model_files.read_description(folder)
    self._fingerprint = model_files.read_fingerprint(folder).hex()
    self.key = f"{self._fingerprint} {precision}"

  @functools.cached_property
  def model(self):
    return model_files.load(self._path, self._precision)

  def about(self) -> str:
    """Says what the setting is."""
    return f"lambda {self.description.get('lambda', 'unknown')}, model {self._fingerprint}"

  def warm_up(self, picture):
    """Lets TensorFlow build its graphs, so that they are not timed."""
    self.model.decompress(self.model.compress(picture))

  def compress(self, picture):
    return self.model.compress(picture)

  def decompress(self, data, picture):
    del picture
    return self.model.decompress(data)

  def estimated_bits(self, picture) -> float:
    return sum(self.model.estimate(picture).values())

  def ceiling(self, picture) -> None:
    """None: what colour conversions cost is part of a model's loss."""


class AnchorCoder:
  """An anchor at one setting."""

  kind = "anchor"

  def __init__(self, anchor: anchors.Anchor, setting):
    self.anchor, self._setting, self.suffix = anchor, setting, f".{anchor.suffix}"

  @functools.cached_property
  def key(self) -> str:
    return f"{self.anchor.name} {self.about()} {_version(self.anchor)}"

  def about(self) -> str:
    return self.anchor.options(self._setting)

  def warm_up(self, picture):
    """Nothing is built."""

  def compress(self, picture):
    return self.anchor.encode(picture, self._setting)

  def decompress(self, data, picture):
    return self.anchor.decode(data, *picture.shape[:2])

  def estimated_bits(self, picture) -> float:
    """nan: no anchor tells."""
    del picture
    return math.nan

  def ceiling(self, picture) -> float:
    """Returns the PSNR of the anchor's colour conversion alone, dB."""
    return self.anchor.ceiling(picture)


class Curve(NamedTuple):
  """A codec and its coders by setting, from low to high rate as far as is known."""

  name: str
  coders: dict[str, ModelCoder | AnchorCoder]

  @property
  def kind(self) -> str:
    return next(iter(self.coders.values())).kind


def run(pattern: str, output: str, options: Options) -> dict:
  """Compares codecs and writes `results.json` and `results.csv`.

  Args:
    pattern: a picture, a folder or a glob.
    output: folder for the results; made where it does not exist.
    options: what is compared, and how.

  Returns:
    The content of results.json.

  Raises:
    ComparisonError: there is nothing to compare, or a name is unknown or given twice.
    images.ImageError: there are no pictures, or results cannot be written.
    coding.ModelError: a model cannot be loaded.
  """
  inside = os.path.realpath(output) + os.sep
  found = images.find_images(pattern)
  # Not what an earlier run has written.
  paths = [path for path in found if not os.path.realpath(path).startswith(inside)] or found
  curves, left_out = _curves(options)
  published = _published(options.published)
  os.makedirs(output, exist_ok=True)
  names = _names(paths)
  points = {}
  count = len(paths) * sum(len(curve.coders) for curve in curves)
  with tqdm.tqdm(total=count, unit="file", disable=None) as bar:
    for curve in curves:
      for setting, coder in curve.coders.items():
        measured = _Setting(pathlib.Path(output), curve.name, setting, coder, options)
        with futures.ThreadPoolExecutor(options.jobs) as pool:
          shown = (index < options.shown for index in range(len(paths)))
          for index, point in enumerate(pool.map(measured.point, paths, names, shown)):
            points[curve.name, setting, index] = point
            bar.update()
        vars(coder).pop("model", None)  # so that only one model is in memory
  results = _results(curves, names, points, options, published, left_out)
  images.write_text(os.path.join(output, "results.json"), _json(results))
  images.write_text(os.path.join(output, "results.csv"), _csv(results["rows"]))
  return results


def published_names() -> list[str]:
  """Returns the names of published curves on Kodak."""
  return list(_read_published())


def table(results: dict) -> str:
  """Returns the means and BD-rates as text."""
  lines = [["codec", "setting", "bpp", "psnr_rgb", "psnr_ycbcr", "ms_ssim", "encode_s", "decode_s"]]
  decimals = {"bpp": 4, "ms_ssim": 4, "encode_s": 3, "decode_s": 3}
  for row in results["means"]:
    values = (row[name] for name in lines[0][2:])
    cells = [
      "nan" if value is None else f"{float(value):.{decimals.get(name, 2)}f}"
      for name, value in zip(lines[0][2:], values)
    ]
    lines.append([row["codec"], row["setting"], *cells])
  for name, found in results["bd_rate"]["measure"].get("psnr_rgb", {}).items():
    said = found["error"] if "error" in found else f"{found['value']:+.1f} %"
    lines.append([f"BD-rate (PSNR RGB) of {name} against {results['bd_rate']['anchor']}: {said}"])
  widths = [max(len(cells[i]) for cells in lines if len(cells) > 1) for i in range(8)]
  return "\n".join(
    "  ".join(
      cell.ljust(width) if i < 2 else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(cells, widths))
    )
    if len(cells) > 1
    else cells[0]
    for cells in lines
  )


def check_complete(results: dict) -> None:
  """Raises ComparisonError where codecs or pictures were left out."""
  left_out = results["left_out"]
  if left_out:
    raise ComparisonError(
      f"{len(left_out)} left out, expected none: {left_out[0]['reason']}"
      f"{' and others' if len(left_out) > 1 else ''}; the results are those of the rest"
    )


def _curves(options: Options) -> tuple[list[Curve], list[dict]]:
  """Returns the codecs that can be run, and those that cannot with the reason."""
  curves, left_out = [], []
  for text in options.models:
    is_named = "=" in text and not os.path.exists(text)
    name, settings = text.split("=", 1) if is_named else ("", text)
    found = settings.split(":")
    name = name or os.path.basename(os.path.normpath(found[0]))
    coders = {_label(path): ModelCoder(path, options.precision) for path in found}
    if len(coders) < len(found):
      raise ComparisonError(
        f"{text} names models of the same name; expected different folders' names"
      )
    curves.append(Curve(name, coders))
  for name in options.anchors:
    anchor = anchors.create(name)
    missing = anchor.missing()
    if missing:
      left_out.append({"codec": name, "reason": missing})
      logging.warning("left out: %s", missing)
    else:
      settings = anchor.default_settings
      curves.append(
        Curve(name, {anchor.label(each): AnchorCoder(anchor, each) for each in settings})
      )
  names = [curve.name for curve in curves]
  if not curves:
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
  return curves, left_out


def _label(path: str) -> str:
  return re.sub(r"^\W|[^\w.+-]", "_", os.path.basename(os.path.normpath(path)))


class _Setting:
  """Measures pictures at one setting of a codec, or reads what was measured before."""

  def __init__(self, output: pathlib.Path, codec: str, setting: str, coder, options: Options):
    self._output, self._place = output, pathlib.Path(codec, setting)
    self._coder, self._options = coder, options
    self._is_warm, self._lock = False, threading.Lock()

  def point(self, path: str, name: str, is_shown: bool) -> dict:
    """Returns a picture's key, row and ceiling, in JSON's words, or why there are none.

    Args:
      path: of the picture.
      name: in the results.
      is_shown: whether the decoded picture is kept.
    """
    point = self._output / "points" / self._place / f"{name}.json"
    file = self._output / "files" / self._place / f"{name}{self._coder.suffix}"
    decoded = self._output / "pictures" / self._place / f"{name}.png"
    try:
      content = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
      key = f"{self._coder.key} {content} {self._options.alpha}"
      found = _read_point(point, file, key)
      if found is None or (is_shown and not decoded.exists()):
        found = _for_json({"key": key, **self._measure(path, name, file, decoded, is_shown)})
        point.parent.mkdir(parents=True, exist_ok=True)
        images.write_text(str(point), json.dumps(found))
      return found
    except (errors.Error, OSError, MemoryError, tf.errors.ResourceExhaustedError) as error:
      codec, setting = self._place.parts
      reason = f"{codec} at {setting}, {path}: {error or 'out of memory'}"
      with tqdm.tqdm.external_write_mode(sys.stderr):
        logging.warning("left out: %s", reason)
      return {"reason": reason}

  def _measure(self, path, name, file, decoded_path, is_shown) -> dict:
    with tqdm.tqdm.external_write_mode(sys.stderr):
      picture = images.read_image(path, self._options.alpha)
    is_grey = picture.shape[2] == 1
    if is_grey:  # as not all anchors take it
      picture = np.repeat(picture, 3, axis=2)
    with self._lock:
      if not self._is_warm:
        self._coder.warm_up(picture)
      self._is_warm = True
    row, decoded = evaluate.code_picture(self._coder, picture, str(file))
    if is_grey:
      row["psnr_ycbcr"] = math.nan  # its chroma says nothing
    decoded_path.unlink(missing_ok=True)
    if is_shown:
      original = self._output / "pictures" / "original" / f"{name}.png"
      for place, content in ((original, picture), (decoded_path, decoded)):
        place.parent.mkdir(parents=True, exist_ok=True)
        images.write_image(str(place), content)
    return {"row": row, "ceiling": self._coder.ceiling(picture)}


def _names(paths: Sequence[str]) -> list[str]:
  """Returns a name of its own for each picture, without folders."""
  found = []
  for name in evaluate.names(paths):
    name = whole = name.replace(os.sep, "_")
    for number in itertools.count(2):
      if name not in found:
        break
      name = f"{whole}_{number}"
    found.append(name)
  return found


def _read_point(path: pathlib.Path, file: pathlib.Path, key: str) -> dict | None:
  """Returns a point made before; None where it is of something else, damaged, or its file gone."""
  try:
    point = json.loads(path.read_text(encoding="utf-8"))
    row = point["row"]
    whole = set(point) == {"key", "row", "ceiling"} and set(row) == set(_COLUMNS)
    known = point["key"] == key and row["bytes"] == file.stat().st_size and row["bpp"] > 0
    return point if whole and known else None
  except (OSError, ValueError, KeyError, TypeError):
    return None


def _results(curves, names, points, options, published, left_out) -> dict:
  """Returns the content of results.json."""
  rows, means, codecs = [], [], {}
  for curve in curves:
    ceilings = []
    for setting in curve.coders:
      found = []
      for index, name in enumerate(names):
        point = points[curve.name, setting, index]
        if "row" in point:
          found.append({"codec": curve.name, "setting": setting, "image": name, **point["row"]})
          ceilings.append(point["ceiling"])
        else:
          left_out.append({"image": name, "reason": point["reason"]})
      rows += found
      if found:
        numbers = [{column: _number(row[column]) for column in _COLUMNS} for row in found]
        mean, _ = evaluate.mean(numbers)
        means.append(
          _for_json({"codec": curve.name, "setting": setting, "pictures": len(found), **mean})
        )
    codecs[curve.name] = _about(curve, ceilings)
  if not rows:
    raise ComparisonError(f"nothing was coded, expected at least one file; {left_out[0]['reason']}")
  anchor = options.bd_anchor or next(
    (curve.name for curve in curves if curve.kind == "anchor"), curves[0].name
  )
  return {
    "about": {
      "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
      "commit": _commit(),
      "command": " ".join(sys.argv),
      "machine": evaluate.environment(),
      "jobs": options.jobs,
      "precision": options.precision,
      "pictures": names,
    },
    "codecs": codecs,
    "rows": rows,
    "means": means,
    "bd_rate": {"anchor": anchor, "measure": bd_rates(rows, anchor)},
    "published": published,
    "left_out": left_out,
  }


def bd_rates(rows: Sequence[dict], anchor: str) -> dict[str, dict]:
  """Returns BD-rates of all codecs against one: {measure: {codec: figures or {"error": text}}}.

  A curve's points are the means of bpp and of dB over the pictures; similarities are turned to dB
  picture by picture. Pictures without a value (`nan`) are left out.
  """
  found = {}
  for measure in MEASURES:
    points = {}
    for row in rows:
      quality = _number(row[measure])
      if measure in _SIMILARITIES:
        quality = metrics.similarity_db(quality)
      if not math.isnan(quality):
        settings = points.setdefault(row["codec"], {})
        settings.setdefault(row["setting"], []).append((row["bpp"], quality))
    curves = {
      codec: [tuple(np.mean(each, axis=0)) for each in settings.values()]
      for codec, settings in points.items()
    }
    found[measure] = {
      codec: _bd_rate(curves.get(anchor, []), curve)
      for codec, curve in curves.items()
      if codec != anchor
    }
  return found


def _bd_rate(anchor, curve) -> dict:
  try:
    return bjontegaard.bd_rate(anchor, curve)._asdict()
  except errors.Error as error:
    return {"error": str(error)}


def _about(curve: Curve, ceilings) -> dict:
  """Returns what is to be known of a codec beside its figures."""
  coders = curve.coders
  known = [_number(each) for each in ceilings if each is not None]
  finite = [each for each in known if math.isfinite(each)]
  about = {
    "kind": curve.kind,
    "settings": {setting: coder.about() for setting, coder in coders.items()},
    "ceiling": {"mean": float(np.mean(finite)), "min": min(finite)} if finite else None,
  }
  first = next(iter(coders.values()))
  if curve.kind == "anchor":
    return {
      **about,
      "version": _version(first.anchor),
      "conversion": first.anchor.conversion,
      "description": {},
    }
  description = first.description
  return {
    **about,
    "version": f"khuvcm_tf {description.get('versions', {}).get('khuvcm_tf', 'unknown')}",
    "conversion": f"codec {description['codec']}",
    "description": description,
  }


@functools.cache
def _version(anchor: anchors.Anchor) -> str:
  """Returns an anchor's version; some ask a process for it."""
  return anchor.version()


def _published(names: Sequence[str]) -> dict:
  known = _read_published()
  for name in names:
    if name not in known:
      raise ComparisonError(
        f"no published curve is called {name!r}; expected some of {', '.join(known)}"
      )
  return {name: known[name] for name in names}


@functools.cache
def _read_published() -> dict:
  return json.loads(_PUBLISHED.read_text(encoding="utf-8"))


def _commit() -> str | None:
  """Returns the checkout's commit, with + where files differ from it; None outside a checkout."""
  git = ["git", "-C", str(pathlib.Path(__file__).parent)]
  try:
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    changed = subprocess.run(
      [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
    )
  except (OSError, subprocess.CalledProcessError):
    return None
  return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def _number(value) -> float:
  return math.nan if value is None else float(value)


def _for_json(value):
  """Replaces nan by None and infinity by "inf", which JSON has no words for."""
  if isinstance(value, dict):
    return {key: _for_json(each) for key, each in value.items()}
  if isinstance(value, float) and not math.isfinite(value):
    return None if math.isnan(value) else "inf"
  return value


def _json(results: dict) -> str:
  return json.dumps(_for_json(results), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _csv(rows: Sequence[dict]) -> str:
  file = io.StringIO()
  writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
  writer.writeheader()
  writer.writerows(rows)
  return file.getvalue()
