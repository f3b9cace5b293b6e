"""The photos that come in scikit-image's package."""

from __future__ import annotations

import pathlib
import sys

import numpy as np
import pytest
import skimage.data
from PIL import Image

from khuvcm_tf import errors
from khuvcm_tf.data import sample_photos


def test_are_four_photos_of_300_to_640_pixels_a_side_by_name():
  found = sample_photos.load()
  assert {name: photo.shape for name, photo in found.items()} == {
    "astronaut": (512, 512, 3),
    "chelsea": (300, 451, 3),
    "coffee": (400, 600, 3),
    "rocket": (427, 640, 3),
  }
  assert tuple(found) == sample_photos.NAMES
  assert {photo.dtype for photo in found.values()} == {np.dtype(np.uint8)}


def test_are_the_files_of_the_package_which_need_no_download():
  folder = pathlib.Path(skimage.data.__file__).parent
  for name, photo in sample_photos.load().items():
    (path,) = folder.glob(f"{name}.*g")
    np.testing.assert_array_equal(photo, np.asarray(Image.open(path)))


def test_without_scikit_image_the_error_says_how_to_get_it(monkeypatch):
  monkeypatch.setitem(sys.modules, "skimage.data", None)
  assert issubclass(sample_photos.SamplePhotosError, errors.Error)
  with pytest.raises(
    sample_photos.SamplePhotosError,
    match=r"^the sample photos are missing: found no scikit-image, expected 0\.22 or later; "
    r"pip install 'scikit-image>=0\.22'$",
  ):
    sample_photos.load()
