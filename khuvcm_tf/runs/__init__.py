"""A training run of any task: what trains a codec trains a detector, too.

A program's task derives from `runs.task.Task`; `runs.loop.train` runs it. `runs.options` needs no
TensorFlow.
"""

from __future__ import annotations

from khuvcm_tf import errors


class RunError(errors.Error):
  """A run that cannot begin, be resumed or go on."""
