"""Trains a codec.

  python bin/train.py --flagfile=configs/codec/mbt2018_mean.flags --workdir=W --train_images=photos/

A run that was killed at any moment is resumed from its last checkpoint by the same command.
`tensorboard --logdir=W/logs` shows curves and images. The model is written to W/model at the end;
--model=W of the other programs takes it.
"""

from __future__ import annotations

from khuvcm_tf import options, program
from khuvcm_tf.training.options import CodecOptions

options.define_flags(CodecOptions)


def main():
  given = options.from_flags(CodecOptions)
  from khuvcm_tf.training import task  # TensorFlow takes seconds to import

  folder = task.train(given)
  if folder:
    name = "photo.npz" if given.train_features else "photo.png"
    print(
      f"the model is in {folder}; next:\n"
      f"  python bin/compress.py --model={given.workdir} --input={name} --output=photo.kvc"
    )


if __name__ == "__main__":
  program.run(main)
