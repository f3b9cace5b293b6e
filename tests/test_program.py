"""Programs run as processes of their own, as a person starts them."""

from __future__ import annotations

import os
import pathlib
import re
import signal
import subprocess
import sys
import textwrap

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

PROGRAM = '''
"""Doubles an image.

Example: python double.py --input=photo.png
"""

import sys, time

from absl import flags, logging

from khuvcm_tf import program
from khuvcm_tf.errors import Error

INPUT = flags.DEFINE_string("input", None, "The image to double.", required=True)
SIZE = flags.DEFINE_integer("size", 2, "How many times.", lower_bound=1)


def main():
{body}


if __name__ == "__main__":
  program.run(main)
'''

FILES_PROGRAM = """
from khuvcm_tf import program

program.run_on_files(print)
"""


@pytest.fixture
def start(tmp_path):
  """Starts a program with the given `main` and flags; returns the process."""

  def start_(text: str, *arguments: str, **environment: str) -> subprocess.Popen:
    path = tmp_path / "bin" / "double.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    inherited = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.Popen(
      [sys.executable, str(path), *arguments],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      env={**inherited, "PYTHONPATH": str(ROOT), **environment},
      # A shell's background job, as the tests may be, ignores Ctrl-C, and so would its children.
      preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )

  return start_


@pytest.fixture
def end(start):
  """Runs a program whose main is `body`; returns its exit code, stdout and stderr."""

  def end_(body: str, *arguments: str, **environment: str) -> tuple[int, str, str]:
    text = PROGRAM.format(body=textwrap.indent(textwrap.dedent(body), "  "))
    process = start(text, *arguments, **environment)
    out, err = process.communicate(timeout=1800)
    return process.returncode, out, err

  return end_


@pytest.mark.parametrize("flag", ["--help", "--helpshort", "--helpfull"])
def test_help_goes_to_stdout_and_exits_with_0(end, flag):
  code, out, err = end("pass", flag)
  assert (code, err) == (0, "")
  assert out.lstrip().startswith("Doubles an image.")
  for text in ("--input: The image to double.", "--num_threads: Threads", "--[no]debug: Show"):
    assert text in out


def test_a_program_that_returns_exits_with_0_and_adds_nothing(end):
  assert end("print(INPUT.value, SIZE.value)", "--input=x") == (0, "x 2\n", "")


@pytest.mark.parametrize(
  "arguments, message",
  [
    ([], r"the flag --input is required"),
    (["--input=x", "--sise=3"], r"Unknown command line flag 'sise'\. Did you mean: size \?"),
    (["--input=x", "--size=many"], r"flag --size=many: invalid literal .*'many'"),
    (["--input=x", "--size=0"], r"flag --size=0: 0 is not a positive integer"),
    (["--input=x", "--num_threads=-1"], r"flag --num_threads=-1: .* non-negative integer"),
    (["--flagfile=absent.flags"], r".*absent\.flags.*"),
    (
      ["--input=x", "a.png", "b.png"],
      r"found a\.png b\.png beside the flags, expected flags only: write --flag=value, and .*",
    ),
  ],
)
def test_wrong_flags_end_in_one_line_and_1(end, arguments, message):
  code, out, err = end("print('main runs')", *arguments)
  assert (code, out) == (1, "")
  assert re.fullmatch(rf"double\.py: error: {message}( \(--helpshort lists the flags\))?\n", err)


@pytest.mark.parametrize(
  "body, message",
  [
    ("raise Error('found 3,\\n  expected 4')", r"error: found 3, expected 4"),
    ("open('/absent/photo.png')", r"error: /absent/photo\.png: No such file or directory"),
    ("raise OSError(28, 'No space left on device')", r"error: No space left on device"),
    ("raise MemoryError", r"error: out of memory: no details: give it less at once, .*"),
    (
      "{}['k']",
      r"unexpected error: KeyError: 'k' \(run again with --debug for the traceback\)",
    ),
  ],
)
def test_an_exception_ends_in_one_line_and_1(end, body, message):
  code, _, err = end(body, "--input=x")
  assert code == 1
  assert re.fullmatch(rf"double\.py: {message}\n", err)


@pytest.mark.parametrize("body", ["raise Error('found 3')", "raise KeyError('found 3')"])
def test_debug_shows_the_traceback_before_the_same_line(end, body):
  code, _, err = end(body, "--input=x", "--debug")
  assert code == 1
  assert err.startswith("Traceback (most recent call last):")
  assert re.search(r"\ndouble\.py: (unexpected )?error: .*found 3'?\n$", err)


