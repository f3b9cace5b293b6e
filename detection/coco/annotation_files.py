"""Data sets from a JSON file in COCO's format and a folder of images.

    {"images": [{"id": 9, "file_name": "000000000009.jpg", "height": 480, "width": 640}, ...],
     "categories": [{"id": 1, "name": "person"}, ...],
     "annotations": [{"image_id": 9, "category_id": 1, "bbox": [x, y, width, height],
                      "area": 120.5, "iscrowd": 0, "segmentation": ...}, ...]}

`area`, `iscrowd` and `segmentation` may be absent: the area is then that of the box, the object no
crowd, without mask. Other fields are ignored. All that is wrong with a file is found when it is
opened, the images' sizes included, and is said with the number of such entries and the first.

Reference: cocodataset.org, "Data format".
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import tqdm

from detection.coco import CocoError, masks
from detection.coco.categories import Category
from detection.coco.dataset import Dataset, Record
from khuvcm_tf import atomic_files
from khuvcm_tf.data import image_files

_LISTS = ("images", "categories", "annotations")


def _is_number(value: object) -> bool:
  return type(value) in (int, float) and math.isfinite(value)


def _has(field: str, kind: type) -> Callable[[dict], bool]:
  return lambda entry: type(entry.get(field)) is kind


# Of which list, what is wrong with an entry, and whether an entry is right; in this order.
_RULES = (
  *((name, f"{name} are no dictionaries", lambda e: isinstance(e, dict)) for name in _LISTS),
  *((name, f"{name} have no whole number as id", _has("id", int)) for name in _LISTS[:2]),
  ("images", "images have no text as file_name", _has("file_name", str)),
  ("images", "images have no whole number as height", _has("height", int)),
  ("images", "images have no whole number as width", _has("width", int)),
  ("images", "images have a height or width below 1", lambda e: min(e["height"], e["width"]) > 0),
  ("categories", "categories have no text as name", _has("name", str)),
  ("annotations", "annotations have no whole number as image_id", _has("image_id", int)),
  ("annotations", "annotations have no whole number as category_id", _has("category_id", int)),
  ("annotations", "annotations have no list as bbox", _has("bbox", list)),
  (
    "annotations",
    "annotations have a bbox that is not [x, y, width, height]",
    lambda e: len(e["bbox"]) == 4 and all(map(_is_number, e["bbox"])),
  ),
  (
    "annotations",
    "annotations have a bbox of negative size",
    lambda e: min(e["bbox"][2:]) >= 0,
  ),
  (
    "annotations",
    "annotations have an area that is no number from 0",
    lambda e: _is_number(e.get("area", 0)) and e.get("area", 0) >= 0,
  ),
  (
    "annotations",
    "annotations have an iscrowd that is neither 0 nor 1",
    lambda e: e.get("iscrowd", 0) in (0, 1),
  ),
)


def load(path: str, folder: str, limit: int | None = None) -> Dataset:
  """Reads annotations, and the sizes of the images.

  Args:
    path: of the JSON file.
    folder: of the images.
    limit: number of images to take, the first ones; None for all.

  Raises:
    CocoError: the file or a part of it is not as in this module's docstring, images are missing or
      of another size than the file says, or the images taken have no objects at all.
  """
  content = _parse(path)
  for name, what, is_right in _RULES:
    _refuse(path, content[name], is_right, what)
  _check_ids(path, content)
  images = content["images"][:limit]
  objects = _objects_by_image(path, content)
  if not any(objects[image["id"]] for image in images):
    raise CocoError(
      f"{path}: the first {len(images)} images have no annotations, expected at least one; "
      "take more of them"
    )
  _check_files(path, folder, images)
  return Dataset(
    name=path,
    categories=tuple(sorted(Category(c["id"], c["name"]) for c in content["categories"])),
    records=tuple(
      Record(
        image_id=image["id"],
        file_name=image["file_name"],
        height=image["height"],
        width=image["width"],
        annotations=tuple(objects[image["id"]]),
        load=functools.partial(image_files.read_image, os.path.join(folder, image["file_name"])),
      )
      for image in images
    ),
  )


def write(dataset: Dataset, path: str, folder: str) -> None:
  """Writes a data set's images, and then its annotations.

  Args:
    dataset: file names end in one of `image_files.LOSSLESS`.
    path: of the JSON file; its folder is made where it does not exist.
    folder: for the images, made likewise.

  Raises:
    ImageError: a file name has another ending, or an image cannot be read.
    FileError: a file cannot be written.
  """
  for name in (os.path.dirname(path) or ".", folder):
    atomic_files.make_folder(name)
  for record in tqdm.tqdm(dataset, unit="image", disable=None):
    image_files.write_image(os.path.join(folder, record.file_name), record.read())
  atomic_files.write_text(path, json.dumps(dataset.ground_truth))


def _parse(path: str) -> dict:
  """Returns the file's content, a dictionary with the three lists, none of them empty."""
  try:
    with open(path, encoding="utf-8") as file:
      content = json.load(file)
  except OSError as error:
    raise CocoError(
      f"{path}: cannot be read: {error.strerror}; expected annotations in COCO's format"
    ) from error
  except (ValueError, RecursionError) as error:
    raise CocoError(f"{path}: is not JSON: {error}; fetch it again") from error
  if not isinstance(content, dict):
    raise CocoError(
      f"{path}: holds a {type(content).__name__}, expected a dictionary with images, annotations "
      "and categories; give the annotations, not a file of detections"
    )
  for name in _LISTS:
    if not isinstance(content.get(name), list) or not content[name]:
      found = "no" if name not in content else "no list of" if content[name] else "an empty list of"
      raise CocoError(
        f"{path}: has {found} {name}, expected at least one; give a file such as "
        "instances_val2017.json"
      )
  return content


