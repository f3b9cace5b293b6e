"""Weights that detectron2 trained, in the project's detectors.

Y. Wu, A. Kirillov, F. Massa, W.-Y. Lo, R. Girshick: Detectron2. 2019.
https://github.com/facebookresearch/detectron2

Both are the same networks, whose weights have the same names. They differ in the layout of kernels.

- Convolutions: [out, in / groups, h, w] becomes [h, w, in / groups, out].
- The transposed convolution of the mask head: [in, out, h, w] becomes [h, w, out, in].
- Linear layers: [out, in] becomes [in, out]. The inputs of the first one are a map, C, H, W in
  detectron2 and H, W, C here.

Checkpoints are `model_final_*.pkl` of the model zoo, and what detectron2's training saves. How long
it trained (`_1x`, `_3x`) makes no difference to the network.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from detection import config as config_lib
from detection import detector_files
from detection.coco import categories
from detection.config import Config
from detection.detector import Detector
from khuvcm_tf import errors, layers, model_folders
from khuvcm_tf.conversion import checkpoint as checkpoint_lib
from khuvcm_tf.conversion.pickle_machine import product, shown

# Constants that stand among the weights of some checkpoints, under their last names. A config has
# the pixels' mean and deviation, and the anchors; the number of batches that a norm has seen says
# only how its training went.
_CONSTANTS = re.compile(
  r"(.*\.)?(pixel_mean|pixel_std|anchor_generator\.cell_anchors\.\d+|num_batches_tracked)"
)

# Blocks of the four stages; groups of their 3x3 convolutions, and how wide one is in the first.
_BACKBONES = {
  "resnet50": ((3, 4, 6, 3), 1, None),
  "resnet101": ((3, 4, 23, 3), 1, None),
  "resnext101_32x8d": ((3, 4, 23, 3), 32, 8),
}
_FIRST_LINEAR = "roi_heads.box_head.fc1.weight"

_TAKE = "take the model_final_*.pkl of such a config in detectron2's model zoo"
_SHOWN = 5  # names in an error


class ConversionError(errors.Error):
  """A checkpoint that does not hold the weights of a detector."""


class Converted(NamedTuple):
  """What a conversion wrote.

  Attributes:
    config: its name in `detection.config.CONFIGS`.
    num_parameters: the numbers that the weights are, those of norms included.
  """

  config: str
  num_parameters: int


def convert_file(
  checkpoint: str, config: str | None, output: str, weights_dtype: str = "float32"
) -> Converted:
  """Converts a checkpoint into a detector's folder.

  Args:
    checkpoint: its file, as `khuvcm_tf.conversion.checkpoint.read` takes it.
    config: name in `detection.config.CONFIGS`; default: the one that the weights are of.
    output: folder to write; an earlier detector there is replaced.
    weights_dtype: "float32" or "float16".

  Raises:
    errors.Error: the checkpoint or the folder cannot be used.
  """
  if config is not None:
    _config(config)
  model_folders.check_replaceable(output, detector_files.DESCRIPTION)
  arrays = checkpoint_lib.read(checkpoint)
  config = config or recognized(arrays)
  weights = state_dict_to_weights(arrays, config)
  with layers.weights_assigned():
    detector = Detector(_config(config))
  detector.assign_weights(weights)
  source = {"checkpoint": os.path.basename(checkpoint), "sha256": _sha256(checkpoint)}
  detector_files.save(
    output, detector, categories.NAMES, {"detectron2": {"config": config, **source}}, weights_dtype
  )
  return Converted(config, sum(value.size for value in weights.values()))


def state_dict_to_weights(arrays: dict[str, np.ndarray], config: str) -> dict[str, np.ndarray]:
  """Returns the weights of a detector from those of detectron2's.

  Args:
    arrays: a state dict of detectron2, in PyTorch's layouts. Constants beside the weights are
      ignored, but pixels' mean and deviation have to be those of the config.
    config: name in `detection.config.CONFIGS`.

  Returns:
    Name -> array as `Detector.assign_weights` takes it, views of `arrays` where possible.

  Raises:
    ConversionError: a weight is missing, left over or of another shape; the checkpoint is of
      another config, or of no detector that there is here.
  """
  numbers, state = _config(config), _without_prefix(arrays)
  expected = parameters(numbers)
  if wrong := _differences(state, expected):
    found = recognized(arrays)
    if found != config and not _differences(state, parameters(_config(found))):
      raise ConversionError(
        f"this checkpoint is a {found}, expected a {config}: it {_text(wrong)}; give "
        f"--config={found}"
      )
    raise ConversionError(
      f"this checkpoint is no {config} as detectron2's model zoo has it: it {_text(wrong)}; {_TAKE}"
    )
  _check_pixels(state, config, numbers)
  return {name: _in_our_layout(name, state[name], numbers) for name in expected}


def recognized(arrays: dict[str, np.ndarray]) -> str:
  """Returns the name of the config whose weights a checkpoint holds, or of the closest one.

  Raises:
    ConversionError: it has less than half of the weights of each one.
  """
  state, counts = _without_prefix(arrays), {}
  for name, config in config_lib.CONFIGS.items():
    expected = parameters(config)
    wrong = _differences(state, expected)
    if len(wrong.get("lacks", ())) + len(wrong.get("has misshapen", ())) < len(expected) / 2:
      counts[name] = sum(map(len, wrong.values()))
  if not counts:
    raise ConversionError(
      f"the checkpoint holds {_kind(state)} ({_some(state)}), expected a whole Faster or Mask "
      f"R-CNN with FPN: {', '.join(config_lib.CONFIGS)}; {_TAKE}"
    )
  return min(counts, key=counts.get)


def parameters(config: Config) -> dict[str, tuple[int, ...]]:
  """Returns the shapes of a model's weights in detectron2, by name, in PyTorch's layouts."""
  shapes = {}

  def add(name: str, *shape: int, norm: bool = False):
    shapes[f"{name}.weight"] = shape
    if not norm:
      shapes[f"{name}.bias"] = shape[:1]
    for key in ("weight", "bias", "running_mean", "running_var") if norm else ():
      shapes[f"{name}.norm.{key}"] = shape[:1]

  blocks, groups, group_width = _BACKBONES[config.backbone]
  channels, inputs = config.fpn_channels, config.width
  inner = groups * (group_width or config.width)
  add("backbone.bottom_up.stem.conv1", config.width, 3, 7, 7, norm=True)
  for stage, count in enumerate(blocks, 2):
    outputs = config.width * 2**stage
    for index in range(count):
      block = f"backbone.bottom_up.res{stage}.{index}"
      if index == 0:
        add(f"{block}.shortcut", outputs, inputs, 1, 1, norm=True)
      add(f"{block}.conv1", inner, inputs, 1, 1, norm=True)
      add(f"{block}.conv2", inner, inner // groups, 3, 3, norm=True)
      add(f"{block}.conv3", outputs, inner, 1, 1, norm=True)
      inputs = outputs
    inner *= 2
    add(f"backbone.fpn_lateral{stage}", channels, outputs, 1, 1)
    add(f"backbone.fpn_output{stage}", channels, channels, 3, 3)

  anchors = len(config.aspect_ratios)
  add("proposal_generator.rpn_head.conv", channels, channels, 3, 3)
  add("proposal_generator.rpn_head.objectness_logits", anchors, channels, 1, 1)
  add("proposal_generator.rpn_head.anchor_deltas", 4 * anchors, channels, 1, 1)

  add("roi_heads.box_head.fc1", config.box_fc_channels, channels * config.box_pool_size**2)
  add("roi_heads.box_head.fc2", config.box_fc_channels, config.box_fc_channels)
  add("roi_heads.box_predictor.cls_score", config.num_classes + 1, config.box_fc_channels)
  add("roi_heads.box_predictor.bbox_pred", 4 * config.num_classes, config.box_fc_channels)

  if config.masks:
    inputs = channels
    for number in range(1, 5):
      add(f"roi_heads.mask_head.mask_fcn{number}", config.mask_channels, inputs, 3, 3)
      inputs = config.mask_channels
    add("roi_heads.mask_head.deconv", config.mask_channels, config.mask_channels, 2, 2)
    add("roi_heads.mask_head.predictor", config.num_classes, config.mask_channels, 1, 1)
  return shapes


def _kind(state: Iterable[str]) -> str:
  """Returns what a checkpoint that is no detector is instead."""
  if any("_branch2" in name for name in state):
    return "weights by the names of Caffe2"
  if "stem.conv1.weight" in state:
    return "a backbone alone"
  if any(name.startswith("backbone.") for name in state):
    return "another model of detectron2"
  return "other weights"


def _config(name: str) -> Config:
  if name not in config_lib.CONFIGS:
    raise ConversionError(
      f"no config is called {name!r}, expected one of {', '.join(config_lib.CONFIGS)}"
    )
  return config_lib.CONFIGS[name]


def _without_prefix(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns a state dict without what PyTorch's data parallelism puts before all names."""
  if not all(name.startswith("module.") for name in arrays):
    return arrays
  return {name[len("module.") :]: value for name, value in arrays.items()}


