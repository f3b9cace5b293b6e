"""Options of the conversion of detectors; nothing here imports TensorFlow."""

from __future__ import annotations

import dataclasses

from khuvcm_tf.options import option


@dataclasses.dataclass(frozen=True)
class ConvertDetectorOptions:
  """What is converted, and where to."""

  checkpoint: str = option(
    None,
    "File of weights: model_final_*.pkl of detectron2's model zoo, or .pth of its training.",
    required=True,
    path="input",
  )
  config: str | None = option(
    None,
    "What the checkpoint holds: faster_rcnn_ or mask_rcnn_, then R_50, R_101 or X_101_32x8d, then "
    "_FPN_3x; default: recognized by its weights.",
  )
  output: str = option(
    None, "Folder of the detector; new, empty or a detector's.", required=True, path="output"
  )
  weights_dtype: str = option(
    "float32", "In which the weights are stored.", choices=("float32", "float16")
  )
