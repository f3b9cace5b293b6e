"""What a codec's training starts with: weights of a model that was trained before, and gains."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from absl import logging

from khuvcm_tf import model_files, model_folders
from khuvcm_tf.codecs import codec as codec_lib
from khuvcm_tf.codecs import input_format
from khuvcm_tf.layers import first_log_gains
from khuvcm_tf.options import OptionsError
from khuvcm_tf.training.options import CodecOptions

_GAINS = "_gain/log_gain"


def first_octaves(options: CodecOptions, num_qualities: int) -> np.ndarray:
  """Returns by how many octaves lambda of each quality exceeds that at which gains begin at 1.

  That is the lambda of `init_from`, whose latents have the scale that it asks for, and the middle
  of the range where there is none, or one that means another thing.

  Returns:
    float [K], as `Codec.reset_gains` takes it.
  """
  low, high = options.lambda_range
  lmbda = options.lambda_range
  if options.init_from:
    description = model_folders.describe(options.init_from)
    if _is_of_features(description) == (options.codec == "feature"):
      # One number, or a range; converted models have none.
      lmbda = description.get("lambda") or lmbda
  neutral = np.clip(np.exp(np.mean(np.log(lmbda))), low, high)
  return np.log2(np.geomspace(low, high, num_qualities) / neutral)


def assign_weights_of(
  model: str, codec: codec_lib.Codec, lmbda: float | tuple[float, float]
) -> None:
  """Gives a codec the weights of a trained model whose names and shapes it has, too.

  Gains of a model of several rates are those at the same lambdas; a codec of one rate has them in
  the layers before and after. Where one of both codes images and the other features, lambda means
  another thing: the middles of both ranges are then taken for the same.

  Args:
    model: as for `model_files.load`.
    codec: to begin with them.
    lmbda: of the run, or of its lowest and its highest quality.

  Raises:
    OptionsError: there are none, or gains cannot go into the layers of this codec.
  """
  values, weights = model_files.read_weights(model), codec.named_weights()
  if any(name.endswith(_GAINS) for name in values):
    description = model_folders.describe(model)
    given = np.log2(description["lambda"])
    wanted = np.linspace(*np.log2(np.broadcast_to(lmbda, 2)), codec.num_qualities or 1)
    is_of_features = isinstance(codec.input_format, input_format.FeatureMaps)
    if _is_of_features(description) != is_of_features:
      wanted += np.mean(given) - np.mean(wanted)
    values = _at_lambdas(values, given, wanted)
    if codec.num_qualities is None:
      values = _folded(values, model)
  taken = {
    name: values[name]
    for name, weight in weights.items()
    if name in values and values[name].shape == weight.shape
  }
  if not taken:
    raise OptionsError(
      f"--init_from={model} has none of this codec's weights, expected a model of the same or a "
      "similar codec with equal numbers of filters"
    )
  fresh = {name: weight.numpy() for name, weight in weights.items() if name not in taken}
  codec.assign_weights({**taken, **fresh})
  parts = sorted({name.split("/")[0] for name in fresh})
  logging.info(
    "starts with %d of %d weights of %s; fresh ones: %s",
    len(taken),
    len(weights),
    model,
    f"{len(fresh)} in {', '.join(parts)}" if fresh else "none",
  )


def _is_of_features(description: Mapping[str, object]) -> bool:
  return description["codec"] == "feature"


def _at_lambdas(
  values: dict[str, np.ndarray], given: np.ndarray, wanted: np.ndarray
) -> dict[str, np.ndarray]:
  """Returns weights with gains at other lambdas; beyond the given ones as training begins.

  Args:
    values: weights by name.
    given: log2 lambda of the lowest and of the highest quality, [2].
    wanted: log2 lambda of each quality, [K].
  """
  inside, found = np.clip(wanted, *given), dict(values)
  for name, value in values.items():
    if name.endswith(_GAINS):
      anchors = np.linspace(*given, len(value))
      columns = [np.interp(inside, anchors, column) for column in value.T.astype(np.float64)]
      beyond = first_log_gains(wanted - inside, value.shape[1])
      sign = -1.0 if name.endswith("synthesis" + _GAINS) else 1.0
      found[name] = np.stack(columns, axis=1) + sign * beyond
  return found


def _folded(values: dict[str, np.ndarray], model: str) -> dict[str, np.ndarray]:
  """Returns weights without gains of one quality: the convolutions beside them have them.

  Raises:
    OptionsError: there are other layers beside them.
  """
  found = {name: value for name, value in values.items() if not name.endswith(_GAINS)}
  for name in values.keys() - found.keys():
    part, gain = name.removesuffix(_GAINS), np.exp(values[name][0])
    is_synthesis = part.endswith("synthesis")
    own = sorted(each for each in found if re.fullmatch(part + r"/conv\d+/kernel", each))
    kernel = own and own[0 if is_synthesis else -1]
    # Of an analysis the last axis is that of the latents, of a synthesis the one before it.
    axis = -2 if is_synthesis else -1
    if not own or found[kernel].shape[axis] != len(gain):
      raise OptionsError(
        f"--init_from={model} is a model of several rates, whose gains have no convolutions beside "
        "them, expected one of one rate; or give --argument=num_qualities=7 and --lambda_range"
      )
    found[kernel] = found[kernel] * (gain[:, np.newaxis] if is_synthesis else gain)
    bias = kernel.removesuffix("kernel") + "bias"
    if not is_synthesis and bias in found:
      found[bias] = found[bias] * gain
  return found
