"""Weights that CompressAI publishes, in the project's codecs.

J. Bégaint, F. Racapé, S. Feltman, A. Pushparaja: CompressAI: a PyTorch library and evaluation
platform for end-to-end compression research. 2020. https://arxiv.org/abs/2011.03029

Both are the same networks. They differ in the layout of kernels, the order of channels, and the
names, as listed here for each kind of layer.

- Convolutions: [out, in, h, w] becomes [h, w, in, out]; transposed ones: [in, out, h, w] likewise.
- GDN: both store square roots with the same bounds; gamma is transposed.
- Subpixel convolutions: channel 4 c + 2 i + j becomes (2 i + j) C + c.
- Masked convolutions: weights under the mask are dropped (a file may hold anything there).
- Entropy parameters: scales then means become means then scales; side information then context
  become context then side information.
- The factorized prior: z is rounded around the middle one of three learned quantiles.

The tables of CompressAI's range coder in a checkpoint are ignored: the project makes its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Callable, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_compression as tfc
from absl import logging

from khuvcm_tf import codecs, coding, errors, layers, model_files
from khuvcm_tf.codecs import codec as codec_lib
from khuvcm_tf.conversion import checkpoint as checkpoint_lib
from khuvcm_tf.conversion import pickle_machine
from khuvcm_tf.data import pipeline, sample_photos
from khuvcm_tf.entropy import factorized

# Published weights in terms of our codecs' arguments.
_PRIOR = {"prior_layers": 4, "stored_medians": True}
_CONFIG = {"entropy_config": {**_PRIOR, "log_scales": False}}
_SLOPE = {"leaky_slope": 0.01}


class ConversionError(errors.Error):
  """A checkpoint that does not hold the weights of a codec."""


class Published(NamedTuple):
  """A codec of CompressAI.

  Attributes:
    codec: ours.
    arguments: of ours, except sizes.
    latent_depth: whether M is an argument (where it is not, it is N).
  """

  codec: str
  arguments: dict[str, object]
  latent_depth: bool = True


CODECS = {
  "bmshj2018-factorized": Published("bmshj2018_factorized", {"entropy_config": _PRIOR}),
  "bmshj2018-hyperprior": Published("bmshj2018", _CONFIG),
  "mbt2018-mean": Published("mbt2018_mean", {**_CONFIG, **_SLOPE}),
  "mbt2018": Published("mbt2018", {**_CONFIG, **_SLOPE}),
  "cheng2020-anchor": Published(
    "cheng2020", {**_CONFIG, **_SLOPE, "num_mixtures": 1, "attention": False}, False
  ),
  "cheng2020-attn": Published(
    "cheng2020", {**_CONFIG, **_SLOPE, "num_mixtures": 1, "attention": True}, False
  ),
}

_MAX_CHANNELS = 1024

# Constants, and tables of CompressAI's range coder.
_NOT_WEIGHTS = re.compile(
  r"\.(_offset|_quantized_cdf|_cdf_length|target|bound|pedestal|scale_bound|scale_table|mask)$"
)
# The factorized prior's names of several releases: `matrices.0`, `_matrices.0`, `_matrix0`.
_DENSITY = re.compile(r"entropy_bottleneck\._?(matrices|matrix|biases|bias|factors|factor)\.?(\d+)")
_PLURALS = {"matrix": "matrices", "bias": "biases", "factor": "factors"}


class Converted(NamedTuple):
  """Our codec with published weights, and how it is built."""

  codec: codec_lib.Codec
  name: str
  arguments: dict[str, object]


def convert(tensors: dict[str, np.ndarray], codec: str | None = None) -> Converted:
  """Builds our codec with the weights of a checkpoint.

  Args:
    tensors: of the checkpoint, by name.
    codec: one of `CODECS`; default: the one that the checkpoint holds.

  Raises:
    ConversionError: a weight is missing, left over or of another shape; or the checkpoint is of
      another codec.
  """
  weights = with_current_keys(tensors)
  found = recognized(weights)
  if codec is None:
    codec = found
  if codec not in CODECS:
    raise ConversionError(f"no codec is called {codec!r}, expected one of {', '.join(CODECS)}")
  if found != codec:
    raise ConversionError(
      f"the checkpoint holds weights of {found}, not of {codec}; give --codec={found}"
    )
  published = CODECS[codec]
  arguments = {**sizes(weights, published), **published.arguments}
  ours = codecs.create(published.codec, **arguments)
  used = set()
  for each in assignments(ours):
    if each.key not in weights:
      raise ConversionError(
        f"the checkpoint has no {each.key}, expected one of {codec} with {_text(arguments)}; copy "
        "it again from its source"
      )
    each.variable.assign(_fitting(each, weights[each.key], f"{codec} with {_text(arguments)}"))
    used.add(each.key)
  if left := sorted(set(weights) - used):
    named = ", ".join(map(_name, left[:3])) + " and others" * (len(left) > 3)
    raise ConversionError(
      f"the checkpoint holds {named}, which {codec} does not have; expected its weights and "
      "nothing else"
    )
  return Converted(ours, published.codec, arguments)


def convert_file(
  checkpoint: str,
  codec: str | None,
  output: str,
  calibration_images: str | None = None,
  weights_dtype: str = "float32",
) -> coding.Model:
  """Converts a checkpoint into a model's folder.

  Args:
    checkpoint: its file, as `checkpoint.read` takes it.
    codec: as for `convert`.
    output: folder to write.
    calibration_images: as `image_files.find_images` takes them; default: scikit-image's photos.
    weights_dtype: "float32" or "float16".

  Raises:
    errors.Error: the checkpoint, the images or the folder cannot be used, or integers would cost
      too much.
  """
  converted = convert(checkpoint_lib.read(checkpoint), codec)
  if calibration_images is None:
    images = list(sample_photos.load().values())
  else:
    images = pipeline.load_whole(calibration_images)
  description = {
    "codec": converted.name,
    "arguments": converted.arguments,
    "data": f"published weights, converted from {os.path.basename(checkpoint)}",
    "calibration": f"{len(images)} images",
  }
  logging.info("calibrates integers on %d images", len(images))
  return model_files.save(output, converted.codec, description, images, weights_dtype, shifts=True)


def with_current_keys(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the weights of a checkpoint alone, by the names that CompressAI gives them today."""
  weights = {}
  for key, value in tensors.items():
    current = _current_key(key)
    if _NOT_WEIGHTS.search(current):
      continue
    if current in weights:
      raise ConversionError(
        f"the checkpoint holds {_name(current)} twice, as {_name(key)} too; expected each weight "
        "once"
      )
    if not value.ndim or not value.size:
      raise ConversionError(
        f"{_name(current)} has shape {list(value.shape)}, expected a weight of one value or more; "
        "copy the checkpoint again from its source"
      )
    weights[current] = value
  return weights


