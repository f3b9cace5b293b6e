"""Stage by stage: our codecs beside CompressAI's, on weights that anybody can make from names.

`reference.npz` holds the outputs of CompressAI 1.2.8 (PyTorch 2.13, CPU) for a crop of 64x64 pixels
at the smallest published sizes, CODEC/STAGE in PyTorch's layout; `shapes.json` the parameters. With
KHUVCM_REFERENCE set, a crop of 192x128 is compared too. Each stage is given the reference's inputs:
a single rounding that falls the other way would change all that follows.

  python tests/parity/stages.py        # prints the table
"""

from __future__ import annotations

import os
import pathlib
import sys
from typing import NamedTuple

import numpy as np
import tensorflow as tf

if __name__ == "__main__":
  sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from khuvcm_tf.codecs import codec as codec_lib
from khuvcm_tf.conversion import compressai
from khuvcm_tf.entropy import gaussian
from tests.parity import weights_by_name

_HERE = pathlib.Path(__file__).parent

# CompressAI's bound of likelihoods; ours have none.
_LEAST_LIKELIHOOD = 1e-9

# Largest differences that other settings of CompressAI itself show, with some room: absolute, but
# for bits, which are relative. A rounded value may differ where its input is that near to a tie.
_TIE = 1e-3
_ALLOWED = {
  "y": 1e-3,
  "z": 2e-4,
  "z_hat": 0.0,
  "hyper_params": 5e-5,
  "ctx_params": 5e-5,
  "scales": 2e-4,
  "means": 2e-4,
  "lik_z": 2e-6,
  "lik_y": 2e-6,
  "bits_z": 1e-4,
  "bits_y": 1e-4,
  "y_hat": 0.0,
  "x_hat": 1e-5,
}
# The factorized density is a difference of sigmoids there, which float32 rounds in the upper tail.
_ALLOWED_OF_FACTORIZED = {**_ALLOWED, "bits_y": 2e-3}


class Stage(NamedTuple):
  """A stage's largest difference, what is allowed, and a remark."""

  name: str
  difference: float
  allowed: float
  note: str = ""


def references(codec: str) -> dict[str, dict[str, np.ndarray]]:
  """Returns the reference's outputs in our layout, by image."""
  with np.load(_HERE / "reference.npz") as arrays:
    found = {"64x64": _of_image(arrays, f"{codec}/")}
  if root := os.environ.get("KHUVCM_REFERENCE"):
    with np.load(pathlib.Path(root) / "compressai_reference" / f"{codec}.npz") as arrays:
      found["192x128"] = _of_image(arrays, "crop_")
  return found


def _of_image(arrays, prefix: str) -> dict[str, np.ndarray]:
  found = {}
  for name in arrays.files:
    if name.startswith(prefix):
      value = arrays[name]
      found[name[len(prefix) :]] = value.transpose(0, 2, 3, 1) if value.ndim == 4 else value
  return found


def converted(codec: str) -> codec_lib.Codec:
  """Returns our codec with weights made from names."""
  return compressai.convert(weights_by_name.all_weights(codec), codec).codec


def compare(codec: codec_lib.Codec, reference: dict[str, np.ndarray]) -> list[Stage]:
  """Compares all stages of a codec with the reference's for one image."""
  (branch,) = codec.branches
  entropy_model = branch.entropy_model
  allowed = _ALLOWED if "z" in reference else _ALLOWED_OF_FACTORIZED
  found: dict[str, tf.Tensor] = {}
  notes = {}
  x = reference["x"].astype(np.float32) / 255
  found["y"] = branch.g_a(x[np.newaxis])
  if "z" in reference:
    found.update(_side_information(entropy_model, reference))
  found.update(_parameters(entropy_model, reference))
  found["y_hat"] = _rounded(entropy_model, reference)
  found["lik_y"], found["bits_y"] = _likelihood(_bits_of_y(entropy_model, reference))
  if "ctx_params" in reference:
    ours = gaussian.bits(reference["y_hat"] - reference["means"], _index(reference))
    notes["bits_y"] = f"{_likelihood(ours)[1]:.0f} for round(y), {reference['bits_y']:.0f} there"
  found["x_hat"] = branch.g_s(reference["y_hat"])
  stages = []
  for name, value in found.items():
    expected = reference[name]
    if name.startswith("bits"):
      difference = abs(float(value) / float(expected) - 1)
    else:
      apart = np.abs(np.asarray(value) - expected)
      if name.endswith("_hat") and name != "x_hat":
        apart[_near_a_tie(entropy_model, reference, name)] = 0.0
        notes[name] = f"{int((apart > 0.5).sum())} of {apart.size} rounded otherwise"
      difference = float(apart.max())
    stages.append(Stage(name, difference, allowed[name], notes.get(name, "")))
  return stages


