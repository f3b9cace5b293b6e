"""bin/rate_distortion.py as a person starts it; what needs no process is in tests/evaluation/."""

from __future__ import annotations

import functools
import json
import pathlib
import re

import pytest
import skimage.data

from khuvcm_tf.data import image_files
from khuvcm_tf.evaluation import anchors

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / "tests" / "golden" / "mbt2018_mean" / "model"


@pytest.fixture(scope="module")
def here(tmp_path_factory):
  """A folder with two images in photos/."""
  folder = tmp_path_factory.mktemp("here")
  photo = skimage.data.astronaut()
  (folder / "photos").mkdir()
  image_files.write_image(str(folder / "photos" / "a.png"), photo[60:108, 200:264])
  image_files.write_image(str(folder / "photos" / "b.png"), photo[150:182, 150:190])
  return folder


@pytest.fixture(scope="module")
def run(here, run_program):
  """Runs the program in `here`; returns its exit code, stdout and stderr."""
  return functools.partial(run_program, "rate_distortion.py", cwd=here)


def _files(folder):
  return {
    str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
    for path in (folder / "files").rglob("*")
    if path.is_file()
  }


_COMMAND = (f"--models=ours={MODEL}", "--anchors=jpeg", "--images=photos", "--output=out")


@pytest.fixture(scope="module")
def ends(run, run_together, here):
  """Exit code, stdout and stderr of a command, of it again, and with an unknown anchor; and files.

  The files are those of the first two, as `_files` returns them after each.
  """
  first = run(*_COMMAND)
  written = _files(here / "out")
  again, unknown = run_together(
    ["rate_distortion.py", *_COMMAND],
    ["rate_distortion.py", "--anchors=gif", "--images=photos", "--output=none"],
    cwd=here,
  )
  return first, again, unknown, written, _files(here / "out")


def test_a_comparison_ends_with_a_report(ends, here):
  (code, out, err), *_, written, _ = ends
  assert (code, err) == (0, "")
  labels = [anchors.jpeg.label(each) for each in anchors.jpeg.default_rate_points]
  lines = out.splitlines()
  assert lines[0].split()[:4] == ["codec", "rate_point", "bpp", "psnr_rgb"]
  assert [line.split()[:2] for line in lines[1 : 2 + len(labels)]] == [
    ["ours", "model"],
    *(["jpeg", label] for label in labels),
  ]
  assert lines[-2].startswith("BD-rate (PSNR RGB) of ours against jpeg: `curve` has 1 points")
  assert lines[-1] == "written to out: report.html, plots, results.json, results.csv"
  output = here / "out"
  assert (output / "report.html").read_text(encoding="utf-8").lower().startswith("<!doctype html")
  assert any((output / "plots").iterdir())
  results = json.loads((output / "results.json").read_text(encoding="utf-8"))
  assert len(results["rows"]) == 2 * (1 + len(labels))
  assert len(written) == len(results["rows"])


def test_the_same_command_codes_nothing_anew(ends):
  (_, out, _), (code, out_again, _), _, written, written_again = ends
  assert (code, out_again) == (0, out)
  assert written_again == written


def test_an_unknown_anchor_is_one_line(ends, here):
  code, out, err = ends[2]
  assert (code, out) == (1, "")
  assert re.fullmatch(
    r"rate_distortion\.py: error: no anchor is called 'gif'; expected one of jpeg, .*, vvc\n", err
  )
  assert not (here / "none").exists()
