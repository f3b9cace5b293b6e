"""The report page of an evaluation: one HTML file that holds all that it shows.

A page is a title and a list of sections, which functions here make of data: curves with any axis
and any metrics, images side by side, a table of all rows, other tables. The page can be sent by
mail and opened years later: its content security policy forbids it to load anything. Curves, images
and the table of rows are drawn by plain JavaScript from JSON in the section; everything else is
HTML, and can be read without JavaScript.

  sections = [
    report.Section("curves", "AP by elements kept", report.curves(axis, metrics, curves)),
    report.Section("about", "What was run", report.description_list(provenance.describe())),
  ]
  report.write("runs/thresholds/report.html", "Thresholds", ["2026-01-02"], sections)
"""

from __future__ import annotations

import base64
import hashlib
import html
import importlib.resources
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from khuvcm_tf import atomic_files
from khuvcm_tf.results import bjontegaard, rows
from khuvcm_tf.results.curves import Curve, first_window, look
from khuvcm_tf.results.rows import Quantity

_SCRIPTS = ("curves", "viewer", "rows")


class Markup(str):
  """HTML that is ready; any other string is escaped where it enters the page."""


class Section(NamedTuple):
  """A part of the page."""

  name: str  # its fragment in the page's address; letters, digits and hyphens
  title: str
  body: Markup
  link: str = ""  # its text in the list of sections; "" for the title


def write(
  path: str,
  title: str,
  facts: Sequence[str],
  sections: Sequence[Section],
  lead: str = "",
  notes: str = "",
) -> None:
  """Writes a page.

  Args:
    path: of the file.
    title: heading.
    facts: short texts below the title, such as date and commit.
    sections: in their order.
    lead: what most readers come for, below the facts.
    notes: what must be read before the sections, such as what is missing.

  Raises:
    atomic_files.FileError: the file cannot be written.
  """
  scripts = [_file(f"{name}.js") for name in _SCRIPTS]
  style = _file("style.css")
  links = (f'<a href="#{s.name}">{escape(s.link or s.title)}</a>' for s in sections)
  bodies = (
    f'<section id="{s.name}" aria-labelledby="{s.name}-title">\n'
    f'<h2 id="{s.name}-title">{escape(s.title)}</h2>\n{s.body}\n</section>'
    for s in sections
  )
  page = _fill(
    "page.html",
    policy=_policy(scripts, style),
    title=escape(title),
    style=style,
    facts=escape(" · ".join(facts)),
    lead=escape(lead),
    links="\n".join(links),
    notes=escape(notes),
    sections="\n".join(bodies),
    scripts="\n".join(f"<script>{script}</script>" for script in scripts),
  )
  atomic_files.write_text(path, page)


def curves(
  axis: Quantity,
  metrics: Sequence[Quantity],
  drawn: Sequence[Curve],
  windows: Sequence[float] = (),
  names: tuple[str, str, str] = ("Method", "Point", "Items"),
  hint: str = "",
) -> Markup:
  """Returns curves of one metric at a time, with the same numbers as a table.

  Args:
    axis: what x is.
    metrics: what y may be; those that no curve has are left out.
    drawn: in the order of their colours; at least one.
    windows: highest x to choose from, rising.
    names: headers of the table for a curve's name, a point's label and its count.
    hint: what a point is.
  """
  metrics = [m for m in metrics if any(m.key in p.values for c in drawn for p in c.points)]
  shown, lines = [], []
  for index, curve in enumerate(drawn):
    colour, marker = look(index)
    points = [
      {"label": p.label, "x": p.x, "values": {key: round(v, 6) for key, v in p.values.items()}}
      for p in curve.points
    ]
    shown.append({**curve._asdict(), "colour": colour, "marker": marker, "points": points})
    name = curve.name + f" ({curve.group.lower()})" * (curve.style == "dashed")
    for p in curve.points:
      values = [number(p.values.get(m.key, math.nan), m.decimals) for m in metrics]
      lines.append([name, p.label, str(p.count or "–"), number(p.x, axis.decimals), *values])
  data = {
    **{"axis": axis._asdict(), "metrics": {m.key: m._asdict() for m in metrics}},
    **{"windows": list(windows), "first": first_window(drawn, windows), "curves": shown},
  }
  headers = [*names, axis.title, *(metric.title for metric in metrics)]
  numbers = table(headers, lines, texts=2, is_tall=True)
  return _fill("curves.html", hint=escape(hint), table=numbers, data=_data(data))


