"""Stage by stage: our detectors beside detectron2's, on weights that anybody can make from names.

Each stage is given the reference's own inputs where it has them: one box that falls the other way
in an early selection would hide, or fake, what follows. Boxes are matched one to one.

  KHUVCM_REFERENCE=... python tests/parity/detectron2_stages.py        # prints the tables
"""

from __future__ import annotations

import pathlib
import sys
from typing import NamedTuple

import numpy as np
import tensorflow as tf

if __name__ == "__main__":
  sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from detection import postprocessing
from detection.config import CONFIGS
from detection.conversion import detectron2
from detection.detector import Detector
from detection.predictor import resize
from khuvcm_tf.data import sample_photos
from khuvcm_tf.layers import weights_assigned
from khuvcm_tf.ops.pyramid import LEVELS
from tests.parity import detectron2_reference, detectron2_weights

# What other settings of detectron2 itself (threads, convolution code, float64) differ by, with some
# room: features in standard deviations of their level, boxes in pixels, masks in pixels of all.
_ALLOWED = {
  "features": 2e-4,
  "features, rms": 2e-5,
  "channel means": 2e-5,
  "channel deviations": 2e-5,
  "RPN logits": 3e-4,
  "RPN deltas": 3e-4,
  "proposals lost": 5,
  "proposals added": 5,
  "proposal logits": 3e-4,
  "class logits": 1e-3,
  "box deltas": 5e-4,
  "detections lost": 2,
  "detections added": 2,
  "scores": 2e-3,
  "boxes in the photo": 0.1,
  "mask probabilities": 5e-4,
  "mask pixels": 20,
}
# Two boxes are one where neither their sides differ by more pixels, nor their scores by more.
_SAME_BOX, _SAME_SCORE = 0.1, 0.005


class Stage(NamedTuple):
  """A stage's largest difference, or number of boxes, and what is allowed."""

  name: str
  difference: float
  allowed: float


def converted(config: str) -> Detector:
  """Returns a detector with the parameters of the reference."""
  shapes = detectron2_reference.parameters(config)
  state = {
    k: detectron2_weights.make_weight(k, shape, config=config) for k, shape in shapes.items()
  }
  weights = detectron2.state_dict_to_weights(state, config)
  with weights_assigned():
    detector = Detector(CONFIGS[config])
  detector.assign_weights(weights)
  return detector


def image_of(reference: dict[str, np.ndarray]) -> np.ndarray:
  """Returns the resized RGB photo that the reference was given: uint8 [H, W, 3]."""
  if "image_bgr" in reference:
    return reference["image_bgr"][..., ::-1]
  return resize(
    sample_photos.load()["coffee"], tuple(int(side) for side in reference["image_size"])
  )


def compare(detector: Detector, reference: dict[str, np.ndarray]) -> list[Stage]:
  """Returns all stages that the reference, or its part, holds."""
  image = image_of(reference)
  sizes = tf.constant([image.shape[:2]])
  features = tf.function(detector.extract_features)(image[np.newaxis], sizes)
  stages = compare_features(features, reference)
  logits, deltas = tf.function(detector.proposal_generator.predict)(features)
  stages += _rpn(logits, deltas, reference)
  proposals = tf.function(detector.proposal_generator)(features, sizes)
  got = proposals.boxes[0].numpy(), proposals.logits[0].numpy()
  stages += _matched("proposals", got, int(proposals.count[0]), reference, "proposal", "logits")
  stages += _heads(detector, features, reference)
  detections = tf.function(detector.from_features)(features, sizes)
  got = [detections.boxes[0].numpy(), detections.scores[0].numpy(), detections.classes[0].numpy()]
  count = int(detections.count[0])
  stages += _matched("detections", got, count, reference, "det", "scores")
  original = reference["original_size"].astype(np.int32)
  objects = postprocessing.to_original(detections, 0, sizes[0], original)
  got = [objects.boxes.numpy(), objects.scores.numpy(), objects.classes.numpy()]
  pairs = _pairs(got, len(got[0]), reference, "out", "scores")
  stages.append(_stage("boxes in the photo", _gap(got[0], reference["out_boxes"], pairs)))
  if detector.config.masks:
    stages += _masks(reference)
  return stages


def _stage(name: str, difference: float, suffix: str = "") -> Stage:
  return Stage(name + suffix, float(difference), _ALLOWED[name])


