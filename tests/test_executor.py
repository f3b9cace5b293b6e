"""Functions called for many items, and the list of what failed."""

from __future__ import annotations

import threading

import pytest
import tensorflow as tf

from khuvcm_tf import atomic_files, errors, executor
from khuvcm_tf.executor import FAILED, HERE, Here, Progress


class Resuming(Here):
  """Calls in this process as a cluster does elsewhere."""

  resumes = True


def _call(item: str) -> str:
  if item == "large":
    raise tf.errors.ResourceExhaustedError(None, None, "no room for [9]")
  if item in ("bad", "gone"):
    raise errors.Error("is broken") if item == "bad" else FileNotFoundError(2, "No such file", item)
  return item.upper()


@pytest.mark.parametrize("threads", [1, 3])
def test_what_fails_is_told_in_its_place_and_the_others_are_done(threads):
  items = ["a", "bad", "large", "gone", "b"]
  found = list(Here(threads).map(_call, items))
  assert [each.index for each in found] == list(range(5))
  assert [each.result for each in found] == ["A", None, None, None, "B"]
  kinds = [type(each.error) for each in found]
  assert kinds == [type(None), errors.Error, errors.Error, FileNotFoundError, type(None)]
  assert [executor.reason(each.error, items[each.index]) for each in found[1:4]] == [
    "bad: is broken",
    "large: out of memory: no room for [9]: give it less at once, or more memory",
    "gone: No such file",
  ]


def test_a_full_disk_ends_the_run():
  def call(item):
    raise atomic_files.NoRoomError("no space")

  with pytest.raises(atomic_files.NoRoomError):
    list(HERE.map(call, [1, 2]))


def test_a_bug_is_raised():
  with pytest.raises(KeyError):
    list(HERE.map({}.__getitem__, [1]))


def test_threads_call_at_the_same_time():
  both = threading.Barrier(2, timeout=60)
  assert [each.error for each in Here(2).map(lambda _: both.wait(), range(2))] == [None, None]


def _fail(folder, names, done=()):
  with Progress(len(names), "image", Resuming(), str(folder), True, done) as progress:
    for name in names:
      progress.fail(name, f"{name}: is damaged, or 'gone'")
  return progress.num_failed


def test_failures_are_listed_only_where_there_are_any(tmp_path):
  path = tmp_path / FAILED
  assert _fail(tmp_path, ["a, b", "c"]) == 2
  assert path.read_text().splitlines() == [
    "name,error",
    '"a, b","a, b: is damaged, or \'gone\'"',
    "c,\"c: is damaged, or 'gone'\"",
  ]
  assert _fail(tmp_path, []) == 0
  assert not path.exists()


def test_failures_that_are_not_tried_again_stay_listed(tmp_path):
  _fail(tmp_path, ["a", "b"])
  assert _fail(tmp_path, ["c"], done={"b", "x"}) == 2
  assert [line.split(",")[0] for line in (tmp_path / FAILED).read_text().splitlines()] == [
    "name",
    "b",
    "c",
  ]


def test_on_one_machine_there_is_no_list(tmp_path):
  with Progress(1, "image", HERE, str(tmp_path), True) as progress:
    progress.fail("a", "is damaged")
  assert progress.num_failed == 1 and list(tmp_path.iterdir()) == []


def test_the_bar_shows_images_bytes_and_failures(tmp_path, capsys):
  with Progress(3, "image", HERE, None, disable=False) as progress:
    progress.add(2, size=2_500_000)
    progress.fail("a", "is damaged")
    progress._bar.refresh()
  err = capsys.readouterr().err
  assert "3/3" in err and "2.50MB, 1 failed" in err