def row_table(
  columns: Sequence[Quantity],
  all_rows: Sequence[rows.Row],
  filters: Sequence[str],
  noun: str = "rows",
  hint: str = "",
) -> Markup:
  """Returns a table of rows, to be sorted and filtered.

  Args:
    columns: those to show.
    all_rows: with these columns.
    filters: columns to choose rows by; of the first, one value is chosen at the start.
    noun: what a row is, in the plural.
    hint: how to read the table.
  """

  def rounded(value, decimals):
    if decimals is None or not math.isfinite(value):
      return value
    value = round(value, decimals + 1)  # sorts as it is shown, in half the bytes
    return int(value) if value == int(value) else value

  data = {
    "columns": [column._asdict() for column in columns],
    "rows": [[rounded(row[c.key], c.decimals) for c in columns] for row in all_rows],
    **{"filters": list(filters), "noun": noun},
  }
  return _fill("rows.html", hint=escape(hint), data=_data(data))


def images(embedded: Mapping[str, object], axis: Quantity, hint: str = "") -> Markup:
  """Returns images side by side.

  Args:
    embedded: as `viewer.embed` returns it.
    axis: what the targets are.
    hint: what must be known before images are compared.
  """
  omitted = embedded["omitted"]
  if not embedded["images"]:
    return paragraph("They would not fit into the page." if omitted else "No images were kept.")
  more = f" {count(omitted, 'more kept image')} would not fit into the page." if omitted else ""
  data, label = {**embedded, "axis": axis._asdict()}, axis.label[:1].upper() + axis.label[1:]
  fields = {"hint": escape(hint), "omitted": more, "axis": escape(label)}
  return _fill("viewer.html", **fields, data=_data(data))


def bd_rate_table(
  header: str, anchor: str, rates: Mapping[str, Mapping[str, dict]], names: Sequence[str]
) -> Markup:
  """Returns a table of BD-rates.

  Args:
    header: what a curve is.
    anchor: name of the curve that the others are compared with.
    rates: {title of a metric: what `bjontegaard.bd_rates` returned}.
    names: of all curves in their order.
  """
  lines = []
  for name in names:
    cells = [_bd_rate_cell(found.get(name)) for found in rates.values()]
    if name == anchor:
      cells = [Markup('<span class="fine">anchor</span>')] * len(rates)
    # One reason against every metric, such as too few points, is written once.
    is_one_error = len(set(cells)) == 1 and "error" in cells[0]
    lines.append([name, cells[0]] if is_one_error else [name, *cells])
  least = round(100 * bjontegaard.LEAST_OVERLAP)
  return Markup(
    f'<p class="hint">Mean difference in rate at equal quality, in % of the rate of '
    f"{escape(anchor)}: −10 % needs a tenth fewer bits. Below each, the range of quality that both "
    "curves cover, in dB (similarities too) or percent, and its share of the shorter curve’s; "
    f'<span class="warn">⚠</span> marks a share below {least} %, where little is compared.</p>'
    + table([header, *rates], lines)
  )


def _bd_rate_cell(found: dict | None) -> str:
  if found is None:
    return "–"
  if "error" in found:
    return Markup(f'<div class="error">{escape(found["error"])}</div>')
  low, high = (number(found[key], 1) for key in ("lowest", "highest"))
  share = f"{low}–{high}, {100 * found['overlap']:.0f} %"
  if not found["overlap"] >= bjontegaard.LEAST_OVERLAP:
    share = f'<span class="warn" title="little overlap">⚠ {share}</span>'
  value = percent(found["value"])
  if "interval" in found:
    value += " ({} to {})".format(*map(percent, found["interval"]))
  return Markup(f'<strong>{value}</strong><span class="fine">{share}</span>')


def table(
  headers: Sequence[str], lines: Sequence[Sequence[str]], texts: int = 1, is_tall: bool = False
) -> Markup:
  """Returns a table that scrolls by itself on narrow screens.

  Args:
    headers: of the columns.
    lines: cells; the first is the line's header. A line of two cells spans the table with its
      second.
    texts: how many leading columns hold text; the others hold numbers, to the right.
    is_tall: whether it scrolls up and down as well, below its headers.
  """

  def classes(column):
    return ' class="number"' if column >= texts else ' class="name"' if column == 0 else ""

  head = "".join(f'<th scope="col"{classes(i)}>{escape(h)}</th>' for i, h in enumerate(headers))
  body = ""
  for line in lines:
    first, *others = map(escape, line)
    span = f' colspan="{len(headers) - len(others)}"' if len(line) < len(headers) else ""
    cells = "".join(f"<td{classes(i)}{span}>{cell}</td>" for i, cell in enumerate(others, 1))
    first = re.sub("([_-])", r"\1<wbr>", first)  # long names may break there
    body += f'<tr><th scope="row" class="name">{first}</th>{cells}</tr>\n'
  return Markup(
    f'<div class="scroll{" tall" * is_tall}" tabindex="0" role="region" '
    f'aria-label="{escape(headers[0])}, {escape(headers[-1])}: table">'
    f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>"
  )


