"""Converts weights that CompressAI publishes into a model of this project.

  python bin/convert_compressai.py --checkpoint=mbt2018-mean-4.pth.tar --codec=mbt2018-mean \\
    --output=converted/
  python bin/compress.py --model=converted/ --input=photo.png --output=photo.kvc

Nothing that a checkpoint contains is run, and PyTorch is not needed. Files of a converted model
decode alike on every machine; docs/published_weights.md lists where weights are published.
"""

from absl import flags

from khuvcm_tf import program

CHECKPOINT = flags.DEFINE_string(
  "checkpoint", None, "File of weights: .pth, .pth.tar, .safetensors or .npz.", required=True
)
CODEC = flags.DEFINE_string(
  "codec",
  None,
  "What the checkpoint holds: bmshj2018-factorized, bmshj2018-hyperprior, mbt2018-mean, mbt2018, "
  "cheng2020-anchor or cheng2020-attn; default: recognized by its weights.",
)
OUTPUT = flags.DEFINE_string(
  "output", None, "Folder of the model; new, empty or a model's.", required=True
)
CALIBRATION_IMAGES = flags.DEFINE_string(
  "calibration_images",
  None,
  "Folder, glob or file of photos on which integers are calibrated and their loss is measured; "
  "default: those of scikit-image.",
)
WEIGHTS_DTYPE = flags.DEFINE_enum(
  "weights_dtype", "float32", ["float32", "float16"], "In which the model's weights are stored."
)


def main():
  from khuvcm_tf.conversion import compressai  # TensorFlow takes seconds to import

  model = compressai.convert_file(
    CHECKPOINT.value, CODEC.value, OUTPUT.value, CALIBRATION_IMAGES.value, WEIGHTS_DTYPE.value
  )
  loss = model.description["integer_loss"]
  print(
    f"{OUTPUT.value}: {model.description['codec']}, {model.description['arguments']}\n"
    f"integers in place of floats change the bits by {100 * loss:+.3f} %; next:\n"
    f"  python bin/compress.py --model={OUTPUT.value} --input=photo.png --output=photo.kvc"
  )


if __name__ == "__main__":
  program.run(main)
