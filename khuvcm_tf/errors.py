"""The one base class of errors that are the caller's to mend."""


class Error(Exception):
  """An error that a person can act on: what was found, what was expected, what to do.

  Programs print it as one line and exit with 1 (`khuvcm_tf.program`). Each room derives its own
  class from it, next to the code that raises it; anything else that is raised is a bug of ours.
  """
