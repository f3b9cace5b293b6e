"""Weighs the channels of a detector's features by how much its loss depends on them.

  python bin/feature_weights.py --detector=D --annotations=A.json --images=photos --output=w.npz
  python bin/train.py --flagfile=configs/feature/shapes.flags --normalization=w.npz ...

Each image's losses are differentiated by its features; the mean square of the gradient of a channel
is the weight of its errors. A codec of features that is trained with the file as --normalization
spends its bits by these weights.
"""

from detection.feature_coding.options import WeightOptions
from khuvcm_tf import options, program

options.define_flags(WeightOptions)


def main():
  given = options.from_flags(WeightOptions)
  from detection.feature_coding import weights  # TensorFlow takes seconds to import

  print(weights.write(given))


if __name__ == "__main__":
  program.run(main)
