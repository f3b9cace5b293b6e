"""Photos that come in scikit-image's package: what shows or calibrates without images at hand."""

from __future__ import annotations

import numpy as np

from khuvcm_tf import errors

NAMES = ("astronaut", "chelsea", "coffee", "rocket")


class SamplePhotosError(errors.Error):
  """Photos that are not installed."""


def load() -> dict[str, np.ndarray]:
  """Returns four photos of 300 to 640 pixels a side by name, uint8 [H, W, 3].

  Raises:
    SamplePhotosError: scikit-image is not installed.
  """
  try:
    import skimage.data
  except ImportError as error:
    raise SamplePhotosError(
      "the sample photos are missing: found no scikit-image, expected 0.22 or later; "
      "pip install 'scikit-image>=0.22'"
    ) from error
  return {name: np.asarray(getattr(skimage.data, name)()) for name in NAMES}
