"""Many inputs coded to a file each, or to TFRecord files.

A folder of shards holds

  part-00000-of-00008.tfrecord   records of features `name` and, say, `kvc`: bytes

Each file is written whole or not at all, so that what is there is done: a run on a cluster goes on
where it was ended. `RUN` says what the files of its folder were made with, and no other run mixes
its own with them.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Callable, NamedTuple

import tqdm
from absl import logging

from khuvcm_tf import atomic_files, errors
from khuvcm_tf.data.inputs import Input
from khuvcm_tf.executor import HERE, Executor, Progress, attempt, reason

RUN = "run.json"


class FilesError(errors.Error):
  """Files that were not all coded."""


class Job(NamedTuple):
  """A file to write, and what of.

  Attributes:
    input: to read.
    target: path of the file.
    makes_folder: whether the target's folder is created where it does not exist.
    frame: number of the frame in a file of raw frames; None of others.
  """

  input: Input
  target: str
  makes_folder: bool = False
  frame: int | None = None

  @property
  def label(self) -> str:
    """What messages call the input."""
    label = self.input.label
    return label if self.frame is None else f"{label}: frame {self.frame}"


class Content(NamedTuple):
  """What is to be written for a job; of a model of several rates also the quality."""

  data: bytes
  quality: float | None = None


class Coded(NamedTuple):
  """A file, or a record, that was written."""

  source: str
  target: str
  bytes_read: int
  bytes_written: int
  quality: float | None


class _Task(NamedTuple):
  """A file to write for a job, or a shard for several."""

  target: str
  jobs: Sequence[Job]


def code_all(
  code: Callable[[Job], Content],
  jobs: Sequence[Job],
  overwrite: bool = False,
  executor: Executor = HERE,
  folder: str | None = None,
  shards: int | None = None,
  feature: str = "",
  about: dict[str, object] | None = None,
) -> list[Coded]:
  """Writes a file for each job, or all of them to shards.

  Args:
    code: makes the content of a file; must pickle where the executor needs it.
    jobs: at least one.
    overwrite: whether files that exist are replaced.
    executor: calls `code`. Where it resumes, files that exist are done, or removed first.
    folder: that all targets are in; None for a single file, which is never kept.
    shards: number of TFRecord files to write to `folder` in place of a file for each job.
    feature: of the records, for the content.
    about: what the files depend on beside the inputs.

  Returns:
    What was written now, in the order of the jobs.

  Raises:
    atomic_files.FileError: a file exists, or is an input.
    FilesError: files are of another run, or some of several jobs failed. The error of an only job
      is raised as it is.
  """
  _check_different(jobs)
  keep, sources = executor.resumes and folder is not None, {job.input.path for job in jobs}
  if shards:
    tasks, write = _shards(jobs, folder, shards), _ShardWriter(code, feature)
    about = {**(about or {}), "shards": shards, "inputs": _digest(jobs)}
  else:
    tasks, write = [_Task(job.target, [job]) for job in jobs], _FileWriter(code, keep)
  if keep:
    atomic_files.check_targets((task.target for task in tasks), sources)
    _go_on(folder, tasks, overwrite, about or {})
  else:
    atomic_files.check_targets((task.target for task in tasks), sources, overwrite)
  todo = [task for task in tasks if not (keep and os.path.exists(task.target))]
  waiting, coded = {job.label for task in todo for job in task.jobs}, {}
  done = {job.label for job in jobs} - waiting
  if done:
    logging.info("%d of %d files were done before", len(jobs) - len(waiting), len(jobs))
  is_quiet = len(jobs) == 1 or not sys.stderr.isatty()
  with Progress(len(waiting), "file", executor, folder, is_quiet, done) as progress:
    for outcome in executor.map(write, todo):
      task = todo[outcome.index]
      coded[outcome.index], failures = outcome.result or (
        [],
        [(job.label, outcome.error) for job in task.jobs],
      )
      for each in coded[outcome.index]:
        progress.add(size=each.bytes_written)
      for name, error in failures:
        text = reason(error, name)
        progress.fail(name, text)
        if len(jobs) == 1:
          raise error
        tqdm.tqdm.write(f"failed: {text}", file=sys.stderr)
  if progress.num_failed:
    raise FilesError(
      f"{progress.num_failed} of {len(jobs)} files were not coded, for the reasons above"
    )
  return [each for index in sorted(coded) for each in coded[index]]


class _FileWriter:
  """Writes the file of a task; one that exists is done where it is to be kept."""

  def __init__(self, code: Callable[[Job], Content], keep: bool):
    self._code, self._keep = code, keep

  def __call__(self, task: _Task) -> tuple[list[Coded], list[tuple[str, Exception]]]:
    (job,) = task.jobs
    # Also where a worker has died between writing a file and saying so.
    if self._keep and os.path.exists(job.target):
      return [], []
    try:
      if job.makes_folder and os.path.dirname(job.target):
        os.makedirs(os.path.dirname(job.target), exist_ok=True)
      content = _content(self._code, job)
      atomic_files.write_bytes(job.target, content.data)
    except OSError as error:
      raise FilesError(
        f"{error.filename or job.label}: {error.strerror}; expected to read "
        f"{job.label} and to write {job.target}; check both places"
      ) from error
    return [_coded(job, job.target, content)], []


class _ShardWriter:
  """Writes a shard: a TFRecord file of a task's jobs. Those that fail are left out, and told."""

  def __init__(self, code: Callable[[Job], Content], feature: str):
    self._code, self._feature = code, feature

  def __call__(self, task: _Task) -> tuple[list[Coded], list[tuple[str, Exception]]]:
    import tensorflow as tf  # takes seconds

    coded, failures = [], []
    with atomic_files.new_file(task.target) as new, tf.io.TFRecordWriter(new) as writer:
      for job in task.jobs:
        content, error = attempt(functools.partial(_content, self._code), job)
        if error is not None:
          failures.append((job.label, error))
          continue
        features = {"name": os.fsencode(job.target), self._feature: content.data}
        example = tf.train.Example()
        for name, value in features.items():
          example.features.feature[name].bytes_list.value.append(value)
        writer.write(example.SerializeToString())
        coded.append(_coded(job, task.target, content))
    return coded, failures


