"""Shows what a model does: four photos compressed, decompressed by a second process, and compared.

  python bin/demo.py --output=demo_output

Prints a table beside JPEG and WebP at the same number of bytes, and draws demo.png with enlarged
crops. The photos are scikit-image's (pip install scikit-image). Takes less than a minute.
"""

import pathlib

from absl import flags

from khuvcm_tf import program

MODEL = flags.DEFINE_string(
  "model", "mbt2018_mean", "A shipped model's name, a training workdir or a model's folder."
)
OUTPUT = flags.DEFINE_string("output", None, "Folder for the files and pictures.", required=True)


def main():
  from khuvcm_tf.evaluation import demo  # TensorFlow takes seconds to import

  decompress = pathlib.Path(__file__).with_name("decompress.py")
  print(demo.table(demo.run(MODEL.value, OUTPUT.value, str(decompress))))
  print(f"see {pathlib.Path(OUTPUT.value, 'demo.png')}")


if __name__ == "__main__":
  program.run(main)
