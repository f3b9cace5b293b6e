"""Which features of TFDS's data sets are taken for images."""

from __future__ import annotations

import numpy as np
import pytest

from khuvcm_tf.data import tfds_images


def test_other_kinds_of_images_are_refused():
  tfds = pytest.importorskip("tensorflow_datasets")
  kinds = {
    tfds.features.Image(): True,
    tfds.features.Image(shape=(None, None, 1)): True,
    tfds.features.Image(shape=(8, 8, 4)): False,
    tfds.features.Image(shape=(8, 8, 3), dtype=np.uint16, encoding_format="png"): False,
  }
  for feature, usable in kinds.items():
    assert tfds_images._is_usable(feature) is usable
