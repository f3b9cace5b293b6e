"""From trained floats to integers: activation ranges, bit widths, and the bits that it costs."""

from khuvcm_tf.entropy.calibration.conversion import Conversion, convert

__all__ = ["Conversion", "convert"]
