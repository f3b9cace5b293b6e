"""Many images by many workers: the executor of `khuvcm_tf.executor` on Ray, on one machine or many.

Each worker is a Ray actor: a process that unpickles the function once, its model with it, and then
takes one item after the other. Only items and results move; images are read and written by the
workers, so all machines must see the same files under the same paths.

A worker that dies, alone or with its machine, is started again where there is room, and its item is
done by another. An item that was lost so `MAX_DEATHS` times fails, and the run goes on.

Nothing here imports Ray where no cluster is asked for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging as python_logging
import os
import secrets
import socket
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any, Callable

from absl import logging

from khuvcm_tf import errors
from khuvcm_tf.executor import HERE, Executor, Outcome, attempt
from khuvcm_tf.options import OptionsError, check, option

MAX_DEATHS = 3
_OBJECT_STORE = 2**27  # bytes, of a cluster of our own: what moves is small
_PATIENCE = 60  # seconds without a worker after which that is said


class ClusterError(errors.Error):
  """A cluster that cannot be used, or that lost an item again and again."""


@dataclasses.dataclass(frozen=True)
class ClusterOptions:
  """Where images are worked on, beside this process.

  Raises:
    OptionsError: workers are described, but no cluster is named.
  """

  cluster: str | None = option(
    None,
    "'local': in several processes of this machine; or the address of a Ray cluster, such as auto "
    "or 10.0.0.1:6379. Started again, the run goes on where it was ended.",
  )
  workers: int | None = option(
    None, "Processes on the cluster; default: as many as there is room for.", low=1
  )
  cpus_per_worker: int = option(1, "Processor cores, and TensorFlow's threads, of each.", low=1)
  gpus_per_worker: float = option(0.0, "GPUs of each; 0.5: two of them share one.", low=0)

  def __post_init__(self):
    defaults = {field.name: field.default for field in dataclasses.fields(self)}
    for name, default in defaults.items():
      if self.cluster is None and getattr(self, name) != default:
        raise OptionsError(f"found --{name} without --cluster; add it, or leave --{name} out")


@contextlib.contextmanager
def start(options: ClusterOptions) -> Iterator[Executor]:
  """Gives the executor that the options name; what was started for it ends with the block.

  Raises:
    ClusterError: Ray is not installed, there is no such cluster, or no room for a worker.
  """
  check(options)
  if options.cluster is None:
    yield HERE
    return
  # Ray reads these when it is imported. It would send statistics; and keep a token in the home
  # folder, which changes how other clusters start.
  os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
  own = {}
  if options.cluster == "local":
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    own = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE}
  try:
    import ray
  except ImportError as error:
    raise ClusterError(
      "--cluster needs the package ray, which is not installed; run: pip install "
      "'khuvcm-tf[cluster]', or '.[cluster]' in a checkout"
    ) from error
  try:
    _check_reachable(options.cluster)
    ray.init(
      options.cluster,
      logging_level=python_logging.ERROR,
      log_to_driver=False,
      **own,
    )
  except (ConnectionError, ValueError, RuntimeError, OSError, ray.exceptions.RayError) as error:
    raise ClusterError(
      f"--cluster={options.cluster}: {_first_line(error)}; expected 'local', or the address of a "
      "Ray cluster that this machine belongs to: ray start --address=HEAD:6379"
    ) from error
  try:
    yield OnRay(options)
  finally:
    ray.shutdown()


def _check_reachable(address: str) -> None:
  """Raises OSError or ValueError where nothing answers at HOST:PORT: Ray would wait for minutes."""
  if address not in ("local", "auto") and "://" not in address:
    host, _, port = address.rpartition(":")
    socket.create_connection((host, int(port)), timeout=10).close()


class OnRay:
  """Calls a function in the workers of the Ray cluster that this process is connected to.

  Args:
    options: how many workers, and what each has.
  """

  resumes = True

  def __init__(self, options: ClusterOptions):
    self._cpus, self._gpus = options.cpus_per_worker, options.gpus_per_worker
    room = self._room()
    if not room:
      raise ClusterError(
        f"no machine of the cluster has {self._cpus} CPUs and {self._gpus:g} GPUs, expected one at "
        "least; give a smaller --cpus_per_worker or --gpus_per_worker"
      )
    self._count = options.workers or room
    if self._count > room:
      logging.warning(
        "there is room for %d of %d workers; the others wait for machines", room, self._count
      )

  def map(self, function: Callable[[Any], Any], items: Sequence) -> Iterator[Outcome]:
    """Yields an outcome for each item as it comes.

    Raises:
      ClusterError: workers cannot start.
      errors.Error: a worker cannot load what the function needs.
    """
    run = _Run(self._cpus, self._gpus, function, items)
    try:
      yield from run.outcomes(self._count)
    finally:
      run.end()

  def _room(self) -> int:
    """Returns how many workers the machines of the cluster have room for."""
    import ray

    def of(resources: dict[str, float]) -> int:
      rooms = [resources.get("CPU", 0) / self._cpus]
      if self._gpus:
        rooms.append(resources.get("GPU", 0) / self._gpus)
      return int(min(rooms))

    return sum(of(node["Resources"]) for node in ray.nodes() if node["Alive"])


class _Run:
  """A function called for items; a worker is sent an item when it has done the one before."""

  def __init__(self, cpus: int, gpus: float, function: Callable[[Any], Any], items: Sequence):
    import ray

    self._ray, self._items = ray, items
    self._todo, self._deaths, self._failed_starts = deque(range(len(items))), Counter(), 0
    self._workers, self._idle = set(), []
    self._answers = {}  # reference of an answer -> worker, and index of the item; None: of `load`
    self._class = ray.remote(num_cpus=cpus, num_gpus=gpus, scheduling_strategy="SPREAD")(_Worker)
    threads = dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), str(cpus))
    same = {key: value for key, value in os.environ.items() if key.startswith(("KHUVCM_", "TF_"))}
    self._environment = {**same, "TF_FORCE_GPU_ALLOW_GROWTH": "true", **threads}
    self._function = ray.put(ray.cloudpickle.dumps(function))

  def outcomes(self, count: int) -> Iterator[Outcome]:
    left = len(self._items)
    for _ in range(min(count, left)):
      self._start()
    while left:
      outcome = self._next()
      if outcome is not None:
        left -= 1
        yield outcome

  def end(self) -> None:
    for worker in self._workers:
      self._ray.kill(worker)

  def _start(self) -> None:
    """Starts a worker, at once or when there is room."""
    worker = self._class.remote(os.getcwd(), self._environment)
    self._workers.add(worker)
    self._answers[worker.load.remote(self._function)] = worker, None

  def _next(self) -> Outcome | None:
    """Waits for a worker, sends it an item, and returns the outcome of its last one if it has any.

    Raises:
      ClusterError: workers cannot start.
    """
    answer = self._wait()
    worker, index = self._answers.pop(answer)
    try:
      outcome = self._outcome(index, self._ray.get(answer))
      self._idle.append(worker)
    except self._ray.exceptions.RayTaskError as error:  # raised in `load`, or a bug
      raise error.cause from error
    except self._ray.exceptions.RayError as error:
      self._workers.remove(worker)
      outcome = self._lost(index, error)
      self._start()
    while self._todo and self._idle:
      index, worker = self._todo.popleft(), self._idle.pop()
      self._answers[worker.call.remote(self._items[index])] = worker, index
    return outcome

  def _wait(self):
    """Returns the reference of an answer that has come."""
    while True:
      answers, _ = self._ray.wait(list(self._answers), timeout=_PATIENCE)
      if answers:
        return answers[0]
      if all(index is None for _, index in self._answers.values()):
        logging.warning("no worker has started for %d s: the cluster has no room", _PATIENCE)

  def _outcome(self, index: int | None, answer: tuple | None) -> Outcome | None:
    self._failed_starts = 0
    if index is None:
      return None
    result, error, notes = answer
    for note in notes:
      logging.warning("%s", note)
    return Outcome(index, result, error)

  def _lost(self, index: int | None, error: Exception) -> Outcome | None:
    """Returns the outcome of an item whose worker has died; None where it is tried again."""
    if index is None:
      self._failed_starts += 1
      if self._failed_starts > MAX_DEATHS * (len(self._workers) + 1):
        reason = str(error).strip().splitlines()[-1]  # behind the traceback where there is one
        raise ClusterError(
          f"workers die before they have started: {reason}; expected the same installation, and "
          "memory for the model, on all machines of the cluster"
        )
      return None
    self._deaths[index] += 1
    if self._deaths[index] < MAX_DEATHS:
      logging.warning("a worker died, another does its image: %s", _first_line(error))
      self._todo.append(index)
      return None
    died = ClusterError(
      f"its worker died {MAX_DEATHS} times, most often for want of memory; start fewer --workers, "
      f"or leave it out ({_first_line(error)})"
    )
    return Outcome(index, None, died)


class _Worker:
  """The process of a worker, an actor of Ray.

  Args:
    folder: in which paths are meant.
    environment: variables to set before TensorFlow is imported.
  """

  def __init__(self, folder: str, environment: dict[str, str]):
    os.environ.update(environment)
    self._folder, self._notes = folder, []
    handler = _Collector(self._notes)
    logging.get_absl_logger().addHandler(handler)

  def load(self, function: bytes) -> None:
    import ray

    try:
      os.chdir(self._folder)
    except OSError as error:
      raise ClusterError(
        f"{self._folder}: {error.strerror} on {os.uname().nodename}, expected the same folder on "
        "all machines of the cluster"
      ) from error
    self._function = ray.cloudpickle.loads(function)

  def call(self, item: Any) -> tuple[Any, Exception | None, list[str]]:
    """Returns what the function returns for an item, or why it cannot; and what it warned of."""
    self._notes.clear()
    return *attempt(self._function, item), list(self._notes)


class _Collector(python_logging.Handler):
  """Keeps warnings as text."""

  def __init__(self, notes: list[str]):
    super().__init__(python_logging.WARNING)
    self._notes = notes

  def emit(self, record: python_logging.LogRecord) -> None:
    self._notes.append(record.getMessage())


def _first_line(error: Exception) -> str:
  return str(error).strip().splitlines()[0].rstrip(".:")