def _side_information(entropy_model, reference):
  bits = entropy_model.prior.bits(reference["z_hat"])
  likelihood, total = _likelihood(bits)
  medians = entropy_model.prior.medians()
  return {
    "z": entropy_model.side_information(reference["y"]),
    "z_hat": entropy_model.quantized(reference["z"], medians, training=False)[0],
    "lik_z": likelihood,
    "bits_z": total,
  }


def _parameters(entropy_model, reference):
  """Returns the predicted parameters of Gaussians: sigma as predicted, and means."""
  if "z" not in reference:
    return {}
  params, found = entropy_model.h_s(reference["z_hat"]), {}
  if "ctx_params" in reference:
    found["hyper_params"] = params
    found["ctx_params"] = entropy_model.context(reference["y_hat"])
    both = np.concatenate([reference["ctx_params"], reference["hyper_params"]], axis=-1)
    params = entropy_model.entropy_parameters(both)
  if "means" not in reference:
    # The bound of sigma lies above that of the reference's last ReLU.
    return {**found, "scales": tf.nn.relu(params)}
  means, scales = tf.split(params, 2, axis=-1)
  return {**found, "scales": scales, "means": means}


def _index(reference) -> tf.Tensor:
  return gaussian.index_of(reference["scales"], log_scales=False)


def _offset(entropy_model, reference):
  """What y is rounded around: medians, means, or 0 where y_hat is round(y)."""
  if "z" not in reference:
    return entropy_model.prior.medians()
  return reference["means"] if "means" in reference and "ctx_params" not in reference else 0.0


def _rounded(entropy_model, reference):
  return entropy_model.quantized(reference["y"], _offset(entropy_model, reference), training=False)[
    0
  ]


def _near_a_tie(entropy_model, reference, name: str) -> np.ndarray:
  offset = entropy_model.prior.medians() if name == "z_hat" else _offset(entropy_model, reference)
  distance = np.asarray(reference[name[0]] - offset)
  return np.abs(np.abs(distance - np.rint(distance)) - 0.5) < _TIE


def _bits_of_y(entropy_model, reference) -> tf.Tensor:
  if "z" not in reference:
    return entropy_model.prior.bits(reference["y_hat"])
  # In the likelihood the reference rounds around means, those of context codecs too.
  return gaussian.bits(np.rint(reference["y"] - reference.get("means", 0.0)), _index(reference))


def _likelihood(bits: tf.Tensor) -> tuple[np.ndarray, float]:
  """Returns likelihoods with the reference's bound, and the sum of their bits."""
  likelihood = np.maximum(2.0 ** -np.asarray(bits, np.float64), _LEAST_LIKELIHOOD)
  return likelihood, float(-np.log2(likelihood).sum())


def main():
  """Prints the table: a row for each codec and stage, the worst of all images."""
  print("| codec | stage | largest difference | allowed | |\n| --- | --- | --- | --- | --- |")
  for name in compressai.CODECS:
    codec = converted(name)
    images = [compare(codec, each) for each in references(name).values()]
    for stages in zip(*images):
      worst = max(stages, key=lambda stage: stage.difference)
      shown = "; ".join(stage.note for stage in stages if stage.note)
      print(f"| {name} | {worst.name} | {worst.difference:.1e} | {worst.allowed:g} | {shown} |")


if __name__ == "__main__":
  main()