def _check_ids(path: str, content: dict) -> None:
  """Checks that ids and names are unique, and that annotations refer to what is there."""
  for name, field in (("images", "id"), ("categories", "id"), ("categories", "name")):
    counts = Counter(entry[field] for entry in content[name])
    _refuse(
      path,
      content[name],
      lambda e, f=field, c=counts: c[e[f]] == 1,
      f"{name} have the {field} of another",
    )
  for name, field in (("images", "image_id"), ("categories", "category_id")):
    known = {entry["id"] for entry in content[name]}
    _refuse(
      path,
      content["annotations"],
      lambda e, f=field, k=known: e[f] in k,
      f"annotations have {field}s that are not among the {name}",
    )


def _objects_by_image(path: str, content: dict) -> dict[int, list[dict]]:
  """Returns annotations by image id, with the fields that objects have here; checks the masks."""
  sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
  objects, reasons = defaultdict(list), {}

  def add(entry: dict) -> bool:
    made = {
      "category_id": entry["category_id"],
      "bbox": entry["bbox"],
      "area": entry.get("area", entry["bbox"][2] * entry["bbox"][3]),
      "iscrowd": int(entry.get("iscrowd", 0)),
    }
    objects[entry["image_id"]].append(made)
    if not entry.get("segmentation"):
      return True
    made["segmentation"] = entry["segmentation"]
    try:
      masks.check(entry["segmentation"], *sizes[entry["image_id"]])
    except ValueError as error:
      reasons.setdefault("first", " ".join(str(error).split()))
      return False
    return True

  _refuse(
    path,
    content["annotations"],
    add,
    "annotations have a segmentation that is neither polygons nor RLE",
    lambda: f" ({reasons['first']})",
  )
  return objects


def _check_files(path: str, folder: str, images: Sequence[dict]) -> None:
  """Checks that the images exist and, by their headers, that their sizes are those of the file."""
  missing, others = [], []
  for image in tqdm.tqdm(images, desc="headers", unit="image", leave=False, disable=None):
    file_name = os.path.join(folder, image["file_name"])
    if not os.path.isfile(file_name):
      missing.append(image["file_name"])
      continue
    try:
      header = image_files.read_header(file_name)
    except image_files.ImageError:
      continue  # Found, but damaged: it is named when it is read.
    # The header's width and height are exchanged where the image is to be turned.
    if {header.width, header.height} != {image["width"], image["height"]}:
      others.append(
        f"{image['file_name']} is {header.width}x{header.height}, expected "
        f"{image['width']}x{image['height']}"
      )
  if missing:
    raise CocoError(
      f"{path}: {len(missing)} of {len(images)} images are not in {folder}, expected all; the "
      f"first: {missing[0]}; give the images' folder"
    )
  if others:
    raise CocoError(
      f"{path}: {len(others)} of {len(images)} images in {folder} have another size than the file "
      f"says; the first: {others[0]}; give the images that belong to it"
    )


def _refuse(
  path: str,
  entries: Sequence,
  is_right: Callable[[dict], bool],
  what: str,
  reason: Callable[[], str] = str,
) -> None:
  """Raises CocoError where entries are wrong: how many, what is wrong, and the first of them."""
  wrong = [number for number, entry in enumerate(entries) if not is_right(entry)]
  if wrong:
    text = json.dumps(entries[wrong[0]])
    raise CocoError(
      f"{path}: {len(wrong)} of {len(entries)} {what}{reason()}, expected none; correct the file; "
      f"the first, number {wrong[0]}: {text if len(text) <= 200 else text[:200] + '...'}"
    )
