"""A detector as the task of a run: its options, its batches, its losses, its validation."""
