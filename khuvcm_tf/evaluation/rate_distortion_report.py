"""The report page of a comparison of codecs (`rate_distortion`), and its figures."""

from __future__ import annotations

import datetime
import json
import math
import os
from collections.abc import Sequence

from khuvcm_tf.evaluation import images, metrics
from khuvcm_tf.evaluation.rate_distortion import Comparison, not_compared_text
from khuvcm_tf.results import curves, figures, report, rows, viewer
from khuvcm_tf.results.report import Markup, Section, escape
from khuvcm_tf.results.rows import Quantity

_RATE = Quantity("bpp", "bits per pixel", "bpp", 4)
_WINDOWS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)  # bpp
_METRICS = [
  Quantity(m.name, m.label, "dB", 2) if m.is_drawn_in_db else images.COLUMNS[m.name]
  for m in metrics.METRICS.values()
]
_ROW_COLUMNS = [
  *(Quantity("codec", "Codec", "", None), Quantity("rate_point", "Rate point", "", None)),
  *(Quantity("image", "Image", "", None), images.COLUMNS["bpp"]),
  *(q for key, q in images.COLUMNS.items() if key not in ("bpp", "bytes", "width", "height")),
  *(images.COLUMNS[key] for key in ("bytes", "width", "height")),
]
_IN_DB = [m.name for m in metrics.METRICS.values() if m.is_drawn_in_db]
_VIEWER_METRICS = ("psnr_rgb", "ms_ssim", "psnr_hvs_m")
_PUBLISHED = (
  "Published curves, dashed, were measured by others and are not part of this run. Those of VTM, "
  "HM and AV1 take PSNR against an image that was itself converted to YCbCr and back with "
  "truncation, not against the original, from which that conversion alone leaves 43.9–46.7 dB at "
  "most, so they are not comparable at high rates. Published MS-SSIM is the dB of the mean. Means "
  "over other images than those of this run are not comparable at all."
)


def write(comparison: Comparison, folder: str) -> str:
  """Writes `report.html` and `plots/` beside the images that were kept.

  Args:
    comparison: what `rate_distortion.run` returned.
    folder: the output of that run.

  Returns:
    The page's path.

  Raises:
    viewer.ViewerError: a kept image cannot be read or has another size than its original.
    atomic_files.FileError: a file cannot be written.
  """
  drawn = _curves(comparison)
  limit = curves.first_window(drawn, _WINDOWS)
  figures.write(os.path.join(folder, "plots"), _RATE, _METRICS, drawn, limit)
  num_images = len({row["image"] for row in comparison.rows})
  codecs, images_ = report.count(len(comparison.codecs), "codec"), report.count(num_images, "image")
  view = report.curves(
    *(_RATE, _METRICS, drawn, _WINDOWS, ("Codec", "Rate point", "Images")),
    hint="Each point is the mean over the images at one rate point. MS-SSIM is shown in dB, "
    "−10 log₁₀(1 − MS-SSIM), averaged in dB over the images.",
  )
  notes = _not_compared(comparison) + _published_notes(comparison.published)
  path = os.path.join(folder, "report.html")
  report.write(
    path,
    f"Rate and distortion of {codecs} on {images_}",
    _facts(comparison),
    [
      Section("curves", "Rate-distortion curves", Markup(view + notes), "Curves"),
      Section("bd-rate", "BD-rate", _bd_rates(comparison)),
      Section("images", "Images side by side", _images(comparison, folder), "Images"),
      Section("codecs", "Codecs and their colour conversions", _codecs(comparison), "Codecs"),
      Section("times", "Times", _times(comparison)),
      Section("estimates", "Estimated and real rates", _estimates(comparison), "Estimates"),
      Section("rows", "Every image", _rows(comparison)),
      Section("metadata", "What was run", _metadata(comparison)),
    ],
    lead=_lead(comparison),
    notes=_left_out(comparison.left_out),
  )
  return path


def _curves(comparison: Comparison) -> list[curves.Curve]:
  """Returns all curves: models first, then anchors, then published ones.

  Points are means over the images; of MS-SSIM the mean of the images' dB, of published curves the
  dB of the mean.
  """
  points: dict[str, list[curves.Point]] = {}
  compared = [row for row in comparison.rows if row["image"] not in comparison.not_compared]
  own = rows.grouped(compared, "codec", "rate_point")
  for mean in comparison.means:
    values = {name: mean[name] for name in metrics.METRICS}
    for name in _IN_DB:
      found = own[mean["codec"], mean["rate_point"]]
      decibels = [{name: metrics.similarity_db(row[name])} for row in found]
      values.update(rows.mean(decibels, [name])[0])
    point = curves.Point(mean["rate_point"], mean["bpp"], values, mean["images"])
    points.setdefault(mean["codec"], []).append(point)
  drawn = [
    curves.curve(name, group, style, points.get(name, []))
    for kind, group, style in (("model", "Models", "strong"), ("anchor", "Anchors", "plain"))
    for name, codec in comparison.codecs.items()
    if codec["kind"] == kind
  ]
  drawn += [_published(name, curve) for name, curve in comparison.published.items()]
  return [curve for curve in drawn if curve.points]


