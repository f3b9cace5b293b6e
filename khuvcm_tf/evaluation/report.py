"""The page that shows a rate-distortion comparison: `results.json` and kept pictures in one file.

  report.write("runs/comparison")  # -> runs/comparison/report.html, runs/comparison/plots/

The page holds all that it shows, and its content security policy forbids it to load anything: it
can be sent by mail and opened years later. Curves, side-by-side pictures and the table of every
picture are drawn by plain JavaScript (`report_curves.js`, `report_pictures.js`, `report_rows.js`)
from JSON in the page; all other tables are written here, and stand without JavaScript too.

Figures are those of `results.json`, taken from the decoded pictures themselves; the pictures that
the page shows are recompressed for display.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import html
import importlib.resources
import json
import math
import os
import re
from collections.abc import Sequence

from khuvcm_tf.data import images
from khuvcm_tf.evaluation import bjontegaard, plots, report_pictures, report_results

_ROW_COLUMNS = {  # key: (header, decimals; None for text)
  "codec": ("Codec", None),
  "setting": ("Setting", None),
  "image": ("Picture", None),
  "bpp": ("bpp", 4),
  "estimated_bpp": ("Estimated bpp", 4),
  **{name: (m.label, m.decimals) for name, m in plots.MEASURES.items()},
  "ms_ssim": ("MS-SSIM", 4),
  "encode_s": ("Encode s", 3),
  "decode_s": ("Decode s", 3),
  "bytes": ("Bytes", 0),
  "width": ("Width", 0),
  "height": ("Height", 0),
}

_PUBLISHED_NOTE = (
  "Published curves, dashed, were measured by others and are not part of this run. Those of VTM, "
  "HM and AV1 take PSNR against a picture that was itself converted to YCbCr and back with "
  "truncation, not against the original, from which that conversion alone leaves 43.9–46.7 dB at "
  "most, so they are not comparable at high rates. Published MS-SSIM is the dB of the mean. Means "
  "over other pictures than those of this run are not comparable at all."
)


class _Markup(str):
  """HTML that is ready; any other string is escaped where it enters the page."""


def write(folder: str) -> str:
  """Writes `report.html` and `plots/` from `results.json` and `pictures/`, all in `folder`.

  Args:
    folder: of a comparison.

  Returns:
    The page's path.

  Raises:
    ReportError: `results.json` is missing or not what is expected, or a picture has another size
      than its original.
    images.ImageError: a picture cannot be read, or a file cannot be written.
  """
  results = report_results.read(os.path.join(folder, "results.json"))
  drawn = plots.curves(results)
  pictures = report_pictures.embed(results, os.path.join(folder, "pictures"))
  plots.write(drawn, os.path.join(folder, "plots"))
  path = os.path.join(folder, "report.html")
  images.write_text(path, _page(results, drawn, pictures))
  return path


def _page(results: dict, drawn: Sequence[plots.Curve], pictures: dict) -> str:
  """Fills the template; everything that comes from outside is escaped on its way."""
  about, codecs, rows = results["about"], results["codecs"], results["rows"]
  scripts = {
    f"{name}_script": _file(f"report_{name}.js") for name in ("curves", "pictures", "rows")
  }
  style = _file("report_page.css")
  names = sorted({row["image"] for row in rows})
  title = (
    f"Rate and distortion of {_count(len(codecs), 'codec')} on {_count(len(names), 'picture')}"
  )
  facts = [
    _date(str(about.get("date") or "")),
    about.get("commit") and f"commit {_commit(str(about['commit']))}",
  ]
  facts += [
    _count(len(rows), "coded picture"),
    f"anchor {results['bd_rate'].get('anchor', 'none')}",
  ]
  fields = {
    "policy": _policy(scripts.values(), style),
    "title": _escape(title),
    "style": style,
    "facts": _escape(" · ".join(str(fact) for fact in facts if fact)),
    "headline": _headline(results),
    "left_out": _left_out(results["left_out"]),
    "incomplete": _incomplete(results, len(names)),
    "published": _published(results["published"]),
    "means": _means_table(results, drawn),
    "bd_rate": _bd_rate_table(results),
    "pictures": _viewer(pictures),
    "codecs": _codecs_table(codecs),
    "times": _times_table(results),
    "estimates": _estimates_table(results),
    "about": _about(about, names),
    "data": _json(_data(results, drawn)),
    "picture_data": _json(pictures),
    **scripts,
  }
  # In one pass: what is filled in is not searched for names of fields.
  return re.sub(r"\{\{(\w+)\}\}", lambda match: fields[match[1]], _file("report_page.html"))


def _file(name: str) -> str:
  return (importlib.resources.files("khuvcm_tf.evaluation") / name).read_text("utf-8")


def _policy(scripts: Sequence[str], style: str) -> str:
  """Lets run what this module wrote, and load nothing: what slips in by a name stays text."""

  def fingerprint(text):
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

  return (
    f"default-src 'none'; img-src data:; style-src {fingerprint(style)}; "
    f"script-src {' '.join(fingerprint(script) for script in scripts)}; base-uri 'none'; "
    "form-action 'none'"
  )


def _json(value) -> str:
  """JSON that may stand within <script>: no < that could end it."""
  text = json.dumps(value, allow_nan=False, separators=(",", ":"))
  return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _for_json(value):
  if isinstance(value, float) and not math.isfinite(value):
    return None if math.isnan(value) else "inf"
  return int(value) if isinstance(value, float) and value.is_integer() else value


def _data(results: dict, drawn: Sequence[plots.Curve]) -> dict:
  """What the curves and the table of every picture are drawn from."""
  curves = []
  for index, curve in enumerate(drawn):
    colour, marker = plots.look(index)
    points = [{**point._asdict(), "values": _rounded(point.values)} for point in curve.points]
    curves.append({**curve._asdict(), "colour": colour, "marker": marker, "points": points})
  there = {key for row in results["rows"] for key in row}
  columns = {key: column for key, column in _ROW_COLUMNS.items() if key in there}
  return {
    "measures": {name: measure._asdict() for name, measure in plots.MEASURES.items()},
    "limit": plots.window(drawn),
    "curves": curves,
    "rows": {
      "columns": [{"key": k, "label": label, "decimals": d} for k, (label, d) in columns.items()],
      "rows": [
        [_for_json(_rounded_number(row.get(key), d)) for key, (_, d) in columns.items()]
        for row in results["rows"]
      ],
    },
  }


def _rounded(values: dict[str, float]) -> dict[str, float]:
  return {name: round(value, 6) for name, value in values.items()}


def _rounded_number(value, decimals: int | None):
  if decimals is None or value is None or not math.isfinite(value):
    return value
  return round(value, decimals + 1)  # sorts as it is shown, in half the bytes


def _headline(results: dict) -> str:
  """What most readers come for: the models' BD-rates at equal PSNR RGB.

  With the range of each: models that reach other qualities are compared elsewhere on the anchor's
  curve, so that the lowest figure need not be the best model's.
  """
  differences = results["bd_rate"].get("measure", {}).get("psnr_rgb", {})
  found = [
    f"<strong>{_escape(name)} {_percent(difference['value'])}</strong> "
    f"({_text(difference['lowest'], 1)}–{_text(difference['highest'], 1)} dB)"
    for name, difference in differences.items()
    if results["codecs"].get(name, {}).get("kind") == "model" and "error" not in difference
  ]
  if not found:
    return ""
  more = f" and {len(found) - 6} more" if len(found) > 6 else ""
  anchor = _escape(str(results["bd_rate"]["anchor"]))
  return (
    f'<p class="lead">Bits for equal PSNR RGB, against {anchor}: {", ".join(found[:6])}{more}.</p>'
  )


def _commit(text: str) -> str:
  return text[:12] + ", changed" * text.endswith("+")


def _date(text: str) -> str:
  try:
    date = datetime.datetime.fromisoformat(text)
  except ValueError:
    return text
  return f"{date:%Y-%m-%d %H:%M} {date.tzname() or ''}".strip()


def _incomplete(results: dict, count: int) -> str:
  """Warns of means over fewer pictures than others, which are of other pictures."""
  found: dict[str, set[int]] = {}
  for mean in results["means"]:
    if mean.get("pictures", count) < count:
      found.setdefault(mean["codec"], set()).add(int(mean["pictures"]))
  if not found:
    return ""
  names = ", ".join(f"{name} ({_span(numbers)})" for name, numbers in found.items())
  return (
    f'<p class="note"><span class="warn">Means over fewer than the {count} pictures</span>, and so '
    f"not comparable with the others: {_escape(names)}.</p>"
  )


def _span(numbers: set[int]) -> str:
  low, high = min(numbers), max(numbers)
  return str(low) if low == high else f"{low}–{high}"


def _left_out(items: Sequence[dict]) -> str:
  if not items:
    return ""
  lines = "".join(
    f"<li><strong>{_escape(str(item.get('codec') or item.get('image') or 'unnamed'))}</strong>: "
    f"{_escape(str(item.get('reason', 'no reason is given')))}</li>"
    for item in items
  )
  if len(items) > 10:
    lines = f"<details><summary>All of them</summary><ul>{lines}</ul></details>"
  else:
    lines = f"<ul>{lines}</ul>"
  return (
    f'<div class="note" id="left-out"><p class="warn">{len(items)} left out: the figures below are '
    f"those of the others.</p>{lines}</div>"
  )


def _published(curves: dict) -> str:
  if not curves:
    return ""
  lines = "".join(
    f"<li><strong>{_escape(name)}</strong>: {_escape('. '.join(filter(None, curve['said'])))}</li>"
    for name, curve in curves.items()
  )
  return (
    f'<div class="note" id="published"><p>{_escape(_PUBLISHED_NOTE)}</p>'
    f"<details><summary>Where they come from</summary><ul>{lines}</ul></details></div>"
  )


def _means_table(results: dict, drawn: Sequence[plots.Curve]) -> str:
  counts = {(m["codec"], m["setting"]): m.get("pictures", math.nan) for m in results["means"]}
  headers = ["Codec", "Setting", "Pictures", "bpp"]
  headers += [m.label + f" {m.unit}" * bool(m.unit) for m in plots.MEASURES.values()]
  rows = []
  for curve in drawn:
    for point in curve.points:
      kind = " (published)" * (curve.kind == "published")
      count = counts.get((curve.name, point.setting), math.nan)
      rows.append([curve.name + kind, point.setting, _text(count, 0), _text(point.bpp, 4)])
      rows[-1] += [_text(point.values.get(n), m.decimals) for n, m in plots.MEASURES.items()]
  return _table(headers, rows, texts=2, tall=True)


def _bd_rate_table(results: dict) -> str:
  bd_rate = results["bd_rate"]
  measures = bd_rate.get("measure", {})
  if not measures:
    return "<p>No anchor was compared with.</p>"
  headers = ["Codec", *(_label(name) for name in measures)]
  names = list(dict.fromkeys(name for codecs in measures.values() for name in codecs))
  order = [name for name in results["codecs"] if name in names or name == bd_rate["anchor"]]
  order += [name for name in names if name not in order]
  rows = []
  for name in order:
    cells = [_difference(codecs.get(name)) for codecs in measures.values()]
    if name == bd_rate["anchor"]:
      cells = [_Markup('<span class="fine">anchor</span>')] * len(measures)
    # One reason against every measure, such as too few points, is said once.
    rows.append(
      [name, cells[0]] if "error" in cells[0] and len(set(cells)) == 1 else [name, *cells]
    )
  least = round(100 * bjontegaard.LEAST_OVERLAP)
  return (
    f'<p class="hint">Mean difference in rate at equal quality, in % of the rate of '
    f"{_escape(str(bd_rate['anchor']))}: −10 % needs a tenth fewer bits. Below each, the range of "
    "quality that both curves cover, in dB (similarities too), and its share of the shorter "
    "curve’s; "
    f'<span class="warn">⚠</span> marks a share below {least} %, where little is compared.</p>'
    + _table(headers, rows)
  )


def _difference(difference: dict | None) -> str:
  if difference is None:
    return "–"
  if "error" in difference:
    return _Markup(f'<div class="error">{_escape(str(difference["error"]))}</div>')
  low, high = (_text(difference[key], 1) for key in ("lowest", "highest"))
  share = f"{low}–{high}, {100 * difference['overlap']:.0f} %"
  if not difference["overlap"] >= bjontegaard.LEAST_OVERLAP:
    share = f'<span class="warn" title="little overlap">⚠ {share}</span>'
  return _Markup(
    f'<strong>{_percent(difference["value"])}</strong><span class="fine">{share}</span>'
  )


def _codecs_table(codecs: dict) -> str:
  rows = []
  for name, codec in codecs.items():
    ceiling = codec.get("ceiling")
    if isinstance(ceiling, dict):
      values = [
        _text(report_results.number(ceiling.get(k), f"ceiling of {name!r}"), 1)
        for k in ("mean", "min")
      ]
      ceiling = _Markup(f'{values[0]} dB<span class="fine"><br>lowest {values[1]} dB</span>')
    rows.append([name, codec["kind"], str(codec.get("version") or "–")])
    rows[-1] += [str(codec.get("conversion") or "–"), ceiling or "–", _details(codec)]
  return _table(
    ["Codec", "Kind", "Version", "Conversion", "Ceiling, PSNR RGB", "Settings"], rows, texts=6
  )


def _details(codec: dict) -> str:
  settings, description = codec.get("settings"), codec.get("description")
  parts = ""
  if isinstance(settings, dict) and settings:
    parts += f"<details><summary>{_count(len(settings), 'setting')}</summary>{_list(settings)}"
    parts += "</details>"
  if description:
    text = json.dumps(description, indent=2, ensure_ascii=False)
    parts += f"<details><summary>Description</summary><pre>{_escape(text)}</pre></details>"
  return _Markup(parts or "–")


def _times_table(results: dict) -> str:
  rows = []
  for name in results["codecs"]:
    means = [mean for mean in results["means"] if mean["codec"] == name]
    cells = []
    for key in ("encode_s", "decode_s"):
      values = [m[key] for m in means if math.isfinite(m.get(key, math.nan))]
      if not values:
        cells.append("–")
        continue
      spread = f'<span class="fine">{_seconds(min(values))}–{_seconds(max(values))}</span>'
      mean = sum(values) / len(values)
      cells.append(_Markup(_seconds(mean) + spread * (len(values) > 1)))
    if means:
      rows.append([name, str(len(means)), *cells])
  headers = ["Codec", "Settings", "Encode, seconds", "Decode, seconds"]
  return _table(headers, rows) + (
    '<p class="hint">Mean over the settings; below it, the fastest and the slowest setting.</p>'
  )


def _estimates_table(results: dict) -> str:
  found: dict[tuple[str, str], list[dict]] = {}
  for row in results["rows"]:
    if math.isfinite(row.get("estimated_bpp", math.nan)) and row["estimated_bpp"] > 0:
      found.setdefault((row["codec"], row["setting"]), []).append(row)
  if not found:
    return "<p>No codec here estimates its rate.</p>"
  table = []
  for (codec, setting), rows in found.items():
    differences = [100 * (row["bpp"] / row["estimated_bpp"] - 1) for row in rows]
    means = [sum(row[key] for row in rows) / len(rows) for key in ("estimated_bpp", "bpp")]
    table.append([codec, setting, str(len(rows)), *(f"{mean:.4f}" for mean in means)])
    table[-1] += [
      _percent(sum(differences) / len(rows), 2),
      _percent(max(differences, key=abs), 2),
    ]
  headers = ["Codec", "Setting", "Pictures", "Estimated bpp", "Real bpp", "Mean difference"]
  return (
    '<p class="hint">The estimate is what the coder’s tables give to the symbols alone; the file '
    "adds its header, a checksum and the coder’s own loss. The difference is (real − estimated) / "
    "estimated of each picture.</p>" + _table([*headers, "Largest"], table, texts=2)
  )


def _about(about: dict, names: Sequence[str]) -> str:
  machine = about.get("machine")
  shown = {key: about[key] for key in ("date", "commit", "command") if about.get(key)}
  shown.update(machine if isinstance(machine, dict) else {"machine": machine or "not stated"})
  taken = ("date", "commit", "command", "machine", "pictures")
  shown.update({key: value for key, value in about.items() if key not in taken})
  pictures = ", ".join(map(str, about.get("pictures") or names))
  return (
    _list(shown) + f"<details><summary>{_count(len(names), 'picture')}</summary>"
    f"<p>{_escape(pictures)}</p></details>"
  )


def _list(items: dict) -> str:
  lines = "".join(
    f"<dt>{_escape(str(key))}</dt><dd>{_escape(_words(value))}</dd>" for key, value in items.items()
  )
  return f"<dl>{lines}</dl>"


def _words(value) -> str:
  if isinstance(value, dict):
    return "; ".join(f"{key} {_words(item)}" for key, item in value.items()) or "none"
  if isinstance(value, list):
    return ", ".join(map(_words, value)) or "none"
  return f"{value:g}" if isinstance(value, float) else str(value)


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]], texts=1, tall=False) -> str:
  """Returns a table that scrolls by itself on narrow screens.

  Args:
    headers: of the columns.
    rows: cells, escaped here unless they are `_Markup`; the first is the row's header. A row of
      two spans the table with its second.
    texts: how many columns hold text; the others hold numbers, to the right.
    tall: whether it scrolls up and down as well, below its headers.
  """

  def classes(column):
    return ' class="number"' if column >= texts else ' class="name"' if column == 0 else ""

  head = "".join(f'<th scope="col"{classes(i)}>{_escape(h)}</th>' for i, h in enumerate(headers))
  body = ""
  for row in rows:
    first, *others = (cell if isinstance(cell, _Markup) else _escape(cell) for cell in row)
    span = f' colspan="{len(headers) - len(others)}"' if len(row) < len(headers) else ""
    cells = "".join(f"<td{classes(i)}{span}>{cell}</td>" for i, cell in enumerate(others, 1))
    first = re.sub("([_-])", r"\1<wbr>", first)  # names of codecs may break there
    body += f'<tr><th scope="row" class="name">{first}</th>{cells}</tr>\n'
  return (
    f'<div class="scroll{" tall" * tall}" tabindex="0" role="region" '
    f'aria-label="{_escape(headers[0])}, {_escape(headers[-1])}: table">'
    f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>"
  )


def _label(measure: str) -> str:
  return plots.MEASURES[measure].label if measure in plots.MEASURES else measure


def _escape(text: str) -> str:
  return html.escape(text, quote=True)


def _count(number: int, noun: str) -> str:
  return f"{number} {noun}{'s' * (number != 1)}"


def _text(value: float | None, decimals: int) -> str:
  if value is None or math.isnan(value):
    return "–"
  return "∞" if math.isinf(value) else f"{value:.{decimals}f}"


def _percent(value: float, decimals: int = 1) -> str:
  text = f"{value:+.{decimals}f}"
  text = text.replace("-", "−") if float(text) else text[1:]
  return f"{text}\N{NO-BREAK SPACE}%"


def _seconds(value: float) -> str:
  decimals = next((d for limit, d in ((0.1, 4), (1, 3), (10, 2), (100, 1)) if value < limit), 0)
  return f"{value:.{decimals}f}"


def _viewer(pictures: dict) -> str:
  if not pictures["pictures"]:
    why = "They would not fit into the page." if pictures["omitted"] else "No pictures were kept."
    return f"<p>{why}</p>"
  omitted = pictures["omitted"]
  more = f" {_count(omitted, 'more kept picture')} would not fit into the page." if omitted else ""
  return _file("report_viewer.html").replace("{{omitted}}", more)
