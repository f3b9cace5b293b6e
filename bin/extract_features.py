"""Extracts the feature maps P2 to P6 of photos, from which bin/detect.py and experiments go on.

  python bin/extract_features.py --detector=D --input=photo.jpg --output=photo.npz
  python bin/extract_features.py --detector=D --input=photos/ --output=features
  python bin/extract_features.py --detector=D --input=photos/ --output=features --format=tfrecord

A photo of 800 x 1216 pixels takes 83 MB with a detector of 256 channels, half of it with
--dtype=float16. A run that was ended goes on where it ended when it is started again.
"""

from detection.options import ExtractOptions
from khuvcm_tf import options, program

options.define_flags(ExtractOptions)


def main():
  given = options.from_flags(ExtractOptions)
  from detection import feature_extraction  # TensorFlow takes seconds to import

  print(feature_extraction.run_extract(given))


if __name__ == "__main__":
  program.run(main)
