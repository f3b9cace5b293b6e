"""Rebuilds levels of a detector's features from others by rules, and measures what is lost.

  python bin/reconstruct_features.py --detector=D --dataset=shapes --output=results
  python bin/reconstruct_features.py --detector=D --dataset=shapes --output=results \\
    --rules='p2=p3:up, p4=0.5*p3:down+0.5*p5:up, p6=p5:pick; p2=p2:degrade64'

A level becomes a coarser one enlarged (p2=p3:up), a finer one shrunk (p4=p3:down) or every second
element of it (p6=p5:pick), itself shrunk and enlarged again (p2=p2:degrade64), or a sum of these
with weights. Levels that are not named stay as they are. Writes results.json, results.csv, plots/
and report.html into --output, and prints the table. A run that was ended goes on when it is started
again.
"""

from detection.experiments.options import ReconstructOptions
from khuvcm_tf import options, program

options.define_flags(ReconstructOptions)


def main():
  given = options.from_flags(ReconstructOptions)
  from detection.coco import run
  from detection.experiments import programs  # TensorFlow takes seconds to import

  done = programs.reconstruct(given)
  print(done.text)
  run.check_complete(done)


if __name__ == "__main__":
  program.run(main)
