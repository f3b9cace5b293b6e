"""Shows what the models do: photos compressed, decompressed and compared; objects detected.

  python bin/demo.py --output=demo_output

Four photos are compressed, and decompressed by a second process. Prints a table beside JPEG and
WebP at the same number of bytes, draws demo.png with enlarged crops, and writes report/report.html,
a page with rate-distortion curves of all three. Then the shipped detectors draw what they find into
detections_shapes.png and detections_person.png. The photos are scikit-image's
(pip install scikit-image). Takes about two minutes on two cores.
"""

import pathlib

from khuvcm_tf import options, program
from khuvcm_tf.evaluation.options import DemoOptions

options.define_flags(DemoOptions)


def main():
  from detection import demo as detection_demo  # TensorFlow takes seconds to import
  from khuvcm_tf.evaluation import demo

  given = options.from_flags(DemoOptions)
  decompress = pathlib.Path(__file__).with_name("decompress.py")
  shown, page = demo.run(given, str(decompress))
  print(demo.table(shown))
  print(f"see {given.output}/demo.png and {page}")
  for found in detection_demo.run(given.output):
    print(f"{found.path}: {', '.join(found.found) or 'nothing found'}")


if __name__ == "__main__":
  program.run(main)
