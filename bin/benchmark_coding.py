"""Times the stages of codecs with a context model, and what wavefronts save over raster order.

  python bin/benchmark_coding.py --json=benchmark.json

Prints the seconds of each stage (the best of --repeats, or of as many as take 10 seconds), and each
codec's peak memory, for models at the papers' sizes with random weights. The range coder's seconds
are those of the coding loop less those of its networks. The very same model is also decoded place
by place, in raster order; the program fails where that gives other symbols. Progress goes to
stderr.
"""

from absl import flags

from khuvcm_tf import program

CODECS = flags.DEFINE_list("codecs", ["mbt2018", "cheng2020"], "Codecs with a context model.")
IMAGE = flags.DEFINE_string(
  "image",
  None,
  "A photo, cropped or mirrored at its right and lower edges to each size; default: "
  "scikit-image's coffee.",
)
SIZES = flags.DEFINE_list("sizes", ["768x512", "1920x1080"], "WIDTHxHEIGHT of the images.")
NUM_FILTERS = flags.DEFINE_integer(
  "num_filters", None, "Instead of the papers' numbers, for a quick try.", lower_bound=2
)
REPEATS = flags.DEFINE_integer(
  "repeats", 5, "Runs of each stage after its first, of which the fastest counts.", lower_bound=1
)
JSON = flags.DEFINE_string("json", None, "File for the seconds, ratios and peaks.")


def main():
  from khuvcm_tf.evaluation import coding_benchmark  # TensorFlow takes seconds to import

  if JSON.value is not None:
    coding_benchmark.check_writable(JSON.value)
  sizes = [coding_benchmark.parse_size(size) for size in SIZES.value]
  measured = coding_benchmark.run(
    CODECS.value,
    sizes,
    IMAGE.value,
    NUM_FILTERS.value,
    REPEATS.value,
    program.NUM_THREADS.value,
  )
  print(coding_benchmark.machine())
  print(coding_benchmark.table(measured))
  if JSON.value is not None:
    coding_benchmark.write_json(JSON.value, measured)


if __name__ == "__main__":
  program.run(main)
