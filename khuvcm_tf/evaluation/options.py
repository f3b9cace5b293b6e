"""Options of the programs that evaluate image codecs; nothing here imports TensorFlow."""

from __future__ import annotations

import dataclasses

from khuvcm_tf import model_folders
from khuvcm_tf.options import option, refuse_given

_MODEL = "A shipped model's name, a training workdir or a model's folder"


@dataclasses.dataclass(frozen=True)
class _ImageOptions:
  """What all evaluations on a set of images share."""

  images: str | None = option(
    None,
    "Image, folder, quoted glob, TFRecord files, or tfds:NAME:SPLIT.",
    required=True,
    path="input",
  )
  output: str | None = option(None, "Folder for the results.", required=True, path="output")
  precision: str = option(
    "float32",
    "Precision of models' transforms. float64 takes twice the time and gives the same figures on "
    "every machine.",
    choices=("float32", "float64"),
  )
  alpha: str = option(
    "refuse",
    "Transparent images: 'refuse' them, or compose them over 'white', 'black' or '#rrggbb'.",
  )


@dataclasses.dataclass(frozen=True)
class EvaluateOptions(_ImageOptions):
  """Options of `evaluate`."""

  model: str = option(
    model_folders.DEFAULT,
    f"{_MODEL}; of several rates, also at qualities of 0 to 100: NAME@30 or NAME@30,50,80. Without "
    "any, the model's default quality.",
    path="input",
  )
  anchors: tuple[str, ...] = option(
    (), "Add the PSNR of these encoders at the same bytes: jpeg, webp or both."
  )
  keep_files: bool = option(
    False, "Keep the .kvc files, in OUTPUT/files; those of a quality in a folder such as q30."
  )


@dataclasses.dataclass(frozen=True)
class RateDistortionOptions(_ImageOptions):
  """Options of `rate_distortion`."""

  models: tuple[str, ...] = option(
    (),
    f"Each: {_MODEL}, or NAME=W1:W2:... for the rate points of one curve. A model of several rates "
    "draws a curve by itself from the qualities of 0 to 100 behind its @: NAME@10,30,50,70,90 or "
    "NAME=W@30,60; without any it is one point, at its default quality. What has a comma in its "
    "path stands in double quotes.",
    path="input",
  )
  anchors: tuple[str, ...] = option(
    (),
    "Encoders to compare with: some of jpeg, jpeg-444, jpeg2000, webp, avif, avif-444, heic, "
    "heic-444, jxl, hevc-420-10bit, hevc-444-10bit, vvc.",
  )
  bd_anchor: str | None = option(
    None, "Codec that BD-rates compare with; default: the first anchor."
  )
  published: tuple[str, ...] = option(
    (),
    "Published curves on Kodak to draw beside, such as joint_ar_minnen2018_mse_cai, "
    "cheng2020_attn_mse_cai, vtm_cai; 'all' for all.",
  )
  jobs: int = option(
    1, "Images that are coded at the same time; more than one makes the seconds longer.", low=1
  )
  shown: int = option(4, "Number of images that the report shows, the first ones.", low=0)

  def __post_init__(self):
    if not self.models:
      refuse_given(self, ("precision",), "without --models, expected it for those")


@dataclasses.dataclass(frozen=True)
class DemoOptions:
  """Options of the demonstration."""

  model: str = option(model_folders.DEFAULT, f"{_MODEL}.", path="input")
  output: str | None = option(
    None, "Folder for the files and images.", required=True, path="output"
  )


@dataclasses.dataclass(frozen=True)
class CodingBenchmarkOptions:
  """Options of `coding_benchmark`."""

  codecs: tuple[str, ...] = option(("mbt2018", "cheng2020"), "Codecs with a context model.")
  image: str | None = option(
    None,
    "A photo, cropped or mirrored at its right and lower edges to each size; default: "
    "scikit-image's coffee.",
    path="input",
  )
  sizes: tuple[str, ...] = option(("768x512", "1920x1080"), "WIDTHxHEIGHT of the images.")
  num_filters: int | None = option(None, "Instead of the papers' numbers, for a quick try.", low=2)
  repeats: int = option(5, "Runs of each stage after its first; the fastest counts.", low=1)
  json: str | None = option(None, "File for the seconds, ratios and peaks.", path="file")


@dataclasses.dataclass(frozen=True)
class TransformBenchmarkOptions:
  """Options of `transform_benchmark`."""

  codecs: tuple[str, ...] = option(
    ("mbt2018", "ycbcr444", "luma_chroma420", "cross_component"), "Codecs by name."
  )
  activations: tuple[str, ...] = option(("gdn", "prelu"), "Activations of the transforms.")
  size: str = option("768x512", "WIDTHxHEIGHT of the image.")
  num_filters: int | None = option(None, "Instead of the papers' numbers, for a quick try.", low=2)
  latent_depth: int | None = option(None, "Instead of the papers' numbers, for a quick try.", low=1)
  repeats: int = option(5, "Runs of each transform after its first; the fastest counts.", low=1)
  count_operations: bool = option(False, "Count the multiplications of the transforms too.")
  json: str | None = option(None, "File for seconds and multiplications.", path="file")
