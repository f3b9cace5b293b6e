"""Data sets in COCO's format, and the evaluation of detectors on them."""

from khuvcm_tf import errors


class CocoError(errors.Error):
  """A data set, or detections, that cannot be used."""
