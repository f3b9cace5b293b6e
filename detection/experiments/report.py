"""The report of the experiments: one page with what was found, beside the study's numbers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from detection.experiments import key_maps, reconstruction, study, tables
from detection.experiments.combinations import Combinations
from detection.experiments.degradation import Degradation
from detection.experiments.key_maps import KeyMaps
from detection.experiments.reconstruction import Reconstruction
from detection.experiments.rules import max_factor
from detection.experiments.runner import KEYS, Runner
from khuvcm_tf.ops.pyramid import LEVELS
from khuvcm_tf.results import provenance, report
from khuvcm_tf.results.report import Markup, Section
from khuvcm_tf.results.rows import Row

_ELSEWHERE = (
  (
    "MFIBA (arXiv 2503.19278)",
    "damages one level at a time, and finds that which level matters depends on the objects' size "
    "and on the image.",
  ),
  (
    "L-MSFC (arXiv 2306.16670)",
    "fuses the levels by a network that is trained with a codec: it saves far more than a factor "
    "of 5, and needs that training.",
  ),
  (
    "P2, P4 and P6 rebuilt from P3 and P5",
    "we know of no publication beside the study.",
  ),
)
_INTERVALS = (
  "Changes are against the features as they were, in percent points. A * marks those whose 95 % "
  "interval, a paired bootstrap over the images, does not hold 0; others may be the choice of "
  "images. Many changes are looked at, so that some of those marked are chance too."
)


class Results(NamedTuple):
  """What the experiments found, those that were made."""

  degradation: Degradation | None = None
  combinations: Combinations | None = None
  reconstruction: Reconstruction | None = None
  key_maps: KeyMaps | None = None


def write(
  runner: Runner,
  output: str,
  detector: str,
  results: Results,
  num_images: int,
  left_out: Sequence[dict[str, str]],
) -> str:
  """Writes report.html.

  Args:
    runner: one of the experiments'.
    output: folder of the page; figures lie in `plots` there, or with several experiments in the
      `plots` of each one's own folder.
    detector: name of it.
    results: at least one.
    num_images: of the data set.
    left_out: "file_name" and "reason" of images that could not be read.

  Returns:
    The page's path.

  Raises:
    atomic_files.FileError: the page cannot be written.
  """
  made = [name for name, value in results._asdict().items() if value is not None]
  sections = []
  for name in made:
    folder = os.path.join(output, name) if len(made) > 1 else output
    sections.append(_SECTIONS[name](getattr(results, name), os.path.join(folder, "plots")))
  sections.append(Section("elsewhere", "What is known elsewhere", report.bullets(_ELSEWHERE)))
  metadata, images = provenance.describe(), report.count(num_images, "image")
  items = {
    "detector": f"{detector}, fingerprint {runner.model.fingerprint}",
    "config": runner.model.detector.config.changes(),
    "data set": f"{runner.dataset.name}, {images}",
    "notes": runner.notes,
    "features": runner.source.dtype,
    "draws of the bootstrap": runner.num_draws,
    **metadata,
  }
  sections.append(Section("metadata", "What was run", report.description_list(items)))
  path = os.path.join(output, "report.html")
  report.write(
    path,
    "Levels of a feature pyramid, damaged and rebuilt",
    [metadata["date"][:10], detector, f"{images} of {runner.dataset.name}"],
    sections,
    lead=_lead(results),
    notes=_left_out(left_out),
  )
  return path


def findings(found: Degradation) -> list[tuple[str, str]]:
  """Returns for each size of objects which levels they lose most by, and what the study found.

  Only clear losses of a level at its greatest damage are named. The study's levels are found again
  where their intervals lie below those of all others, and not where that of another lies below one
  of theirs.
  """
  return [
    (f"{size} objects", _finding(found.rows, key, study.FINDINGS[key]))
    for key, size in tables.SIZES.items()
  ]


def _finding(all_rows: Sequence[Row], key: str, of_study: Sequence[str]) -> str:
  largest = {r["level"]: r for r in all_rows if r["degraded_by"] == max_factor(r["level"])}
  order = sorted(largest, key=lambda level: largest[level][f"{key}_change"])
  if any(row[key] != row[key] for row in largest.values()):
    return "the data set has none."
  clear = [
    level
    for level in order
    if largest[level][f"{key}_change"] < 0 and tables.is_clear(largest[level], key)
  ]
  lines = [f"{level.upper()} ({_interval(largest[level], key)})" for level in clear]
  text = f"they lose most by {', then '.join(lines)}" if lines else "no level is clearly missed"
  if len(largest) < len(LEVELS):
    return f"{text}."
  names = " and ".join(level.upper() for level in of_study)
  own = [largest[level] for level in of_study]
  others = [largest[level] for level in order if level not in of_study]
  high, low = f"{key}_high", f"{key}_low"
  if set(of_study) <= set(clear) and max(r[high] for r in own) < min(r[low] for r in others):
    relation = f"as the study found: {names}"
  elif min(r[high] for r in others) < max(r[low] for r in own):
    relation = f"unlike the study, which found {names}"
  else:
    relation = f"the intervals do not decide whether most by {names}, as the study found"
  return f"{text}; {relation}."


def _degradation(found: Degradation, plots: str) -> Section:
  heat = os.path.join(plots, "degradation.svg")
  lines = os.path.join(plots, "levels.svg")
  body = (
    report.paragraph(
      "Each level alone is shrunk by a factor and enlarged again, both by bilinear interpolation "
      "between half-pixel centres without antialiasing."
    )
    + report.bullets(findings(found))
    + report.picture(lines, "AP of small, medium and large objects against the factor")
    + report.paragraph("Changes of AP in percent points: red is little loss, blue is much.")
    + report.picture(heat, "Changes of each number for each level and factor")
    + report.paragraph(_INTERVALS, "hint")
    + _table([found.unchanged, *found.rows], ("level", "degraded_by"))
  )
  return Section("degradation", "Each level degraded", Markup(body))


def _combinations(found: Combinations, plots: str) -> Section:
  studied = [[name, f"{value:.1f}"] for name, value in study.COMBINATIONS.items()]
  body = (
    report.paragraph(
      "Several levels are degraded at once, each at its maximum. Dashed: the worst single level "
      "(green), and all levels (red)."
    )
    + report.bullets(_pairs(found))
    + report.picture(
      os.path.join(plots, "combinations.svg"),
      "AP of small, medium and large objects for each set of levels",
    )
    + report.paragraph(_INTERVALS, "hint")
    + _table([found.unchanged, *found.singles, *found.rows, found.every], ("levels",))
    + report.details(
      f"APs in the {study.NAME}", report.table(["degraded at maximum", "APs (%)"], studied)
    )
  )
  return Section("combinations", "Levels degraded together", Markup(body))


def _reconstruction(found: Reconstruction, plots: str) -> Section:
  labels = [tables.LABELS[key] for key in study.RECONSTRUCTION_KEYS]
  base = study.RECONSTRUCTION["none"][1:]
  studied = [
    [name, *(f"{v:.1f} ({v - b:+.1f})" for v, b in zip(row[1:], base))]
    for name, row in study.RECONSTRUCTION.items()
  ]
  body = (
    report.paragraph(
      "Levels are rebuilt from those that are kept; the factor is how many times less is kept "
      f"than all levels hold. The study says {study.FACTOR} for P3 and P5."
    )
    + report.curves(
      tables.SHARE,
      tables.METRICS,
      reconstruction.points(found.rows),
      names=("Rule", "Text", "Images"),
      hint="A point is a rule.",
    )
    + report.paragraph(_INTERVALS, "hint")
    + _table(found.rows, ("name",), ("rule",))
    + report.paragraph(f"The same rules in the {study.NAME}, as it prints them:")
    + report.table(["name", *(f"{label} (%)" for label in labels)], studied)
  )
  return Section("reconstruction", "Levels rebuilt", Markup(body))


def _key_maps(found: KeyMaps, plots: str) -> Section:
  del plots
  rows = sorted(found.rows, key=lambda row: -row["factor"])
  shown = [{**row, "chosen": "chosen" if row["is_chosen"] else ""} for row in rows]
  body = (
    report.paragraph(
      f"{found.num_choices:,} choices of levels to keep and of ways to rebuild the others were "
      f"compared by prediction, {found.num_evaluations} rules evaluated on the search images. "
      "What follows was measured on the other images, which the search did not see."
    )
    + report.paragraph(choice_text(found))
    + report.curves(
      tables.SHARE,
      tables.METRICS,
      key_maps.curves_of(found.rows),
      names=("Rules", "Rule", "Images"),
      hint="A point is a rule: those on the search's front of AP, and the study's.",
    )
    + report.paragraph(_INTERVALS, "hint")
    + _table(shown, ("origin", "chosen", "front"), ("rule",))
  )
  return Section("key-maps", "Key maps", Markup(body))


_SECTIONS = {
  "degradation": _degradation,
  "combinations": _combinations,
  "reconstruction": _reconstruction,
  "key_maps": _key_maps,
}


def choice_text(found: KeyMaps) -> str:
  """Returns what the search chose and how it compares with the study's rules."""
  row, other = found.choice, found.comparison
  if other.low > 0:
    relation = "more than"
  elif other.high < 0:
    relation = "less than"
  else:
    relation = "not clearly different from"
  return (
    f"The choice: {row['rule']}. It keeps {_percent(1 / row['factor'])} of the elements and "
    f"reaches AP {_percent(row['ap'])} ({tables.change(row, 'ap')}), {relation} the best of the "
    f"study's rules of P3 and P5, {other.name}, which keeps {_percent(other.share)}: "
    f"{100 * other.ap:+.1f} ({100 * other.low:+.1f} to {100 * other.high:+.1f})."
  )


