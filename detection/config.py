"""Every number that a detector's results hang on, in one place, each with where detectron2 sets it.

Paths are those of the detectron2 repository; `defaults.py` is `detectron2/config/defaults.py` and
`Base` is `configs/Base-RCNN-FPN.yaml`.
"""

from __future__ import annotations

import dataclasses

from khuvcm_tf import errors
from khuvcm_tf.ops.pyramid import LEVELS


class ConfigError(errors.Error):
  """A configuration that no detector has."""


@dataclasses.dataclass(frozen=True)
class Config:
  """What a detector is built from and how it selects its detections.

  Raises:
    ConfigError: numbers are too many, too few or out of their range.

  Attributes:
    backbone: name in `detection.backbones`.
    width: channels of the stem of a ResNet; those of the stages follow (RESNETS.STEM_OUT_CHANNELS).
    norm: of a ResNet: "frozen", or "batch" where it is trained from nothing (RESNETS.NORM).
    masks: whether there is a mask head (MODEL.MASK_ON).
    num_classes: without background (ROI_HEADS.NUM_CLASSES).
    fpn_channels: C of P2-P6 (FPN.OUT_CHANNELS).
    pixel_mean, pixel_std: of blue, green, red in 0..255 (MODEL.PIXEL_MEAN, PIXEL_STD).
    anchor_sizes: side of a square anchor at P2 .. P6, in pixels (ANCHOR_GENERATOR.SIZES in Base).
    aspect_ratios: height / width of the anchors at each position (ANCHOR_GENERATOR.ASPECT_RATIOS).
    rpn_top_k: proposals of a level before NMS (RPN.PRE_NMS_TOPK_TEST in Base).
    num_proposals: of an image after NMS (RPN.POST_NMS_TOPK_TEST in Base).
    rpn_nms_iou: IoU above which the lower proposal of two of a level goes (RPN.NMS_THRESH).
    box_fc_channels: of the two fully connected layers (ROI_BOX_HEAD.FC_DIM).
    box_passes: how often the box head is applied: first to proposals, then to the boxes that it
      found; scores are the mean of all (detectron2's StandardROIHeads have one pass).
    canonical_box_size: side of a box that is pooled from P4, in pixels; one of twice the side is
      pooled from P5 (ROIPooler's argument of this name in `detectron2/modeling/poolers.py`).
    box_pool_size: side of what ROIAlign gives the box head (ROI_BOX_HEAD.POOLER_RESOLUTION).
    box_weights: divide the deltas of x, y, w, h (ROI_BOX_HEAD.BBOX_REG_WEIGHTS).
    mask_channels: of the mask head's convolutions (ROI_MASK_HEAD.CONV_DIM).
    mask_pool_size: half the side of a predicted mask (ROI_MASK_HEAD.POOLER_RESOLUTION).
    min_score: detections have scores above it (ROI_HEADS.SCORE_THRESH_TEST).
    nms_iou: IoU above which the lower detection of two of a class goes (ROI_HEADS.NMS_THRESH_TEST).
    max_detections: of an image (TEST.DETECTIONS_PER_IMAGE).
    short_side, max_side: to which images are resized, in pixels (INPUT.MIN_SIZE_TEST,
      MAX_SIZE_TEST).
  """

  backbone: str
  width: int = 64
  norm: str = "frozen"
  masks: bool = False
  num_classes: int = 80
  fpn_channels: int = 256
  pixel_mean: tuple[float, ...] = (103.530, 116.280, 123.675)
  pixel_std: tuple[float, ...] = (1.0, 1.0, 1.0)
  anchor_sizes: tuple[float, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)
  aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
  rpn_top_k: int = 1000
  num_proposals: int = 1000
  rpn_nms_iou: float = 0.7
  box_fc_channels: int = 1024
  box_passes: int = 1
  canonical_box_size: float = 224.0
  box_pool_size: int = 7
  box_weights: tuple[float, ...] = (10.0, 10.0, 5.0, 5.0)
  mask_channels: int = 256
  mask_pool_size: int = 14
  min_score: float = 0.05
  nms_iou: float = 0.5
  max_detections: int = 100
  short_side: int = 800
  max_side: int = 1333

  def __post_init__(self):
    lengths = {"pixel_mean": 3, "pixel_std": 3, "anchor_sizes": len(LEVELS), "box_weights": 4}
    for name, length in lengths.items():
      if len(getattr(self, name)) != length:
        raise ConfigError(f"found {name} = {getattr(self, name)}, expected {length} numbers")
    for name in ("pixel_std", "anchor_sizes", "aspect_ratios", "box_weights"):
      if not getattr(self, name) or min(getattr(self, name)) <= 0:
        raise ConfigError(f"found {name} = {getattr(self, name)}, expected numbers above 0")
    for name in ("rpn_nms_iou", "nms_iou"):
      if not 0 <= getattr(self, name) <= 1:
        raise ConfigError(f"found {name} = {getattr(self, name)}, expected 0 to 1")

  def to_json(self) -> dict[str, object]:
    """Returns the fields as JSON writes them."""
    return dataclasses.asdict(self)

  def changes(self) -> dict[str, object]:
    """Returns the fields that differ from their defaults: what tells this config from others."""
    fields = dataclasses.fields(self)
    values = {field.name: getattr(self, field.name) for field in fields}
    return {f.name: values[f.name] for f in fields if values[f.name] != f.default}

  @classmethod
  def from_json(cls, fields: dict[str, object]) -> Config:
    """Returns the config of fields that `to_json` gave.

    Raises:
      ConfigError: a field is unknown, missing, or of another type or sign than it should be.
    """
    known = {field.name: field for field in dataclasses.fields(cls)}
    odd = sorted(set(fields) - set(known)) or sorted({"backbone"} - set(fields))
    if odd:
      raise ConfigError(
        f"found the fields {odd[:4]} on one side only, expected those of a detector"
      )
    values = {name: _checked(known[name], value) for name, value in fields.items()}
    return cls(**values)


def _checked(field: dataclasses.Field, value: object) -> object:
  """Returns a field's value from JSON, where lists stand for tuples."""

  def is_number(each):
    return isinstance(each, (int, float)) and not isinstance(each, bool) and 0 <= each < 1e6

  fits = {
    "str": isinstance(value, str),
    "bool": isinstance(value, bool),
    "int": isinstance(value, int) and is_number(value) and value > 0,
    "float": is_number(value),
    "tuple[float, ...]": isinstance(value, (list, tuple)) and all(map(is_number, value)),
  }
  if not fits[field.type]:
    raise ConfigError(f"found {field.name} = {value!r}, expected {field.type}, not negative")
  return tuple(value) if isinstance(value, list) else value


# configs/COCO-Detection and configs/COCO-InstanceSegmentation of detectron2: ResNets take pixels as
# they are, ResNeXt divides by these.
_BODIES = {
  "R_50": Config("resnet50"),
  "R_101": Config("resnet101"),
  "X_101_32x8d": Config("resnext101_32x8d", pixel_std=(57.375, 57.120, 58.395)),
}

CONFIGS = {
  f"{kind}_rcnn_{body}_FPN_3x": dataclasses.replace(config, masks=kind == "mask")
  for kind in ("faster", "mask")
  for body, config in _BODIES.items()
}