def test_running_out_of_memory_in_tensorflow_is_said_in_one_line(end):
  body = """
    import tensorflow as tf
    raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating [9]")
  """
  code, _, err = end(body, "--input=x")
  assert code == 1
  assert re.fullmatch(r"double\.py: error: out of memory: OOM when allocating \[9\]: .*\n", err)


@pytest.mark.parametrize("kind", ["ResourceExhaustedError", "PermissionDeniedError"])
def test_what_the_system_refuses_tensorflow_is_told_as_it_is(end, kind):
  text = {"ResourceExhaustedError": "No space left on device"}.get(kind, "Permission denied")
  body = f"""
    import tensorflow as tf
    text = "{{{{function_node __wrapped}}}} W/step-4.tempstate1; {text} [Op:SaveV2]"
    raise tf.errors.{kind}(None, None, text)
  """
  code, _, err = end(body, "--input=x")
  assert code == 1
  assert err == f"double.py: error: W/step-4.tempstate1; {text}\n"


def test_an_interrupt_prints_interrupted_and_exits_with_130(start):
  text = PROGRAM.format(body="  print('running', flush=True)\n  time.sleep(1800)")
  process = start(text, "--input=x")
  assert process.stdout.readline() == "running\n"
  process.send_signal(signal.SIGINT)
  _, err = process.communicate(timeout=1800)
  assert (process.returncode, err) == (130, "double.py: interrupted\n")


def test_a_reader_that_leaves_is_no_error_of_the_program(start):
  text = PROGRAM.format(body="  sys.stdin.readline()\n  print('x' * 100000)")
  process = start(text, "--input=x")
  process.stdout.close()
  assert process.wait(timeout=1800) == 1
  assert process.stderr.read() == ""


def test_a_reader_that_leaves_the_help_is_no_error_either(start):
  process = start(PROGRAM.format(body="  pass"), "--help")
  process.stdout.close()
  assert process.wait(timeout=1800) == 1
  assert process.stderr.read() == ""


def test_files_are_handed_over_as_typed(start):
  process = start(FILES_PROGRAM, "a.kvc", "--num_threads=0", "b c.kvc")
  assert process.communicate(timeout=1800) == ("['a.kvc', 'b c.kvc']\n", "")
  assert process.returncode == 0


def test_a_program_on_files_needs_one(start):
  process = start(FILES_PROGRAM)
  _, err = process.communicate(timeout=1800)
  assert process.returncode == 1
  assert re.fullmatch(r"double\.py: error: found no file name, expected at least one: .*\n", err)


def test_notices_and_warnings_read_plainly(end):
  body = "logging.info('size %d', SIZE.value); logging.warning('slow'); logging.error('lost')"
  assert end(body, "--input=x")[2] == "notice: size 2\nwarning: slow\nerror: lost\n"


def test_notices_of_libraries_are_hidden_but_not_their_warnings(end, tmp_path):
  library = tmp_path / "elsewhere"
  library.mkdir()
  (library / "chatter.py").write_text(
    "from absl import logging\ndef talk():\n  logging.info('step 1')\n  logging.warning('odd')\n"
  )
  body = "sys.path.insert(0, INPUT.value); import chatter; chatter.talk()"
  assert end(body, f"--input={library}") == (0, "", "warning: odd\n")


def test_num_threads_is_set_for_both_pools_before_main(end):
  body = """
    import tensorflow as tf
    threading = tf.config.threading
    print(threading.get_intra_op_parallelism_threads())
    print(threading.get_inter_op_parallelism_threads())
    print(float(tf.reduce_sum(tf.ones([3]))))
  """
  code, out, err = end(body, "--input=x", "--num_threads=3")
  assert (code, out) == (0, "3\n3\n3.0\n")
  assert err == "", "TensorFlow's start-up lines are hidden"


def test_tensors_in_graphs_compare_by_value_where_main_imports_tensorflow(end):
  body = """
    import tensorflow as tf
    equal = tf.function(lambda x: x == 1)
    print(equal(tf.constant([1, 2])).numpy())
  """
  assert end(body, "--input=x") == (0, "[ True False]\n", "")


def test_the_log_level_that_the_user_set_stays(end):
  body = "import os; print(os.environ['TF_CPP_MIN_LOG_LEVEL'])"
  assert end(body, "--input=x", TF_CPP_MIN_LOG_LEVEL="1")[1] == "1\n"


def test_names_that_are_not_utf8_are_printed(end):
  body = "print(INPUT.value)"
  found = end(body, "--input=caf\udce9", PYTHONIOENCODING="utf-8:strict")
  assert found == (0, "caf\\udce9\n", "")


def test_help_needs_no_tensorflow():
  command = "import sys, khuvcm_tf.program; print('tensorflow' in sys.modules)"
  out = subprocess.check_output([sys.executable, "-c", command], cwd=ROOT, text=True)
  assert out == "False\n"
