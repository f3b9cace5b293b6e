"""Measures what starting a program costs: seconds of whole processes, CPU and wall.

  python bin/benchmark_programs.py
  python bin/benchmark_programs.py --models=mbt2018_mean --image=photo.png --json=seconds.json

Prints a row for the import of TensorFlow and, for each model, rows for loading it, bin/compress.py
and bin/decompress.py: medians over --repeats rounds, also less the seconds of the import. By
default it takes about five minutes on two cores. Progress goes to stderr.
"""

import os

from khuvcm_tf import options, program
from khuvcm_tf.evaluation import program_benchmark

options.define_flags(program_benchmark.Options)


def main():
  given = options.from_flags(program_benchmark.Options)
  rows = program_benchmark.run(given, os.path.dirname(os.path.abspath(__file__)))
  print(program_benchmark.table(rows))
  if given.json is not None:
    program_benchmark.write_json(given.json, rows, given)


if __name__ == "__main__":
  program.run(main)
