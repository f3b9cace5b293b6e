"""Weights that other systems trained, in the project's detectors."""
