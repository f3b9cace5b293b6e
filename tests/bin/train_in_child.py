"""Runs bin/train.py with one flagfile after the other, for `test_train`: TensorFlow starts once.

Usage: train_in_child.py WORKDIR IMAGES FLAGFILE...

Prints a JSON list of [exit code, stderr].
"""

from __future__ import annotations

import contextlib
import io
import json
import pathlib
import runpy
import sys

from absl import flags

from khuvcm_tf import program

_TRAIN = pathlib.Path(__file__).parents[2] / "bin" / "train.py"


def main():
  workdir, images, *flagfiles = sys.argv[1:]
  train = runpy.run_path(str(_TRAIN))
  ends = []
  for flagfile in flagfiles:
    for name in flags.FLAGS:
      flags.FLAGS[name].unparse()
    data = "train_features" if "/feature/" in flagfile else "train_images"
    sys.argv[1:] = [f"--flagfile={flagfile}", f"--workdir={workdir}", f"--{data}={images}"]
    code = 0
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
      try:
        program.run(train["main"])
      except SystemExit as end:
        code = end.code
    ends.append([code, stderr.getvalue()])
  print(json.dumps(ends))


if __name__ == "__main__":
  main()
