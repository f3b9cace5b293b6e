"""What a run shows in TensorBoard."""

from __future__ import annotations

import dataclasses
import glob
import os
import time

import numpy as np
import tensorflow as tf
from tensorboard.backend.event_processing import event_file_loader
from tensorboard.compat.proto import event_pb2
from tensorboard.summary.writer import event_file_writer

from khuvcm_tf.runs.options import RunOptions


class SummaryWriter:
  """Writes scalars, images, histograms and text to event files.

  Args:
    logdir: folder of the event files.
    first_step: steps that the run had made at this start. What an earlier, killed start logged
      beyond them is removed, so that curves go on as if the run had never stopped.
  """

  def __init__(self, logdir: str, first_step: int):
    os.makedirs(logdir, exist_ok=True)
    for path in glob.glob(os.path.join(glob.escape(logdir), "events.out.tfevents.*")):
      _drop_beyond(path, first_step)
    mark = event_file_writer.EventFileWriter(logdir, filename_suffix=".start")
    # For a TensorBoard that has read the old files already; it drops the step of the mark, too.
    mark.add_event(
      event_pb2.Event(
        wall_time=time.time(),
        step=first_step + 1,
        session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START),
      )
    )
    mark.close()
    self._writer = tf.summary.create_file_writer(logdir)
    self._first_step = first_step

  def text(self, name: str, content: str):
    """Shows Markdown."""
    with self._writer.as_default(step=self._first_step):
      tf.summary.text(name, content.encode("utf-8", "backslashreplace"))

  def scalars(self, step: int, values: dict[str, float]):
    """Adds a point to each curve, by name."""
    with self._writer.as_default(step=step):
      for name, value in values.items():
        tf.summary.scalar(name, value)

  def image(self, step: int, name: str, image: np.ndarray):
    """Shows an image, uint8 [H, W, 1 or 3]."""
    with self._writer.as_default(step=step):
      tf.summary.image(name, image[np.newaxis])

  def histogram(self, step: int, name: str, values: np.ndarray):
    """Shows how numbers are distributed."""
    with self._writer.as_default(step=step):
      tf.summary.histogram(name, values)

  def flush(self):
    self._writer.flush()

  def close(self):
    self._writer.close()


def options_table(options: RunOptions) -> str:
  """Returns the options as a table in Markdown."""
  lines = ["| flag | value |", "| --- | --- |"]
  lines += [f"| {name} | `{value}` |" for name, value in dataclasses.asdict(options).items()]
  return "\n".join(lines)


def _drop_beyond(path: str, step: int):
  """Removes the events after a step from an event file, where it has such."""
  temporary = os.path.join(os.path.dirname(path), f"tmp-{os.getpid()}")
  dropped = 0
  with tf.io.TFRecordWriter(temporary) as writer:
    # Ends without an error where the killed process left half a record.
    for record in event_file_loader.RawEventFileLoader(path).Load():
      if event_pb2.Event.FromString(record).step <= step:
        writer.write(record)
      else:
        dropped += 1
  if dropped:
    os.replace(temporary, path)
  else:
    os.remove(temporary)
