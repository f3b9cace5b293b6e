"""Fixtures that tests of several rooms share."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import hypothesis
import pytest

# No test fails because the machine is busy: time-outs are there to end what hangs.
hypothesis.settings.register_profile(
  "no deadline", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("no deadline")

_ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def run_program():
  """A function that runs a program of bin/ in a folder; returns exit code, stdout and stderr."""

  def run(program: str, *arguments: str, cwd: object) -> tuple[int, str, str]:
    process = subprocess.run(
      [sys.executable, str(_ROOT / "bin" / program), *arguments],
      cwd=cwd,
      env={**os.environ, "PYTHONPATH": str(_ROOT)},
      capture_output=True,
      text=True,
      timeout=1800,
    )
    return process.returncode, process.stdout, process.stderr

  return run


@pytest.fixture
def count_calls(monkeypatch):
  """A function from a transform to a list, which grows by one with each call of the transform."""

  def count(transform):
    calls, plain = [], type(transform).call

    def call(self, *arguments, **named):
      calls.append(1)
      return plain(self, *arguments, **named)

    monkeypatch.setattr(type(transform), "call", call)
    return calls

  return count


class _CodedRows:
  """A coder that collects the CDF rows that symbols are coded with."""

  def __init__(self):
    self.rows = set()

  def init(self):
    return 0

  def finalize(self, state):
    return state

  def code(self, state, rows, symbols):
    self.rows.update(rows.numpy().tolist())
    return state, symbols

  def within_limits(self, excess):
    return excess


@pytest.fixture(scope="session")
def rows_seen():
  """A class of coders whose `rows` are those of the tables that symbols are coded with."""
  return _CodedRows
