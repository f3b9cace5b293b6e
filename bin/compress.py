"""Compresses pictures to .kvc files.

  python bin/compress.py --model=mbt2018_mean --input=photo.png --output=photo.kvc
  python bin/compress.py --model=W --input=photos/ --output=compressed/

--input is a picture, a folder (with its subfolders) or a quoted glob; for several pictures --output
is a folder. Grey pictures stay grey; 16-bit and animated ones are refused.
"""

import os

from absl import flags

from khuvcm_tf import program

MODEL = flags.DEFINE_string(
  "model",
  None,
  "A shipped model's name, a training workdir, a model's folder or an exported model.",
  required=True,
)
INPUT = flags.DEFINE_string("input", None, "Picture, folder or glob to compress.", required=True)
OUTPUT = flags.DEFINE_string("output", None, "The .kvc file, or a folder.", required=True)
ALPHA = flags.DEFINE_string(
  "alpha",
  "refuse",
  "Transparent pictures: 'refuse' them, or compose them over 'white', 'black' or '#rrggbb'.",
)
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace files that exist.")
PRECISION = flags.DEFINE_enum(
  "precision",
  "float32",
  ["float32", "float64"],
  "Of the transforms. float64 takes twice the time and gives the same bytes on every machine; "
  "files of either decode to the same symbols everywhere.",
)


def main():
  from khuvcm_tf import files  # TensorFlow takes seconds to import

  model = files.open_model(MODEL.value, PRECISION.value)
  jobs = files.compress(model, INPUT.value, OUTPUT.value, ALPHA.value, OVERWRITE.value)
  read = sum(os.path.getsize(job.source) for job in jobs)
  written = sum(os.path.getsize(job.target) for job in jobs)
  print(
    f"{len(jobs)} picture{'s' * (len(jobs) > 1)}: {read} bytes -> {written} bytes in "
    f"{jobs[0].target if len(jobs) == 1 else OUTPUT.value}"
  )


if __name__ == "__main__":
  program.run(main)
