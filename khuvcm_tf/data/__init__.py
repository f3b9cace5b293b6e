"""Pictures and raw frames in and out of files, and the pipelines that feed training."""
