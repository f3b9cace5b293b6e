"""Provenance against the process and git."""

from __future__ import annotations

import datetime
import pathlib
import subprocess
import sys

import numpy as np
import tensorflow as tf

from khuvcm_tf.results import provenance


def test_a_description_names_date_commit_command_and_machine():
  found = provenance.describe()
  age = datetime.datetime.now(datetime.timezone.utc) - datetime.datetime.fromisoformat(
    found["date"]
  )
  assert datetime.timedelta(0) <= age < datetime.timedelta(minutes=1)
  assert found["command"] == " ".join(sys.argv)
  machine = found["machine"]
  assert (machine["tensorflow"], machine["numpy"]) == (tf.__version__, np.__version__)
  assert machine["cpu"] and machine["cores"] >= 1 and machine["load_average"] >= 0


def test_the_commit_is_that_of_the_checkout_or_none(monkeypatch, tmp_path):
  folder = pathlib.Path(provenance.__file__).parent
  git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True)
  assert (provenance.commit() or "").rstrip("+") == git.stdout.strip()
  monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
  monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
  assert provenance.commit() is None
