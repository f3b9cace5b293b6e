"""Shows what a model does: four photos compressed, decompressed by a second process, and compared.

  python bin/demo.py --output=demo_output

Prints a table beside JPEG and WebP at the same number of bytes, draws demo.png with enlarged crops,
and writes report/report.html, a page with rate-distortion curves of all three. The photos are
scikit-image's (pip install scikit-image). Takes about a minute.
"""

import pathlib

from khuvcm_tf import options, program
from khuvcm_tf.evaluation.options import DemoOptions

options.define_flags(DemoOptions)


def main():
  from khuvcm_tf.evaluation import demo  # TensorFlow takes seconds to import

  given = options.from_flags(DemoOptions)
  decompress = pathlib.Path(__file__).with_name("decompress.py")
  shown, page = demo.run(given, str(decompress))
  print(demo.table(shown))
  print(f"see {given.output}/demo.png and {page}")


if __name__ == "__main__":
  program.run(main)
