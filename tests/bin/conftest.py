"""How tests start the programs of bin/."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def run_together():
  """A function that runs programs of bin/ one after the other in a process, so in a few seconds.

  Of each program, some other test starts a process of its own.
  """

  def run(
    *commands: list[object], cwd: object = _ROOT, **environment: str
  ) -> list[tuple[int, str, str]]:
    """Returns exit code, stdout and stderr of each [program, argument...]."""
    process = subprocess.run(
      [sys.executable, str(pathlib.Path(__file__).parent / "run_in_child.py")],
      input=json.dumps([[str(part) for part in command] for command in commands]),
      cwd=cwd,
      env={**os.environ, "PYTHONPATH": str(_ROOT), **environment},
      capture_output=True,
      text=True,
      timeout=1800,
    )
    assert process.returncode == 0, process.stderr
    return [tuple(end) for end in json.loads(process.stdout)]

  return run
