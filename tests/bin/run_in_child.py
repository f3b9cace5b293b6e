"""Runs programs of bin/ one after the other, for `run_together`: TensorFlow starts once.

Reads a JSON list of [program, argument...] and prints one of [exit code, stdout, stderr].
"""

from __future__ import annotations

import contextlib
import io
import json
import pathlib
import runpy
import sys

from absl import flags, logging

from khuvcm_tf import program as _  # noqa: F401  Its flags are all programs'.

_BIN = pathlib.Path(__file__).resolve().parents[2] / "bin"


def main():
  commands = json.load(sys.stdin)
  ends = [_run(str(_BIN / name), arguments) for name, *arguments in commands]
  print(json.dumps(ends))


def _run(program: str, arguments: list[str]) -> tuple[int, str, str]:
  sys.argv[:] = [program, *arguments]
  code, out, said = 0, io.StringIO(), io.StringIO()
  logging.use_absl_handler()
  logging.get_absl_handler().python_handler.setStream(said)
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
    try:
      runpy.run_path(program, run_name="__main__")
    except SystemExit as end:
      code = end.code or 0
  _forget_flags(program)
  return code, out.getvalue(), said.getvalue()


def _forget_flags(program: str):
  """Takes a program's own flags away, and the values of those that all programs have."""
  for flag in list(flags.FLAGS.flags_by_module_dict().get(program, [])):
    delattr(flags.FLAGS, flag.name)
  for name in flags.FLAGS:
    flags.FLAGS[name].unparse()


if __name__ == "__main__":
  main()
