"""Codes a detector's features, and measures rate, distortion and what is then found.

  python bin/feature_curves.py --detector=D --annotations=A.json --images=photos \\
    --models=ours=W@0,20,40,60,80,100 --anchors=jpeg,webp --output=results
  python bin/feature_curves.py --detector=D --dataset=shapes --models=ours=W@0,50,100 \\
    --rules='p2=p3:up, p4=0.5*p3:down+0.5*p5:up, p6=p5:pick' --image_anchors=jpeg --output=results

Models of codec feature code the maps themselves, classic codecs quantized maps, or the image before
the detector sees it. Writes results.json, results.csv, plots/ and report.html into --output, and
prints the table. A run that was ended goes on when it is started again.
"""

from detection.feature_coding.options import CurveOptions
from khuvcm_tf import options, program

options.define_flags(CurveOptions)


def main():
  given = options.from_flags(CurveOptions)
  from detection.coco import run
  from detection.feature_coding import programs  # TensorFlow takes seconds to import

  done = programs.measure_curves(given)
  print(done.text)
  run.check_complete(done)


if __name__ == "__main__":
  program.run(main)
