"""bin/train.py as a process: every flagfile, and the smoke run to its end."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from khuvcm_tf import model_files, options
from khuvcm_tf.data import image_files
from khuvcm_tf.training.options import CodecOptions

ROOT = pathlib.Path(__file__).parents[2]
FLAGFILES = sorted(
  path for path in (ROOT / "configs").glob("*/*.flags") if path.parent.name != "detector"
)
# Only against hangs: a busy machine may take minutes to start TensorFlow.
_TIMEOUT = 1800


def _train(*arguments: str) -> subprocess.CompletedProcess:
  # From the checkout, where the paths of smoke flagfiles lead.
  command = [sys.executable, "bin/train.py", *arguments]
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_TIMEOUT)


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
  """Exit code and stderr of a run with each flagfile, where there are no images."""
  folder = tmp_path_factory.mktemp("flagfiles")
  child = str(pathlib.Path(__file__).parent / "train_in_child.py")
  ended = subprocess.run(
    [sys.executable, child, f"{folder}/w", f"{folder}/none", *map(str, FLAGFILES)],
    capture_output=True,
    text=True,
    check=False,
    timeout=_TIMEOUT,
  )
  assert ended.returncode == 0, ended.stderr
  return dict(zip(FLAGFILES, json.loads(ended.stdout)))


@pytest.mark.parametrize("flagfile", FLAGFILES, ids=lambda path: "/".join(path.parts[-2:]))
def test_a_flagfile_builds_its_codec_and_asks_for_images(ends, flagfile):
  code, stderr = ends[flagfile]
  assert code == 1
  found = "features found" if flagfile.parent.name == "feature" else "images found"
  assert re.match(rf"train_in_child\.py: error: .*/none: no {found}", stderr)
  assert stderr.count("\n") == 1


def test_help_lists_the_options_and_needs_no_tensorflow():
  # Importing TensorFlow would fail.
  code = (
    "import sys, runpy; sys.modules['tensorflow'] = None; "
    "sys.argv = ['bin/train.py', '--helpshort']; "
    "runpy.run_path('bin/train.py', run_name='__main__')"
  )
  ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
  assert ended.returncode == 0, ended.stderr
  for field, spec, _ in options._options(CodecOptions):
    assert re.search(rf"^  --(\[no\])?{spec.flag or field.name}: ", ended.stdout, re.M), field.name


@pytest.mark.parametrize(
  "arguments, message",
  [
    ([], r"the flag --workdir is required"),
    (
      ["--workdir=w", "--codec=x"],
      r"found none of --train_images, --train_tfds, --train_f",
    ),
    (["--workdir=w", "--train_images=p", "--codec=x", "--lambda=0"], r"--lambda=0\.0 is out of"),
    (["--workdir=w", "--train_images=p"], r"found no --codec, expected one, or --init_from=MODEL"),
  ],
)
def test_wrong_options_are_refused_in_one_line(arguments, message):
  ended = _train(*arguments)
  assert ended.returncode == 1
  assert re.fullmatch(rf"train\.py: error: [^\n]*{message}[^\n]*\n", ended.stderr)


def test_the_smoke_run_ends_in_a_model_that_codes_an_image(tmp_path):
  ended = _train("--flagfile=configs/smoke/mbt2018_mean.flags", f"--workdir={tmp_path}/w")
  assert ended.returncode == 0, ended.stderr
  assert f"the model is in {tmp_path}/w/model; next:" in ended.stdout
  model = model_files.load(str(tmp_path / "w"))
  image = image_files.read_image(str(ROOT / "tests" / "photos" / "coffee.jpg"))
  decoded = model.decompress(model.compress(image))
  # Better than its mean colour: it has learned something.
  variance = np.mean((image - image.mean(axis=(0, 1))) ** 2)
  assert np.mean((image.astype(np.float64) - decoded) ** 2) < variance


def test_a_model_of_one_rate_becomes_one_of_several_in_two_steps(tmp_path):
  ended = _train(
    "--init_from=mbt2018_mean",  # Its lambda is 0.0025.
    "--argument=num_qualities=3",
    "--lambda_range=0.000625,0.01",
    "--train_images=tests/photos",
    "--crop_size=64",
    "--max_steps=2",
    "--learning_rate=1e-6",
    f"--workdir={tmp_path}/w",
  )
  assert ended.returncode == 0, ended.stderr
  model = model_files.load(str(tmp_path / "w"))
  found = model.description
  assert found["arguments"]["num_qualities"] == 3
  assert (found["lambda"], found["default_quality"]) == ([0.000625, 0.01], 50)
  assert not {"lmbda", "lambda_range"} & found["training"].keys()
  image = image_files.read_image(str(ROOT / "tests" / "photos" / "coffee.jpg"))
  files = [model.compress(image, quality) for quality in (0, 50, 100)]
  lowest, middle, highest = map(len, files)
  assert 1.4 * lowest < middle < highest / 1.4
  errors = [np.mean((image.astype(np.float64) - model.decompress(data)) ** 2) for data in files]
  assert errors[0] > 1.2 * errors[1] > 1.2**2 * errors[2]
  assert model.compress(image) == files[1]
  # What it was made from is the model of the middle.
  expected = len(model_files.load("mbt2018_mean").compress(image))
  assert middle == pytest.approx(expected, rel=0.05)
