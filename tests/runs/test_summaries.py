"""The curves that TensorBoard shows of a run that was killed and went on."""

from __future__ import annotations

import time

from tensorboard.backend.event_processing import plugin_event_accumulator

from khuvcm_tf.runs import summaries
from khuvcm_tf.runs.options import RunOptions


def _log(logdir, first_step: int, steps, value: float):
  writer = summaries.SummaryWriter(str(logdir), first_step)
  for step in steps:
    writer.scalars(step, {"loss": value})
  writer.close()


def test_what_a_killed_start_logged_beyond_its_checkpoint_is_dropped(tmp_path, curve):
  _log(tmp_path, 0, (10, 20, 30, 40), 1.0)
  _log(tmp_path, 20, (30, 40, 50), 2.0)
  assert curve(tmp_path, "loss") == [(10, 1.0), (20, 1.0), (30, 2.0), (40, 2.0), (50, 2.0)]


def test_a_cut_record_at_the_end_of_a_file_does_not_matter(tmp_path, curve):
  _log(tmp_path, 0, (10, 20, 30), 1.0)
  path = next(path for path in tmp_path.iterdir() if path.name.endswith(".v2"))
  path.write_bytes(path.read_bytes()[:-7])
  _log(tmp_path, 10, (20, 30), 2.0)
  assert curve(tmp_path, "loss") == [(10, 1.0), (20, 2.0), (30, 2.0)]


def test_a_tensorboard_that_has_read_the_old_files_drops_their_end(tmp_path):
  # Files are read in the order of their names: by the second of their start, and within one by
  # their number in the process, as text. Here both starts are of one process.
  for _ in range(10):
    _log(tmp_path / "numbers_of_two_digits", 0, (), 0.0)
  live = plugin_event_accumulator.EventAccumulator(str(tmp_path))
  _log(tmp_path, 0, (10, 20, 30), 1.0)
  live.Reload()
  second = int(time.time())
  while int(time.time()) == second:
    time.sleep(0.01)
  _log(tmp_path, 20, (30, 40), 2.0)
  live.Reload()
  assert [event.step for event in live.Tensors("loss")] == [10, 20, 30, 40]


def test_a_start_killed_before_its_first_checkpoint_leaves_nothing(tmp_path, curve):
  _log(tmp_path, 0, (10, 20), 1.0)
  _log(tmp_path, 0, (10, 20), 2.0)
  assert curve(tmp_path, "loss") == [(10, 2.0), (20, 2.0)]


def test_options_are_shown_as_a_table():
  table = summaries.options_table(RunOptions(workdir="w", max_steps=5))
  assert table.startswith("| flag | value |\n| --- | --- |\n| workdir | `w` |\n| max_steps | `5` |")
