"""Converts weights that CompressAI publishes into a model of this project.

  python bin/convert_compressai.py --checkpoint=mbt2018-mean-4.pth.tar --codec=mbt2018-mean \\
    --output=converted/
  python bin/compress.py --model=converted/ --input=photo.png --output=photo.kvc

Nothing that a checkpoint contains is run, and PyTorch is not needed. Files of a converted model
decode alike on every machine; docs/published_weights.md lists where weights are published.
"""

from khuvcm_tf import options, program
from khuvcm_tf.conversion.options import ConvertOptions

options.define_flags(ConvertOptions)


def main():
  given = options.from_flags(ConvertOptions)
  from khuvcm_tf.conversion import compressai  # TensorFlow takes seconds to import

  model = compressai.convert_file(
    given.checkpoint, given.codec, given.output, given.calibration_images, given.weights_dtype
  )
  loss = model.description["integer_loss"]
  print(
    f"{given.output}: {model.description['codec']}, {model.description['arguments']}\n"
    f"integers in place of floats change the bits by {100 * loss:+.3f} %; next:\n"
    f"  python bin/compress.py --model={given.output} --input=photo.png --output=photo.kvc"
  )


if __name__ == "__main__":
  program.run(main)
