"""Options of the programs of feature coding; nothing here imports TensorFlow."""

from __future__ import annotations

import dataclasses

from detection.coco.options import DatasetOptions
from detection.experiments.options import ExperimentOptions
from khuvcm_tf.options import OptionsError, option


@dataclasses.dataclass(frozen=True)
class CurveOptions(ExperimentOptions):
  """Options of `feature_curves`: what codes the features of which detector on which images."""

  models: tuple[str, ...] = option(
    (),
    "Models of feature maps, as --models of rate_distortion: NAME=W@0,20,40 is a curve of a model "
    "of several rates, NAME=W1:W2 one of models of one rate each.",
    path="input",
  )
  rules: str | None = option(
    None,
    "Rules, separated by semicolons: for each, every model has another curve, for which the levels "
    "that the rule keeps are coded and the others rebuilt, such as 'p2=p3:up, "
    "p4=0.5*p3:down+0.5*p5:up, p6=p5:pick'.",
  )
  anchors: tuple[str, ...] = option(
    (),
    "Classic codecs of quantized maps: some of jpeg, webp, hevc, vvc.",
    choices=("jpeg", "webp", "hevc", "vvc"),
  )
  bits: tuple[str, ...] = option(
    ("8", "10"), "To which maps for hevc and vvc are quantized.", choices=("8", "10")
  )
  image_models: tuple[str, ...] = option(
    (),
    "Models of images, before the detector: as --models of rate_distortion.",
    path="input",
  )
  image_anchors: tuple[str, ...] = option(
    (), "Classic codecs of images, before the detector: as --anchors of rate_distortion."
  )
  anchor: str | None = option(
    None, "Curve that BD-rates compare with; default: the first of --anchors."
  )

  def __post_init__(self):
    if not (self.models or self.anchors or self.image_models or self.image_anchors):
      raise OptionsError("found nothing to measure, expected --models or --anchors, or both")


@dataclasses.dataclass(frozen=True)
class WeightOptions(DatasetOptions):
  """Options of `feature_weights`."""

  detector: str | None = option(
    None,
    "A detector's folder, a training workdir, or a shipped detector's name.",
    required=True,
    path="input",
  )
  output: str | None = option(None, "The .npz file.", required=True, path="file")
  by: str = option(
    "channel",
    "Of which numbers have a weight of their own: each level, or each channel of each level.",
    choices=("level", "channel"),
  )


@dataclasses.dataclass(frozen=True)
class DistributionOptions(DatasetOptions):
  """Options of `feature_distributions`."""

  detector: str | None = option(
    None,
    "A detector's folder, a training workdir, or a shipped detector's name.",
    required=True,
    path="input",
  )
  models: tuple[str, ...] | None = option(
    None,
    "Models of feature maps, as --models of feature_curves, one point each.",
    required=True,
    path="input",
  )
  output: str | None = option(
    None, "Folder for results, figures and report.", required=True, path="output"
  )
  channel: int = option(0, "Channel whose map and histogram are drawn.", low=0)
