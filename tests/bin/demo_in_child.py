"""Runs bin/demo.py on corners of two of its photos, as large as what it shows enlarged.

Detectors have a test of their own: here none is run.

Usage: demo_in_child.py FLAG...
"""

from __future__ import annotations

import os
import pathlib
import runpy
import sys

_DEMO = pathlib.Path(__file__).parents[2] / "bin" / "demo.py"


def main():
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # As the program does before the import.
  from detection import demo as detection_demo
  from khuvcm_tf.data import sample_photos
  from khuvcm_tf.evaluation import demo, demo_sheet

  corners = {
    name: photo[: demo_sheet.CROP, : demo_sheet.CROP]
    for name, photo in list(sample_photos.load().items())[:2]
  }
  sample_photos.load = lambda: corners
  detection_demo.run = lambda output: []
  demo.CROPS = dict.fromkeys(corners, (0, 0))
  sys.argv[0] = str(_DEMO)
  runpy.run_path(str(_DEMO), run_name="__main__")


if __name__ == "__main__":
  main()
