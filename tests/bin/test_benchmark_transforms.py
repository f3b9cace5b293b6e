"""bin/benchmark_transforms.py as a person starts it, on tiny models."""

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
    [sys.executable, str(ROOT / "bin" / "benchmark_transforms.py"), *map(str, arguments)],
    capture_output=True,
    text=True,
    timeout=1800,
    env={**os.environ, "PYTHONPATH": str(ROOT)},
  )
  return process.returncode, process.stdout, process.stderr


def test_tiny_models_are_measured_side_by_side(tmp_path):
  code, out, err = _run(
    "--codecs=mbt2018,cross_component",
    "--size=70x48",
    "--num_filters=8",
    "--latent_depth=12",
    "--repeats=2",
    "--count_operations",
    f"--json={tmp_path / 't.json'}",
  )
  assert code == 0, err
  assert [path.name for path in tmp_path.iterdir()] == ["t.json"]
  content = json.loads((tmp_path / "t.json").read_text())
  rows = [(codec, each) for codec in ("mbt2018", "cross_component") for each in ("gdn", "prelu")]
  assert [(codec, each) for codec, found in content.items() for each in found] == rows
  lines = [line.split() for line in out.splitlines()]
  first = content["mbt2018"]["gdn"]
  for codec, activation in rows:
    found = content[codec][activation]
    assert found["size"] == "70x48"
    shown = [line[2:] for line in lines if line[:2] == [codec, activation]]
    kinds = (("seconds", 6e-4), ("multiplications_per_pixel", 0.6))
    assert len(shown) == len(kinds)
    for cells, (kind, within) in zip(shown, kinds):
      assert min(found[kind].values()) > 0
      expected = [
        number
        for what, value in found[kind].items()
        for number in (value, value / first[kind][what])
      ]
      numbers = [float(cell.replace(",", "")) for cell in cells]
      assert numbers == pytest.approx(expected, abs=within)
  assert max(map(len, out.splitlines())) <= 100
  assert err.splitlines() == [
    *(f"{codec} {activation}: graphs" for codec, activation in rows),
    "first calls",
    "round 1 of 2",
    "round 2 of 2",
  ]


_BAD = [
  ("--codecs=mbt2018,jpeg", "no codec is called 'jpeg'; there are "),
  ("--activations=gdn,relu", "codec mbt2018 .*`activation` is 'relu', expected 'gdn' or 'prelu'"),
  ("--size=768", "found size '768', expected WIDTHxHEIGHT"),
  ("--json=absent/t.json", "--json=absent/t.json is no file's name in a folder that exists, expec"),
]


@pytest.fixture(scope="module")
def ends(run_together):
  """Exit code, stdout and stderr with each bad argument."""
  commands = [
    ["benchmark_transforms.py", "--num_filters=8", "--latent_depth=12", bad] for bad, _ in _BAD
  ]
  return dict(zip(_BAD, run_together(*commands)))


@pytest.mark.parametrize("bad", _BAD, ids=lambda bad: bad[0])
def test_bad_input_ends_in_one_line(ends, bad):
  code, out, err = ends[bad]
  assert (code, out) == (1, "")
  assert re.fullmatch(rf"benchmark_transforms\.py: error: {bad[1]}.*\n", err)
