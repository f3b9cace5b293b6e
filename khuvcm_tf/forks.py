"""Forked processes, in which TensorFlow waits forever for threads that were not forked with it.

Workers have to be started anew: `multiprocessing.get_context("spawn")`, or in PyTorch's DataLoader
`multiprocessing_context="spawn"`; each loads the model itself.
"""

from __future__ import annotations

import os

from khuvcm_tf import errors


class ForkError(errors.Error):
  """Work in a forked process, which would never end."""


_user: list[int] = []  # the process that has used TensorFlow, once one has


def check() -> None:
  """Takes note that this process uses TensorFlow; called before all that a model is asked to do.

  Raises:
    ForkError: it was forked from a process that has.
  """
  if not _user:
    _user.append(os.getpid())
  if _user[0] != os.getpid():
    raise ForkError(
      "found a process that was forked after TensorFlow had been used, in which it would hang; "
      'expected one that was started anew: use multiprocessing.get_context("spawn"), and load the '
      "model in each process"
    )
