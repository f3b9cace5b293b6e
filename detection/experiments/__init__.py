"""Experiments on a feature pyramid: what a detector loses when levels are damaged, taken away or
rebuilt from others."""

from khuvcm_tf import errors


class ExperimentError(errors.Error):
  """An experiment that cannot be made."""
