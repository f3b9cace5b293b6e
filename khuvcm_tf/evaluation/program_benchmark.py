"""The cost of starting a program: seconds of whole processes, from start to exit.

Measured are the import of TensorFlow, which no program avoids, loading a model, and compress.py
and decompress.py of bin/ on one image. All of them run in turn, `repeats` rounds, so that a busy
machine disturbs them alike; the medians count. CPU seconds are user and system time of a process
with all its threads. TensorFlow is imported here only to build the random model.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from absl import logging
from PIL import Image

from khuvcm_tf import atomic_files, errors
from khuvcm_tf.data import image_files, sample_photos
from khuvcm_tf.options import option

RANDOM = "random_mbt2018"  # stands for a model that is built for the benchmark
_SIZE = 768, 512
_IMPORT = "import tensorflow, tensorflow_compression"
_LOAD = "import sys, khuvcm_tf; khuvcm_tf.load(sys.argv[1])"


class ProgramBenchmarkError(errors.Error):
  """A program that failed while it was measured."""


@dataclasses.dataclass(frozen=True)
class Options:
  """Which models are measured, on which image, and how often."""

  models: tuple[str, ...] = option(
    ("mbt2018_mean", RANDOM),
    f"Models as bin/compress.py takes them; {RANDOM} is an mbt2018 of the paper's lower rates "
    "(N = 128, M = 192) with random weights, built in a minute.",
    path="input",
  )
  image: str | None = option(None, "Image to code; by default a photo of 768x512.", path="input")
  repeats: int = option(3, "Rounds; the median of each program counts.", low=1)
  json: str | None = option(None, "File for the seconds.", path="file")


class Seconds(NamedTuple):
  """Of one process."""

  cpu: float
  wall: float


class Row(NamedTuple):
  """The medians of one program.

  Attributes:
    model: None of the import, which has no model.
    step: "import", "load", "compress" or "decompress".
    seconds: of the whole process.
    beyond_import: `seconds` less those of the import.
  """

  model: str | None
  step: str
  seconds: Seconds
  beyond_import: Seconds


def run(options: Options, programs: str) -> list[Row]:
  """Measures all programs.

  Args:
    options: what to measure.
    programs: folder of compress.py and decompress.py.

  Returns:
    A row for the import, then those of each model.

  Raises:
    ProgramBenchmarkError: no model is named, or a program failed.
    image_files.ImageError: the image cannot be read.
  """
  if not options.models:
    raise ProgramBenchmarkError("found no model, expected at least one in --models")
  with tempfile.TemporaryDirectory() as folder:
    image = os.path.join(folder, "image.png")
    pixels = image_files.read_image(options.image) if options.image else photo()
    image_files.write_image(image, pixels)
    commands = {(None, "import"): [sys.executable, "-c", _IMPORT]}
    for number, model in enumerate(dict.fromkeys(options.models)):
      path = os.path.join(folder, RANDOM) if model == RANDOM else model
      if model == RANDOM:
        build_random_model(path)
      commands.update(_commands(model, path, image, os.path.join(folder, str(number)), programs))
    measure(commands[None, "import"])  # Not counted: it reads files that are not cached yet.
    rounds = []
    for number in range(options.repeats):
      logging.info("round %d of %d", number + 1, options.repeats)
      rounds.append([measure(command) for command in commands.values()])
  return _rows(list(commands), rounds)


def photo() -> np.ndarray:
  """Returns scikit-image's coffee, enlarged to 768x512: uint8 [512, 768, 3]."""
  coffee = Image.fromarray(sample_photos.load()["coffee"])
  return np.asarray(coffee.resize(_SIZE, Image.Resampling.BICUBIC))


def build_random_model(folder: str, num_filters: int = 128, latent_depth: int = 192) -> None:
  """Writes a folder of an mbt2018 with random weights, of about the cost of a trained one."""
  import tensorflow as tf

  from khuvcm_tf import codecs, model_files

  logging.info("building %s", RANDOM)
  tf.keras.utils.set_random_seed(0)
  arguments = {"num_filters": num_filters, "latent_depth": latent_depth}
  codec = codecs.create("mbt2018", **arguments)
  crops = [each[:256, :256] for each in sample_photos.load().values()]
  model_files.save(folder, codec, {"codec": "mbt2018", "arguments": arguments}, crops)


def _commands(model: str, path: str, image: str, stem: str, programs: str):
  """Returns the programs of a model, (model, step): command."""
  commands = {(model, "load"): [sys.executable, "-c", _LOAD, path]}
  files = {"compress": (image, f"{stem}.kvc"), "decompress": (f"{stem}.kvc", f"{stem}.png")}
  for step, (source, target) in files.items():
    program = os.path.join(programs, f"{step}.py")
    flags = [f"--model={path}", f"--input={source}", f"--output={target}", "--overwrite"]
    commands[model, step] = [sys.executable, program, *flags]
  return commands


def measure(command: Sequence[str]) -> Seconds:
  """Runs a process to its end; raises ProgramBenchmarkError where its exit code is not 0."""
  with tempfile.TemporaryFile("w+") as said:
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=said, stderr=said)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)  # so that Popen does not wait for it
    if process.returncode != 0:
      said.seek(0)
      last = (said.read().strip().splitlines() or ["nothing"])[-1]
      raise ProgramBenchmarkError(
        f"{' '.join(command)} ended with {process.returncode}, expected 0; its last line: {last}"
      )
  return Seconds(usage.ru_utime + usage.ru_stime, wall)


def _rows(keys: list[tuple[str | None, str]], rounds: list[list[Seconds]]) -> list[Row]:
  """Returns the medians over rounds; the first key is the import."""
  medians = [
    Seconds(*(statistics.median(values) for values in zip(*each))) for each in zip(*rounds)
  ]
  first = medians[0]
  return [
    Row(*key, each, Seconds(each.cpu - first.cpu, each.wall - first.wall))
    for key, each in zip(keys, medians)
  ]


def table(rows: Sequence[Row]) -> str:
  """Returns rows as text, a line each."""
  width = max(len(row.model or "") for row in rows)
  lines = [f"{'seconds':{width}}  {'':10}  {'CPU':>7} {'beyond':>7}  {'wall':>7} {'beyond':>7}"]
  lines += [
    f"{row.model or '':{width}}  {row.step:10}  {row.seconds.cpu:7.2f} {row.beyond_import.cpu:7.2f}"
    f"  {row.seconds.wall:7.2f} {row.beyond_import.wall:7.2f}"
    for row in rows
  ]
  return "\n".join([*lines, "beyond: less the seconds of the import"])


def write_json(path: str, rows: Sequence[Row], options: Options) -> None:
  """Writes options and rows; `cpu`, `wall` and those `_beyond_import` are seconds."""
  content = {
    "options": dataclasses.asdict(options),
    "rows": [
      {
        "model": row.model,
        "step": row.step,
        **row.seconds._asdict(),
        **{f"{name}_beyond_import": value for name, value in row.beyond_import._asdict().items()},
      }
      for row in rows
    ],
  }
  atomic_files.write_text(path, json.dumps(content, indent=2) + "\n")
