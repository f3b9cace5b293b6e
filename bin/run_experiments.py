"""Runs all experiments on a detector's features: degraded, combined, rebuilt, and the key maps.

  python bin/run_experiments.py --detector=shapes --dataset=shapes --limit=200 --output=results

Each experiment writes its results into a folder of its own below --output; report.html is of all of
them. Features and detections are made once for all. A run that was ended goes on when it is started
again.
"""

from detection.experiments.options import AllOptions
from khuvcm_tf import options, program

options.define_flags(AllOptions)


def main():
  given = options.from_flags(AllOptions)
  from detection.coco import run
  from detection.experiments import programs  # TensorFlow takes seconds to import

  done = programs.run_all(given)
  print(done.text)
  run.check_complete(done)


if __name__ == "__main__":
  program.run(main)
