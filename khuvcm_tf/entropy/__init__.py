"""Probability models for training, and exact integer coding for files."""