def _differences(
  state: dict[str, np.ndarray], expected: dict[str, tuple[int, ...]]
) -> dict[str, list[str]]:
  """Returns how the weights of a state dict differ from what is expected: what -> names."""
  weights = [name for name in state if not _CONSTANTS.fullmatch(name)]
  found = {
    "lacks": [name for name in expected if name not in state],
    "has too many": [name for name in weights if name not in expected],
    "has misshapen": [
      f"{name} of shape {product(state[name].shape)}, expected {product(shape)}"
      for name, shape in expected.items()
      if name in state and state[name].shape != shape
    ],
  }
  return {what: names for what, names in found.items() if names}


def _text(differences: dict[str, list[str]]) -> str:
  return ", ".join(f"{what} {len(names)} ({_some(names)})" for what, names in differences.items())


def _check_pixels(state: dict[str, np.ndarray], name: str, config: Config) -> None:
  """Raises ConversionError where a detector was trained on pixels in another scale or order."""
  for key, expected in (("pixel_mean", config.pixel_mean), ("pixel_std", config.pixel_std)):
    found = state.get(key, np.array(expected)).ravel()
    if found.shape != (3,) or not np.allclose(found, expected, rtol=1e-4):
      raise ConversionError(
        f"this checkpoint has {key} {found[:3].tolist()}, expected {list(expected)} of blue, green "
        f"and red, as {name} has; {_TAKE}"
      )


def _in_our_layout(name: str, value: np.ndarray, config: Config) -> np.ndarray:
  if name == _FIRST_LINEAR:
    side = config.box_pool_size
    value = value.reshape(len(value), -1, side, side)  # [out, C, H, W]
    return value.transpose(2, 3, 1, 0).reshape(-1, len(value))
  if value.ndim == 4:
    return value.transpose(2, 3, 1, 0)
  return value.T


def _sha256(path: str) -> str:
  digest = hashlib.sha256()
  with open(path, "rb") as file:
    while block := file.read(2**20):
      digest.update(block)
  return digest.hexdigest()


def _some(names: Iterable[str]) -> str:
  """Returns some of the names as printable text of bounded length."""
  names = list(names)
  text = ", ".join(shown(name)[1:-1] for name in names[:_SHOWN])
  return text + ", ..." * (len(names) > _SHOWN)
