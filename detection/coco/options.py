"""Options of programs that run a detector on a data set; nothing here imports TensorFlow."""

from __future__ import annotations

import dataclasses

from khuvcm_tf.options import option


@dataclasses.dataclass(frozen=True)
class DatasetOptions:
  """The data set: either --annotations with --images, or --dataset."""

  annotations: str | None = option(None, "Annotations in COCO's format, a JSON file.", path="input")
  images: str | None = option(None, "Folder of the images that --annotations names.", path="input")
  dataset: str | None = option(
    None, "A data set of TensorFlow Datasets with boxes, such as coco/2017, or shapes."
  )
  split: str = option(
    "validation", "Split of --dataset, or a part of one, such as 'validation[:10%]'."
  )
  data_dir: str | None = option(
    None,
    "Folder of TensorFlow Datasets; default: $TFDS_DATA_DIR or ~/tensorflow_datasets.",
    path="url",
  )
  limit: int | None = option(None, "Take the first images only, this many.", low=1)


@dataclasses.dataclass(frozen=True)
class EvaluateDetectorOptions(DatasetOptions):
  """Options of `evaluate_detector`."""

  detector: str | None = option(
    None,
    "A detector's folder, a training workdir, or a shipped detector's name.",
    required=True,
    path="input",
  )
  output: str | None = option(None, "Folder for the results.", required=True, path="output")
  supercategories: bool = option(
    False,
    "Also count with the categories of each of COCO's super-categories, such as vehicle, taken as "
    "one.",
  )


@dataclasses.dataclass(frozen=True)
class GenerateShapesOptions:
  """Options of `generate_shapes`."""

  output: str | None = option(
    None, "Folder for the images and annotations.", required=True, path="output"
  )
  split: str = option(
    "validation", "Which images are drawn.", choices=("train", "validation", "test")
  )
  count: int = option(500, "Number of images, from the split's first on.", low=1)
  seed: int = option(0, "The images of another seed are other ones.", low=0, below=2**64)
  overwrite: bool = option(False, "Replace files that exist.")
