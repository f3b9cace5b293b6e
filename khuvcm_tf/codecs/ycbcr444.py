"""A codec of RGB pictures, applied to YCbCr: luma and chroma at the same resolution.

  YCbCr = BT.601 of RGB, full range          x = YCbCr / 255
  y, y_hat, x_hat as in the codec that `model` names
  RGB = BT.601 backwards of 255 x_hat

In training the errors of Y, Cb and Cr are weighted 4 : 1 : 1, as in the study's PSNR_YCbCr.
"""

from __future__ import annotations

from khuvcm_tf.codecs import bmshj2018, cheng2020, codec, mbt2018, mbt2018_mean, picture_format

_MODELS = {
  "bmshj2018": bmshj2018.build,
  "mbt2018_mean": mbt2018_mean.build,
  "mbt2018": mbt2018.build,
  "cheng2020": cheng2020.build,
}


def build(model: str = "mbt2018", **arguments) -> codec.Codec:
  """Composes the codec.

  Args:
    model: transforms and entropy model are those of this codec.
    **arguments: of that codec.
  """
  if model not in _MODELS:
    raise ValueError(f"`model` is {model!r}, expected one of {', '.join(_MODELS)}")
  return codec.Codec(picture_format.Ycbcr444(), *_MODELS[model](**arguments).branches)
