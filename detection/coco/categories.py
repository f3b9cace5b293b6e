"""COCO's 80 categories, in the order in which detectors number them.

A detector's class is the index here, 0..79. The ids of files in COCO's format are 1..90, as ten of
the categories that were planned have no objects.

Reference: Lin et al., Microsoft COCO: Common Objects in Context, 2014; instances_val2017.json.
"""

from __future__ import annotations

from typing import NamedTuple


class Category(NamedTuple):
  """A category of a data set: its id in files, and its name."""

  id: int
  name: str


CATEGORIES: tuple[Category, ...] = (
  Category(1, "person"),
  Category(2, "bicycle"),
  Category(3, "car"),
  Category(4, "motorcycle"),
  Category(5, "airplane"),
  Category(6, "bus"),
  Category(7, "train"),
  Category(8, "truck"),
  Category(9, "boat"),
  Category(10, "traffic light"),
  Category(11, "fire hydrant"),
  Category(13, "stop sign"),
  Category(14, "parking meter"),
  Category(15, "bench"),
  Category(16, "bird"),
  Category(17, "cat"),
  Category(18, "dog"),
  Category(19, "horse"),
  Category(20, "sheep"),
  Category(21, "cow"),
  Category(22, "elephant"),
  Category(23, "bear"),
  Category(24, "zebra"),
  Category(25, "giraffe"),
  Category(27, "backpack"),
  Category(28, "umbrella"),
  Category(31, "handbag"),
  Category(32, "tie"),
  Category(33, "suitcase"),
  Category(34, "frisbee"),
  Category(35, "skis"),
  Category(36, "snowboard"),
  Category(37, "sports ball"),
  Category(38, "kite"),
  Category(39, "baseball bat"),
  Category(40, "baseball glove"),
  Category(41, "skateboard"),
  Category(42, "surfboard"),
  Category(43, "tennis racket"),
  Category(44, "bottle"),
  Category(46, "wine glass"),
  Category(47, "cup"),
  Category(48, "fork"),
  Category(49, "knife"),
  Category(50, "spoon"),
  Category(51, "bowl"),
  Category(52, "banana"),
  Category(53, "apple"),
  Category(54, "sandwich"),
  Category(55, "orange"),
  Category(56, "broccoli"),
  Category(57, "carrot"),
  Category(58, "hot dog"),
  Category(59, "pizza"),
  Category(60, "donut"),
  Category(61, "cake"),
  Category(62, "chair"),
  Category(63, "couch"),
  Category(64, "potted plant"),
  Category(65, "bed"),
  Category(67, "dining table"),
  Category(70, "toilet"),
  Category(72, "tv"),
  Category(73, "laptop"),
  Category(74, "mouse"),
  Category(75, "remote"),
  Category(76, "keyboard"),
  Category(77, "cell phone"),
  Category(78, "microwave"),
  Category(79, "oven"),
  Category(80, "toaster"),
  Category(81, "sink"),
  Category(82, "refrigerator"),
  Category(84, "book"),
  Category(85, "clock"),
  Category(86, "vase"),
  Category(87, "scissors"),
  Category(88, "teddy bear"),
  Category(89, "hair drier"),
  Category(90, "toothbrush"),
)

NAMES: tuple[str, ...] = tuple(category.name for category in CATEGORIES)

# The last id of each super-category; their ids lie side by side.
_LAST_IDS = {
  "person": 1,
  "vehicle": 9,
  "outdoor": 15,
  "animal": 25,
  "accessory": 33,
  "sports": 43,
  "kitchen": 51,
  "food": 61,
  "furniture": 70,
  "electronic": 77,
  "appliance": 83,
  "indoor": 90,
}
SUPERCATEGORIES: tuple[str, ...] = tuple(_LAST_IDS)


def supercategory(name: str) -> str | None:
  """Returns the super-category of one of COCO's categories, or None for another name."""
  ids = {category.name: category.id for category in CATEGORIES}
  if name not in ids:
    return None
  return next(each for each, last in _LAST_IDS.items() if ids[name] <= last)
