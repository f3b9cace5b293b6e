"""What tests of several rooms look through."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

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
      timeout=300,
    )
    return process.returncode, process.stdout, process.stderr

  return run


@pytest.fixture
def count_calls(monkeypatch):
  """A function: a transform -> a list that grows by one with each call of it."""

  def count(transform):
    calls, plain = [], type(transform).call

    def call(self, *arguments, **named):
      calls.append(1)
      return plain(self, *arguments, **named)

    monkeypatch.setattr(type(transform), "call", call)
    return calls

  return count


class _RowsSeen:
  def __init__(self):
    self.rows = set()

  def open(self):
    return 0

  def close(self, state):
    return state

  def code(self, state, rows, symbols):
    self.rows.update(rows.numpy().tolist())
    return state, symbols

  def within_limits(self, excess):
    return excess


@pytest.fixture(scope="session")
def rows_seen():
  """A function that makes a stream, which notes by which `rows` of the tables it was to code."""
  return _RowsSeen