def _published(name: str, curve: dict) -> curves.Curve:
  points = []
  for index, bpp in enumerate(curve["bpp"]):
    values = {key: curve[key][index] for key in metrics.METRICS if key in curve}
    decibels = {key: metrics.similarity_db(values[key]) for key in _IN_DB if key in values}
    points.append(curves.Point("", bpp, {**values, **decibels}))
  return curves.curve(name, "Published", "dashed", points)


def _facts(comparison: Comparison) -> list[str]:
  metadata = comparison.metadata
  date = datetime.datetime.fromisoformat(metadata["date"])
  commit = metadata["commit"]
  return [
    f"{date:%Y-%m-%d %H:%M} {date.tzname()}",
    *([f"commit {commit[:12]}" + ", changed" * commit.endswith("+")] if commit else []),
    report.count(len(comparison.rows), "coded image"),
    f"anchor {comparison.bd_rate['anchor']}",
  ]


def _lead(comparison: Comparison) -> str:
  """Returns what most readers come for: the models' BD-rates at equal PSNR RGB.

  With the range of each: models that reach other qualities are compared elsewhere on the anchor's
  curve, so that the lowest figure need not be the best model's.
  """
  found = [
    f"<strong>{escape(name)} {report.percent(rate['value'])}</strong> "
    f"({report.number(rate['lowest'], 1)}–{report.number(rate['highest'], 1)} dB)"
    for name, rate in comparison.bd_rate["metrics"]["psnr_rgb"].items()
    if comparison.codecs[name]["kind"] == "model" and "error" not in rate
  ]
  if not found:
    return ""
  more = f" and {len(found) - 6} more" if len(found) > 6 else ""
  text = f"Bits for equal PSNR RGB, against {escape(comparison.bd_rate['anchor'])}: "
  return report.paragraph(Markup(f"{text}{', '.join(found[:6])}{more}."), "lead")


def _left_out(items: Sequence[dict[str, str]]) -> str:
  if not items:
    return ""
  return report.left_out(
    f"{len(items)} left out: the figures below are those of the others.",
    [(item.get("codec") or item["image"], item["reason"]) for item in items],
  )


def _not_compared(comparison: Comparison) -> str:
  """Warns of images that are in no mean, as codecs are compared by the same images."""
  if not comparison.not_compared:
    return ""
  return f'<p class="note warn">{escape(not_compared_text(comparison))}.</p>'


def _published_notes(published: dict[str, dict]) -> str:
  if not published:
    return ""
  sources = (
    (name, ". ".join(curve[key] for key in ("source", "metric", "note") if curve.get(key)))
    for name, curve in published.items()
  )
  details = report.details("Where they come from", report.bullets(sources))
  return f'<div class="note">{report.paragraph(_PUBLISHED)}{details}</div>'


def _bd_rates(comparison: Comparison) -> Markup:
  rates = {metrics.METRICS[k].label: r for k, r in comparison.bd_rate["metrics"].items()}
  compared = {name for own in rates.values() for name in own} | {comparison.bd_rate["anchor"]}
  names = [name for name in comparison.codecs if name in compared]
  return report.bd_rate_table("Codec", comparison.bd_rate["anchor"], rates, names)


def _images(comparison: Comparison, folder: str) -> Markup:
  originals, versions = {}, []
  models_first = sorted(
    comparison.rows, key=lambda row: comparison.codecs[row["codec"]]["kind"] != "model"
  )
  for row in models_first:
    codec, rate_point, file = row["codec"], row["rate_point"], row["image"] + ".png"
    original = os.path.join(folder, "images", "original", file)
    path = os.path.join(folder, "images", codec, rate_point, file)
    if os.path.isfile(original) and os.path.isfile(path):
      notes = [f"{rate_point}, " * (rate_point != codec) + f"{row['bpp']:.3f} bpp"]
      shown = (images.COLUMNS[key] for key in _VIEWER_METRICS if not math.isnan(row[key]))
      notes += [f"{metric.label} {metric.format(row[metric.key])}" for metric in shown]
      originals[row["image"]] = original
      versions.append(
        viewer.Version(codec, row["image"], rate_point, row["bpp"], tuple(notes), path)
      )
  hint = (
    "Of each codec, the rate point is taken whose rate on this image is nearest to the chosen one; "
    "the rates differ, so read them with the image."
  )
  return report.images(viewer.embed(originals, versions), _RATE, hint)


