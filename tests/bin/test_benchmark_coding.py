"""bin/benchmark_coding.py as a person starts it, on a tiny model."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def _run(*arguments: object) -> tuple[int, str, str]:
  """Returns the exit code, stdout and stderr."""
  process = subprocess.run(
    [sys.executable, str(ROOT / "bin" / "benchmark_coding.py"), *map(str, arguments)],
    capture_output=True,
    text=True,
    timeout=1800,
    env={**os.environ, "PYTHONPATH": str(ROOT)},
  )
  return process.returncode, process.stdout, process.stderr


def test_a_tiny_model_is_measured_in_all_stages(tmp_path):
  code, out, err = _run(
    "--codecs=mbt2018",
    "--sizes=64x48",
    "--num_filters=12",
    "--repeats=1",
    f"--image={ROOT / 'tests' / 'photos' / 'chelsea.jpg'}",
    f"--json={tmp_path / 'b.json'}",
  )
  assert code == 0, err
  assert [path.name for path in tmp_path.iterdir()] == ["b.json"]
  content = json.loads((tmp_path / "b.json").read_text())
  assert list(content) == ["mbt2018"] and list(content["mbt2018"]) == ["64x48"]
  measured = content["mbt2018"]["64x48"]
  assert list(measured) == ["encode", "decode", "raster_over_wavefront", "peak_mib"]
  for direction in ("encode", "decode"):
    stages = measured[direction]
    assert list(stages) == ["transforms", "hyperprior", "context_loop", "range_coder"]
    assert min(stages.values()) >= 0 < stages["transforms"]
    row = next(line for line in out.splitlines() if f" {direction} " in line)
    assert float(row.split()[-1]) == pytest.approx(sum(stages.values()), abs=6e-4)
  assert measured["raster_over_wavefront"] > 0
  assert measured["peak_mib"] > 100  # TensorFlow alone
  assert max(map(len, out.splitlines())) <= 100
  assert err.splitlines()[-1] == "mbt2018 64x48: raster order, for comparison"
  assert all(line.startswith("mbt2018 64x48: ") for line in err.splitlines())


_BAD = [
  ("--codecs=bmshj2018", "found codec 'bmshj2018', expected one with a context model: "),
  ("--sizes=768", "found size '768', expected WIDTHxHEIGHT"),
  ("--image=absent.png", r"absent\.png: "),
]


@pytest.fixture(scope="module")
def ends(run_together):
  """Exit code, stdout and stderr with each bad argument."""
  commands = [["benchmark_coding.py", "--num_filters=12", bad] for bad, _ in _BAD]
  return dict(zip(_BAD, run_together(*commands)))


@pytest.mark.parametrize("bad", _BAD, ids=lambda bad: bad[0])
def test_bad_input_ends_in_one_line(ends, bad):
  code, out, err = ends[bad]
  assert (code, out) == (1, "")
  assert re.fullmatch(rf"benchmark_coding\.py: error: {bad[1]}.*\n", err)
