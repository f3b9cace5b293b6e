"""Extracts the feature maps P2 to P6 of photos, from which bin/detect.py and experiments go on.

  python bin/extract_features.py --detector=D --input=photo.jpg --output=photo.npz
  python bin/extract_features.py --detector=D --input=photos/ --output=features
  python bin/extract_features.py --detector=D --input=photos/ --output=features --format=tfrecord

A photo of 800 x 1216 pixels takes 83 MB with a detector of 256 channels, half of it with
--dtype=float16. --cluster=local extracts in several processes. A run that was ended goes on where
it ended when it is started again.
"""

from detection.options import ExtractOptions
from khuvcm_tf import cluster, options, program

options.define_flags(ExtractOptions)
options.define_flags(cluster.ClusterOptions)


def main():
  given = options.from_flags(ExtractOptions)
  from detection import feature_extraction  # TensorFlow takes seconds to import

  with cluster.start(options.from_flags(cluster.ClusterOptions)) as executor:
    print(feature_extraction.run_extract(given, executor))


if __name__ == "__main__":
  program.run(main)
