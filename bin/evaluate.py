"""Evaluates a model on pictures: bytes of real files, all measures of quality, seconds.

  python bin/evaluate.py --model=mbt2018_mean --images='kodak/*.png' --output=results

Prints a table and writes results.csv and results.json into --output. Each picture is compressed to
a file and decompressed from it. A picture that cannot be read or coded is named and left out; the
others are evaluated, and the exit code is 1.
"""

from absl import flags

from khuvcm_tf import program

MODEL = flags.DEFINE_string(
  "model", None, "A shipped model's name, a training workdir or a model's folder.", required=True
)
IMAGES = flags.DEFINE_string("images", None, "Picture, folder or quoted glob.", required=True)
OUTPUT = flags.DEFINE_string("output", None, "Folder for the results.", required=True)
PRECISION = flags.DEFINE_enum(
  "precision",
  "float32",
  ["float32", "float64"],
  "Of the transforms. float64 takes twice the time and gives the same figures on every machine.",
)
ALPHA = flags.DEFINE_string(
  "alpha",
  "refuse",
  "Transparent pictures: 'refuse' them, or compose them over 'white', 'black' or '#rrggbb'.",
)
ANCHORS = flags.DEFINE_list(
  "anchors", [], "Adds the PSNR of these encoders at the same bytes: jpeg, webp or both."
)
KEEP_FILES = flags.DEFINE_bool("keep_files", False, "Keep the .kvc files, in OUTPUT/files.")


def main():
  from khuvcm_tf.evaluation import evaluate  # TensorFlow takes seconds to import

  evaluation = evaluate.run(
    MODEL.value,
    IMAGES.value,
    OUTPUT.value,
    PRECISION.value,
    ALPHA.value,
    ANCHORS.value,
    KEEP_FILES.value,
  )
  print(evaluate.table(evaluation.rows))
  print(f"written to {OUTPUT.value}/results.csv and results.json")
  evaluate.check_complete(evaluation)


if __name__ == "__main__":
  program.run(main)
