"""Times the stages of codecs with a context model, and what wavefronts save over raster order.

  python bin/benchmark_coding.py --json=benchmark.json

Prints the seconds of each stage (the best of --repeats, or of as many as take 10 seconds), and each
codec's peak memory, for models at the papers' sizes with random weights. The range coder's seconds
are those of the coding loop less those of its networks. The very same model is also decoded place
by place, in raster order; the program fails where that gives other symbols. Progress goes to
stderr.
"""

from khuvcm_tf import options, program
from khuvcm_tf.evaluation.options import CodingBenchmarkOptions

options.define_flags(CodingBenchmarkOptions)


def main():
  given = options.from_flags(CodingBenchmarkOptions)
  from khuvcm_tf.evaluation import coding_benchmark  # TensorFlow takes seconds to import

  sizes = [coding_benchmark.parse_size(size) for size in given.sizes]
  measured = coding_benchmark.run(
    given.codecs,
    sizes,
    given.image,
    given.num_filters,
    given.repeats,
    program.NUM_THREADS.value,
  )
  print(coding_benchmark.machine())
  print(coding_benchmark.table(measured))
  if given.json is not None:
    coding_benchmark.write_json(given.json, measured)


if __name__ == "__main__":
  program.run(main)
