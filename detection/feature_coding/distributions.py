"""How the values of features are distributed before and after they were coded.

A codec can keep the values of a level as a whole and still give one channel those of another. So
the distance of the two distributions is taken over all values of a level, and over those of each
channel, of each row and of each column, of which the mean is told. It is the distance of
Wasserstein between the empirical distributions (the mean difference of their sorted values), in
deviations of the level's true values.

Letters: H rows, W columns, C channels.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
import tqdm

from detection import predictor
from detection.coco import sources
from detection.experiments.programs import Done
from detection.feature_coding import FeatureCodingError
from detection.feature_coding.coders import ModelCoder
from detection.feature_coding.options import DistributionOptions
from khuvcm_tf import atomic_files
from khuvcm_tf.evaluation import coders
from khuvcm_tf.ops import tiling
from khuvcm_tf.ops.pyramid import BOX_LEVELS
from khuvcm_tf.options import check
from khuvcm_tf.results import figures, provenance, rows

KINDS = ("all", "channel", "row", "column")
_AXES = {"channel": 2, "row": 0, "column": 1}
_BINS = 80


def distances(true: np.ndarray, decoded: np.ndarray) -> dict[str, float]:
  """Returns the distance of each of `KINDS` between maps [H, W, C].

  Example:
    >>> maps = np.arange(24.0).reshape(2, 3, 4)
    >>> swapped = maps[..., [1, 0, 3, 2]]  # the values stay, channels change
    >>> found = distances(maps, swapped)
    >>> found["all"], round(found["channel"] * maps.std(), 6)
    (0.0, 1.0)
  """
  deviation = max(float(np.std(true)), 1e-12)
  found = {"all": _distance(true.reshape(1, -1), decoded.reshape(1, -1)) / deviation}
  for kind, axis in _AXES.items():
    pair = (np.moveaxis(each, axis, 0).reshape(each.shape[axis], -1) for each in (true, decoded))
    found[kind] = _distance(*pair) / deviation
  return found


def _distance(first: np.ndarray, second: np.ndarray) -> float:
  """Mean over rows of the mean difference of sorted values, [n, values] twice."""
  return float(np.mean(np.abs(np.sort(first, axis=1) - np.sort(second, axis=1))))


def run(options: DistributionOptions) -> Done:
  """Measures models on a data set; writes results.json, results.csv and figures.

  Raises:
    errors.Error: what the user can mend.
  """
  check(options)
  output = options.output
  dataset, model = sources.load(options), predictor.load(options.detector)
  channels = model.detector.config.fpn_channels
  if options.channel >= channels:
    raise FeatureCodingError(
      f"--channel={options.channel} is out of range, expected 0 to {channels - 1}"
    )
  chosen = {
    f"{name} {label}": ModelCoder(coder, model, name, label)
    for name, points in coders.model_coders(options.models, "float32")
    for label, coder in points.items()
  }
  atomic_files.make_folder(output)
  sums = {(name, level): dict.fromkeys(KINDS, 0.0) for name in chosen for level in BOX_LEVELS}
  squared = dict.fromkeys(sums, 0.0)
  shown: dict[str, dict[str, np.ndarray]] = {}
  for record in tqdm.tqdm(dataset, unit="image", disable=None):
    image = record.read()
    true = model.extract_features(image)
    shown.setdefault("true", true.levels)
    for name, coder in chosen.items():
      decoded = coder.code(image, true).features.levels
      shown.setdefault(name, decoded)
      for level in BOX_LEVELS:
        for kind, value in distances(true.levels[level], decoded[level]).items():
          sums[name, level][kind] += value / len(dataset)
        error = np.mean(np.square(true.levels[level] - decoded[level], dtype=np.float64))
        squared[name, level] += float(error) / len(dataset)
  found = [
    {"model": name, "level": level, "mse": squared[name, level], **values}
    for (name, level), values in sums.items()
  ]
  content = {"rows": found, "images": len(dataset), "dataset": dataset.name}
  content.update(detector=options.detector, **provenance.describe())
  rows.write_json(os.path.join(output, "results.json"), content)
  rows.write_csv(os.path.join(output, "results.csv"), found)
  for level in BOX_LEVELS[:2]:
    draw_maps(os.path.join(output, "plots", f"maps_{level}"), shown, level, options.channel)
    draw_histograms(
      os.path.join(output, "plots", f"histograms_{level}"), shown, level, options.channel
    )
  lines = [["model", "level", "MSE", *KINDS], None]
  for row in found:
    numbers = [f"{row[key]:.4f}" for key in ("mse", *KINDS)]
    lines.append([row["model"], row["level"], *numbers])
  text = (
    f"{rows.table(lines, 2)}\ndistances in deviations of the level's values; means over "
    f"{len(dataset)} images\nwritten to {output}"
  )
  return Done(text, [], len(dataset))


def draw_maps(
  path: str, shown: Mapping[str, Mapping[str, np.ndarray]], level: str, channel: int
) -> None:
  """Draws the channels of a level in one plane, and one channel alone, true and decoded."""
  low, high = np.percentile(shown["true"][level], (0.5, 99.5))
  style = {"cmap": "gray", "vmin": low, "vmax": high}
  with figures.new_figure(path, (3.0 * len(shown), 5.2), 8) as figure:
    axes = figure.subplots(2, len(shown), squeeze=False)
    for (above, below), (name, levels) in zip(axes.T, shown.items()):
      maps = levels[level]
      above.imshow(tiling.tile(maps[np.newaxis], 1)[0, ..., 0], **style)
      above.set_title(f"{name}: {level.upper()}")
      below.imshow(maps[..., channel], **style)
      below.set_title(f"channel {channel}")
      for each in (above, below):
        each.set_axis_off()


def draw_histograms(
  path: str, shown: Mapping[str, Mapping[str, np.ndarray]], level: str, channel: int
) -> None:
  """Draws how often values occur in a level, in a channel, and in its middle row and column."""
  true = shown["true"][level]
  parts = {
    "all values": lambda maps: maps,
    f"channel {channel}": lambda maps: maps[..., channel],
    "middle row": lambda maps: maps[maps.shape[0] // 2],
    "middle column": lambda maps: maps[:, maps.shape[1] // 2],
  }
  edges = np.linspace(*np.percentile(true, (0.1, 99.9)), _BINS)
  with figures.new_figure(path, (11, 2.8), 8) as figure:
    for axes, (title, part) in zip(figure.subplots(1, len(parts)), parts.items()):
      _draw_histogram(axes, {name: part(levels[level]) for name, levels in shown.items()}, edges)
      axes.set_title(f"{level.upper()}, {title}")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)


def _draw_histogram(axes, values: Mapping[str, np.ndarray], edges: Sequence[float]) -> None:
  for number, (name, each) in enumerate(values.items()):
    colour = "0.6" if name == "true" else figures.COLOURS[(number - 1) % len(figures.COLOURS)]
    kind = "stepfilled" if name == "true" else "step"
    axes.hist(each.ravel(), edges, density=True, histtype=kind, color=colour, label=name)
  axes.set_yticks([])
