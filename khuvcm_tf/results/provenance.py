"""Where results come from: what anybody needs who wants to judge or repeat them."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys

from khuvcm_tf import __version__

_PACKAGES = ("tensorflow", "tensorflow-compression", "numpy", "pillow")


def describe() -> dict[str, object]:
  """Returns date, commit, command and machine of this process."""
  now = datetime.datetime.now(datetime.timezone.utc)
  return {
    "date": now.isoformat(timespec="seconds"),
    "commit": commit(),
    "command": " ".join(sys.argv),
    "machine": machine(),
  }


def commit() -> str | None:
  """Returns the checkout's commit, with + where files differ from it; None outside a checkout."""
  git = ["git", "-C", str(pathlib.Path(__file__).parent)]
  try:
    head, changed = (
      subprocess.run([*git, *command], capture_output=True, text=True, check=True).stdout.strip()
      for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
    )
  except (OSError, subprocess.CalledProcessError):
    return None
  return head + "+" * bool(changed)


def machine() -> dict[str, object]:
  """Returns what times and the last bits depend on: versions, processor, threads, load."""
  import tensorflow as tf  # takes seconds

  return {
    "khuvcm_tf": __version__,
    "python": platform.python_version(),
    **{name.replace("-", "_"): _version(name) for name in _PACKAGES},
    "system": platform.platform(),
    "cpu": _cpu(),
    "cores": os.cpu_count(),
    "load_average": os.getloadavg()[0],  # runnable processes, mean of the last minute
    "threads": tf.config.threading.get_intra_op_parallelism_threads() or "one for each core",
    "gpus": [
      tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
      for gpu in tf.config.list_physical_devices("GPU")
    ],
  }


def _version(package: str) -> str | None:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def _cpu() -> str:
  try:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
      models = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
  except OSError:  # not Linux
    models = []
  return models[0] if models else platform.processor() or platform.machine()
