"""`results.json` of a rate-distortion comparison, read and checked at the door.

`docs/conventions.md` has the measures. JSON has no word for nan and infinity: null is nan here, and
"inf" is infinity.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from khuvcm_tf import errors
from khuvcm_tf.evaluation import plots

REMEDY = "write it anew with bin/rate_distortion.py"
_SECTIONS = {"about": dict, "codecs": dict, "rows": list, "means": list}
_OPTIONAL = {"published": dict, "left_out": list, "bd_rate": dict}
_NUMBERS = (
  *("bytes", "bpp", "estimated_bpp", *plots.MEASURES),
  *("encode_s", "decode_s", "height", "width", "pictures"),
)


class ReportError(errors.Error):
  """Results that no report can be made of."""


def read(path: str) -> dict:
  """Reads and checks `results.json`.

  Returns:
    Its content; numbers are float, null among them nan and "inf" infinity, and sections that may
    be absent are there, empty.

  Raises:
    ReportError: it cannot be read, or lacks something.
  """
  try:
    with open(path, encoding="utf-8") as file:
      results = json.load(file)
  except OSError as error:
    raise ReportError(
      f"{path}: cannot be read: {error.strerror}; expected the results of a comparison; {REMEDY}"
    ) from error
  except ValueError as error:
    raise ReportError(f"{path}: is not JSON: {error}; {REMEDY}") from error
  _check_type(results, dict, path)
  results = {key: value for key, value in results.items() if value is not None}
  for key, kind in _OPTIONAL.items():
    results.setdefault(key, kind())
  for key, kind in {**_SECTIONS, **_OPTIONAL}.items():
    _check_type(_get(results, key, path), kind, f"{path}: {key}")
  for name, codec in results["codecs"].items():
    where = f"{path}: codec {name!r}"
    _check_type(codec, dict, where)
    kind = _get(codec, "kind", where)
    if kind not in ("model", "anchor"):
      raise ReportError(f'{where} is of kind {kind!r}; expected "model" or "anchor"; {REMEDY}')
  results["rows"] = [
    _checked_row(row, ("codec", "setting", "image"), results["codecs"], f"{path}: row {index}")
    for index, row in enumerate(results["rows"])
  ]
  results["means"] = [
    _checked_row(row, ("codec", "setting"), results["codecs"], f"{path}: mean {index}")
    for index, row in enumerate(results["means"])
  ]
  if not results["rows"] or not results["means"]:
    raise ReportError(f"{path}: has no rows or no means; expected at least one; {REMEDY}")
  results["published"] = {
    name: _checked_curve(curve, f"{path}: published {name!r}")
    for name, curve in results["published"].items()
  }
  _check_bd_rate(results["bd_rate"], f"{path}: bd_rate")
  for index, item in enumerate(results["left_out"]):
    _check_type(item, dict, f"{path}: left_out {index}")
  return results


def _get(mapping: dict, key: str, where: str):
  if key not in mapping:
    raise ReportError(f"{where} has no {key!r}; found {', '.join(mapping) or 'nothing'}; {REMEDY}")
  return mapping[key]


def _check_type(value, kind: type, where: str):
  names = {dict: "an object", list: "a list", str: "text"}
  if not isinstance(value, kind):
    raise ReportError(f"{where} is {_kind(value)}; expected {names[kind]}; {REMEDY}")


def _kind(value) -> str:
  return "null" if value is None else f"of type {type(value).__name__}"


def number(value, where: str) -> float:
  if value is None:
    return math.nan
  if isinstance(value, (int, float)) and not isinstance(value, bool):
    return float(value)
  if value == "inf":
    return math.inf
  raise ReportError(f'{where} is {str(value)[:40]!r}; expected a number, null or "inf"; {REMEDY}')


def _checked_row(row, names: Sequence[str], codecs: dict, where: str) -> dict:
  _check_type(row, dict, where)
  for name in names:
    _check_type(_get(row, name, where), str, f"{where}: {name}")
  if row["codec"] not in codecs:
    raise ReportError(f"{where} is of {row['codec']!r}, which is not among the codecs; {REMEDY}")
  _get(row, "bpp", where)
  numbers = {key: number(row[key], f"{where}: {key}") for key in _NUMBERS if key in row}
  if not 0 < numbers["bpp"] < math.inf:
    raise ReportError(f"{where} has {row['bpp']!r} bpp; expected a positive number; {REMEDY}")
  return {**row, **numbers}


def _checked_curve(curve, where: str) -> dict:
  _check_type(curve, dict, where)
  columns = {}
  for key in ("bpp", *plots.MEASURES):
    if key == "bpp" or curve.get(key) is not None:
      _check_type(_get(curve, key, where), list, f"{where}: {key}")
      columns[key] = [number(value, f"{where}: {key}") for value in curve[key]]
      if len(columns[key]) != len(columns["bpp"]):
        raise ReportError(
          f"{where} has {len(columns[key])} values of {key} at {len(columns['bpp'])} rates; "
          f"expected one each; {REMEDY}"
        )
  said = [str(curve.get(key) or "") for key in ("source", "metric", "note")]
  return {"said": said, **columns}


def _check_bd_rate(bd_rate: dict, where: str):
  if not bd_rate:
    return
  _get(bd_rate, "anchor", where)
  _check_type(_get(bd_rate, "measure", where), dict, f"{where}: measure")
  for measure, codecs in bd_rate["measure"].items():
    _check_type(codecs, dict, f"{where}: {measure}")
    for codec, difference in codecs.items():
      place = f"{where}: {measure} of {codec!r}"
      _check_type(difference, dict, place)
      if "error" not in difference:
        for key in ("value", "lowest", "highest", "overlap"):
          difference[key] = number(_get(difference, key, place), f"{place}: {key}")
