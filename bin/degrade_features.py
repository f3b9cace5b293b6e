"""Degrades each level of a detector's features by each factor, and measures what is lost.

  python bin/degrade_features.py --detector=D --dataset=shapes --output=results
  python bin/degrade_features.py --detector=D --annotations=A.json --images=photos --output=results

A level is shrunk and enlarged again, both by bilinear interpolation. Writes results.json,
results.csv, plots/ and report.html into --output, and prints the table. A run that was ended goes
on when it is started again.
"""

from detection.experiments.options import DegradeOptions
from khuvcm_tf import options, program

options.define_flags(DegradeOptions)


def main():
  given = options.from_flags(DegradeOptions)
  from detection.coco import run
  from detection.experiments import programs  # TensorFlow takes seconds to import

  done = programs.degrade(given)
  print(done.text)
  run.check_complete(done)


if __name__ == "__main__":
  program.run(main)