def _current_key(key: str) -> str:
  key = key.removeprefix("module.").replace(".downsample.", ".skip.")
  density = _DENSITY.fullmatch(key)
  if density is None:
    return key
  return f"entropy_bottleneck.{_PLURALS.get(density[1], density[1])}.{density[2]}"


def recognized(weights: dict[str, np.ndarray]) -> str:
  """Returns which of `CODECS` weights are of, by their names and shapes."""
  if "g_a.0.conv1.weight" in weights:
    attention = any(key.startswith("g_a.") and ".conv_a." in key for key in weights)
    return "cheng2020-attn" if attention else "cheng2020-anchor"
  if "g_a.0.weight" not in weights or "g_s.0.weight" not in weights:
    some = ", ".join(map(_name, sorted(weights)[:3]))
    raise ConversionError(
      f"the checkpoint has no g_a.0.weight or no g_s.0.weight among {len(weights)} weights"
      f"{f' ({some}, ...)' if some else ''}, expected those of one of {', '.join(CODECS)}"
    )
  if any(key.startswith("context_prediction.") for key in weights):
    return "mbt2018"
  if "h_s.4.weight" not in weights:
    return "bmshj2018-factorized"
  depth = weights["g_s.0.weight"].shape[0]
  return "mbt2018-mean" if weights["h_s.4.weight"].shape[0] == 2 * depth else "bmshj2018-hyperprior"


