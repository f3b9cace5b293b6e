"""What a detector finds in features that were coded, and at which rate: models, classic codecs and
coded images, compared."""

from khuvcm_tf import errors


class FeatureCodingError(errors.Error):
  """A comparison that cannot be made."""