def compare_features(features, reference) -> list[Stage]:
  """Returns the stages of the pyramid, P2-P6 each [1, H, W, C]."""
  stages = []
  for level in LEVELS:
    got = features[level][0].numpy().transpose(2, 0, 1).astype(np.float64)
    std = float(reference[f"feat_{level}_std"])
    gap = np.abs(got[reference[f"feat_{level}_channels"]] - reference[f"feat_{level}"]) / std
    means = np.abs(got.mean((1, 2)) - reference[f"feat_{level}_channel_mean"]) / std
    deviations = np.abs(got.std((1, 2)) - reference[f"feat_{level}_channel_std"]) / std
    suffix = f" of {level}"
    stages += [
      _stage("features", gap.max(), suffix),
      _stage("features, rms", np.sqrt((gap**2).mean()), suffix),
      _stage("channel means", means.max(), suffix),
      _stage("channel deviations", deviations.max(), suffix),
    ]
  return stages


def _rpn(logits, deltas, reference) -> list[Stage]:
  stages = []
  for level in LEVELS:
    if f"rpn_logits_{level}" in reference:
      gap = np.abs(logits[level][0].numpy() - reference[f"rpn_logits_{level}"])
      step = int(reference[f"rpn_deltas_{level}_step"])
      delta_gap = np.abs(deltas[level][0, ::step].numpy() - reference[f"rpn_deltas_{level}"])
      stages += [
        _stage("RPN logits", gap.max(), f" of {level}"),
        _stage("RPN deltas", delta_gap.max(), f" of {level}"),
      ]
  return stages


def _heads(detector, features, reference) -> list[Stage]:
  """The heads on the proposals and detections that the reference holds."""
  boxes = tf.constant(reference["proposal_boxes"][: len(reference["cls_logits"])])
  image = tf.zeros([len(boxes)], tf.int32)
  logits, deltas = tf.function(detector.roi_heads.predict_boxes)(features, boxes, image)
  deltas = deltas.numpy().reshape(len(boxes), -1)[: len(reference["bbox_deltas"])]
  stages = [
    _stage("class logits", np.abs(logits.numpy() - reference["cls_logits"]).max()),
    _stage("box deltas", np.abs(deltas - reference["bbox_deltas"]).max()),
  ]
  if detector.config.masks:
    count = len(reference["mask_probs"])
    boxes = tf.constant(reference["det_boxes"][:count])
    classes = tf.constant(reference["det_classes"][:count].astype(np.int32))
    image = tf.zeros([count], tf.int32)
    got = tf.function(detector.roi_heads.predict_masks)(features, boxes, image, classes).numpy()
    stages.append(_stage("mask probabilities", np.abs(got - reference["mask_probs"]).max()))
  return stages


def _masks(reference) -> list[Stage]:
  """Pasting alone, of the reference's own probabilities into its own boxes."""
  height, width = (int(side) for side in reference["original_size"])
  count = len(reference["mask_probs"])
  boxes, probabilities = reference["out_boxes"][:count], reference["mask_probs"]
  got = tf.function(postprocessing.paste)(probabilities, boxes, [height, width]).numpy()
  want = np.unpackbits(reference["out_masks_packed"], axis=-1)[..., :width].astype(bool)
  return [_stage("mask pixels", (got != want.reshape(got.shape)).sum())]


def _matched(name, got, count, reference, prefix, score) -> list[Stage]:
  got = [values[:count] for values in got]
  pairs = _pairs(got, count, reference, prefix, score)
  stages = [
    _stage(f"{name} lost", len(reference[f"{prefix}_boxes"]) - len(pairs)),
    _stage(f"{name} added", count - len(pairs)),
  ]
  label = "proposal logits" if name == "proposals" else "scores"
  return [*stages, _stage(label, _gap(got[1], reference[f"{prefix}_{score}"], pairs))]


def _gap(got: np.ndarray, want: np.ndarray, pairs: list[tuple[int, int]]) -> float:
  return max((np.abs(got[i].astype(float) - want[j]).max() for i, j in pairs), default=np.inf)


def _pairs(got, count, reference, prefix, score) -> list[tuple[int, int]]:
  """Returns which of ours is which of the reference's, best first, each at most once."""
  boxes, scores = reference[f"{prefix}_boxes"], reference[f"{prefix}_{score}"]
  free, pairs = np.ones(count, bool), []
  for index in np.argsort(-scores, kind="stable"):
    gap = np.abs(got[0].astype(float) - boxes[index]).max(axis=1)
    fits = free & (gap <= _SAME_BOX) & (np.abs(got[1] - scores[index]) <= _SAME_SCORE)
    if len(got) > 2:
      fits &= got[2] == reference[f"{prefix}_classes"][index]
    if fits.any():
      best = int(np.where(fits, gap, np.inf).argmin())
      free[best] = False
      pairs.append((best, int(index)))
  return pairs


def main() -> None:
  for config in detectron2_reference.RUNS:
    print(f"{config}\n  {'stage':28} {'largest':>10} {'allowed':>10}")
    for stage in compare(converted(config), detectron2_reference.run(config)):
      print(f"  {stage.name:28} {stage.difference:10.3g} {stage.allowed:10.3g}")


if __name__ == "__main__":
  main()