def sizes(weights: dict[str, np.ndarray], published: Published) -> dict[str, int]:
  """Returns N, and M where it is an argument, from the shapes of weights."""
  if published.latent_depth:
    keys = {"num_filters": "g_a.0.weight", "latent_depth": "g_s.0.weight"}
  else:
    keys = {"num_filters": "g_a.0.conv1.weight"}
  found = {argument: len(weights[key]) for argument, key in keys.items()}
  # Before that much is built.
  for argument, size in found.items():
    if size > _MAX_CHANNELS:
      raise ConversionError(
        f"{keys[argument]} has shape {list(weights[keys[argument]].shape)}, expected at most "
        f"{_MAX_CHANNELS} channels; published weights have up to 320"
      )
  return found


def _fitting(assignment: Assignment, values: np.ndarray, model: str) -> np.ndarray:
  """Returns published values as ours, or raises ConversionError."""
  expected = tuple(assignment.variable.shape)
  try:
    with np.errstate(over="ignore"):  # What overflows is found below.
      converted = assignment.convert(values).astype(np.float32)
  except (ValueError, IndexError):  # of another rank
    converted = None
  if converted is None or converted.shape != expected:
    raise ConversionError(
      f"{assignment.key} has shape {list(values.shape)}, which does not fit {model}; copy the "
      "checkpoint again from its source"
    )
  if not np.isfinite(converted).all():
    raise ConversionError(
      f"{assignment.key} holds values that are not finite in float32; copy the checkpoint again "
      "from its source"
    )
  return converted


class Assignment(NamedTuple):
  """A variable of ours, the name of the tensor that it is converted from, and the conversion."""

  variable: tf.Variable
  key: str
  convert: Callable[[np.ndarray], np.ndarray]


