"""Ray's workers against this process: the same results, whatever dies on the way."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import signal
import sys

import numpy as np
import pytest
from absl import logging

from khuvcm_tf import batch_coding, cluster, errors
from khuvcm_tf.batch_options import CompressOptions, DecompressOptions
from khuvcm_tf.cluster import ClusterError, ClusterOptions
from khuvcm_tf.data import image_files
from khuvcm_tf.executor import HERE
from khuvcm_tf.options import OptionsError

MODEL = str(pathlib.Path(__file__).parent / "golden" / "mbt2018_mean" / "model")


def test_workers_without_a_cluster_are_refused():
  with pytest.raises(OptionsError, match=r"^found --workers without --cluster; add it, or leave"):
    ClusterOptions(workers=2)
  with cluster.start(ClusterOptions()) as executor:
    assert executor is HERE


def test_where_ray_is_missing_it_is_said_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, "ray", None)
  with pytest.raises(ClusterError, match=r"^--cluster needs the package ray, .*\[cluster\]"):
    with cluster.start(ClusterOptions(cluster="local")):
      pass


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nothing"])
def test_where_no_cluster_answers_it_is_said_at_once(address):
  if importlib.util.find_spec("ray") is None:
    pytest.skip("needs Ray: pip install '.[cluster]'")
  with pytest.raises(ClusterError, match=rf"^--cluster={address}: .*; expected 'local', or the ad"):
    with cluster.start(ClusterOptions(cluster=address)):
      pass


@pytest.fixture(scope="module")
def executor():
  """Two workers on this machine."""
  if importlib.util.find_spec("ray") is None:
    pytest.skip("needs Ray: pip install '.[cluster]'")
  with pytest.MonkeyPatch.context() as patch:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):  # set by the start, before Ray is imported
      patch.setenv(name, "")
      patch.delenv(name)
    with cluster.start(ClusterOptions(cluster="local", workers=2)) as started:
      sys.modules["ray"].cloudpickle.register_pickle_by_value(sys.modules[__name__])
      yield started


def _half(item: int) -> int:
  if item % 2:
    raise errors.Error(f"{item} is odd")
  return item // 2


def test_outcomes_are_those_of_this_process(executor):
  items = list(range(9))
  expected = [(i, result, str(error)) for i, result, error in HERE.map(_half, items)]
  found = [(i, result, str(error)) for i, result, error in executor.map(_half, items)]
  assert sorted(found) == expected


def test_a_bug_ends_the_run_as_itself(executor):
  with pytest.raises(ZeroDivisionError):
    list(executor.map(lambda item: 1 // item, [1, 0, 2]))


class _Deadly:
  """Notes each call in a folder; some items end the process, as long as there were few calls."""

  def __init__(self, folder: pathlib.Path, deadly: dict[int, int]):
    self._folder, self._deadly = folder, deadly

  def __call__(self, item: int) -> int:
    calls = len(list(self._folder.glob(f"{item}-*")))
    (self._folder / f"{item}-{calls}").touch()
    if calls < self._deadly.get(item, 0):
      os.kill(os.getpid(), signal.SIGKILL)
    return item


def test_items_of_workers_that_die_are_done_again_and_a_deadly_one_fails(executor, tmp_path):
  function = _Deadly(tmp_path, {1: 1, 2: 2, 3: 9})
  found = {index: (result, error) for index, result, error in executor.map(function, range(6))}
  assert {index: result for index, (result, _) in found.items()} == {
    index: None if index == 3 else index for index in range(6)
  }
  assert isinstance(found[3][1], ClusterError)
  assert "its worker died 3 times" in str(found[3][1])
  calls = sorted(path.name for path in tmp_path.iterdir())
  assert calls == ["0-0", "1-0", "1-1", "2-0", "2-1", "2-2", "3-0", "3-1", "3-2", "4-0", "5-0"]


def _warn(item: int) -> int:
  logging.warning("%d is %s", item, os.getcwd())
  return item


def test_workers_warn_here_and_are_in_this_folder(executor, tmp_path, monkeypatch, caplog):
  monkeypatch.chdir(tmp_path)
  list(executor.map(_warn, [7, 8]))
  assert sorted(r.getMessage() for r in caplog.records) == [f"{i} is {tmp_path}" for i in (7, 8)]


def test_workers_have_a_thread_for_each_core_and_the_variables_of_this_process(
  executor, monkeypatch
):
  monkeypatch.setenv("KHUVCM_MODELS", "elsewhere")
  names = "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "KHUVCM_MODELS"
  ((_, found, _),) = executor.map(lambda name: [os.environ[n] for n in names], [0])
  assert found == ["1", "1", "elsewhere"]


class _Unloadable:
  def __reduce__(self):
    return _fail, ()

  def __call__(self, item):
    """Is never called."""


def _fail():
  raise errors.Error("no such model here")


def test_a_worker_that_cannot_load_its_model_ends_the_run(executor):
  with pytest.raises(errors.Error, match="^no such model here$"):
    list(executor.map(_Unloadable(), [0]))


class _DiesWhenItIsLoaded:
  def __reduce__(self):
    return _die, ()

  def __call__(self, item):
    """Is never called."""


def _die():
  os.kill(os.getpid(), signal.SIGKILL)


def test_workers_that_die_when_they_start_end_the_run(executor):
  alone = cluster.OnRay(ClusterOptions(cluster="local", workers=1))
  with pytest.raises(ClusterError, match="^workers die before they have started: "):
    list(alone.map(_DiesWhenItIsLoaded(), [0]))


def test_without_room_for_a_worker_there_is_no_run(executor):
  with pytest.raises(ClusterError, match=r"^no machine of the cluster has 999 CPUs and 0 GPUs, ex"):
    cluster.OnRay(ClusterOptions(cluster="local", cpus_per_worker=999))


def test_files_are_those_of_this_process_and_are_coded_once(executor, tmp_path, capsys):
  """With a model in a worker: compress, again, and back."""
  alone = cluster.OnRay(ClusterOptions(cluster="local", workers=1))
  rng = np.random.default_rng(0)
  (tmp_path / "photos" / "sub").mkdir(parents=True)
  for name in ("a.png", "sub/b.png", "sub/c.png"):
    image = rng.integers(0, 256, (33, 40, 3), np.uint8)
    image_files.write_image(str(tmp_path / "photos" / name), image)
  (tmp_path / "photos" / "bad.png").write_bytes(b"no image")

  def run(run, options, output, executor):
    with pytest.raises(batch_coding.FilesError, match=r"^1 of 4 files were not coded, for the re"):
      run(options, executor)
    folder = tmp_path / output
    return {
      str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_ino)
      for path in folder.rglob("*.*")
    }

  def options(output):
    folder = str(tmp_path / "photos"), str(tmp_path / output)
    return CompressOptions(model=MODEL, input=folder[0], output=folder[1])

  here = run(batch_coding.run_compress, options("here"), "here", HERE)
  there = run(batch_coding.run_compress, options("there"), "there", alone)
  again = run(batch_coding.run_compress, options("there"), "there", alone)
  names = {"a.kvc", "sub/b.kvc", "sub/c.kvc"}
  assert set(here) == names and set(there) == {*names, "failed.csv", "run.json"}
  assert all(there[name][0] == here[name][0] for name in names)
  assert all(again[name] == there[name] for name in names)
  assert again["failed.csv"][0].startswith(b"name,error\r\n%s/photos/bad.png," % bytes(tmp_path))
  decoded = str(tmp_path / "there"), str(tmp_path / "decoded")
  given = DecompressOptions(model=MODEL, input=decoded[0], output=decoded[1])
  assert batch_coding.run_decompress(given, alone).startswith("3 files decompressed to ")
