"""Finds which levels of a detector's features to keep, and how to rebuild the others from them.

  python bin/find_key_maps.py --detector=D --dataset=shapes --output=results
  python bin/find_key_maps.py --detector=D --dataset=shapes --max_loss=0.01 --output=results

Searches with the first half of the images, and measures what it chose on the other half, beside the
rules of the study. Writes results.json, results.csv, plots/, report.html, and predictors.npz with
the learned convolutions, into --output, and prints the fronts of data against AP; > marks the
choice. A run that was ended goes on when it is started again.
"""

from detection.experiments.options import KeyMapOptions
from khuvcm_tf import options, program

options.define_flags(KeyMapOptions)


def main():
  given = options.from_flags(KeyMapOptions)
  from detection.coco import run
  from detection.experiments import programs  # TensorFlow takes seconds to import

  done = programs.find(given)
  print(done.text)
  run.check_complete(done)


if __name__ == "__main__":
  program.run(main)
