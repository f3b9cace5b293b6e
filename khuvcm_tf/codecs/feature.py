"""A codec of images, applied to the feature maps of a detector.

  planes = the channels of P2 to P5 side by side on one canvas (`ops.tiling`)
  x = (planes - offset) scale of each level's channel         y, y_hat, x_hat as in `model`
  maps = the planes of x_hat / scale + offset, apart again

Maps are real numbers without bounds: nothing is clipped or rounded. Offset and scale are 0 and 1
unless a run sets them (`--normalization`). The distortion is the MSE of x, times 255^2 as that of
images, so that lambda means what it means there.

The study codes 256 channels in 4 planes, by the MSE of features that are not normalized.
"""

from __future__ import annotations

from typing import Callable

from khuvcm_tf.codecs import codec, input_format
from khuvcm_tf.layers.normalization import Normalization
from khuvcm_tf.ops.pyramid import BOX_LEVELS


class FeatureBranch(codec.Branch):
  """A branch with the numbers that its samples were normalized by."""

  def __init__(self, branch: codec.Branch, normalization: Normalization):
    super().__init__(branch.g_a, branch.g_s, branch.entropy_model)
    self.normalization = normalization

  @property
  def networks(self):
    return {**super().networks, "synthesis_normalization": self.normalization}


def build(
  builders: dict[str, Callable[..., codec.Codec]],
  model: str = "mbt2018_mean",
  channels: int = 256,
  planes: int = 4,
  square: int | None = None,
  **arguments,
) -> codec.Codec:
  """Composes the codec.

  Args:
    builders: of codecs of images, by name; the registry gives them.
    model: transforms and entropy model are those of this codec.
    channels: C of the maps.
    planes: P, the channels of the transforms' samples; a divisor of C.
    square: side to which maps of P2 are padded with zeros, those of P3 to half of it, ...; None:
      maps are taken as they are.
    **arguments: of that codec.
  """
  if model not in builders:
    raise ValueError(f"`model` is {model!r}, expected one of {', '.join(builders)}")
  normalization = Normalization((len(BOX_LEVELS), channels))
  form = input_format.FeatureMaps(channels, planes, square, normalization)
  (branch,) = builders[model](planes=planes, **arguments).branches
  return codec.Codec(form, FeatureBranch(branch, normalization))
