"""WORKDIR/flags.txt: a flagfile of the run, with which a resumed run is compared."""

from __future__ import annotations

import os

from khuvcm_tf import atomic_files
from khuvcm_tf import options as options_lib
from khuvcm_tf.runs import RunError
from khuvcm_tf.runs.options import RunOptions


def record_flags(options: RunOptions) -> None:
  """Writes WORKDIR/flags.txt; where there is one, the options that are `fixed` must agree with it.

  Raises:
    RunError: the workdir holds another run.
  """
  path, lines = _path(options.workdir), options_lib.to_flags(options)
  if os.path.isfile(path):
    earlier = _read(options.workdir)
    for name, default in options_lib.fixed_flags(type(options)).items():
      # A run that was begun before there was an option has its default.
      was, found = (
        " ".join([line for line in each if line.startswith(f"--{name}=")] or default)
        or f"no --{name}"
        for each in (earlier, lines)
      )
      if was != found:
        raise RunError(
          f"{path} has {was}, found {found}: resume with the same, or give another --workdir"
        )
  os.makedirs(options.workdir, exist_ok=True)
  atomic_files.write_text(path, "".join(f"{line}\n" for line in lines))


def recorded(workdir: str, flag: str) -> list[str]:
  """Returns the values of a flag in WORKDIR/flags.txt, as text; empty where it has none."""
  return [line[len(flag) + 3 :] for line in _read(workdir) if line.startswith(f"--{flag}=")]


def _path(workdir: str) -> str:
  return os.path.join(workdir, "flags.txt")


def _read(workdir: str) -> list[str]:
  if not os.path.isfile(_path(workdir)):
    return []
  with open(_path(workdir), encoding="utf-8") as file:
    return file.read().splitlines()
