"""Runs as processes of their own: killed, resumed, spread over workers, looked at in a terminal."""

from __future__ import annotations

import concurrent.futures
import fcntl
import json
import os
import pathlib
import pty
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios

import numpy as np
import pytest
import tensorflow as tf

_HERE = pathlib.Path(__file__).resolve()
_STEPS = 24
# Only against hangs: a busy machine may take minutes to start TensorFlow.
_TIMEOUT = 1800
# Of weights and losses after 24 steps: floats are summed in another order.
_TOLERANCE = 1e-5


def _start(workdir, *more: str, tf_config: str = "", **settings) -> subprocess.Popen:
  environment = {**os.environ, "PYTHONPATH": str(_HERE.parents[2]), "TF_CPP_MIN_LOG_LEVEL": "3"}
  if tf_config:
    environment["TF_CONFIG"] = tf_config
  fields = {"workdir": str(workdir), "max_steps": _STEPS, "ema": 0.9}
  if tf_config:
    fields["strategy"] = "multi_worker"
  command = [sys.executable, str(_HERE.parent / "line.py"), json.dumps(fields), *more]
  settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **settings}
  return subprocess.Popen(command, env=environment, **settings)


def _end(process: subprocess.Popen) -> tuple[int, str]:
  """Returns the exit code and what was written to stderr."""
  _, written = process.communicate(timeout=_TIMEOUT)
  return process.returncode, written


def _run_in_terminal(workdir) -> tuple[int, str]:
  """Runs with a terminal of 100 columns for stderr; returns the exit code and what was written."""
  ours, theirs = pty.openpty()
  fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 40, 100, 0, 0))
  process = _start(workdir, stderr=theirs, stdout=subprocess.DEVNULL)
  os.close(theirs)
  written = b""
  while True:
    try:
      some = os.read(ours, 4096)
    except OSError:  # Linux raises it when the other side has closed.
      break
    if not some:
      break
    written += some
  os.close(ours)
  return process.wait(timeout=_TIMEOUT), written.decode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
  return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def written(folder):
  """What an unbroken run wrote to its terminal, and one that was killed and resumed to stderr."""
  killed = _start(folder / "killed", "13")
  code, in_terminal = _run_in_terminal(folder / "unbroken")
  assert code == 0, in_terminal
  code, text = _end(killed)
  assert code == -signal.SIGKILL, text
  shutil.copytree(folder / "killed", folder / "cluster")
  code, resumed = _end(_start(folder / "killed"))
  assert code == 0, resumed
  return {"in_terminal": in_terminal, "resumed": resumed}


def _variables(workdir: pathlib.Path) -> dict[str, np.ndarray]:
  path = tf.train.latest_checkpoint(str(workdir / "checkpoints"))
  assert path.endswith(f"step-{_STEPS}")
  reader = tf.train.load_checkpoint(path)
  names = [name for name in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in name]
  return {name: reader.get_tensor(name) for name in names if "save_counter" not in name}


def test_a_killed_run_is_resumed_from_its_last_checkpoint(written):
  assert "resumes after step 8 of 24" in written["resumed"]
  assert re.findall(r"^step (\d+) of", written["resumed"], re.M) == ["12", "16", "20", "24"]


def test_a_killed_run_ends_with_the_state_and_the_product_of_an_unbroken_one(written, folder):
  unbroken, killed = _variables(folder / "unbroken"), _variables(folder / "killed")
  assert unbroken.keys() == killed.keys()
  assert {name.split("/")[0] for name in unbroken} == {"line", "optimizer", "scale", "best_loss"}
  for name, value in unbroken.items():
    np.testing.assert_allclose(killed[name], value, atol=_TOLERANCE, err_msg=name)
  products = [
    json.loads((folder / name / "line.json").read_text()) for name in ("unbroken", "killed")
  ]
  np.testing.assert_allclose(*products, atol=_TOLERANCE)


@pytest.mark.parametrize(
  "name, steps", [("train/loss", [4, 8, 12, 16, 20, 24]), ("validation/loss", [8, 16, 24])]
)
def test_curves_of_a_killed_run_are_those_of_an_unbroken_one(written, folder, curve, name, steps):
  unbroken = curve(folder / "unbroken" / "logs", name)
  killed = curve(folder / "killed" / "logs", name)
  assert [step for step, _ in unbroken] == [step for step, _ in killed] == steps
  np.testing.assert_allclose(
    [value for _, value in killed], [value for _, value in unbroken], rtol=_TOLERANCE
  )


def test_a_terminal_shows_one_bar_and_whole_lines_above_it(written):
  # A carriage return goes back to the line's start, where blanks have wiped the bar out.
  lines = written["in_terminal"].replace("\r\n", "\n").split("\n")
  validations = [line.split("\r")[-1] for line in lines if "validation" in line]
  assert len(validations) == 3
  for line in validations:
    assert re.fullmatch(r"step \d+: validation loss [\d.]+", line), line
  bars = re.findall(r"(\d+)/24 \[[\d:]+<[\d:]+, [^\]]*loss [\d.]+\]", written["in_terminal"])
  assert bars[-1] == "24"
  assert "step 24 of 24" not in written["in_terminal"]


def test_plain_output_has_nothing_but_our_own_lines(written):
  ours = r"INFO:absl:resumes after step \d+ of \d+|step \d+: validation loss [\d.]+"
  ours += r"|step \d+ of \d+: loss [\d.]+, [\d.]+ steps/s, \d+ min left"
  for line in written["resumed"].splitlines():
    assert re.fullmatch(ours, line), line


def _free_ports(number: int) -> list[int]:
  sockets = [socket.create_server(("localhost", 0)) for _ in range(number)]
  ports = [each.getsockname()[1] for each in sockets]
  for each in sockets:
    each.close()
  return ports


def test_two_workers_resume_a_run_as_one_process_does(written, folder, curve):
  cluster = {"worker": [f"localhost:{port}" for port in _free_ports(2)]}
  workers = [
    _start(
      folder / "cluster",
      tf_config=json.dumps({"cluster": cluster, "task": {"type": "worker", "index": i}}),
    )
    for i in range(2)
  ]
  # Side by side: a full pipe of one worker would hold up both.
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    ends = list(pool.map(_end, workers))
  assert [code for code, _ in ends] == [0, 0], ends
  # The worker that is not the chief logs no more than this, and writes nothing.
  assert [text.splitlines()[0] for _, text in ends] == ["INFO:absl:resumes after step 8 of 24"] * 2
  assert len(ends[1][1].splitlines()) == 1
  names = {path.name for path in (folder / "cluster").iterdir()}
  assert names == {"checkpoints", "flags.txt", "line.json", "logs"}
  one, two = _variables(folder / "unbroken"), _variables(folder / "cluster")
  assert one.keys() == two.keys()
  for name, value in one.items():
    np.testing.assert_allclose(two[name], value, atol=1e-4, err_msg=name)
  for name in ("train/loss", "train/grad_norm", "validation/loss"):
    one, two = curve(folder / "unbroken" / "logs", name), curve(folder / "cluster" / "logs", name)
    np.testing.assert_allclose(two, one, rtol=1e-4)
