"""Learned image and feature compression in TensorFlow, with files that decode alike everywhere."""

__version__ = "0.1.0"
