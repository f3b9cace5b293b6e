"""Outputs of detectron2 itself, which ours are held against.

detectron2 at commit 02b5c4e (PyTorch 2.13, CPU, float32), its models from the zoo's configs with
parameters made from their names (`detectron2_weights`). `detectron2.npz` holds a part of what it
gave: RUN/... of one model on one photo, and OPERATION/... of single operations. With
KHUVCM_REFERENCE set, all of it is read from there. All boxes are x1, y1, x2, y2; maps are C, H, W.

  KHUVCM_REFERENCE=... python tests/parity/detectron2_reference.py       # cuts the part anew
"""

from __future__ import annotations

import json
import os
import pathlib

import numpy as np
import pytest

_HERE = pathlib.Path(__file__).parent
_PART = _HERE / "detectron2.npz"

# The model of which a part is stored.
STORED = "mask_rcnn_R_50_FPN_3x"

# Of which whole outputs are in the reference.
RUNS = (
  "faster_rcnn_R_50_FPN_3x",
  "mask_rcnn_R_50_FPN_3x",
  "faster_rcnn_X_101_32x8d_FPN_3x",
  "mask_rcnn_X_101_32x8d_FPN_3x",
)

# Operations that are stored, and to how many channels and rows their arrays are cut.
_OPERATIONS = {
  "anchors": {},
  "apply_deltas_w1": {},
  "apply_deltas_w10": {},
  "assign_levels": {},
  "clip_boxes": {},
  "conv1x1_s2": {},
  "conv3x3_grouped32_s2": {},
  "conv3x3_s2_even": {},
  "conv3x3_s2_odd": {},
  "conv7x7_s2": {},
  "fast_rcnn_inference": {},
  "fpn_merge": {"coarse": np.s_[:, :2], "lateral": np.s_[:, :2], "out": np.s_[:, :2]},
  "frozen_batch_norm": {},
  "get_deltas_w1": {},
  "get_deltas_w10": {},
  "mask_deconv": {},
  "mask_loss_bitmask": {},
  "mask_loss_in": {},
  "matcher_edges": {},
  "matcher_no_gt": {},
  "matcher_roi": {},
  "matcher_rpn": {},
  "nms_exact": {},
  "nms_large_50": {},
  "nms_small_70": {},
  "nms_small_ties_50": {},
  "p6_max_pool": {},
  "pairwise_iou": {},
  "paste_masks": {"out_soft_full": None},
  "postprocess": {},
  "preprocess_R": {},
  "preprocess_X_101": {},
  "resize_pil_down": {},
  "resize_pil_mixed": {},
  "resize_pil_up": {},
  "resize_shape": {},
  "roi_align_14": {
    "features": np.s_[:, :2],
    "boxes": np.s_[:35],
    "batch_index": np.s_[:35],
    "out": np.s_[:35, :2],
  },
  "roi_align_7": {"features": np.s_[:, :2], "out": np.s_[:, :2]},
  "roi_losses": {},
  "roi_pooler_14": {"out": np.s_[:, :1]},
  "roi_pooler_7": {"out": np.s_[:, :1]},
  "roi_pooler_features": dict.fromkeys(("p2", "p3", "p4", "p5"), np.s_[:, :1]),
  "rpn_losses": {},
  "rpn_select_1000_1000": {},
  "rpn_select_100_60": {},
  "rpn_select_in": {},
  "smooth_l1_beta_0.000": {},
  "smooth_l1_beta_0.111": {},
  "smooth_l1_beta_1.000": {},
  "stem_max_pool": {},
  "stem_max_pool_negative": {},
}

# Channels of a level that are stored.
_CHANNELS = {"p2": 1, "p3": 2, "p4": 4, "p5": 16, "p6": 16}
_BOXES = 50  # of which logits and deltas are stored
_MASKS = 10


def root() -> pathlib.Path | None:
  """Returns the folder of all outputs, where there is one."""
  folder = os.environ.get("KHUVCM_REFERENCE")
  return pathlib.Path(folder) / "detectron2_reference" if folder else None


def operation(name: str) -> dict[str, np.ndarray]:
  """Returns inputs and outputs of an operation; skips the test where they are not at hand."""
  path = _PART if root() is None else root() / "ops.npz"
  found = _of(path, name)
  if not found:
    pytest.skip("KHUVCM_REFERENCE is not set")
  return found


def run(config: str) -> dict[str, np.ndarray]:
  """Returns the outputs of a model; skips the test where they are not at hand."""
  if root() is not None:
    with np.load(root() / f"{config}.npz") as arrays:
      return dict(arrays)
  if config != STORED:
    pytest.skip("KHUVCM_REFERENCE is not set")
  return _of(_PART, config)


def parameters(config: str) -> dict[str, list[int]]:
  """Returns name: shape of a model's parameters, as detectron2 names and shapes them."""
  stored = _HERE / "detectron2_parameters.json"
  path = stored if config == STORED else root() / "parameters" / f"{config}.json"
  return json.loads(path.read_text())


def _of(path: pathlib.Path, prefix: str) -> dict[str, np.ndarray]:
  with np.load(path) as arrays:
    names = [name for name in arrays.files if name.startswith(f"{prefix}/")]
    return {name[len(prefix) + 1 :]: arrays[name] for name in names}


def _cut_run(arrays) -> dict[str, np.ndarray]:
  kept = {
    key: arrays[key]
    for key in arrays
    if key.endswith("_size")
    or key.startswith(("proposal_", "det_", "out_boxes", "out_scores", "out_classes"))
  }
  for level, count in _CHANNELS.items():
    for what in ("std", "channel_mean", "channel_std"):
      kept[f"feat_{level}_{what}"] = arrays[f"feat_{level}_{what}"]
    for what in ("", "_channels"):
      kept[f"feat_{level}{what}"] = arrays[f"feat_{level}{what}"][:count]
  kept["cls_logits"] = arrays["cls_logits"][:_BOXES]
  kept["bbox_deltas"] = arrays["bbox_deltas"][:_BOXES]
  kept["mask_probs"] = arrays["mask_probs"][:_MASKS]
  kept["out_masks_packed"] = arrays["out_masks_packed"][:_MASKS]
  return kept


def _cut_operations(arrays) -> dict[str, np.ndarray]:
  kept = {}
  for name in arrays.files:
    operation_name, key = name.split("/")
    part = _OPERATIONS.get(operation_name, {key: None}).get(key, ())
    if part is not None:
      kept[name] = arrays[name][part]
  return kept


def cut() -> None:
  """Writes the part that is stored with the tests."""
  with np.load(root() / f"{STORED}.npz") as arrays:
    kept = {f"{STORED}/{key}": value for key, value in _cut_run(dict(arrays)).items()}
  with np.load(root() / "ops.npz") as arrays:
    kept.update(_cut_operations(arrays))
  np.savez_compressed(_PART, **kept)


if __name__ == "__main__":
  cut()
