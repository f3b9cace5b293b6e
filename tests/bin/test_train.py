"""bin/train.py as a process: every flagfile, and the smoke run to its end."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from khuvcm_tf import model_files
from khuvcm_tf.data import images

ROOT = pathlib.Path(__file__).parents[2]
FLAGFILES = sorted((ROOT / "configs").glob("*/*.flags"))


def _train(*arguments: str) -> subprocess.CompletedProcess:
  # From the checkout, where the paths of smoke flagfiles lead.
  command = [sys.executable, "bin/train.py", *arguments]
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
  """Exit code and stderr of a run with each flagfile, where there are no pictures."""
  folder = tmp_path_factory.mktemp("flagfiles")
  child = str(pathlib.Path(__file__).parent / "train_in_child.py")
  ended = subprocess.run(
    [sys.executable, child, f"{folder}/w", f"{folder}/none", *map(str, FLAGFILES)],
    capture_output=True,
    text=True,
    check=False,
    timeout=600,
  )
  assert ended.returncode == 0, ended.stderr
  return dict(zip(FLAGFILES, json.loads(ended.stdout)))


@pytest.mark.parametrize("flagfile", FLAGFILES, ids=lambda path: "/".join(path.parts[-2:]))
def test_a_flagfile_builds_its_codec_and_asks_for_pictures(ends, flagfile):
  code, said = ends[flagfile]
  assert code == 1
  assert re.match(r"train_in_child\.py: error: .*/none: no pictures found; expected a file", said)
  assert said.count("\n") == 1


def test_the_smoke_run_ends_in_a_model_that_codes_a_photo(tmp_path):
  ended = _train("--flagfile=configs/smoke/mbt2018_mean.flags", f"--workdir={tmp_path}/w")
  assert ended.returncode == 0, ended.stderr
  assert f"the model is in {tmp_path}/w/model; next:" in ended.stdout
  model = model_files.load(str(tmp_path / "w"))
  photo = images.read_image(str(ROOT / "tests" / "photos" / "coffee.jpg"))
  decoded = model.decompress(model.compress(photo))
  # Better than its mean colour: it has learned something.
  mean = np.mean((photo - photo.mean(axis=(0, 1))) ** 2)
  assert np.mean((photo.astype(np.float64) - decoded) ** 2) < mean
