"""A tiny model of several rates, which tests of evaluations code with."""

from __future__ import annotations

import numpy as np
import pytest

from khuvcm_tf import codecs, model_files


@pytest.fixture(scope="session")
def several_rates(tmp_path_factory):
  """The folder of a model of several rates, its default quality 40; called tiny."""
  folder = str(tmp_path_factory.mktemp("several_rates") / "tiny")
  name, arguments = "bmshj2018_factorized", {"num_filters": 8, "latent_depth": 12}
  arguments["num_qualities"] = 3
  images = [np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)]
  description = {"codec": name, "arguments": arguments, "default_quality": 40}
  model_files.save(folder, codecs.create(name, **arguments), description, images)
  return folder
