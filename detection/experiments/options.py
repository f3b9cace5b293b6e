"""Options of the experiments' programs; nothing here imports TensorFlow."""

from __future__ import annotations

import dataclasses

from detection.coco.options import DatasetOptions
from khuvcm_tf.ops.pyramid import LEVELS
from khuvcm_tf.options import OptionsError, option


@dataclasses.dataclass(frozen=True)
class ExperimentOptions(DatasetOptions):
  """Detector, data set, and where features and results go."""

  detector: str | None = option(
    None,
    "A detector's folder, a training workdir, or a shipped detector's name.",
    required=True,
    path="input",
  )
  output: str | None = option(
    None, "Folder for results, figures and report.", required=True, path="output"
  )
  features: str | None = option(
    None,
    "Folder that keeps the images' features, so that the trunk runs once for all experiments; "
    "default: of run_experiments and find_key_maps `features` in --output, else none.",
    path="input",
  )
  features_dtype: str = option(
    "float32", "Type of features that are kept.", choices=("float32", "float16")
  )
  draws: int = option(
    1000, "Draws of the bootstrap over images that gives the intervals.", low=20, high=10_000
  )


@dataclasses.dataclass(frozen=True)
class DegradeOptions(ExperimentOptions):
  """Options of `degrade_features`."""

  levels: tuple[str, ...] = option(LEVELS, "Levels that are degraded.", choices=LEVELS)

  def __post_init__(self):
    if not self.levels:
      raise OptionsError("found no --levels, expected some, such as p2,p3")


@dataclasses.dataclass(frozen=True)
class CombineOptions(ExperimentOptions):
  """Options of `combine_features`."""

  sets: tuple[str, ...] | None = option(
    None, "Levels that are degraded together, such as p2+p3,p2+p3+p4; default: all pairs."
  )


@dataclasses.dataclass(frozen=True)
class ReconstructOptions(ExperimentOptions):
  """Options of `reconstruct_features`."""

  rules: str | None = option(
    None,
    "Rules, separated by semicolons, such as 'p2=p3:up, p4=0.5*p3:down+0.5*p5:up, p6=p5:pick'; "
    "default: the study's.",
  )
  sweep: int | None = option(
    None, "Also mix P4 of P3 and P5 in steps of 1 / SWEEP.", low=2, high=100
  )


@dataclasses.dataclass(frozen=True)
class KeyMapOptions(ExperimentOptions):
  """Options of `find_key_maps`.

  Raises:
    OptionsError: two budgets are given.
  """

  max_share: float | None = option(
    None,
    "Keep at most this share of all elements, and lose as little AP as possible; default: the "
    "share of P3 and P5, which the study keeps.",
    above=0,
    high=1,
  )
  max_loss: float | None = option(
    None, "Lose at most so much AP, such as 0.01, and keep as few elements as possible.", low=0
  )
  search_images: int | None = option(
    None,
    "Search with the first images, this many, and measure the choice on the others; default: half.",
    low=1,
  )
  evaluations: int = option(
    30, "Choices that are evaluated at most, beside those that rebuild one level.", low=1
  )

  def __post_init__(self):
    if self.max_share is not None and self.max_loss is not None:
      raise OptionsError("found --max_share and --max_loss, expected one of them")


@dataclasses.dataclass(frozen=True)
class AllOptions(ExperimentOptions):
  """Options of `run_experiments`."""

  search_images: int | None = option(
    None, "Search for key maps with the first images, this many; default: half.", low=1
  )
