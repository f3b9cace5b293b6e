"""The demonstration of detectors: shipped ones on a generated image and on a photo.

The photo is scikit-image's astronaut (NASA, public domain).
"""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np

from detection import detector_files, drawing, predictor
from detection.coco import shapes
from khuvcm_tf import atomic_files, model_folders
from khuvcm_tf.data import image_files, sample_photos

_MIN_SCORE = 0.5
_SCENE = ("test", 3)  # split and index


class Shown(NamedTuple):
  """What a detector found.

  Attributes:
    path: of the drawing.
    found: "category score" of each detection, best first.
  """

  path: str
  found: list[str]


def run(output: str) -> list[Shown]:
  """Draws what the detectors `shapes` and `person` find, where these are shipped.

  Args:
    output: folder for detections_NAME.png.

  Raises:
    detector_files.DetectorError: a detector is damaged.
    atomic_files.FileError: a drawing cannot be written.
  """
  images = {"shapes": shapes.draw(0, *_SCENE).image, "person": sample_photos.load()["astronaut"]}
  shipped = model_folders.shipped(detector_files.DESCRIPTION)
  atomic_files.make_folder(output)
  return [_show(name, image, output) for name, image in images.items() if name in shipped]


def _show(name: str, image: np.ndarray, output: str) -> Shown:
  detect = predictor.load(name, min_score=_MIN_SCORE)
  objects = detect(image)
  path = os.path.join(output, f"detections_{name}.png")
  image_files.write_image(path, np.asarray(drawing.draw(image, objects, detect.categories)))
  names = [detect.categories[each] for each in objects.classes.tolist()]
  return Shown(path, [f"{n} {score:.2f}" for n, score in zip(names, objects.scores)])
