"""Degrades several levels of a detector's features at once, at maximum, and measures what is lost.

  python bin/combine_features.py --detector=D --dataset=shapes --output=results
  python bin/combine_features.py --detector=D --dataset=shapes --sets=p2+p3,p2+p3+p4 --output=R

Writes results.json, results.csv, plots/ and report.html into --output, and prints the table. A run
that was ended goes on when it is started again.
"""

from detection.experiments.options import CombineOptions
from khuvcm_tf import options, program

options.define_flags(CombineOptions)


def main():
  given = options.from_flags(CombineOptions)
  from detection.coco import run
  from detection.experiments import programs  # TensorFlow takes seconds to import

  done = programs.combine(given)
  print(done.text)
  run.check_complete(done)


if __name__ == "__main__":
  program.run(main)
