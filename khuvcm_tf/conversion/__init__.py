"""Weights that other systems trained: read, and given the names and layouts used here."""
