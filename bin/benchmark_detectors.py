"""Times detectors on a photo: the features alone, and all from the photo to its objects.

  python bin/benchmark_detectors.py
  python bin/benchmark_detectors.py --detectors=D,mask_rcnn_R_50_FPN_3x --image=photo.png

Prints CPU and wall seconds, medians over --repeats runs after the first. A config's name stands for
a detector with random weights. By default it takes about a minute and a half on two cores. Progress
goes to stderr.
"""

from detection.options import BenchmarkOptions
from khuvcm_tf import options, program

options.define_flags(BenchmarkOptions)


def main():
  given = options.from_flags(BenchmarkOptions)
  from detection import detector_benchmark  # TensorFlow takes seconds to import

  rows = detector_benchmark.run(given)
  print(detector_benchmark.table(rows))
  if given.json is not None:
    detector_benchmark.write_json(given.json, rows, given)


if __name__ == "__main__":
  program.run(main)
