"""Options of the conversion of published weights; nothing here imports TensorFlow."""

from __future__ import annotations

import dataclasses

from khuvcm_tf.options import option


@dataclasses.dataclass(frozen=True)
class ConvertOptions:
  """What is converted, and where to."""

  checkpoint: str = option(
    None,
    "File of weights: .pth, .pth.tar, .safetensors or .npz.",
    required=True,
    path="input",
  )
  codec: str | None = option(
    None,
    "What the checkpoint holds: bmshj2018-factorized, bmshj2018-hyperprior, mbt2018-mean, mbt2018, "
    "cheng2020-anchor or cheng2020-attn; default: recognized by its weights.",
  )
  output: str = option(
    None, "Folder of the model; new, empty or a model's.", required=True, path="output"
  )
  calibration_images: str | None = option(
    None,
    "Folder, glob or file of photos on which integers are calibrated and their loss is measured; "
    "default: those of scikit-image.",
    path="input",
  )
  weights_dtype: str = option(
    "float32", "In which the model's weights are stored.", choices=("float32", "float16")
  )
