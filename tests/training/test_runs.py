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
# Of weights and losses after 24 steps with the same noise: floats are summed in another order.
_TOLERANCE = 1e-4


def _start(fields: dict, *more: str, tf_config: str = "", **settings) -> subprocess.Popen:
  surroundings = {**os.environ, "PYTHONPATH": str(_HERE.parents[2]), "TF_CPP_MIN_LOG_LEVEL": "3"}
  if tf_config:
    surroundings["TF_CONFIG"] = tf_config
  command = [sys.executable, str(_HERE.parent / "toy.py"), json.dumps(fields), *more]
  settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **settings}
  return subprocess.Popen(command, env=surroundings, **settings)


def _end(process: subprocess.Popen) -> tuple[int, str]:
  _, told = process.communicate(timeout=300)
  return process.returncode, told


def _in_a_terminal(fields: dict) -> tuple[int, str]:
  """Runs with a terminal of 100 columns for stderr; returns the exit code and what was written."""
  ours, theirs = pty.openpty()
  fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 40, 100, 0, 0))
  process = _start(fields, stderr=theirs, stdout=subprocess.DEVNULL)
  os.close(theirs)
  written = b""
  while True:
    try:
      some = os.read(ours, 4096)
    except OSError:  # Linux says so when the other side has closed.
      break
    if not some:
      break
    written += some
  os.close(ours)
  return process.wait(timeout=300), written.decode()


def _fields(workdir, photos: str, **more) -> dict:
  return {"workdir": str(workdir), "train_images": photos, "max_steps": _STEPS, "ema": 0.9, **more}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
  return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def runs(folder):
  """An unbroken run in a terminal, one killed after step 13, and what both wrote to stderr."""
  import importlib.util

  spec = importlib.util.spec_from_file_location("toy_pictures", _HERE.parent / "toy.py")
  toy = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(toy)
  toy.write_pictures(folder / "photos", 6)
  photos = str(folder / "photos")
  killed = _start(_fields(folder / "killed", photos), "13")
  code, shown = _in_a_terminal(_fields(folder / "unbroken", photos))
  assert code == 0, shown
  code, _ = _end(killed)
  assert code == -signal.SIGKILL
  shutil.copytree(folder / "killed", folder / "cluster")
  code, told = _end(_start(_fields(folder / "killed", photos)))
  assert code == 0, told
  return {"photos": photos, "shown": shown, "told": told}


def _variables(workdir: pathlib.Path) -> dict[str, np.ndarray]:
  path = tf.train.latest_checkpoint(str(workdir / "checkpoints"))
  assert path.endswith(f"step-{_STEPS}")
  reader = tf.train.load_checkpoint(path)
  names = [name for name in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in name]
  return {name: reader.get_tensor(name) for name in names if "save_counter" not in name}


def test_a_killed_run_goes_on_from_its_last_checkpoint(runs):
  assert "goes on from step 8 of 24" in runs["told"]
  assert re.findall(r"^step (\d+) of", runs["told"], re.M) == ["12", "16", "20", "24"]


def test_a_killed_run_ends_with_the_weights_moments_and_noise_of_an_unbroken_one(runs, folder):
  unbroken, killed = _variables(folder / "unbroken"), _variables(folder / "killed")
  assert unbroken.keys() == killed.keys()
  assert len([name for name in unbroken if "average" in name or "optimizer" in name]) > 10
  noise = [name for name in unbroken if "/noise/" in name]
  assert noise
  for name, value in unbroken.items():
    tolerance = 0 if name in noise else _TOLERANCE * max(1.0, np.abs(value).max())
    np.testing.assert_allclose(killed[name], value, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize(
  "name, steps",
  [
    ("train/loss", [4, 8, 12, 16, 20, 24]),
    ("train/bpp_y", [4, 8, 12, 16, 20, 24]),
    ("validation/psnr", [8, 16, 24]),
  ],
)
def test_curves_of_a_killed_run_are_those_of_an_unbroken_one(runs, folder, curve, name, steps):
  unbroken = curve(folder / "unbroken" / "logs", name)
  killed = curve(folder / "killed" / "logs", name)
  assert [step for step, _ in unbroken] == [step for step, _ in killed] == steps
  np.testing.assert_allclose(
    [value for _, value in killed], [value for _, value in unbroken], rtol=_TOLERANCE
  )


def test_a_terminal_shows_one_bar_and_whole_lines_above_it(runs):
  terms = r"loss [\d.]+, [\d.]+ bpp, [\d.]+ dB"
  # A carriage return goes back to the line's start, where blanks have wiped the bar out.
  lines = [line.split("\r")[-1] for line in runs["shown"].replace("\r\n", "\n").split("\n")]
  told = [line for line in lines if "validation" in line and "pictures" not in line]
  assert len(told) == 3
  for line in told:
    assert re.fullmatch(rf"step \d+: validation {terms}", line), line
  bars = re.findall(rf"(\d+)/24 \[[\d:]+<[\d:]+, [^\]]*{terms}\]", runs["shown"])
  assert bars[-1] == "24"
  assert "step 24 of 24" not in runs["shown"]


def test_plain_output_has_nothing_but_our_own_lines(runs):
  ours = r"INFO:absl:(\d+ training pictures, \d for validation|goes on from step \d+ of \d+)"
  ours += r"|step \d+( of \d+)?: (validation )?loss [^\n]* dB[^\n]*"
  for line in runs["told"].splitlines():
    assert re.fullmatch(ours, line), line


def _free_ports(number: int) -> list[int]:
  sockets = [socket.create_server(("localhost", 0)) for _ in range(number)]
  ports = [each.getsockname()[1] for each in sockets]
  for each in sockets:
    each.close()
  return ports


def test_two_workers_go_on_as_one_process_would(runs, folder, curve):
  cluster = {"worker": [f"localhost:{port}" for port in _free_ports(2)]}
  fields = _fields(folder / "cluster", runs["photos"], strategy="multi_worker")
  workers = [
    _start(
      fields, tf_config=json.dumps({"cluster": cluster, "task": {"type": "worker", "index": i}})
    )
    for i in range(2)
  ]
  # Side by side: a full pipe of one worker would hold up both.
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    ends = list(pool.map(_end, workers))
  assert [code for code, _ in ends] == [0, 0], ends
  assert ["goes on from step 8" in told for _, told in ends] == [True, True]
  # The worker that is not the chief says nothing more and writes nothing.
  assert len(ends[1][1].splitlines()) == 2
  assert {path.name for path in (folder / "cluster").iterdir()} == {
    "checkpoints",
    "flags.txt",
    "logs",
  }
  assert _variables(folder / "cluster").keys() == _variables(folder / "unbroken").keys()
  for name in ("train/loss", "train/bpp_y", "train/grad_norm", "validation/psnr"):
    one, two = curve(folder / "unbroken" / "logs", name), curve(folder / "cluster" / "logs", name)
    assert [step for step, _ in one] == [step for step, _ in two]
    # The workers' noise is another.
    np.testing.assert_allclose([value for _, value in two], [value for _, value in one], rtol=0.01)