def _codecs(comparison: Comparison) -> Markup:
  lines = []
  for name, codec in comparison.codecs.items():
    psnr = codec["conversion_psnr"]
    psnr = psnr and Markup(
      f'{psnr["mean"]:.1f} dB<span class="fine"><br>lowest {psnr["min"]:.1f} dB</span>'
    )
    rate_points = report.count(len(codec["rate_points"]), "rate point")
    details = report.details(rate_points, report.description_list(codec["rate_points"]))
    if codec["description"]:
      text = json.dumps(codec["description"], indent=2, ensure_ascii=False)
      details += report.details("Description", Markup(f"<pre>{escape(text)}</pre>"))
    lines.append([name, codec["kind"], codec["version"], codec["conversion"], psnr or "–"])
    lines[-1].append(Markup(details))
  headers = ["Codec", "Kind", "Version", "Conversion", "Conversion, PSNR RGB", "Rate points"]
  hint = (
    "A codec that works in YCbCr, or with fewer samples of chroma, loses quality by the conversion "
    "alone. The PSNR RGB of the conversion is the best that the codec can reach: the mean over the "
    "images, and the lowest. –: nothing is lost, or it is not known."
  )
  return Markup(report.paragraph(hint, "hint") + report.table(headers, lines, texts=6))


def _times(comparison: Comparison) -> Markup:
  lines = []
  for (name,), means in rows.grouped(comparison.means, "codec").items():
    seconds = (_spread([mean[key] for mean in means]) for key in ("encode_s", "decode_s"))
    lines.append([name, str(len(means)), *seconds])
  hint = (
    "Seconds for an image on the machine named below, mean over the images and the rate points; "
    "below it, the fastest and the slowest rate point. They do not hold for other machines, and "
    "implementations differ in how much they were tuned."
  )
  headers = ["Codec", "Rate points", "Encode, seconds", "Decode, seconds"]
  return Markup(report.paragraph(hint, "hint") + report.table(headers, lines))


def _spread(values: Sequence[float]) -> Markup:
  spread = f'<span class="fine">{min(values):.3f}–{max(values):.3f}</span>'
  return Markup(f"{sum(values) / len(values):.3f}{spread * (len(values) > 1)}")


def _estimates(comparison: Comparison) -> Markup:
  estimated = [row for row in comparison.rows if row["estimated_bpp"] > 0]  # not nan
  if not estimated:
    return report.paragraph("No codec here estimates its rate.")
  lines = []
  for names, own in rows.grouped(estimated, "codec", "rate_point").items():
    differences = [100 * (row["bpp"] / row["estimated_bpp"] - 1) for row in own]
    means, _ = rows.mean(own, ["estimated_bpp", "bpp"])
    mean, largest = sum(differences) / len(own), max(differences, key=abs)
    lines.append([*names, str(len(own)), *(f"{each:.4f}" for each in means.values())])
    lines[-1] += [report.percent(mean, 2), report.percent(largest, 2)]
  hint = (
    "The estimate is what the coder’s tables give to the symbols alone; the file adds its header, "
    "a checksum and the coder’s own loss. The difference is (real − estimated) / estimated of each "
    "image."
  )
  headers = ["Codec", "Rate point", "Images", "Estimated bpp", "Real bpp", "Mean difference"]
  table = report.table([*headers, "Largest"], lines, texts=2)
  return Markup(report.paragraph(hint, "hint") + table)


def _rows(comparison: Comparison) -> Markup:
  hint = "∞ dB: the decoded image equals the original. –: not defined for this image, or unknown."
  return report.row_table(
    _ROW_COLUMNS, comparison.rows, ("codec", "image"), noun="coded images", hint=hint
  )


def _metadata(comparison: Comparison) -> Markup:
  shown = {k: v for k, v in comparison.metadata.items() if k not in ("machine", "images")}
  shown.update(comparison.metadata["machine"])
  names = comparison.metadata["images"]
  listed = report.details(report.count(len(names), "image"), report.paragraph(", ".join(names)))
  return Markup(report.description_list(shown) + listed)
