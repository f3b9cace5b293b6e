"""Options of `evaluate_openimages`; nothing here imports TensorFlow."""

from __future__ import annotations

import dataclasses
import json

from khuvcm_tf import atomic_files
from khuvcm_tf.options import check, option


@dataclasses.dataclass(frozen=True)
class OpenImagesOptions:
  """Which files are compared."""

  boxes: str | None = option(
    None, "CSV file of boxes, the ground truth.", required=True, path="input"
  )
  labels: str | None = option(
    None,
    "CSV file of verified labels of whole images; default: the classes that have boxes.",
    path="input",
  )
  detections: str | None = option(None, "CSV file of detections.", required=True, path="input")
  hierarchy: str | None = option(
    None, "JSON file of the hierarchy of classes; default: none.", path="input"
  )
  output: str | None = option(None, "JSON file for the results.", path="file")


def run(options: OpenImagesOptions) -> str:
  """Compares the files; returns the results as text.

  Raises:
    errors.Error: a file cannot be read or written.
  """
  check(options)
  from detection.openimages import evaluation, files

  result = evaluation.evaluate(
    files.read_boxes(options.boxes),
    files.read_labels(options.labels) if options.labels else [],
    files.read_detections(options.detections),
    files.read_hierarchy(options.hierarchy) if options.hierarchy else None,
  )
  if options.output:
    atomic_files.write_text(options.output, json.dumps(result, indent=2) + "\n")
  lines = [f"{label:<24} {100 * value:6.2f}" for label, value in result["classes"].items()]
  return "\n".join(
    [
      *lines,
      f"{'mAP at 0.5':<24} {100 * result['map50']:6.2f}  over {len(lines)} classes",
      f"{result['passed_over']} detections of classes that were not verified were passed over",
    ]
  )
