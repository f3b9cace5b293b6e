"""Evaluation by the rules of Open Images, from its CSV files."""

from khuvcm_tf import errors


class OpenImagesError(errors.Error):
  """Files that are not those of Open Images."""
