"""Options of a detector's training. Nothing here imports TensorFlow."""

from __future__ import annotations

import dataclasses

from khuvcm_tf.options import OptionsError, option, refuse_given
from khuvcm_tf.runs.options import RunOptions


@dataclasses.dataclass(frozen=True)
class DetectorOptions(RunOptions):
  """Which detector is trained, on which images.

  Raises:
    options.OptionsError: a value is missing or out of range, or contradicts another.
  """

  arguments: dict[str, object] = option(
    {},
    "Field of the detector's config, as in --argument=backbone=resnet18; may be repeated. Those "
    "that are not given are those of the detector that --init_from names, or else detectron2's.",
    flag="argument",
    fixed=True,
  )
  init_from: str | None = option(
    None,
    "Detector whose weights the run starts with, where name and shape agree: a folder, such as "
    "bin/convert_detectron2.py writes it, a workdir, or a shipped name.",
    path="input",
  )
  trunk_weights: str | None = option(
    None,
    "File of weights of NanoDet-g, with which backbone nanodet_g starts.",
    path="input",
  )
  frozen: tuple[str, ...] = option(
    (),
    "Layers that are not trained, by name, as in backbone.bottom_up.stem,backbone.bottom_up.res2.",
    fixed=True,
  )

  train_annotations: tuple[str, ...] = option(
    (),
    "Annotations in COCO's format; several, separated by commas, are trained on together.",
    path="input",
  )
  train_images: tuple[str, ...] = option(
    (), "Folder of the images of each of these, in turn.", path="input"
  )
  train_dataset: str | None = option(
    None, "Data set to train on, in place of files: shapes, or one of TFDS, such as coco/2017."
  )
  validation_annotations: str | None = option(None, "Annotations to validate on.", path="input")
  validation_images: str | None = option(None, "Folder of their images.", path="input")
  validation_dataset: str | None = option(None, "Data set to validate on, in place of files.")
  validation_limit: int = option(50, "Validate on at most this many images.", low=1)
  data_dir: str | None = option(
    None,
    "Folder of TensorFlow Datasets; default: $TFDS_DATA_DIR or ~/tensorflow_datasets.",
    path="url",
  )
  categories: tuple[str, ...] = option(
    (), "Names of the categories to detect; default: all of the training data.", fixed=True
  )

  image_side: int = option(
    320, "Images are put on a square of so many pixels; a multiple of 64.", low=64, fixed=True
  )
  min_scale: float = option(
    0.6, "Least random scale: 1 fits an image's long side to the square.", above=0
  )
  max_scale: float = option(
    1.4, "Greatest random scale; what is beyond the square is cut off.", above=0
  )
  max_objects: int = option(32, "Largest objects of an image that are trained on.", low=1)
  anchors_per_image: int = option(
    256, "Anchors that are drawn for the losses of proposals.", low=2, fixed=True
  )
  proposals_per_image: int = option(200, "Proposals that the heads draw from.", low=1, fixed=True)
  boxes_per_image: int = option(
    64, "Boxes that are drawn for the losses of the heads.", low=4, fixed=True
  )
  weights_dtype: str = option(
    "float16",
    "Type in which the detector's weights are stored.",
    choices=("float32", "float16"),
  )

  def __post_init__(self):
    super().__post_init__()
    if bool(self.train_annotations) == bool(self.train_dataset):
      raise OptionsError(
        f"found {'both' if self.train_dataset else 'none'} of --train_annotations and "
        "--train_dataset, expected one of them"
      )
    if len(self.train_annotations) != len(self.train_images):
      raise OptionsError(
        f"found {len(self.train_annotations)} --train_annotations and {len(self.train_images)} "
        "--train_images, expected a folder of images for each"
      )
    if bool(self.validation_annotations) == bool(self.validation_dataset):
      raise OptionsError(
        f"found {'both' if self.validation_dataset else 'none'} of --validation_annotations and "
        "--validation_dataset, expected one of them"
      )
    if bool(self.validation_annotations) != bool(self.validation_images):
      raise OptionsError(
        f"found {'no ' * (not self.validation_images)}--validation_images, expected it with "
        "--validation_annotations, and with those alone"
      )
    if not self.train_dataset and not self.validation_dataset:
      why = "with annotations, expected it for --train_dataset or --validation_dataset"
      refuse_given(self, ("data_dir",), why)
    if self.image_side % 64:
      raise OptionsError(
        f"--image_side={self.image_side} is out of range, expected a multiple of 64, the stride "
        "of P6"
      )
    if self.min_scale > self.max_scale:
      raise OptionsError(
        f"--min_scale={self.min_scale} is out of range, expected at most --max_scale="
        f"{self.max_scale}"
      )
    if self.mixed_precision:
      raise OptionsError("found --mixed_precision, expected none: detectors compute in float32")
    if "backbone" not in self.arguments and not self.init_from:
      raise OptionsError(
        "found no --argument=backbone=NAME, expected one, or --init_from=DETECTOR to go on from"
      )
