"""Entropy models in integers: what files are written and read with, equal on every machine."""