def description_list(items: Mapping[str, object]) -> Markup:
  """Returns names and values; nested values in one line."""

  def text(value):
    if isinstance(value, Mapping):
      return "; ".join(f"{key} {text(item)}" for key, item in value.items()) or "none"
    if isinstance(value, (list, tuple)):
      return ", ".join(map(text, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)

  lines = "".join(f"<dt>{escape(k)}</dt><dd>{escape(text(v))}</dd>" for k, v in items.items())
  return Markup(f"<dl>{lines}</dl>")


def picture(path: str, text: str) -> Markup:
  """Returns a figure of an SVG file, embedded.

  Args:
    path: of the file.
    text: what it shows, for those who do not see it.
  """
  with open(path, "rb") as file:
    data = base64.b64encode(file.read()).decode()
  source = f"data:image/svg+xml;base64,{data}"
  return Markup(f'<p class="picture"><img src="{source}" alt="{escape(text)}"></p>')


def details(summary: str, body: str) -> Markup:
  """Returns what is shown when its summary is pressed."""
  return Markup(f"<details><summary>{escape(summary)}</summary>{escape(body)}</details>")


def left_out(text: str, reasons: Sequence[tuple[str, str]]) -> Markup:
  """Returns a warning that items are missing, with the names and reasons of them."""
  found = bullets(reasons)
  found = details("All of them", found) if len(reasons) > 10 else found
  return Markup(f'<div class="note"><p class="warn">{escape(text)}</p>{found}</div>')


def bullets(items: Iterable[tuple[str, str]]) -> Markup:
  """Returns a list of names, each with a text."""
  lines = (f"<li><strong>{escape(name)}</strong>: {escape(text)}</li>" for name, text in items)
  return Markup(f"<ul>{''.join(lines)}</ul>")


def paragraph(text: str, kind: str = "") -> Markup:
  """Returns a paragraph; `kind` is a class of the style sheet, such as "hint" or "note"."""
  return Markup(f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>")


def escape(text: str) -> str:
  """Returns text as HTML shows it; what is `Markup` stays as it is."""
  return text if isinstance(text, Markup) else Markup(html.escape(text, quote=True))


def count(value: int, noun: str) -> str:
  """Returns a number with its noun in the singular or plural."""
  return f"{value} {noun}{'s' * (value != 1)}"


def number(value: float, decimals: int) -> str:
  """Returns a number; – for nan."""
  if math.isnan(value):
    return "–"
  return "∞" if math.isinf(value) else f"{value:.{decimals}f}"


def percent(value: float, decimals: int = 1) -> str:
  """Returns a signed number of percent."""
  text = f"{value:+.{decimals}f}"
  text = text.replace("-", "−") if float(text) else text[1:]
  return f"{text}\N{NO-BREAK SPACE}%"


def _fill(template: str, **fields: str) -> Markup:
  """Fills a template in one pass, so that nothing that is filled in is searched for fields."""
  return Markup(re.sub(r"\{\{(\w+)\}\}", lambda match: fields[match[1]], _file(template)))


def _file(name: str) -> str:
  return (importlib.resources.files("khuvcm_tf.results") / "page" / name).read_text("utf-8")


def _policy(scripts: Sequence[str], style: str) -> str:
  """Allows the page's own scripts and style, and nothing to be loaded."""

  def fingerprint(text):
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

  return (
    f"default-src 'none'; img-src data:; style-src {fingerprint(style)}; "
    f"script-src {' '.join(map(fingerprint, scripts))}; base-uri 'none'; form-action 'none'"
  )


def _data(content: object) -> str:
  """JSON for the section's script, without any < that could end the element."""
  text = json.dumps(rows.to_json(content), allow_nan=False, separators=(",", ":"))
  text = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
  return f'<script type="application/json">{text}</script>'
