"""Times the transforms of codecs with each activation, side by side.

  python bin/benchmark_transforms.py --count_operations --json=transforms.json

Prints the seconds of analysis and synthesis, as coding runs them, for models at the papers' sizes
with random weights: the best of --repeats, with all codecs and activations in turn, so that a busy
machine disturbs them alike. Ratios are to the first row. --count_operations adds the
multiplications of both; hyper transforms and entropy parameters are in none of these figures.
Progress goes to stderr.
"""

from absl import flags

from khuvcm_tf import program

CODECS = flags.DEFINE_list(
  "codecs", ["mbt2018", "ycbcr444", "luma_chroma420", "cross_component"], "Codecs by name."
)
ACTIVATIONS = flags.DEFINE_list("activations", ["gdn", "prelu"], "Activations of the transforms.")
SIZE = flags.DEFINE_string("size", "768x512", "WIDTHxHEIGHT of the image.")
NUM_FILTERS = flags.DEFINE_integer(
  "num_filters", None, "Instead of the papers' numbers, for a quick try.", lower_bound=2
)
LATENT_DEPTH = flags.DEFINE_integer(
  "latent_depth", None, "Instead of the papers' numbers, for a quick try.", lower_bound=1
)
REPEATS = flags.DEFINE_integer(
  "repeats", 5, "Runs of each transform after its first; the fastest counts.", lower_bound=1
)
COUNT_OPERATIONS = flags.DEFINE_bool(
  "count_operations", False, "Count the multiplications of the transforms too."
)
JSON = flags.DEFINE_string("json", None, "File for seconds and multiplications.")


def main():
  from khuvcm_tf.evaluation import (  # imports TensorFlow: seconds
    coding_benchmark,
    transform_benchmark,
  )

  if JSON.value is not None:
    coding_benchmark.check_writable(JSON.value)
  size = coding_benchmark.parse_size(SIZE.value)
  measured = transform_benchmark.run(
    CODECS.value,
    ACTIVATIONS.value,
    size,
    NUM_FILTERS.value,
    LATENT_DEPTH.value,
    REPEATS.value,
    COUNT_OPERATIONS.value,
  )
  print(coding_benchmark.machine())
  print(transform_benchmark.table(measured, size))
  if JSON.value is not None:
    transform_benchmark.write_json(JSON.value, measured, size)


if __name__ == "__main__":
  program.run(main)
