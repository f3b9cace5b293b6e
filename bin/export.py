"""Exports a model as a SavedModel that needs no Python code of this package.

  python bin/export.py --model=mbt2018_variable --output=exported/

Its signatures are `compress` (image: uint8 [H, W, 3] or [H, W, 1] -> data: string; of models of
several rates also quality: float32, 0 .. 100) and
`decompress` (data -> image). It loads in TensorFlow 2.14 with tensorflow_compression, and in
newer TensorFlow with tensorflow_compression_ops.
"""

from absl import flags

from khuvcm_tf import program

MODEL = flags.DEFINE_string(
  "model", None, "A shipped model's name, a training workdir or a model's folder.", required=True
)
OUTPUT = flags.DEFINE_string("output", None, "Folder to write; new or empty.", required=True)
PRECISION = flags.DEFINE_enum(
  "precision",
  "float32",
  ["float32", "float64"],
  "Of the transforms. float64 takes twice the time and gives the same bytes and pixels everywhere.",
)


def main():
  from khuvcm_tf import model_files, saved_model  # TensorFlow takes seconds to import

  saved_model.export(model_files.load(MODEL.value, PRECISION.value), OUTPUT.value)
  print(f"{MODEL.value} exported to {OUTPUT.value}")


if __name__ == "__main__":
  program.run(main)
