"""What a run shows in TensorBoard."""

from __future__ import annotations

import dataclasses
import glob
import math
import os
import time

import numpy as np
import tensorflow as tf
from tensorboard.backend.event_processing import event_file_loader
from tensorboard.compat.proto import event_pb2
from tensorboard.summary.writer import event_file_writer


class Board:
  """Writes scalars, pictures and histograms to WORKDIR/logs.

  Args:
    logdir: folder of the event files.
    first_step: steps that the run had made at this start: what an earlier, killed start logged
      beyond them is removed, so that curves go on as if the run had never stopped.
  """

  def __init__(self, logdir: str, first_step: int):
    os.makedirs(logdir, exist_ok=True)
    for path in glob.glob(os.path.join(glob.escape(logdir), "events.out.tfevents.*")):
      _drop_beyond(path, first_step)
    mark = event_file_writer.EventFileWriter(logdir, filename_suffix=".start")
    # For a TensorBoard that has read the old files already; it drops the step of the mark too.
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
    with self._writer.as_default(step=self._first_step):
      tf.summary.text(name, content)

  def scalars(self, step: int, values: dict[str, float]):
    with self._writer.as_default(step=step):
      for name, value in values.items():
        tf.summary.scalar(name, value)

  def pictures(self, step: int, name: str, original: np.ndarray, decoded: np.ndarray):
    """Shows original | decoded | difference (times 4, around grey): [H, W, C] twice, 0..255."""
    original = tf.cast(original, tf.float32)
    decoded = tf.clip_by_value(tf.round(decoded), 0.0, 255.0)
    difference = tf.clip_by_value(128.0 + 4.0 * (decoded - original), 0.0, 255.0)
    row = tf.concat([original, decoded, difference], axis=1)
    with self._writer.as_default(step=step):
      tf.summary.image(name, tf.cast(row, tf.uint8)[tf.newaxis])

  def latents(self, step: int, name: str, y_hat: np.ndarray, bits: np.ndarray):
    """Shows a picture's latents [h, w, M] and their bits [h, w, M]."""
    order = np.argsort(-bits.sum(axis=(0, 1)))[:16]
    with self._writer.as_default(step=step):
      tf.summary.histogram(f"{name}/values", y_hat)
      tf.summary.histogram(f"{name}/bits_per_channel", bits.sum(axis=(0, 1)))
      tf.summary.image(f"{name}/costliest_channels", _mosaic(y_hat[..., order]))
      tf.summary.image(f"{name}/bits_per_place", _mosaic(bits.sum(axis=-1, keepdims=True)))

  def flush(self):
    self._writer.flush()

  def close(self):
    self._writer.close()


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


def _mosaic(channels: np.ndarray) -> np.ndarray:
  """Lays out [h, w, n] channels, each scaled to 0..255, as one picture [1, ?, ?, 1] uint8."""
  low, high = channels.min(axis=(0, 1)), channels.max(axis=(0, 1))
  scaled = ((channels - low) / np.maximum(high - low, 1e-9) * 255).astype(np.uint8)
  columns = math.ceil(math.sqrt(scaled.shape[2]))
  rows = -(-scaled.shape[2] // columns)
  spare = rows * columns - scaled.shape[2]
  scaled = np.pad(scaled, ((1, 1), (1, 1), (0, spare)))
  height, width = scaled.shape[:2]
  grid = scaled.reshape(height, width, rows, columns).transpose(2, 0, 3, 1)
  return grid.reshape(1, rows * height, columns * width, 1)


def as_markdown(recipe) -> str:
  """Returns a dataclass as a table, for the board's text page."""
  lines = ["| flag | value |", "| --- | --- |"]
  lines += [f"| {name} | `{value}` |" for name, value in dataclasses.asdict(recipe).items()]
  return "\n".join(lines)