def _check_different(jobs: Sequence[Job]) -> None:
  taken = {}
  for job in jobs:
    other = taken.setdefault(job.target, job)
    if other is not job:
      raise FilesError(f"{other.label} and {job.label} would both become {job.target}; rename one")


def _shards(jobs: Sequence[Job], folder: str, count: int) -> list[_Task]:
  """Returns tasks of about as many jobs each, in their order."""
  count = min(count, len(jobs))
  edges = [len(jobs) * i // count for i in range(count + 1)]
  atomic_files.make_folder(folder)
  return [
    _Task(
      os.path.join(folder, f"part-{i:05}-of-{count:05}.tfrecord"),
      [job._replace(target=os.path.relpath(job.target, folder)) for job in jobs[start:stop]],
    )
    for i, (start, stop) in enumerate(zip(edges, edges[1:]))
  ]


def _go_on(folder: str, tasks: Sequence[_Task], overwrite: bool, about: dict[str, object]) -> None:
  """Prepares a folder whose files are kept; those that are to be replaced are removed.

  Raises:
    FilesError, atomic_files.FileError: the files that are there were made with something else.
  """
  path = os.path.join(folder, RUN)
  atomic_files.make_folder(folder)
  if overwrite:
    for name in (path, *(task.target for task in tasks)):
      with contextlib.suppress(FileNotFoundError):
        os.unlink(name)
  try:
    with open(path, encoding="utf-8") as file:
      before = dict(json.load(file))
  except FileNotFoundError:
    atomic_files.check_targets((task.target for task in tasks), overwrite=overwrite)
    before = about
  except (OSError, ValueError, TypeError) as error:
    raise FilesError(
      f"{path}: cannot be read: {errors.reason(error)}; expected what the files beside it "
      "were made with; give another --output, or --overwrite to make them anew"
    ) from error
  for key, value in about.items():
    if before.get(key) != value:
      raise FilesError(
        f"{path} has {key} {before.get(key)!r}, found {value!r}: the files beside it are of "
        "another run; give another --output, or --overwrite to make them anew"
      )
  atomic_files.write_text(path, f"{json.dumps(about, indent=1)}\n")


def _digest(jobs: Sequence[Job]) -> str:
  """Returns what tells lists of inputs apart."""
  return hashlib.sha256("\0".join(job.label for job in jobs).encode()).hexdigest()[:16]


def _content(code: Callable[[Job], Content], job: Job) -> Content:
  """Returns the content of a job's file; errors begin with the input."""
  with prefixed(job.label):
    return code(job)


def _coded(job: Job, target: str, content: Content) -> Coded:
  size = job.input.size
  return Coded(job.label, target, size, len(content.data), content.quality)


@contextlib.contextmanager
def prefixed(name: str) -> Iterator[None]:
  """Puts the name of a file or a frame before the text of an error that does not have it."""
  try:
    yield
  except errors.Error as error:
    if name in str(error):
      raise
    raise type(error)(f"{name}: {error}") from error
