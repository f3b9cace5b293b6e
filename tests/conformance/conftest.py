"""Photos that come with scikit-image."""

from __future__ import annotations

import pytest
import skimage.data


@pytest.fixture(scope="session")
def coffee():
  """uint8 [400, 600, 3]."""
  return skimage.data.coffee()


@pytest.fixture(scope="session")
def astronaut():
  """uint8 [512, 512, 3]."""
  return skimage.data.astronaut()
