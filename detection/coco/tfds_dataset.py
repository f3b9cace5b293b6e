"""Data sets of TensorFlow Datasets with boxes, such as coco/2017, in COCO's terms.

TFDS stores boxes as [ymin, xmin, ymax, xmax] in shares of the image's height and width (float32),
classes as 0, 1, ..., areas of COCO as whole numbers, and no masks of COCO. So boxes come back
within 1e-4 pixels, areas within one, and objects of coco/2017 have no `segmentation`. This
project's data set `shapes` stores masks as the counts of RLEs.

Reference: tensorflow_datasets/object_detection/coco.py.
"""

from __future__ import annotations

import dataclasses
import functools

from detection.coco import CocoError, categories
from detection.coco.categories import Category
from detection.coco.dataset import Dataset, Record
from khuvcm_tf.data import tfds_images
from khuvcm_tf.data.inputs import Input


def load(name: str, split: str, data_dir: str | None = None, limit: int | None = None) -> Dataset:
  """Prepares a data set where it is not, and reads the objects of a split.

  Args:
    name: of the data set, with features `image` and `objects` of `bbox` and `label`. Where it also
      has `image/id`, `image/filename`, and in `objects` `area`, `is_crowd` and `segmentation` (the
      counts of an RLE as text), these are taken too.
    split: such as "validation", or a part of one, "validation[:10%]".
    data_dir: folder of prepared data sets; None for TFDS's own.
    limit: number of images to take, the first ones; None for all.

  Raises:
    DataError: the data set or the split is not there, or has no such images.
    CocoError: the data set has no boxes.
    image_files.ImageError: an image's header is damaged.
  """
  from detection.coco import builders  # noqa: F401  Importing it registers its data sets.

  images = tfds_images.find(f"{name}:{split}", (), data_dir)
  names, examples = _read_examples(name, split, data_dir, limit)
  known = {category.name: category.id for category in categories.CATEGORIES}
  is_coco = set(names) <= set(known)
  found = [Category(known[n] if is_coco else i, n) for i, n in enumerate(names, 1)]
  records = [_record(images, number, each, found) for number, each in enumerate(examples)]
  if len({record.image_id for record in records}) < len(records):  # of several splits
    records = [
      dataclasses.replace(record, image_id=number) for number, record in enumerate(records, 1)
    ]
  if not any(record.annotations for record in records):
    raise CocoError(
      f"TFDS data set {name!r}: the {len(records)} images of {split} have no boxes, expected some; "
      "give another split or more of it"
    )
  return Dataset(f"{name}:{split}", tuple(sorted(found)), tuple(records))


def _read_examples(name: str, split: str, data_dir: str | None, limit: int | None):
  """Returns the names of the classes, and all features but the images, as dictionaries of numpy."""
  import tensorflow_datasets as tfds  # seconds to import

  builder = tfds.builder(name, data_dir=data_dir)
  features = builder.info.features
  # A sequence of dictionaries has a `feature` that describes these.
  objects = getattr(features["objects"], "feature", {}) if "objects" in features else {}
  names = getattr(objects["label"], "names", None) if "label" in objects else None
  if not names or "bbox" not in objects:
    raise CocoError(
      f"TFDS data set {name!r} has features {sorted(features)}, expected `objects` with `bbox` and "
      "a named `label`; give a data set such as coco/2017"
    )
  data = builder.as_dataset(
    split=split,
    decoders={
      key: tfds.decode.SkipDecoding()
      for key, feature in features.items()
      if isinstance(feature, tfds.features.Image)
    },
    # One file after the other, which is the order of `tfds_images`.
    read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
  )
  return names, tfds.as_numpy(data.take(-1 if limit is None else limit))


def _record(
  images: tfds_images.TfdsImages, number: int, example: dict, found: list[Category]
) -> Record:
  """Returns image `number` of a split and its objects; `found` are the categories by label."""
  height, width = images.size(number)
  objects = example["objects"]
  annotations = []
  for i, (ymin, xmin, ymax, xmax) in enumerate(objects["bbox"].astype(float).tolist()):
    x, y, w, h = xmin * width, ymin * height, (xmax - xmin) * width, (ymax - ymin) * height
    annotation = {
      "category_id": found[objects["label"][i]].id,
      "bbox": [x, y, w, h],
      "area": float(objects["area"][i]) if "area" in objects else w * h,
      "iscrowd": int(objects["is_crowd"][i]) if "is_crowd" in objects else 0,
    }
    if "segmentation" in objects:
      counts = objects["segmentation"][i].decode()
      annotation["segmentation"] = {"size": [height, width], "counts": counts}
    annotations.append(annotation)
  file_name = example.get("image/filename", images.name_of(number).encode()).decode()
  path, start, stop = images.span(number)
  source = Input(path, file_name, start, stop)
  image_id = int(example.get("image/id", number + 1))
  return Record(
    image_id,
    file_name,
    height,
    width,
    tuple(annotations),
    # Decoded as for a data set of files; TFDS's own JPEG decoder differs by a few levels.
    load=functools.partial(source.read_image, None),
  )
