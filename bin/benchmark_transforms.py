"""Times the transforms of codecs with each activation, side by side.

  python bin/benchmark_transforms.py --count_operations --json=transforms.json

Prints the seconds of analysis and synthesis, as coding runs them, for models at the papers' sizes
with random weights: the best of --repeats, with all codecs and activations in turn, so that a busy
machine disturbs them alike. Ratios are to the first row. --count_operations adds the
multiplications of both; hyper transforms and entropy parameters are in none of these figures.
Progress goes to stderr.
"""

from khuvcm_tf import options, program
from khuvcm_tf.evaluation.options import TransformBenchmarkOptions

options.define_flags(TransformBenchmarkOptions)


def main():
  given = options.from_flags(TransformBenchmarkOptions)
  from khuvcm_tf.evaluation import (  # imports TensorFlow: seconds
    coding_benchmark,
    transform_benchmark,
  )

  size = coding_benchmark.parse_size(given.size)
  measured = transform_benchmark.run(
    given.codecs,
    given.activations,
    size,
    given.num_filters,
    given.latent_depth,
    given.repeats,
    given.count_operations,
  )
  print(coding_benchmark.machine())
  print(transform_benchmark.table(measured, size))
  if given.json is not None:
    transform_benchmark.write_json(given.json, measured, size)


if __name__ == "__main__":
  program.run(main)
