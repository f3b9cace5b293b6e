"""Trains a detector.

  python bin/train_detector.py --flagfile=configs/detector/shapes_r18.flags --workdir=W

A run that was killed at any moment is resumed from its last checkpoint by the same command.
`tensorboard --logdir=W/logs` shows losses, average precision and detections. The detector is
written to W/detector at the end; --detector=W of the other programs takes it.
"""

from __future__ import annotations

from detection.training.options import DetectorOptions
from khuvcm_tf import options, program

options.define_flags(DetectorOptions)


def main():
  given = options.from_flags(DetectorOptions)
  from detection.training import task  # TensorFlow takes seconds to import

  folder = task.train(given)
  if folder:
    print(
      f"the detector is in {folder}; next:\n"
      f"  python bin/detect.py --detector={given.workdir} --input=photo.png --output=detections"
    )


if __name__ == "__main__":
  program.run(main)
