"""What is written as it comes, and never put in the place of what it is made from."""

from __future__ import annotations

import errno
import json
import os

import pytest

from khuvcm_tf import atomic_files


@pytest.fixture
def here(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  return tmp_path


def test_names_that_are_not_utf8_are_written_as_json_reads_them(here):
  name = os.fsdecode(b"caf\xe9 \xc3\xa9")
  atomic_files.write_text("a.json", json.dumps(name, ensure_ascii=False))
  assert (here / "a.json").read_text("utf-8") == r'"caf\udce9 é"'
  assert json.loads((here / "a.json").read_text("utf-8")) == name


def test_what_was_found_stays_until_the_work_is_done(here):
  with pytest.raises(KeyboardInterrupt), atomic_files.kept_lines("a.part") as keep:
    keep({"name": "caf\udce9"})
    keep([1.5, None])
    raise KeyboardInterrupt
  lines = (here / "a.part").read_text("ascii").splitlines()
  assert list(map(json.loads, lines)) == [{"name": "caf\udce9"}, [1.5, None]]
  with atomic_files.kept_lines("a.part") as keep:
    keep(1)
    assert (here / "a.part").read_text("ascii") == "1\n"
  assert os.listdir() == []


def test_nothing_found_leaves_nothing(here):
  with pytest.raises(ValueError), atomic_files.kept_lines("a.part"):
    raise ValueError
  assert os.listdir() == []
  message = r"^no/a\.part: cannot be written: No such file"
  with pytest.raises(atomic_files.FileError, match=message), atomic_files.kept_lines("no/a.part"):
    pass


def test_a_full_disk_is_told_from_a_name_that_fits_nowhere(here, monkeypatch):
  with pytest.raises(atomic_files.FileError, match="File name too long") as found:
    atomic_files.write_bytes("a" * 300, b"")
  assert not isinstance(found.value, atomic_files.NoRoomError)

  def fail(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(os, "replace", fail)
  with pytest.raises(atomic_files.NoRoomError, match="No space left on device"):
    atomic_files.write_bytes("a", b"")


def test_targets_are_checked_against_sources_and_what_exists(here):
  (here / "a").touch()
  os.symlink("a", "link")
  for target in ("a", "link", f"{here}/a"):
    with pytest.raises(atomic_files.FileError, match=r" would replace a, from which it is mad"):
      atomic_files.check_targets([target], ["a"])
  atomic_files.check_targets(["a", "b"], ["c"])
  with pytest.raises(atomic_files.FileError, match="^a exists; give another --output, or --o"):
    atomic_files.check_targets(["b", "a"], overwrite=False)
