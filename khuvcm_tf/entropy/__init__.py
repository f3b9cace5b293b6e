"""Probability models in floats; `integer` codes files exactly, `calibration` converts to it."""
