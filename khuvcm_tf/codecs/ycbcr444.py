"""A codec of RGB images, applied to YCbCr: luma and chroma at the same resolution.

  YCbCr = BT.601 of RGB, full range          x = YCbCr / 255
  y, y_hat, x_hat as in the codec that `model` names
  RGB = BT.601 backwards of 255 x_hat

In training the errors of Y, Cb and Cr are weighted 4 : 1 : 1, as in the study's PSNR_YCbCr.

What to expect on Kodak, of small models (N = 32, M = 48, an hour on a core; docs/results.md):

  lambda    0.0056     0.0113     0.0225
  bpp        0.176      0.237      0.301
  dB         27.05      27.56      27.91   (PSNR of Y)
"""

from __future__ import annotations

from typing import Callable

from khuvcm_tf.codecs import codec, input_format


def build(
  builders: dict[str, Callable[..., codec.Codec]], model: str = "mbt2018", **arguments
) -> codec.Codec:
  """Composes the codec.

  Args:
    builders: of codecs of RGB images, by name; the registry gives them.
    model: transforms and entropy model are those of this codec.
    **arguments: of that codec.
  """
  if model not in builders:
    raise ValueError(f"`model` is {model!r}, expected one of {', '.join(builders)}")
  return codec.Codec(input_format.Ycbcr444(), *builders[model](**arguments).branches)
