"""Runs the `main` of a program in `bin/`: flags before it, errors and the exit code after it.

A program defines its flags, imports TensorFlow only inside `main`, and ends in

    if __name__ == "__main__":
      program.run(main)

TensorFlow takes seconds to import; with the import inside `main`, `--helpshort` and a mistyped flag
need no such wait. absl's flags and logging are used, but not its `app.run`: TensorFlow 2.14
registers a call with absl that is to run after the start. Where absl has already started, that
call runs in the middle of the import, and `==` of tensors in graphs then compares identities.

What ends the program     On stderr                                             Exit code
`main` returned           nothing from here                                     0
`--help`, `--helpshort`   nothing; the help goes to stdout                      0
wrong flags or arguments  PROGRAM: error: what is wrong                         1
`errors.Error`            PROGRAM: error: its text                              1
an error of the system    PROGRAM: error: the file, and what the system said    1
memory has run out        PROGRAM: error: out of memory: ...                    1
any other exception       PROGRAM: unexpected error: ...                        1
Ctrl-C                    PROGRAM: interrupted                                  130
stdout was closed         nothing                                               1

Each of these is one line, with the traceback before it under `--debug`.
"""

from __future__ import annotations

import contextlib
import io
import logging as python_logging
import os
import pathlib
import re
import sys
import traceback
from typing import Callable

from absl import app, flags, logging

from khuvcm_tf import paths
from khuvcm_tf.errors import known_text

DEBUG = flags.DEFINE_bool(
  "debug",
  False,
  "Show tracebacks, TensorFlow's own messages, and where and when each line was logged.",
)
NUM_THREADS = flags.DEFINE_integer(
  "num_threads",
  0,
  "Threads that TensorFlow uses within an operation, and operations that it runs at once; "
  "0: one for each core.",
  lower_bound=0,
)


def run(main: Callable[[], None]) -> None:
  """Parses the flags, runs `main()` and ends the process with its exit code.

  An argument that belongs to no flag is an error: most often the shell has expanded a pattern into
  several file names.
  """
  rest = _parse_flags(sys.argv)
  if rest:
    _fail(
      f"error: found {' '.join(rest)} beside the flags, expected flags only: "
      "write --flag=value, and quote patterns such as '*.png'"
    )
  _run_guarded(main)


def run_on_files(main: Callable[[list[str]], None]) -> None:
  """Runs `main(files)` as `run` does, with the arguments that belong to no flag, at least one."""
  files = [paths.expanded(file) for file in _parse_flags(sys.argv)]
  if not files:
    _fail("error: found no file name, expected at least one: --helpshort shows how to call")
  _run_guarded(lambda: main(files))


def _parse_flags(argv: list[str]) -> list[str]:
  """Parses the flags; returns the arguments that belong to none."""
  app.define_help_flags()
  for holder in (DEBUG, NUM_THREADS):  # so that --helpshort lists them as the program's own
    flags.FLAGS.register_key_flag_for_module(argv[0], flags.FLAGS[holder.name])
  with _reader_may_leave():
    try:
      return flags.FLAGS(argv)[1:]
    except flags.Error as error:
      # absl's text for a missing flag: "flag --x=None: Flag --x must have a value other than None."
      required = r"flag --(\S+)=None: Flag --\1 must have a value other than None\."
      text = re.sub(required, r"the flag --\1 is required", str(error))
      _fail(f"error: {_one_line(text)} (--helpshort lists the flags)")
    except SystemExit as end:
      # Only the help flags exit here, and absl's exit code for them is 1.
      sys.stdout.flush()
      raise SystemExit(0) from end


def _run_guarded(main: Callable[[], None]) -> None:
  """Prepares TensorFlow and logging, runs `main`, and turns an exception into an exit code."""
  if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
    sys.stdout.reconfigure(errors="backslashreplace")  # for names of files that are not UTF-8
  try:
    _prepare_tensorflow()
    _prepare_logging()
    with _reader_may_leave():
      main()
  except KeyboardInterrupt:
    _fail("interrupted", code=130)
  except Exception as error:
    _fail(_describe(error))


@contextlib.contextmanager
def _reader_may_leave():
  """Within, the process ends quietly where stdout's reader, such as `head`, has gone."""
  try:
    yield
    sys.stdout.flush()
  except BrokenPipeError:
    # Python must not flush into the closed pipe at its exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)


def _describe(error: Exception) -> str:
  """Returns the line about an exception."""
  text = known_text(error)
  if text is not None:
    return f"error: {text}"
  again = "" if DEBUG.value else " (run again with --debug for the traceback)"
  return f"unexpected error: {type(error).__name__}: {_one_line(str(error))}{again}"


def _fail(message: str, code: int = 1) -> None:
  """Prints a line on stderr, with --debug after the traceback, and ends the process."""
  logging.flush()
  sys.stdout.flush()
  if sys.exc_info()[0] is not None and flags.FLAGS.is_parsed() and DEBUG.value:
    traceback.print_exc()
  print(f"{pathlib.Path(sys.argv[0]).name}: {message}", file=sys.stderr)
  sys.exit(code)


def _one_line(text: str) -> str:
  return " ".join(line.strip() for line in text.splitlines() if line.strip())


def _prepare_tensorflow() -> None:
  if not DEBUG.value:
    # Level 3, as TensorFlow 2.14 logs errors when it starts on a machine without a GPU. Failures of
    # operations are exceptions at any level.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  if NUM_THREADS.value:
    import tensorflow as tf  # Here, as some programs do not need it.

    tf.config.threading.set_intra_op_parallelism_threads(NUM_THREADS.value)
    tf.config.threading.set_inter_op_parallelism_threads(NUM_THREADS.value)


def _prepare_logging() -> None:
  logging.use_absl_handler()
  if flags.FLAGS["verbosity"].using_default_value:
    logging.set_verbosity(logging.INFO)
  if not DEBUG.value:
    handler = logging.get_absl_handler()
    handler.setFormatter(_TerminalFormatter())
    handler.addFilter(_is_for_the_user)


class _TerminalFormatter(python_logging.Formatter):
  """Writes `notice: ...`, `warning: ...`, `error: ...` where absl writes `I0131 12:34:56 ...]`."""

  def format(self, record: python_logging.LogRecord) -> str:
    name = "notice" if record.levelno == python_logging.INFO else record.levelname.lower()
    return f"{name}: {super().format(record)}"


def _is_for_the_user(record: python_logging.LogRecord) -> bool:
  """Returns whether a line is a warning or worse, or a notice of this repository's code.

  Notices of libraries are hidden: some log every step.
  """
  if record.levelno > python_logging.INFO:
    return True
  ours = pathlib.Path(__file__).resolve().parent
  folders = (ours, ours.parent / "detection", pathlib.Path(sys.argv[0]).resolve().parent)
  return any(folder in pathlib.Path(record.pathname).resolve().parents for folder in folders)
