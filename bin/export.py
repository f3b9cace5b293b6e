"""Exports a model as a SavedModel that needs no Python code of this package.

  python bin/export.py --model=mbt2018_variable --output=exported/

Its signatures are `compress` (image: uint8 [H, W, 3] or [H, W, 1] -> data: string; of models of
several rates also quality: float32, 0 .. 100) and
`decompress` (data -> image). It loads in TensorFlow 2.14 with tensorflow_compression, and in
newer TensorFlow with tensorflow_compression_ops.
"""

from khuvcm_tf import batch_options, options, program

options.define_flags(batch_options.ExportOptions)


def main():
  given = options.from_flags(batch_options.ExportOptions)
  from khuvcm_tf import model_files, saved_model  # TensorFlow takes seconds to import

  saved_model.export(model_files.load(given.model, given.precision), given.output)
  print(f"{given.model} exported to {given.output}")


if __name__ == "__main__":
  program.run(main)
