"""Compares models and classic codecs on pictures: real files, rate-distortion curves, one report.

  python bin/rate_distortion.py --models=mbt2018_mean --anchors=jpeg,webp \\
    --images='kodak/*.png' --output=report
  python bin/rate_distortion.py --models=mine=W1:W2:W3 --anchors=jpeg,avif-444,vvc \\
    --images='kodak/*.png' --output=report

Writes report.html, plots/, results.json and results.csv into --output. The same command goes on
where it was cut off, and codes nothing twice. An anchor whose package is missing is left out with a
line that says what to install.
"""

from absl import flags

from khuvcm_tf import program

MODELS = flags.DEFINE_list(
  "models",
  [],
  "Each a shipped model's name, a training workdir or a model's folder, or NAME=W1:W2:... for the "
  "several rates of one curve.",
)
ANCHORS = flags.DEFINE_list(
  "anchors",
  [],
  "Of jpeg, jpeg-444, jpeg2000, webp, avif, avif-444, heic, heic-444, jxl, hevc-420-10bit, "
  "hevc-444-10bit, vvc.",
)
IMAGES = flags.DEFINE_string("images", None, "Picture, folder or quoted glob.", required=True)
OUTPUT = flags.DEFINE_string("output", None, "Folder for the results.", required=True)
BD_ANCHOR = flags.DEFINE_string(
  "bd_anchor", None, "Codec that BD-rates compare with; default: the first anchor."
)
PUBLISHED = flags.DEFINE_list(
  "published",
  [],
  "Published curves on Kodak to draw beside, such as joint_ar_minnen2018_mse_cai, "
  "cheng2020_attn_mse_cai, vtm_cai; 'all' for all.",
)
JOBS = flags.DEFINE_integer(
  "jobs", 1, "Pictures coded side by side; more than one disturbs the seconds.", lower_bound=1
)
SHOWN = flags.DEFINE_integer(
  "shown", 4, "Pictures that the report shows, of the first ones.", lower_bound=0
)
PRECISION = flags.DEFINE_enum(
  "precision", "float32", ["float32", "float64"], "Of models' transforms."
)
ALPHA = flags.DEFINE_string(
  "alpha",
  "refuse",
  "Transparent pictures: 'refuse' them, or compose them over 'white', 'black' or '#rrggbb'.",
)


def main():
  from khuvcm_tf.evaluation import rate_distortion, report  # TensorFlow takes seconds to import

  published = PUBLISHED.value
  results = rate_distortion.run(
    IMAGES.value,
    OUTPUT.value,
    rate_distortion.Options(
      models=MODELS.value,
      anchors=ANCHORS.value,
      bd_anchor=BD_ANCHOR.value,
      published=rate_distortion.published_names() if published == ["all"] else published,
      jobs=JOBS.value,
      shown=SHOWN.value,
      precision=PRECISION.value,
      alpha=ALPHA.value,
    ),
  )
  print(rate_distortion.table(results))
  report.write(OUTPUT.value)
  print(f"written to {OUTPUT.value}: report.html, plots, results.json, results.csv")
  rate_distortion.check_complete(results)


if __name__ == "__main__":
  program.run(main)
