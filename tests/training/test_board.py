"""The curves that TensorBoard shows of a run that was killed and went on."""

from __future__ import annotations

import time

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator, plugin_event_accumulator

from khuvcm_tf.training import board as board_lib


def _log(logdir, first_step: int, steps, value: float):
  board = board_lib.Board(str(logdir), first_step)
  for step in steps:
    board.scalars(step, {"loss": value})
  board.close()


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


@pytest.mark.parametrize("number", [1, 3, 8])
def test_latents_are_laid_out_in_one_picture_each_scaled_by_itself(number):
  rng = np.random.default_rng(0)
  channels = rng.normal(size=(4, 5, number))
  mosaic = board_lib._mosaic(channels)
  columns = int(np.ceil(np.sqrt(number)))
  assert mosaic.shape[0] == mosaic.shape[3] == 1
  for c in range(number):
    top, left = c // columns * 6 + 1, c % columns * 7 + 1
    tile = mosaic[0, top : top + 4, left : left + 5, 0].astype(float)
    assert (tile.min(), tile.max()) == (0, 255)
    order = np.argsort(channels[..., c], axis=None)
    assert (np.diff(tile.ravel()[order]) >= 0).all()


def test_pictures_show_original_decoded_and_their_difference_side_by_side(tmp_path):
  original = np.full((4, 6, 3), 100, np.uint8)
  board = board_lib.Board(str(tmp_path), 0)
  board.pictures(5, "photo", original, np.full((4, 6, 3), 103.4, np.float32))
  board.close()
  events = event_accumulator.EventAccumulator(str(tmp_path))
  events.Reload()
  event = events.Tensors("photo")[0]
  shown = tf.io.decode_png(event.tensor_proto.string_val[2]).numpy()
  assert (event.step, shown.shape) == (5, (4, 18, 3))
  assert [int(shown[0, x, 0]) for x in (0, 6, 12)] == [100, 103, 140]
