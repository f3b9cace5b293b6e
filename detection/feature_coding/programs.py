"""The programs of feature coding: from options to results, a report, and a table as text."""

from __future__ import annotations

import os

from detection import predictor
from detection.coco import sources
from detection.coco.detection_store import DetectionStore
from detection.experiments import reconstruction
from detection.experiments.features import FeatureSource
from detection.experiments.programs import Done
from detection.experiments.tables import check_output
from detection.feature_coding import FeatureCodingError, quantized_maps, report, tables
from detection.feature_coding.coders import FeatureCoder, ImageCoder, ModelCoder
from detection.feature_coding.curves import Measurement
from detection.feature_coding.options import CurveOptions
from detection.predictor import Predictor
from khuvcm_tf import atomic_files
from khuvcm_tf.evaluation import coders
from khuvcm_tf.options import check
from khuvcm_tf.results import provenance, rows

_NAME = "feature coding"


def measure_curves(options: CurveOptions) -> Done:
  """Measures what the options name.

  Raises:
    errors.Error: what the user can mend.
  """
  check(options)
  output = options.output
  check_output(output, _NAME)
  dataset, model = sources.load(options), predictor.load(options.detector)
  chosen = _coders(options, model)
  names = list(dict.fromkeys(coder.curve for coder in chosen))
  anchor = options.anchor or next((c.curve for c in chosen if c.group == "Anchors"), None)
  if anchor is not None and anchor not in names:
    raise FeatureCodingError(f"--anchor={anchor} is no curve, expected one of {', '.join(names)}")
  atomic_files.make_folder(output)
  source = FeatureSource(model, options.features, options.features_dtype)
  with DetectionStore(os.path.join(output, "detections.jsonl")) as store:
    measured = Measurement(model, dataset, store, source, options.draws).measure(chosen)
  found = tables.thresholds(measured)
  bd_rates = tables.bd_rates(measured, anchor) if anchor else {}
  content = {
    "experiment": _NAME,
    "performance_of": measured.kind,
    "rows": [measured.unchanged, *measured.rows],
    "thresholds": {name: each._asdict() for name, each in found.items()},
    "bd_rate": {"anchor": anchor, "metrics": bd_rates},
    "detector": options.detector,
    "fingerprint": model.fingerprint,
    "dataset": dataset.name,
    "images": len(dataset) - len(measured.left_out),
    "left_out": measured.left_out,
    **provenance.describe(),
  }
  rows.write_json(os.path.join(output, "results.json"), content)
  rows.write_csv(os.path.join(output, "results.csv"), [measured.unchanged, *measured.rows])
  about = {
    "detector": f"{options.detector}, fingerprint {model.fingerprint}",
    "data set": f"{dataset.name}, {content['images']} images",
    "performance": f"AP of {measured.kind}",
    "features": source.dtype,
    "draws of the bootstrap": options.draws,
  }
  facts = [f"{content['images']} images of {dataset.name}", options.detector]
  path = report.write(measured, output, about, facts, found, anchor, bd_rates)
  lines = [tables.text(measured), ""]
  for name, each in found.items():
    lines.append(
      f"{name}: AP falls from {'an' if each.is_reached else 'below an'} MSE of "
      f"{each.distortion:.4g} on ({each.low:.4g} to {each.high:.4g})"
    )
  for metric, of_metric in bd_rates.items():
    for name, each in of_metric.items():
      value = f"{each['value']:+.1f} %" if "value" in each else each["error"]
      if "interval" in each:
        value += " ({:+.1f} to {:+.1f})".format(*each["interval"])
      lines.append(f"{name}: BD-rate over {metric.upper()} against {anchor}: {value}")
  text = "\n".join([*lines, f"written to {path}"])
  return Done(text, measured.left_out, len(dataset))


def _coders(options: CurveOptions, model: Predictor) -> list[FeatureCoder]:
  """Returns the coders of all curves that the options name."""
  found: list[FeatureCoder] = []
  rules = reconstruction.parse_all(options.rules) if options.rules else {}
  for name, points in coders.model_coders(options.models, "float32"):
    for label, coder in points.items():
      found.append(ModelCoder(coder, model, name, label))
    for rule_name, rule in rules.items():
      for label, coder in points.items():
        found.append(ModelCoder(coder, model, f"{name}, {rule_name}", label, rule))
  found += quantized_maps.coders(options.anchors, tuple(map(int, options.bits)))
  for name, points in coders.model_coders(options.image_models, "float32"):
    found += [ImageCoder(each, model, f"{name}, images", label) for label, each in points.items()]
  for name in options.image_anchors:
    for label, each in coders.anchor_coders(quantized_maps.installed(name)).items():
      found.append(ImageCoder(each, model, f"{name}, images", label))
  return found
