"""Figures of the experiments, as PNG and SVG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from detection.experiments.tables import LABELS, SIZES
from khuvcm_tf.ops.pyramid import LEVELS
from khuvcm_tf.results import figures
from khuvcm_tf.results.curves import COLOURS, MARKERS
from khuvcm_tf.results.rows import Row

_FONT_SIZE = 8


def heat_table(path: str, all_rows: Sequence[Row]) -> None:
  """Draws the changes of a degradation as a table of colours: red for little loss, blue for much.

  Args:
    path: of the files, without suffix.
    all_rows: with `level`, `degraded_by` and the changes.

  Raises:
    atomic_files.FileError: a file cannot be written.
  """
  changes = [[100 * row[f"{key}_change"] for key in LABELS] for row in all_rows]
  worst = min([-1.0, *(value for line in changes for value in line if value == value)])
  with figures.new_figure(path, (6.2, 0.26 * len(all_rows) + 0.9), _FONT_SIZE) as figure:
    axes = figure.add_subplot()
    axes.imshow(changes, cmap="RdBu_r", vmin=worst, vmax=-worst / 4, aspect="auto")
    for y, line in enumerate(changes):
      for x, value in enumerate(line):
        is_dark = value == value and (value < 0.7 * worst or value > -worst / 5)
        shown = "–" if value != value else f"{value:+.1f}"
        axes.text(x, y, shown, ha="center", va="center", color="white" if is_dark else "black")
    axes.set_xticks(range(len(LABELS)), LABELS.values())
    axes.xaxis.tick_top()
    names = [f"{row['level'].upper()} by {row['degraded_by']}" for row in all_rows]
    axes.set_yticks(range(len(names)), names)
    for y, (above, below) in enumerate(zip(all_rows, all_rows[1:])):
      if above["level"] != below["level"]:
        axes.axhline(y + 0.5, color="white", linewidth=3)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def lines_by_level(path: str, all_rows: Sequence[Row], unchanged: Row) -> None:
  """Draws AP of each size of objects against the factor of the damage, a line for each level."""
  with figures.new_figure(path, (9.5, 3.4), _FONT_SIZE) as figure:
    for axes, (key, size) in zip(figure.subplots(1, 3), SIZES.items()):
      for number, level in enumerate(LEVELS):
        own = [row for row in all_rows if row["level"] == level]
        factors = [1, *(row["degraded_by"] for row in own)]
        values = [100 * row[key] for row in (unchanged, *own)]
        if own:
          axes.plot(
            factors,
            values,
            color=COLOURS[number],
            marker=MARKERS[number],
            markersize=4,
            label=level.upper(),
          )
      axes.set_xscale("log", base=2)
      axes.set_title(f"{size} objects", fontsize=9)
      axes.set_xlabel("degraded by")
      axes.set_ylabel(f"{LABELS[key]} (%)")
      axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
      figures.add_grid(axes)
      axes.set_axisbelow(True)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")


def bars_by_size(
  path: str, all_rows: Sequence[Row], lines: Mapping[str, tuple[float, float]]
) -> None:
  """Draws AP of each size of objects, a bar for each set of levels that are damaged together.

  Args:
    path: of the files, without suffix.
    all_rows: with `levels`.
    lines: by key, where to draw dashed lines: the worst single level, green, and all levels, red.
  """
  with figures.new_figure(path, (9.5, 3.6), _FONT_SIZE) as figure:
    for axes, (key, size) in zip(figure.subplots(1, 3), SIZES.items()):
      names = [row["levels"].upper().replace("+", "\n") for row in all_rows]
      axes.bar(range(len(names)), [100 * row[key] for row in all_rows], color=COLOURS[5], width=0.7)
      single, every = lines[key]
      axes.axhline(100 * single, color="#009e73", linestyle="--", label="worst single level")
      axes.axhline(100 * every, color="#c00000", linestyle="--", label="all levels")
      axes.set_xticks(range(len(names)), names, fontsize=7)
      axes.set_title(f"{size} objects", fontsize=9)
      axes.set_ylabel(f"{LABELS[key]} (%)")
      figures.add_grid(axes)
      axes.set_axisbelow(True)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
