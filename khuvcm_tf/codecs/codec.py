"""What a codec is: an input format, and branches of analysis, entropy model and synthesis.

Letters: x samples [B, H, W, C]; y latents [B, h, w, M]; a hat marks their reconstruction; q the
quality of a codec of several rates, a real number of 0 .. K - 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Callable, NamedTuple

import numpy as np
import tensorflow as tf

from khuvcm_tf.codecs import input_format as input_format_lib
from khuvcm_tf.codecs.input_format import Planes
from khuvcm_tf.entropy import entropy_model as entropy_model_lib
from khuvcm_tf.layers import Gain, Transform, assign_by_name, first_log_gains
from khuvcm_tf.ops import padding

# How a transform is applied: as a plain network, or in bands.
Run = Callable[[Transform, tf.Tensor], tf.Tensor]


def plain(transform: Transform, x: tf.Tensor) -> tf.Tensor:
  return transform(x)


def in_bands(transform: Transform, x: tf.Tensor) -> tf.Tensor:
  return transform.in_bands(x)


class DecodedBranch(NamedTuple):
  """The reconstruction of a branch: its latents, as the synthesis takes them, and its samples."""

  y_hat: tf.Tensor
  x_hat: tf.Tensor


class Context(NamedTuple):
  """The inputs of a branch beside its samples or latents.

  Attributes:
    run: how transforms are applied, `plain` or `in_bands`.
    decoded: the branches before it.
    quality: q, a scalar or of each image [B]; None for codecs of one rate.
  """

  run: Run
  decoded: tuple[DecodedBranch, ...] = ()
  quality: tf.Tensor | float | None = None

  def after(self, branch: Branch, y_hat: tf.Tensor) -> Context:
    """Returns the context of the next branch, given the decoded latents of `branch`."""
    return self._replace(decoded=(*self.decoded, branch.decode(y_hat, self)))


class Branch(tf.keras.layers.Layer):
  """y = g_a(x), x_hat = g_s(y_hat), and the entropy model of y between them.

  Most codecs have one branch, which codes all channels of the samples. Where there are several,
  each codes some of the channels, and may depend on what is decoded of those before it: such
  branches define `analyze` and `synthesize` anew.

  With gains (`add_gains`) y = gain(q) g_a(x) and x_hat = g_s(gain'(q) y_hat), whatever `analyze`
  and `synthesize` are; the entropy model sees the scaled latents alone.

  Args:
    g_a: the analysis transform.
    g_s: the synthesis transform.
    entropy_model: quantizes y and models its bits.
    name: prefix of the names of weights and substreams where there are several branches.
  """

  def __init__(
    self,
    g_a: Transform,
    g_s: Transform,
    entropy_model: entropy_model_lib.EntropyModel,
    name: str = "branch",
  ):
    super().__init__(name=name)
    self.g_a, self.g_s, self.entropy_model = g_a, g_s, entropy_model
    self.gains: dict[str, Gain] = {}

  def add_gains(self, num_qualities: int):
    """Gives the branch gains for `num_qualities` anchor qualities; lambda doubles at each."""
    octaves = np.arange(num_qualities) - (num_qualities - 1) / 2
    self.gains = {name: Gain(values, name) for name, values in self._first_gains(octaves).items()}

  def reset_gains(self, octaves: np.ndarray):
    """Sets gains to the first ones of training; `octaves` is that of `first_log_gains`."""
    for name, values in self._first_gains(octaves).items():
      self.gains[name].log_gain.assign(values)

  def _first_gains(self, octaves: np.ndarray) -> dict[str, np.ndarray]:
    first = first_log_gains(octaves, self.entropy_model.latent_depth)
    return {"analysis_gain": first, "synthesis_gain": -first}

  @property
  def networks(self) -> dict[str, tf.keras.layers.Layer]:
    """All parts that have weights, by name; names of the decoder's begin with `synthesis`."""
    parts = {"analysis": self.g_a, "synthesis": self.g_s}
    return {**parts, **self.entropy_model.networks, **self.gains}

  def encode(self, x: tf.Tensor, context: Context) -> tf.Tensor:
    """Returns y, what is coded of samples x, which hold the channels of all branches."""
    return self.scaled(self.analyze(x, context), context)

  def scaled(self, y: tf.Tensor, context: Context) -> tf.Tensor:
    """Returns what is coded of the latents that `analyze` gives."""
    return self.gains["analysis_gain"](y, context.quality) if self.gains else y

  def decode(self, y_hat: tf.Tensor, context: Context) -> DecodedBranch:
    """Returns the reconstruction of what was coded."""
    y_hat = tf.cast(y_hat, self.compute_dtype)
    if self.gains:
      y_hat = self.gains["synthesis_gain"](y_hat, context.quality)
    return DecodedBranch(y_hat, self.synthesize(y_hat, context))

  def analyze(self, x: tf.Tensor, context: Context) -> tf.Tensor:
    """Returns latents of samples x, which hold the channels of all branches."""
    return context.run(self.g_a, x)

  def synthesize(self, y_hat: tf.Tensor, context: Context) -> tf.Tensor:
    """Returns x_hat, the channels of this branch."""
    return context.run(self.g_s, y_hat)


class Codec(tf.keras.Model):
  """A codec composed of its parts; it holds no coder state, and no float of it steers a coder.

  Args:
    input_format: from inputs to the networks' samples and back.
    *branches: in the order in which they are coded.

  Attributes:
    num_qualities: K of a codec of several rates (`add_gains`), None of one rate.
  """

  def __init__(self, input_format: input_format_lib.InputFormat, *branches: Branch):
    # Planes keep their type, whatever the precision of the networks.
    super().__init__(autocast=False)
    self.input_format = input_format
    self.branches = list(branches)
    self.num_qualities: int | None = None

  def add_gains(self, num_qualities: int):
    """Makes this a codec of several rates, with gains in all branches."""
    self.num_qualities = num_qualities
    for branch in self.branches:
      branch.add_gains(num_qualities)

  def reset_gains(self, octaves: np.ndarray):
    """Sets the gains of all branches to the first ones of training, as `first_log_gains` does."""
    for branch in self.branches:
      branch.reset_gains(octaves)

  @property
  def qualities(self) -> list[float | None]:
    """q of the anchor qualities; that of a codec of one rate is None."""
    return [None] if self.num_qualities is None else [float(k) for k in range(self.num_qualities)]

  @property
  def latent_stride(self) -> int:
    """Pixels along the side of a latent."""
    return self.input_format.subsampling * self.branches[0].g_a.stride

  @property
  def stride(self) -> int:
    """Both sides of an input are padded to a multiple of this many pixels."""
    strides = (self.latent_stride * each.entropy_model.stride for each in self.branches)
    return math.lcm(*strides)

  @property
  def substreams(self) -> tuple[str, ...]:
    """Names of the parts that are coded, in the order of the file."""
    return tuple(self.prefixed(lambda branch: dict.fromkeys(branch.entropy_model.substreams), "_"))

  @property
  def plane_dtype(self) -> tf.DType:
    """Of planes: float64 where the transforms are, so that pixels are equal on all machines."""
    return tf.float64 if self.compute_dtype == "float64" else tf.float32

  def prefixed(self, by_name: Callable[[Branch], dict], separator: str = "/") -> dict:
    """Joins the dicts of all branches; where there are several, their names head the keys."""
    if len(self.branches) == 1:
      return by_name(self.branches[0])
    return {
      f"{branch.name}{separator}{name}": value
      for branch in self.branches
      for name, value in by_name(branch).items()
    }

  def named_weights(self) -> dict[str, tf.Variable]:
    """Returns all weights by names such as `synthesis/conv0/kernel`."""
    return {
      f"{part}/{weight.name.split(':')[0]}": weight
      for part, network in self.prefixed(lambda branch: branch.networks).items()
      for weight in network.weights
    }

  def assign_weights(self, values: dict[str, np.ndarray]):
    """Sets all weights from arrays by name.

    Raises:
      ValueError: a name or a shape is not the codec's.
    """
    assign_by_name(self.named_weights(), values)

  def planes(self, examples: tf.Tensor) -> Planes:
    """Returns the planes of a batch of examples: of RGB images [B, H, W, 3], 0..255 of any type."""
    return self.input_format.from_examples(examples, self.plane_dtype)

  def samples(self, planes: Planes) -> tf.Tensor:
    """Returns x, the samples of planes, padded to a multiple of `stride`."""
    return self.input_format.to_samples(planes, self.stride, self.compute_dtype)

  def run_for(self, height: int, width: int) -> Run:
    """Returns `plain` for an input that each transform takes in one band, else `in_bands`.

    Both give the same results there. `plain` saves half the time of building a graph.

    Args:
      height, width: of the input in pixels.
    """
    sides = [padding.padded_size(side, self.stride) for side in (height, width)]
    for branch in self.branches:
      for network in branch.networks.values():
        if isinstance(network, Transform):
          pixels = self.latent_stride if network.enlarges else self.input_format.subsampling
          if not network.fits_a_band(*(side // pixels for side in sides)):
            return in_bands
    return plain

  def reconstruction(self, context: Context, height, width) -> Planes:
    """Returns the planes of decoded branches, neither rounded nor clipped.

    Args:
      context: in which all branches are decoded, or the first ones: then planes lack the channels
        of the others.
      height, width: of the input in pixels.
    """
    x_hat = tf.concat([each.x_hat for each in context.decoded], axis=-1)
    return self.input_format.from_samples(tf.cast(x_hat, self.plane_dtype), height, width)

  def call(self, planes: Planes, training: bool = False, quality: tf.Tensor | None = None):
    """Codes inputs in floats, as training and its validation need it.

    Args:
      planes: of inputs of any size.
      training: whether rounding is replaced by its differentiable stand-in.
      quality: q, a scalar or of each image [B]; None for codecs of one rate.

    Returns:
      The decoded planes, neither rounded nor clipped, and {substream: bits [B]}.
    """
    x, context, bits = self.samples(planes), Context(plain, quality=quality), {}
    for branch in self.branches:
      y = branch.encode(x, context)
      y_hat, bits[branch] = branch.entropy_model(y, training=training)
      context = context.after(branch, y_hat)
    height, width = tf.unstack(tf.shape(planes[0])[1:3])
    return self.reconstruction(context, height, width), self.prefixed(bits.get, "_")

  def latents(self, planes: Planes, quality: float | None = None) -> list[tf.Tensor]:
    """Returns y of each branch, in bands; later branches get what floats decode of earlier ones."""
    x, context, found = self.samples(planes), Context(in_bands, quality=quality), []
    for branch in self.branches:
      found.append(branch.encode(x, context))
      if branch is not self.branches[-1]:
        context = context.after(branch, branch.entropy_model(found[-1])[0])
    return found

  def decode(
    self,
    y_hats: Sequence[tf.Tensor],
    height,
    width,
    quality: tf.Tensor | float | None = None,
    run: Run = in_bands,
  ) -> Planes:
    """Returns the planes of latents of all branches, or of the first ones.

    Args:
      y_hats: [B, h, w, M] of each branch.
      height, width: of the input in pixels.
      quality: q; None for codecs of one rate.
      run: how transforms are applied.
    """
    context = Context(run, quality=quality)
    for branch, y_hat in zip(self.branches, y_hats):
      context = context.after(branch, y_hat)
    return self.reconstruction(context, height, width)
