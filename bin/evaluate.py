"""Evaluates a model on images: bytes of real files, all metrics, seconds.

  python bin/evaluate.py --images='kodak/*.png' --output=results
  python bin/evaluate.py --model=mbt2018_variable@30,50,80 --images='kodak/*.png' --output=results

Prints a table and writes results.csv and results.json into --output. Each image is compressed to
a file and decompressed from it, at each quality behind the @ of a model of several rates. An image
that cannot be read or coded is named and left out; the others are evaluated, and the exit code is
1. With --cluster=local several processes evaluate, and the same command goes on where it was ended.
"""

from khuvcm_tf import cluster, options, program
from khuvcm_tf.evaluation.options import EvaluateOptions

options.define_flags(EvaluateOptions)
options.define_flags(cluster.ClusterOptions)


def main():
  from khuvcm_tf.evaluation import evaluate  # TensorFlow takes seconds to import

  given = options.from_flags(EvaluateOptions)
  with cluster.start(options.from_flags(cluster.ClusterOptions)) as executor:
    evaluation = evaluate.run(given, executor)
  print(evaluate.table(evaluation.rows))
  print(f"written to {given.output}/results.csv and results.json")
  evaluate.check_complete(evaluation)


if __name__ == "__main__":
  program.run(main)