def _percent(value: float) -> str:
  return f"{tables.percent(value)}\N{NO-BREAK SPACE}%"


def _pairs(found: Combinations) -> list[tuple[str, str]]:
  """Returns for each size the pair that loses most, against what its levels lose alone."""
  alone, lines = {row["levels"]: row for row in found.singles}, []
  pairs = [row for row in found.rows if row["levels"].count("+") == 1]
  for key, size in tables.SIZES.items():
    clear = [row for row in pairs if row[f"{key}_change"] < 0 and tables.is_clear(row, key)]
    if not clear:
      lines.append((f"{size} objects", "no pair is clearly missed."))
      continue
    worst = min(clear, key=lambda row: row[f"{key}_change"])
    total = sum(alone[level][f"{key}_change"] for level in worst["levels"].split("+"))
    name = worst["levels"].upper().replace("+", " and ")
    lines.append(
      (
        f"{size} objects",
        f"{name} together lose most ({_interval(worst, key)}); the changes of each alone add up to "
        f"{100 * total:+.1f}.",
      )
    )
  return lines


def _lead(results: Results) -> str:
  if results.key_maps:
    return report.paragraph(choice_text(results.key_maps), "lead")
  return ""


def _left_out(items: Sequence[dict[str, str]]) -> str:
  if not items:
    return ""
  return report.left_out(
    f"{report.count(len(items), 'image')} left out; all numbers are those of the others.",
    [(each["file_name"], each["reason"]) for each in items],
  )


