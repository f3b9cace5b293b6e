"""The one base class of errors that are the caller's to mend."""

import os


class Error(Exception):
  """An error that a person can act on: what was found, what was expected, what to do.

  Programs print it as one line and exit with 1 (`khuvcm_tf.program`). Each room derives its own
  class from it, next to the code that raises it; anything else that is raised is a bug of ours.
  """


def reason(error: Exception) -> str:
  """Returns the text of whatever a file's damage has raised, on one line."""
  if isinstance(error, OSError) and error.strerror:
    return f"{os.path.basename(error.filename or '')}: {error.strerror}"
  return " ".join(str(error).split()) or type(error).__name__
