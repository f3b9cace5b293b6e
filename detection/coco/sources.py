"""The data set that a program's options name."""

from __future__ import annotations

from detection.coco import annotation_files, tfds_dataset
from detection.coco.dataset import Dataset
from detection.coco.options import DatasetOptions
from khuvcm_tf.options import OptionsError, check, refuse_given


def load(options: DatasetOptions) -> Dataset:
  """Reads a data set's objects and its images' sizes; the images themselves are read later.

  Raises:
    OptionsError: the options name no data set, or two.
    CocoError, data.DataError, image_files.ImageError: the data set cannot be used.
  """
  check(options)
  if bool(options.dataset) == bool(options.annotations or options.images):
    raise OptionsError(
      f"found {'both' if options.dataset else 'none'} of --dataset and --annotations with "
      "--images, expected one of them"
    )
  if options.dataset:
    return tfds_dataset.load(options.dataset, options.split, options.data_dir, options.limit)
  refuse_given(options, ("split", "data_dir"), "with --annotations, expected it for --dataset")
  for name in ("annotations", "images"):
    if not getattr(options, name):
      raise OptionsError(f"found no --{name}, expected --annotations=FILE.json --images=FOLDER")
  return annotation_files.load(options.annotations, options.images, options.limit)