def _interval(row: Row, key: str) -> str:
  return f"{100 * row[f'{key}_change']:+.1f}, {_ends(row, key)}"


def _ends(row: Row, key: str) -> str:
  return f"{100 * row[f'{key}_low']:+.1f} to {100 * row[f'{key}_high']:+.1f}"


def _table(all_rows: Sequence[Row], first: Sequence[str], last: Sequence[str] = ()) -> Markup:
  """Returns rows with their changes; the interval of each stands below it."""
  headers = [each.replace("_", " ") for each in first]
  headers += [f"{tables.LABELS[key]} (%)" for key in KEYS]
  headers += ["elements kept", "bytes kept", "factor", *last]
  lines = []
  for row in all_rows:
    numbers = [
      Markup(
        f"{tables.percent(row[key])} ({tables.change(row, key)})"
        f'<span class="fine">{_ends(row, key) if row[key] == row[key] else ""}</span>'
      )
      for key in KEYS
    ]
    sizes = [f"{row['elements_kept']:,}", f"{row['bytes_kept']:,}", f"{row['factor']:.2f}"]
    texts = [str(row[name]) for name in first]
    lines.append([*texts, *numbers, *sizes, *(str(row[name]) for name in last)])
  return report.table(headers, lines, texts=len(first), is_tall=len(lines) > 12)
