"""Compares features before and after they were coded: maps, histograms, distances.

  python bin/feature_distributions.py --detector=D --annotations=A.json --images=photos \\
    --limit=20 --models=four=W4@50,each=W64@50 --output=distributions

Prints for each model and level how far the distributions of true and decoded values lie apart: over
all values, and over those of each channel, row and column. Writes results.json, results.csv, and
into plots/ the maps and histograms of the first image.
"""

from detection.feature_coding.options import DistributionOptions
from khuvcm_tf import options, program

options.define_flags(DistributionOptions)


def main():
  given = options.from_flags(DistributionOptions)
  from detection.feature_coding import distributions  # TensorFlow takes seconds to import

  print(distributions.run(given).text)


if __name__ == "__main__":
  program.run(main)
