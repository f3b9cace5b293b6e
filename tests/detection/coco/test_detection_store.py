"""The store of detections: what outlives a kill, and what is not taken over."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from detection.coco.detection_store import DetectionStore
from khuvcm_tf import atomic_files

VALUES = {"detections": [{"bbox": [0.1, 2.0, 1e-30, 3.5], "score": 1 / 3}], "seconds": 0.25}


@pytest.fixture
def path(tmp_path):
  path = tmp_path / "detections.jsonl"
  with DetectionStore(str(path)) as store:
    assert store.get("a") is None
    store.add("a", VALUES)
    store.add("b", {"detections": []})
    assert store.get("a") == VALUES
  return path


def test_values_come_back_exactly_by_their_keys(path):
  with DetectionStore(str(path)) as store:
    assert repr(store.get("a")) == repr(VALUES)
    assert store.get("b") == {"detections": []} and store.get("c") is None


def test_what_was_added_is_on_disk_when_the_process_is_killed(path):
  code = f"""
import os, signal
from detection.coco.detection_store import DetectionStore
DetectionStore({str(path)!r}).add("c", {{"x": 1}})
os.kill(os.getpid(), signal.SIGKILL)
"""
  assert subprocess.run([sys.executable, "-c", code]).returncode == -9
  with DetectionStore(str(path)) as store:
    assert store.get("a") == VALUES and store.get("c") == {"x": 1}


@pytest.mark.parametrize("kept", [1, 40, -1])
def test_a_line_that_was_cut_is_made_anew_and_the_others_stay(path, kept):
  first, second = path.read_bytes().splitlines(keepends=True)
  path.write_bytes(first + second[:kept])
  for _ in range(2):
    with DetectionStore(str(path)) as store:
      assert store.get("a") == VALUES
      if store.get("b") is None:
        store.add("b", {"detections": [1]})
        store.add("c", {})
  with DetectionStore(str(path)) as store:
    assert [store.get(key) for key in "abc"] == [VALUES, {"detections": [1]}, {}] or kept == -1


@pytest.mark.parametrize(
  "damage",
  [
    lambda data: data.replace(b"0.25", b"0.26"),
    lambda data: data.replace(b'"a"', b'"d"'),
    lambda data: b"\xff" + data,
    lambda data: b"[]\n" + data[5:],
    lambda data: b"null\n" + data[5:],
    lambda data: b"",
  ],
  ids=["digit", "key", "no text", "list", "null", "empty"],
)
def test_damaged_lines_are_passed_over(path, damage):
  path.write_bytes(damage(path.read_bytes()))
  with DetectionStore(str(path)) as store:
    assert store.get("a") is None and store.get("d") is None


def test_a_file_that_cannot_be_written_is_named(tmp_path):
  with pytest.raises(atomic_files.FileError, match="none/x.jsonl: cannot be opened: No such file"):
    DetectionStore(str(tmp_path / "none" / "x.jsonl"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_is_said_with_the_bytes_that_are_needed(path, monkeypatch):
  with DetectionStore(str(path)) as store:
    monkeypatch.setattr(store, "_file", open("/dev/full", "wb", buffering=0))
    message = "cannot be written: No space left on device; expected space for 63 bytes; run again"
    with pytest.raises(atomic_files.FileError, match=message):
      store.add("c", {"x": 1})
    assert store.get("c") is None
