"""The page of feature coding: curves, thresholds, BD-rates, and the study's numbers beside."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from detection.feature_coding import study, tables
from detection.feature_coding.curves import Measured
from detection.feature_coding.threshold import Threshold
from khuvcm_tf.results import curves, figures, provenance, report
from khuvcm_tf.results.report import Markup, Section

_RATE = tables.BPP
_SIDE = (
  "Rates are those of files, headers and side information included, in bits per pixel of the image "
  "as the data set has it."
)


def write(
  measured: Measured,
  output: str,
  about: Mapping[str, object],
  facts: Sequence[str],
  found: Mapping[str, Threshold],
  anchor: str | None,
  bd_rates: Mapping[str, Mapping[str, dict]],
) -> str:
  """Writes report.html, and figures into plots/.

  Args:
    measured: what was found.
    output: folder, which exists.
    about: names and values for the section of what was run.
    facts: below the title.
    found: D_T by curve.
    anchor: curve that BD-rates compare with; None for no BD-rates.
    bd_rates: as of `tables.bd_rates`.

  Returns:
    The page's path.

  Raises:
    atomic_files.FileError: a file cannot be written.
  """
  rate, distortion = tables.rate_curves(measured), tables.distortion_curves(measured)
  plots = os.path.join(output, "plots")
  windows = (0.25, 0.5, 1.0, 2.0, 4.0)
  limit = curves.first_window(rate, windows)
  figures.write(plots, _RATE, [*tables.METRICS, tables.PSNR], rate, limit)
  threshold_figure(os.path.join(plots, "threshold"), measured, found)
  sections = [
    Section(
      "rate-performance",
      "Performance against rate",
      Markup(
        report.paragraph(_SIDE)
        + report.curves(
          *(_RATE, [*tables.METRICS, tables.PSNR, tables.MSE], rate, windows),
          names=("Coder", "Point", "Images"),
          hint=f"AP is that of {measured.kind}. PSNR and MSE are of the features P2 to P5.",
        )
      ),
    ),
    Section(
      "distortion-performance",
      "Performance against distortion",
      Markup(
        report.picture(os.path.join(plots, "threshold.svg"), "AP against MSE, with thresholds")
        + _thresholds(found)
        + report.curves(
          *(tables.MSE, tables.METRICS, distortion),
          names=("Coder", "Point", "Images"),
          hint="The further left, the less distortion.",
        )
      ),
    ),
    *([_bd_rates(list(tables.by_curve(measured)), anchor, bd_rates)] if anchor else []),
    Section(
      "study",
      "The study's numbers",
      Markup(
        report.paragraph(
          f"{study.NAME}: its detector, data, planes and training are not ours, so that only the "
          "shape of the curves can be compared."
        )
        + report.table(["lambda", "MSE", "bpp", "mAP at 0.5 (%)"], tables.study_lines())
      ),
    ),
    Section(
      "rows",
      "All points",
      report.row_table(
        tables.COLUMNS,
        [_in_percent(row) for row in (measured.unchanged, *measured.rows)],
        ["curve"],
        "points",
      ),
    ),
    Section("about", "What was run", report.description_list({**about, **provenance.describe()})),
  ]
  path = os.path.join(output, "report.html")
  notes = ""
  if measured.left_out:
    notes = report.left_out(
      f"{report.count(len(measured.left_out), 'image')} left out; all numbers are of the others.",
      [(each["file_name"], each["reason"]) for each in measured.left_out],
    )
  report.write(path, "Features coded for a detector", facts, sections, notes=notes)
  return path


def threshold_figure(path: str, measured: Measured, found: Mapping[str, Threshold]) -> None:
  """Draws AP against the logarithm of MSE, and each fit."""
  base = 100 * measured.unchanged["ap"]
  with figures.new_figure(path, (7.5, 4.6), 9) as figure:
    axes = figure.add_subplot()
    for index, (name, own) in enumerate(tables.by_curve(measured).items()):
      colour, marker = curves.look(index)
      style = {"color": curves.COLOURS[colour]}
      axes.plot(
        [row["mse"] for row in own],
        [100 * row["ap"] for row in own],
        **style,
        marker=curves.MARKERS[marker],
        markersize=5,
        linewidth=1,
        label=name,
      )
      if name in found:
        fit, last = found[name], max(row["mse"] for row in own)
        xs = np.geomspace(min(row["mse"] for row in own), last, 200)
        ys = base - 100 * fit.slope * np.maximum(0, np.log(xs / fit.distortion))
        axes.plot(xs, ys, **style, linestyle=":", linewidth=1)
        axes.axvline(fit.distortion, **style, linestyle="--", linewidth=0.7)
    axes.axhline(base, color="0.4", linewidth=0.8, label="not coded")
    axes.set_xscale("log")
    axes.set_xlabel(tables.MSE.label)
    axes.set_ylabel(f"AP of {measured.kind} (%)")
    figures.add_grid(axes)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", frameon=False)


def _thresholds(found: Mapping[str, Threshold]) -> Markup:
  lines = [
    [
      name,
      f"{'' if each.is_reached else 'at most '}{each.distortion:.4g}",
      f"{each.low:.4g} to {each.high:.4g}",
      f"{100 * each.slope:.2f}",
      f"{100 * each.residual:.2f}",
    ]
    for name, each in found.items()
  ]
  return Markup(
    report.paragraph(
      "D_T is where AP begins to fall: up to it AP is that of features that were not coded, then "
      "less by the slope for each e-fold of MSE, both fitted by least squares over a curve's "
      "points (dotted; D_T dashed). The interval is of 95 %, by a bootstrap over the images."
    )
    + report.table(["Coder", "D_T", "interval", "slope (points of AP)", "residual (points)"], lines)
  )


def _bd_rates(
  names: Sequence[str], anchor: str, bd_rates: Mapping[str, Mapping[str, dict]]
) -> Section:
  rates = {f"over {key.upper()}": each for key, each in bd_rates.items()}
  body = report.paragraph(
    "Rate at equal AP, and at equal PSNR of P2 to P5. AP of few images does not always rise with "
    "rate: points below one of a lower rate are left out. The interval is of 95 %, by a bootstrap "
    "over the images."
  ) + report.bd_rate_table("Coder", anchor, rates, names)
  return Section("bd-rates", "BD-rates", Markup(body))


def _in_percent(row: dict) -> dict:
  return {**row, **{key: 100 * row[key] for key in tables.LABELS}}