def assignments(codec: codec_lib.Codec) -> Iterator[Assignment]:
  """Lists the assignments to all weights of our codec."""
  (branch,) = codec.branches
  entropy_model, networks = branch.entropy_model, branch.networks
  yield from _sequence(branch.g_a, "g_a")
  yield from _sequence(branch.g_s, "g_s")
  yield from _prior(entropy_model.prior)
  if "hyper_analysis" in networks:
    yield from _sequence(entropy_model.h_a, "h_a")
    # Where h_s predicts means too, theirs has scales first, ours means.
    swapped = "context" not in networks and entropy_model.has_means
    yield from _sequence(entropy_model.h_s, "h_s", swapped)
  if "context" in networks:
    yield from _layer(entropy_model.context.layers[0], "context_prediction")
    first, *others = _sequence(entropy_model.entropy_parameters, "entropy_parameters", swapped=True)
    # Inputs of theirs begin with side information, those of ours with the context.
    yield first._replace(convert=lambda w: first.convert(np.roll(w, w.shape[1] // 2, axis=1)))
    yield from others


def _sequence(stack: layers.Stack, name: str, swapped: bool = False):
  """Lists the weights of layers in sequence, which are numbered there.

  Args:
    stack: ours.
    name: of theirs.
    swapped: whether the halves of the last layer's outputs change places.
  """
  for i, layer in enumerate(stack.layers):
    last = i == len(stack.layers) - 1
    yield from _layer(layer, f"{name}.{i}", _swapped_halves if swapped and last else _unchanged)


def _unchanged(w: np.ndarray) -> np.ndarray:
  return w


def _swapped_halves(w: np.ndarray) -> np.ndarray:
  return np.roll(w, len(w) // 2, axis=0)


def _layer(layer, key: str, order: Callable[[np.ndarray], np.ndarray] = _unchanged):
  """Lists the weights of one layer of `khuvcm_tf.layers`.

  Args:
    layer: ours.
    key: of theirs.
    order: from the order of their outputs to ours, for an array's first axis.
  """
  if isinstance(layer, tfc.SignalConv2D):
    # Transposed convolutions have their inputs first.
    axes = (2, 3, 1, 0) if layer.corr else (2, 3, 0, 1)
    reordered = order if layer.corr else _unchanged
    kernel, bias = layer.weights
    yield Assignment(kernel, f"{key}.weight", lambda w: reordered(w).transpose(axes))
    yield Assignment(bias, f"{key}.bias", order)
  elif isinstance(layer, tfc.GDN):
    beta, gamma = layer.weights
    yield Assignment(beta, f"{key}.beta", _unchanged)
    yield Assignment(gamma, f"{key}.gamma", np.transpose)
  elif isinstance(layer, layers.MaskedConv2D):
    positions, size = layer.kernel.shape[0], layer.kernel_size**2
    yield Assignment(
      layer.kernel,
      f"{key}.weight",
      lambda w: w.transpose(2, 3, 1, 0).reshape(size, *w.shape[1::-1])[:positions],
    )
    yield Assignment(layer.bias, f"{key}.bias", _unchanged)
  elif isinstance(layer, layers.Subpixel):
    cell = layer.stride**2
    yield from _layer(
      layer.conv,
      f"{key}.0",
      lambda w: w.reshape(-1, cell, *w.shape[1:]).swapaxes(0, 1).reshape(w.shape),
    )
  elif not isinstance(layer, layers.Rectifier):
    for part, name in _parts(layer):
      yield from _layer(part, f"{key}.{name}")


def _parts(block) -> list[tuple[tf.keras.layers.Layer, str]]:
  """Lists the layers of a residual or attention block, and their names there."""
  if isinstance(block, layers.ResidualBlock):
    return [(block.conv0, "conv1"), (block.conv1, "conv2")]
  if isinstance(block, layers.ResidualDown):
    return [
      (block.conv0, "conv1"),
      (block.conv1, "conv2"),
      (block.activation, "gdn"),
      (block.skip, "skip"),
    ]
  if isinstance(block, layers.ResidualUp):
    return [
      (block.up, "subpel_conv"),
      (block.conv, "conv"),
      (block.activation, "igdn"),
      (block.skip, "upsample"),
    ]
  if isinstance(block, layers.Attention):
    units = [
      (getattr(unit, f"conv{i}"), f"{name}.{k}.conv.{2 * i}")
      for name, units in (("conv_a", block.trunk), ("conv_b", block.mask))
      for k, unit in enumerate(units)
      for i in range(3)
    ]
    return [*units, (block.conv, f"conv_b.{len(block.mask)}")]
  raise TypeError(f"no published form of layer {block.name} ({type(block).__name__})")


def _prior(prior: factorized.FactorizedPrior):
  """Lists the weights of the factorized prior."""
  for weight in prior.weights:
    if weight is prior.stored:
      yield Assignment(weight, "entropy_bottleneck.quantiles", _middle_quantiles)
    else:
      kind, _, number = weight.name.split("/")[-1].split(":")[0].rpartition("_")
      yield Assignment(weight, f"entropy_bottleneck.{_PLURALS[kind]}.{number}", _unchanged)


def _middle_quantiles(quantiles: np.ndarray) -> np.ndarray:
  """[C, 1, 3], of the lower tail, the middle and the upper tail -> [C]."""
  if quantiles.shape[1:] != (1, 3):
    raise ValueError
  return quantiles[:, 0, 1]


def _name(key: str) -> str:
  """Returns a name of a file's as printable text of bounded length."""
  return pickle_machine.shown(key)[1:-1]


def _text(arguments: dict[str, object]) -> str:
  names = {"num_filters": "N", "latent_depth": "M"}
  return ", ".join(f"{names[key]} = {arguments[key]}" for key in names if key in arguments)
