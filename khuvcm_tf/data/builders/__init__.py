"""Data sets as TFDS builders: importing this package makes `tfds.load` know them by name."""

from khuvcm_tf.data.builders import kodak, vimeo90k

__all__ = ["kodak", "vimeo90k"]
