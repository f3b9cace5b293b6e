"""What a codec is: a picture format, and branches of analysis, synthesis and latent coder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Callable, NamedTuple

import numpy as np
import tensorflow as tf

from khuvcm_tf.codecs import picture_format as picture_format_lib
from khuvcm_tf.codecs.picture_format import Planes
from khuvcm_tf.entropy import latent_coder as latent_coder_lib
from khuvcm_tf.layers import Transform

# How a transform is applied: as a plain network, or in bands.
Run = Callable[[Transform, tf.Tensor], tf.Tensor]


def plain(transform: Transform, x: tf.Tensor) -> tf.Tensor:
  return transform(x)


def in_bands(transform: Transform, x: tf.Tensor) -> tf.Tensor:
  return transform.in_bands(x)


class Known(NamedTuple):
  """What a decoder has of a branch: latents y_hat, and the samples that it made of them."""

  y_hat: tf.Tensor
  samples: tf.Tensor


class Branch(tf.keras.layers.Layer):
  """Codes samples: y = g_a(x), x_hat = g_s(y_hat), and the latent coder between them.

  Most codecs have one branch, which codes all channels of the samples. Where there are several,
  each codes some of the channels, and may look at what is known of those before it.

  Args:
    analysis: g_a.
    synthesis: g_s.
    latent_coder: quantizes y and tells its bits.
    name: stands before the names of weights and substreams where there are several branches.
  """

  def __init__(
    self,
    analysis: Transform,
    synthesis: Transform,
    latent_coder: latent_coder_lib.LatentCoder,
    name: str = "branch",
  ):
    super().__init__(name=name)
    self.analysis, self.synthesis, self.latent_coder = analysis, synthesis, latent_coder

  @property
  def networks(self) -> dict[str, tf.keras.layers.Layer]:
    """All parts that have weights, by name; what a decoder needs begins with `synthesis`."""
    return {"analysis": self.analysis, "synthesis": self.synthesis, **self.latent_coder.networks}

  def latents(self, samples: tf.Tensor, known: Sequence[Known], run: Run) -> tf.Tensor:
    """Returns y, [B, h, w, M].

    Args:
      samples: [B, H, W, C], of all branches.
      known: of the branches before.
      run: how transforms are applied.
    """
    del known
    return run(self.analysis, samples)

  def samples(self, y_hat: tf.Tensor, known: Sequence[Known], run: Run) -> tf.Tensor:
    """Returns the decoded samples of this branch's channels."""
    del known
    return run(self.synthesis, y_hat)


class Codec(tf.keras.Model):
  """A codec composed of its parts; it holds no coder state, and no float of it steers a coder.

  Args:
    picture_format: pictures to the networks' samples and back.
    *branches: in the order in which they are coded.
  """

  def __init__(self, picture_format: picture_format_lib.Rgb, *branches: Branch):
    # Planes stay as they are, whatever the precision of the networks.
    super().__init__(autocast=False)
    self.picture_format = picture_format
    self.branches = list(branches)

  @property
  def latent_stride(self) -> int:
    """Pixels along the side of a latent."""
    return self.picture_format.side * self.branches[0].analysis.stride

  @property
  def stride(self) -> int:
    """Both sides of a picture are padded to a multiple of this many pixels."""
    return math.lcm(*(self.latent_stride * each.latent_coder.stride for each in self.branches))

  @property
  def substreams(self) -> tuple[str, ...]:
    return tuple(self.prefixed(lambda branch: dict.fromkeys(branch.latent_coder.substreams), "_"))

  @property
  def sample_dtype(self) -> tf.DType:
    """Of planes: float64 where the transforms are, so that pixels are equal on all machines."""
    return tf.float64 if self.compute_dtype == "float64" else tf.float32

  def prefixed(self, by_name: Callable[[Branch], dict], separator: str = "/") -> dict:
    """Joins what each branch has by name; where there are several, their names stand before."""
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
    weights = self.named_weights()
    if set(weights) != set(values):
      odd = sorted(set(weights) ^ set(values))
      raise ValueError(f"weights {odd[:4]} stand on one side only")
    for name, weight in weights.items():
      if weight.shape != values[name].shape:
        raise ValueError(
          f"weight {name} has shape {values[name].shape}, expected {tuple(weight.shape)}"
        )
      weight.assign(values[name].astype(weight.dtype.as_numpy_dtype))

  def planes(self, rgb: tf.Tensor) -> Planes:
    """Returns the planes of RGB pictures [B, H, W, 3], 0..255 of any type."""
    return self.picture_format.planes(rgb, self.sample_dtype)

  def call(self, planes: Planes, training: bool = False):
    """Codes pictures in floats, as training and its validation need it.

    Args:
      planes: of pictures of any size.
      training: whether rounding is replaced by its differentiable stand-in.

    Returns:
      The decoded planes, neither rounded nor clipped, and {substream: bits [B]}.
    """
    samples = self._samples(planes)
    bits, known = {}, []
    for branch in self.branches:
      y = branch.latents(samples, known, plain)
      y_hat, bits[branch] = branch.latent_coder(y, training=training)
      y_hat = tf.cast(y_hat, self.compute_dtype)
      known.append(Known(y_hat, branch.samples(y_hat, known, plain)))
    return self._decoded(known, planes), self.prefixed(bits.get, "_")

  def encode(self, planes: Planes, code: Callable[[Branch, tf.Tensor], tf.Tensor]):
    """Computes the latents of pictures of any size, in bands.

    Args:
      planes: of the pictures.
      code: (branch, y [B, h, w, M]) -> y_hat as a decoder will find it; the last one's is not used.
    """
    samples, known = self._samples(planes), []
    for branch in self.branches:
      y_hat = code(branch, branch.latents(samples, known, in_bands))
      if branch is not self.branches[-1]:
        known.append(self._known(branch, y_hat, known))

  def decode(self, y_hats: Sequence[tf.Tensor], height, width) -> Planes:
    """Returns the planes of decoded latents, neither rounded nor clipped, in bands.

    Args:
      y_hats: of all branches, or of the first ones: then planes lack the channels of the others.
      height, width: of the pictures in pixels.
    """
    known = []
    for branch, y_hat in zip(self.branches, y_hats):
      known.append(self._known(branch, y_hat, known))
    samples = self._joined(known)
    return self.picture_format.from_network(tf.cast(samples, self.sample_dtype), height, width)

  def latents(self, planes: Planes) -> list[tf.Tensor]:
    """Returns y of each branch, in bands; later branches see what floats know of earlier ones."""
    found = []

    def code(branch, y):
      found.append(y)
      return None if branch is self.branches[-1] else branch.latent_coder(y)[0]

    self.encode(planes, code)
    return found

  def _samples(self, planes):
    return self.picture_format.to_network(planes, self.stride, self.compute_dtype)

  def _known(self, branch, y_hat, known):
    y_hat = tf.cast(y_hat, self.compute_dtype)
    return Known(y_hat, branch.samples(y_hat, known, in_bands))

  def _joined(self, known):
    return tf.concat([each.samples for each in known], axis=-1)

  def _decoded(self, known, planes):
    samples = tf.cast(self._joined(known), self.sample_dtype)
    height, width = tf.shape(planes[0])[1], tf.shape(planes[0])[2]
    return self.picture_format.from_network(samples, height, width)
