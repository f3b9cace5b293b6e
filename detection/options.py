"""Options of the programs that run a detector on photos; nothing here imports TensorFlow."""

from __future__ import annotations

import dataclasses

from detection.config import CONFIGS
from khuvcm_tf.options import OptionsError, option, refuse_given

_DETECTOR = "A detector's folder, a training workdir, or a shipped detector's name."
_ALPHA = "Transparent photos: 'refuse' them, or compose them over 'white', 'black' or '#rrggbb'."


_OF_CONFIG = ("short_side", "max_side", "min_score", "max_detections")


def config_changes(options: object) -> dict[str, object]:
  """Returns the fields of a detector's config that options give, as `predictor.load` takes them."""
  values = {name: getattr(options, name, None) for name in _OF_CONFIG}
  return {name: value for name, value in values.items() if value is not None}


@dataclasses.dataclass(frozen=True)
class ResizeOptions:
  """How photos are resized for the detector."""

  short_side: int | None = option(
    None, "Resize photos to a short side of this many pixels; default: the detector's own.", low=1
  )
  max_side: int | None = option(
    None, "Keep the long side within this many pixels; default: the detector's own.", low=1
  )


@dataclasses.dataclass(frozen=True)
class DetectOptions(ResizeOptions):
  """What to detect, and where the results go.

  Raises:
    OptionsError: there is nothing to detect in, or an option of photos is given for features.
  """

  detector: str | None = option(None, _DETECTOR, required=True, path="input")
  input: str | None = option(
    None,
    "Photo, folder or quoted glob. With --features: what to draw the detections on.",
    path="input",
  )
  features: str | None = option(
    None,
    "Stored features to go on from: an .npz file, a folder of such or of TFRecords.",
    path="input",
  )
  output: str | None = option(
    None, "Folder for detections.json and the pictures.", required=True, path="output"
  )
  min_score: float = option(0.5, "Keep detections of a score above it.", low=0, below=1)
  max_detections: int | None = option(
    None, "Keep the best of a photo, this many; default: the detector's own.", low=1
  )
  draw: bool = option(True, "Draw the detections; otherwise only detections.json is written.")
  alpha: str = option("refuse", _ALPHA)
  overwrite: bool = option(False, "Replace files that exist.")

  def __post_init__(self):
    if not self.input and not self.features:
      raise OptionsError("found neither --input nor --features, expected one: what to detect in")
    if self.features:
      sides, why = ("short_side", "max_side"), "with --features, which are of a size already"
      refuse_given(self, sides, why)
      if not self.draw:
        refuse_given(self, ("input",), "with --features and --nodraw, expected it to draw on")
      if not self.input:
        refuse_given(self, ("alpha",), "with --features, expected it for photos of --input")


@dataclasses.dataclass(frozen=True)
class ExtractOptions(ResizeOptions):
  """Of what to extract features, and how they are stored."""

  detector: str | None = option(None, _DETECTOR, required=True, path="input")
  input: str | None = option(
    None,
    "Photo, folder, quoted glob, TFRecord files, or tfds:NAME:SPLIT.",
    required=True,
    path="input",
  )
  output: str | None = option(
    None,
    "Folder for the features, or for one photo a name that ends in .npz.",
    required=True,
    path="output",
  )
  format: str = option(
    "npz",
    "'npz': a file for each photo; 'tfrecord': files of 16 photos, which tf.data reads.",
    choices=("npz", "tfrecord"),
  )
  dtype: str = option(
    "float32",
    "Of stored numbers. float32 leads to the very detections that photos do, float16 takes half "
    "the room.",
    choices=("float32", "float16"),
  )
  alpha: str = option("refuse", _ALPHA)
  overwrite: bool = option(False, "Replace features that exist, all of them.")


@dataclasses.dataclass(frozen=True)
class ExportDetectorOptions:
  """The detector to export, and what it selects."""

  detector: str | None = option(None, _DETECTOR, required=True, path="input")
  output: str | None = option(None, "Folder to write; new or empty.", required=True, path="output")
  min_score: float | None = option(
    None, "Keep detections of a score above it; default: the detector's own.", low=0, below=1
  )
  max_detections: int | None = option(
    None, "Keep the best of an image, this many; default: the detector's own.", low=1
  )


@dataclasses.dataclass(frozen=True)
class BenchmarkOptions:
  """Which detectors are measured, on which photo, and how often."""

  detectors: tuple[str, ...] = option(
    ("faster_rcnn_R_50_FPN_3x", "mask_rcnn_R_50_FPN_3x", "faster_rcnn_X_101_32x8d_FPN_3x"),
    f"Detectors' folders or names, or configs ({', '.join(CONFIGS)}) with random weights.",
    path="input",
  )
  image: str | None = option(
    None, "Photo; by default scikit-image's coffee, 600x400.", path="input"
  )
  repeats: int = option(3, "Runs after the first; the median counts.", low=1)
  json: str | None = option(None, "File for the seconds.", path="file")
