"""Compares models and classic codecs on images: real files, rate-distortion curves, one report.

  python bin/rate_distortion.py --models=mbt2018_variable@10,30,50,70,90,mbt2018_mean \\
    --anchors=jpeg,webp --images='kodak/*.png' --output=report
  python bin/rate_distortion.py --models=mine=W1:W2:W3 --anchors=jpeg,avif-444,vvc \\
    --images='kodak/*.png' --output=report

Writes report.html, plots/, results.json and results.csv into --output. The curve of a model of
several rates has the qualities behind its @ as points, that of other models the models W1, W2, W3.
The same command goes on where it was interrupted, and codes nothing twice. An anchor whose package
is missing is left out, with a line that names the package to install.
"""

from khuvcm_tf import cluster, options, program
from khuvcm_tf.evaluation.options import RateDistortionOptions

options.define_flags(RateDistortionOptions)
options.define_flags(cluster.ClusterOptions)


def main():
  # TensorFlow takes seconds to import.
  from khuvcm_tf.evaluation import rate_distortion, rate_distortion_report

  given = options.from_flags(RateDistortionOptions)
  with cluster.start(options.from_flags(cluster.ClusterOptions)) as executor:
    comparison = rate_distortion.run(given, executor)
  print(rate_distortion.table(comparison))
  rate_distortion_report.write(comparison, given.output)
  print(f"written to {given.output}: report.html, plots, results.json, results.csv")
  rate_distortion.check_complete(comparison)


if __name__ == "__main__":
  program.run(main)
