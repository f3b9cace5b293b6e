"""Pictures and raw frames on disk to .kvc files and back, one or a whole folder."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable
from typing import Callable, NamedTuple

import tqdm

from khuvcm_tf import bitstream, coding, errors, model_files, saved_model
from khuvcm_tf.data import frames as frames_lib
from khuvcm_tf.data import images

SUFFIX = ".kvc"
_RAW = (".yuv", ".y4m")


class FilesError(errors.Error):
  """Files that were not all coded."""


class Job(NamedTuple):
  """A file to read and the file to write."""

  source: str
  target: str
  makes_folder: bool = False  # whether the target's folder is made where it does not exist
  frame: int = 0  # of a file of raw frames


def open_model(path_or_name: str, precision: str = "float32"):
  """Loads a model's folder, a training workdir, a shipped name, or a SavedModel.

  Returns:
    `coding.Model` or `saved_model.ExportedModel`; both compress and decompress.
  """
  if saved_model.is_saved_model(path_or_name):
    return saved_model.ExportedModel(path_or_name)
  return model_files.load(path_or_name, precision)


def compress(model, pattern: str, output: str, alpha: str = "refuse", overwrite: bool = False):
  """Compresses a picture to a file, or a folder's or glob's pictures to a folder.

  Args:
    model: of `open_model`.
    pattern: a picture, a folder (with its subfolders) or a glob.
    output: a file's name for one picture, a folder for several.
    alpha: what is done with transparency (`images.read_image`).
    overwrite: whether files that exist are replaced.

  Returns:
    The jobs that were done.

  Raises:
    images.ImageError, coding.ModelError: the only picture cannot be coded.
    FilesError: an output exists, or some of several pictures were not coded.
  """

  def code(job):
    images.write_bytes(job.target, model.compress(images.read_image(job.source, alpha)))

  return _run(_jobs(images.find_images(pattern), pattern, output, SUFFIX, overwrite), code)


def is_raw(path: str) -> bool:
  """Tells whether a path names raw frames, by its suffix."""
  return os.path.splitext(path)[1].lower() in _RAW


def compress_frames(
  model,
  path: str,
  output: str,
  numbers: str = ":",
  width: int | None = None,
  height: int | None = None,
  bits: int | None = None,
  overwrite: bool = False,
):
  """Compresses raw 4:2:0 frames to OUTPUT/NAME_00000.kvc and so on, by the frames' numbers.

  Args:
    model: of `open_model`, of a codec of 4:2:0.
    path: a .yuv or .y4m file.
    output: a folder; made if need be.
    numbers: which frames, as in "0:10".
    width, height, bits: of `frames.open_frames`.
    overwrite: whether files that exist are replaced.

  Returns:
    The jobs that were done.

  Raises:
    frames.FrameError: the file is no such.
    coding.ModelError: the only frame cannot be coded.
    FilesError: an output exists, or some of several frames were not coded.
  """
  path, output = os.path.expanduser(path), os.path.expanduser(output)
  reader = frames_lib.open_frames(path, width, height, bits)
  stem = os.path.splitext(os.path.basename(path))[0]
  digits = max(5, len(str(reader.count - 1)))  # so that names are in the order of numbers
  jobs = [
    Job(path, os.path.join(output, f"{stem}_{number:0{digits}}{SUFFIX}"), True, number)
    for number in frames_lib.parse_range(numbers, reader.count)
  ]
  if output.endswith(SUFFIX) or (os.path.exists(output) and not os.path.isdir(output)):
    raise FilesError(f"{output} is a file's name, expected a folder for the frames of {path}")
  _check_new((job.target for job in jobs), overwrite)
  with _naming(path):
    model.check_frames()

  def code(job):
    with _naming(f"frame {job.frame}"):
      images.write_bytes(job.target, model.compress(reader[job.frame]))

  return _run(jobs, code)


def decompress_frames(
  models: Callable[[bytes], object],
  pattern: str,
  output: str,
  overwrite: bool = False,
  y4m: dict | None = None,
  **options,
) -> list[str]:
  """Decompresses .kvc files of raw frames to one .yuv or .y4m file, in the order of their names.

  Args:
    models, pattern, overwrite, **options: as in `decompress`.
    output: a .yuv or .y4m file.
    y4m: what a .y4m file's header says: `rate`, `siting` and `full_range` of `frames.write_frames`.

  Returns:
    The files that were decompressed.

  Raises:
    FilesError: an output exists, or a file holds another picture than a raw frame.
    frames.FrameError: frames differ in size or depth.
    bitstream.BitstreamError, coding.ModelError: a file cannot be decoded.
  """
  output = os.path.expanduser(output)
  if options.get("luma_only"):
    raise FilesError(
      f"--luma_only gives a grey preview, found --output={output} for raw frames; give a folder or "
      "a name such as preview.png"
    )
  sources = images.find_files(pattern, (SUFFIX,), ".kvc files")
  _check_new([output], overwrite)

  def decoded():
    for source in _with_progress(sources):
      with _naming(source):
        frame = _decompress_one(models, source, options)
      if not isinstance(frame, frames_lib.Frame):
        raise FilesError(
          f"{source} holds an RGB or grey picture, expected a raw frame for {output}; give an "
          "--output such as photo.png"
        )
      yield frame

  frames_lib.write_frames(output, decoded(), **(y4m or {}))
  return sources


def decompress(
  models: Callable[[bytes], object],
  pattern: str,
  output: str,
  overwrite: bool = False,
  **options,
):
  """Decompresses a .kvc file to a picture, or a folder's or glob's to a folder of PNGs.

  Args:
    models: from a file's content to the model that decodes it.
    pattern: a file, a folder (with its subfolders) or a glob.
    output: a picture's name for one file, a folder for several.
    overwrite: whether files that exist are replaced.
    **options: of `coding.Model.decompress`.

  Returns:
    The jobs that were done.

  Raises:
    bitstream.BitstreamError, coding.ModelError: the only file cannot be decoded.
    FilesError: an output exists, or some of several files were not decoded.
  """

  def decode(job):
    picture = _decompress_one(models, job.source, options)
    if isinstance(picture, frames_lib.Frame):
      raise FilesError(
        f"{job.source} holds a raw 4:2:0 frame, expected an RGB or grey picture for {job.target}; "
        "give an --output that ends in .y4m or .yuv"
      )
    images.write_image(job.target, picture)

  found = images.find_files(pattern, (SUFFIX,), ".kvc files")
  return _run(_jobs(found, pattern, output, ".png", overwrite), decode)


def model_of(data: bytes) -> str:
  """Returns the folder of the shipped model that wrote a file.

  Raises:
    coding.ModelError: it is none of them.
  """
  header, _ = bitstream.parse(data, bitstream.MAX_SIDE**2)  # whoever decodes sets the limit
  name = model_files.find_by_fingerprint(header.fingerprint)
  if name is None:
    raise coding.ModelError(
      f"the file was made with model {header.fingerprint.hex()}, which is none of the shipped "
      f"({', '.join(model_files.names()) or 'none'}); name the model with --model"
    )
  # Not the name, which a folder of the same name here would take.
  return model_files.shipped()[name]


def _decompress_one(models, source: str, options: dict):
  """Returns the picture or frame in a file."""
  with open(source, "rb") as file:
    data = file.read()
  return models(data).decompress(data, **options)


def _jobs(sources, pattern: str, output: str, suffix: str, overwrite: bool) -> list[Job]:
  """Pairs sources with targets, and refuses targets that clash or exist."""
  pattern, output = os.path.expanduser(pattern), os.path.expanduser(output)
  into_folder = len(sources) > 1 or not os.path.isfile(pattern) or os.path.isdir(output)
  if into_folder or output.endswith(os.sep):
    if os.path.exists(output) and not os.path.isdir(output):
      raise FilesError(f"{output} is a file, expected a folder for what {pattern} holds")
    # Subfolders below a folder or below a glob's fixed part are kept.
    root = (
      pattern
      if os.path.isdir(pattern)
      else os.path.commonpath([os.path.dirname(os.path.abspath(source)) for source in sources])
    )
    jobs = [
      Job(
        source,
        os.path.join(output, os.path.splitext(os.path.relpath(source, root))[0] + suffix),
        makes_folder=True,
      )
      for source in sources
    ]
  else:
    jobs = [Job(sources[0], output)]
  taken = {}
  for job in jobs:
    other = taken.setdefault(job.target, job.source)
    if other != job.source:
      raise FilesError(f"{other} and {job.source} would both become {job.target}; rename one")
  _check_new((job.target for job in jobs), overwrite)
  return jobs


def _check_new(targets: Iterable[str], overwrite: bool):
  """Raises FilesError where an output exists and may not be replaced."""
  for target in targets:
    if os.path.exists(target) and not overwrite:
      raise FilesError(f"{target} exists; give another --output, or --overwrite to replace it")


def _run(jobs: list[Job], code: Callable[[Job], None]) -> list[Job]:
  """Codes all; a single failure is raised, one of several is told and counted."""
  failed = 0
  for job in _with_progress(jobs):
    try:
      with _naming(job.source):
        _code_one(job, code)
    except errors.Error as error:
      if len(jobs) == 1:
        raise
      tqdm.tqdm.write(f"failed: {error}", file=sys.stderr)
      failed += 1
  if failed:
    raise FilesError(f"{failed} of {len(jobs)} files were not coded, for the reasons above")
  return jobs


def _code_one(job: Job, code: Callable[[Job], None]) -> None:
  """Codes a file; what the system refuses is an error of ours, so that the others go on."""
  try:
    if job.makes_folder and os.path.dirname(job.target):
      os.makedirs(os.path.dirname(job.target), exist_ok=True)
    code(job)
  except OSError as error:
    raise FilesError(
      f"{error.filename or job.source}: {error.strerror}; expected to read {job.source} and to "
      f"write {job.target}; check both places"
    ) from error


@contextlib.contextmanager
def _naming(what: str):
  """Puts a name before errors that do not tell it."""
  try:
    yield
  except errors.Error as error:
    if what in str(error):
      raise
    raise type(error)(f"{what}: {error}") from error


def _with_progress(jobs: list) -> Iterable:
  """Shows a bar where there are several files and a terminal."""
  quiet = len(jobs) == 1 or not sys.stderr.isatty()
  return tqdm.tqdm(jobs, unit="file", disable=quiet)
