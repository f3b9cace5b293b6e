"""Data sets with objects as TFDS builders: importing this package makes TFDS know them by name."""

from detection.coco.builders import shapes

__all__ = ["shapes"]
