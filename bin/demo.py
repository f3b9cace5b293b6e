"""Shows what a model does: four photos compressed, decompressed by a second process, and compared.

  python bin/demo.py --output=demo_output

Prints a table beside JPEG and WebP at the same number of bytes, draws demo.png with enlarged crops,
and writes report/report.html, a page with rate-distortion curves of all three. The photos are
scikit-image's (pip install scikit-image). Takes about a minute.
"""

import pathlib

from absl import flags

from khuvcm_tf import program

MODEL = flags.DEFINE_string(
  "model", "mbt2018_mean", "A shipped model's name, a training workdir or a model's folder."
)
OUTPUT = flags.DEFINE_string("output", None, "Folder for the files and pictures.", required=True)


def main():
  # TensorFlow takes seconds to import.
  from khuvcm_tf.evaluation import demo, rate_distortion, report

  output = pathlib.Path(OUTPUT.value)
  decompress = pathlib.Path(__file__).with_name("decompress.py")
  print(demo.table(demo.run(MODEL.value, str(output), str(decompress))))
  compared = rate_distortion.Options(models=[MODEL.value], anchors=["jpeg", "webp"])
  rate_distortion.run(str(output / "photos"), str(output / "report"), compared)
  report.write(str(output / "report"))
  print(f"see {output / 'demo.png'} and {output / 'report' / 'report.html'}")


if __name__ == "__main__":
  program.run(main)
