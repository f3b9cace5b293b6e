"""Images and raw frames in and out of files, and the pipelines that feed training."""

from khuvcm_tf import errors


class DataError(errors.Error):
  """Training data that cannot be used."""
