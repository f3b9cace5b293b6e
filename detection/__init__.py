"""Detectors with a feature pyramid, and experiments on their feature maps."""
