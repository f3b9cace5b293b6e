"""Files of many jobs: written once, whatever ends the run, and shards that are read back."""

from __future__ import annotations

import json
import os
import re

import pytest

from khuvcm_tf import batch_outputs, errors
from khuvcm_tf.atomic_files import FileError
from khuvcm_tf.batch_outputs import Content, FilesError, Job
from khuvcm_tf.data import inputs
from khuvcm_tf.executor import Here


class Resuming(Here):
  """Calls in this process as a cluster does elsewhere."""

  resumes = True


class _Code:
  """Codes a text to upper case and notes it; some are bad, and one may end the run."""

  def __init__(self, end: str = ""):
    self.coded, self._end = [], end

  def __call__(self, job: Job) -> Content:
    text = job.input.content().decode()
    if text == self._end:
      raise KeyboardInterrupt
    self.coded.append(text)
    if text == "bad":
      raise errors.Error("is bad")
    return Content(text.upper().encode(), quality=float(len(text)))


@pytest.fixture
def jobs(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name in ("a", "b", "sub/c", "sub/d", "e"):
    os.makedirs(os.path.dirname(f"in/{name}") or ".", exist_ok=True)
    with open(f"in/{name}.txt", "w") as file:
      file.write(name[-1])
  found = inputs.find("in", (".txt",), "texts", ())
  return [Job(each, f"out/{each.name[:-4]}.up", True) for each in found]


def _run(code, jobs, executor=None, **named):
  executor = executor or Resuming()
  return batch_outputs.code_all(code, jobs, executor=executor, folder="out", feature="x", **named)


def _outputs() -> list[str]:
  return sorted(
    os.path.relpath(os.path.join(folder, name), "out")
    for folder, _, names in os.walk("out")
    for name in names
  )


def test_each_job_gets_its_file_and_is_told(jobs):
  coded = _run(_Code(), jobs, Here())
  assert [(each.source, each.target) for each in coded] == [(j.label, j.target) for j in jobs]
  assert [(each.bytes_read, each.bytes_written, each.quality) for each in coded] == [
    (1, 1, 1.0)
  ] * 5
  assert _outputs() == ["a.up", "b.up", "e.up", "sub/c.up", "sub/d.up"]


def test_a_run_that_was_ended_codes_nothing_twice(jobs):
  code = _Code(end="e")
  with pytest.raises(KeyboardInterrupt):
    _run(code, jobs)
  assert code.coded == ["a", "b"]
  again = _Code()
  assert [each.target for each in _run(again, jobs)] == [
    f"out/{n}.up" for n in ("e", "sub/c", "sub/d")
  ]
  assert again.coded == ["e", "c", "d"]
  assert _run(_Code(), jobs) == []


def test_on_one_machine_files_that_exist_are_an_error(jobs):
  _run(_Code(), jobs[:1], Here())
  with pytest.raises(FileError, match=r"^out/a\.up exists; give another --output, or --overwri"):
    _run(_Code(), jobs, Here())


def test_files_of_another_run_are_not_kept(jobs):
  _run(_Code(), jobs, about={"rate": 1})
  text = r"^out/run\.json has rate 1, found 2: the files beside it are of another run; give another"
  with pytest.raises(FilesError, match=text):
    _run(_Code(), jobs, about={"rate": 2})
  code = _Code()
  _run(code, jobs, about={"rate": 2}, overwrite=True)
  assert len(code.coded) == 5
  assert _run(_Code(), jobs, about={"rate": 2}) == []


def test_files_of_which_nothing_is_known_are_not_kept(jobs):
  _run(_Code(), jobs[:1], Here())
  with pytest.raises(FileError, match=r"^out/a\.up exists; give another --output"):
    _run(_Code(), jobs)


@pytest.mark.parametrize("content", ["", "[1]", "{"])
def test_a_damaged_account_of_a_run_is_named(jobs, content):
  os.mkdir("out")
  with open("out/run.json", "w") as file:
    file.write(content)
  with pytest.raises(FilesError, match=r"^out/run\.json: cannot be read: .*; give another --outp"):
    _run(_Code(), jobs)


def test_failures_are_listed_and_tried_again(jobs, capsys):
  with open("in/b.txt", "w") as file:
    file.write("bad")
  for _ in range(2):
    with pytest.raises(FilesError, match="^1 of 5 files were not coded, for the reasons above$"):
      _run(_Code(), jobs)
    with open("out/failed.csv") as file:
      assert file.read().splitlines() == ["name,error", "in/b.txt,in/b.txt: is bad"]
  assert capsys.readouterr().err.count("failed: in/b.txt: is bad") == 2
  with open("in/b.txt", "w") as file:
    file.write("b")
  code = _Code()
  _run(code, jobs)
  assert code.coded == ["b"] and "failed.csv" not in _outputs()


def _contents() -> dict[str, bytes]:
  return {each.name: each.content() for each in inputs.find("out", (".none",), "texts", ("x",))}


def test_shards_hold_what_files_would(jobs):
  coded = _run(_Code(), jobs, shards=2)
  shards = [f"part-{i:05}-of-00002.tfrecord" for i in range(2)]
  assert _outputs() == [*shards, "run.json"]
  assert [each.target for each in coded] == [f"out/{shards[i]}" for i in (0, 0, 1, 1, 1)]
  names = ["a.up", "b.up", "e.up", "sub/c.up", "sub/d.up"]
  assert _contents() == {n: re.sub(r".*/|\.up", "", n).upper().encode() for n in names}


def test_there_are_no_more_shards_than_jobs(jobs):
  _run(_Code(), jobs, shards=99)
  assert len(_contents()) == 5 and "part-00004-of-00005.tfrecord" in _outputs()


def test_a_shard_is_whole_or_made_anew(jobs):
  with pytest.raises(KeyboardInterrupt):
    _run(_Code(end="d"), jobs, shards=2)
  assert _outputs() == ["part-00000-of-00002.tfrecord", "run.json"]
  code = _Code()
  _run(code, jobs, shards=2)
  assert code.coded == ["e", "c", "d"] and len(_contents()) == 5


def test_failures_of_shards_that_are_done_stay_listed(jobs):
  with open("in/b.txt", "w") as file:
    file.write("bad")
  for calls in (5, 0):
    code = _Code()
    with pytest.raises(FilesError, match="^1 of 5 files were not coded"):
      _run(code, jobs, shards=2)
    assert len(code.coded) == calls and len(_contents()) == 4
    with open("out/failed.csv") as file:
      assert file.read().splitlines() == ["name,error", "in/b.txt,in/b.txt: is bad"]


def test_shards_of_other_inputs_are_of_another_run(jobs):
  _run(_Code(), jobs, shards=2)
  with pytest.raises(FilesError, match=r"^out/run\.json has inputs '\w+', found '\w+': the files"):
    _run(_Code(), jobs[1:], shards=2)
  with open("out/run.json") as file:
    assert json.load(file)["shards"] == 2


def test_jobs_of_one_target_are_refused(jobs):
  with pytest.raises(FilesError, match=r"^in/a\.txt and in/b\.txt would both become out/a\.up; re"):
    _run(_Code(), [jobs[0], jobs[1]._replace(target="out/a.up")])
