"""Compresses images, raw frames and features on disk to .kvc files and back, one or a folder."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
from collections.abc import Iterable
from typing import Callable, NamedTuple

import tqdm

from khuvcm_tf import (
  atomic_files,
  bitstream,
  coding,
  errors,
  model_files,
  model_folders,
  rate_control,
  saved_model,
)
from khuvcm_tf.batch_options import CompressOptions, DecompressOptions, is_raw
from khuvcm_tf.data import feature_npz, image_files
from khuvcm_tf.data import frames as frames_lib
from khuvcm_tf.data.stored_features import ImageFeatures, Metadata, StoredFeatures
from khuvcm_tf.ops import pyramid
from khuvcm_tf.rate_control import Rate

SUFFIX = ".kvc"


class FilesError(errors.Error):
  """Files that were not all coded."""


class Job(NamedTuple):
  """A file to read and the file to write.

  Attributes:
    source, target: paths.
    makes_folder: whether the target's folder is created where it does not exist.
    frame: number of the frame in a file of raw frames.
  """

  source: str
  target: str
  makes_folder: bool = False
  frame: int = 0


def run_compress(options: CompressOptions) -> str:
  """Compresses what the options name; returns a line about the files written.

  Raises:
    errors.Error: as `compress` and `compress_frames`.
  """
  model = open_model(options.model, options.precision)
  rate = Rate(options.quality, options.target_bytes, options.target_bpp, options.target_psnr)
  rate_control.check(model, rate)
  if is_raw(options.input):
    jobs = compress_frames(
      model,
      options.input,
      options.output,
      options.frames or ":",
      options.width,
      options.height,
      options.bit_depth,
      options.overwrite,
      rate,
    )
    read = f"{_count(jobs, 'frame')} of {options.input}"
  else:
    jobs = compress(model, options.input, options.output, options.alpha, options.overwrite, rate)
    name = "file of features" if _codes_features(model) else "image"
    read = f"{_count(jobs, name)}: {sum(os.path.getsize(job.source) for job in jobs)} bytes"
  written = sum(os.path.getsize(job.target) for job in jobs)
  line = f"{read} -> {written} bytes in {jobs[0].target if len(jobs) == 1 else options.output}"
  if model.default_quality is None:
    return line
  qualities = [_quality_of(job) for job in jobs]
  low, high = min(qualities), max(qualities)
  return f"{line}, quality {low:.1f}{f' to {high:.1f}' if high > low else ''}"


def _quality_of(job: Job) -> float:
  """Returns the quality that a model of several rates wrote a file with."""
  with open(job.target, "rb") as file:
    return bitstream.quality_of(file.read())


def run_decompress(options: DecompressOptions) -> str:
  """Decompresses what the options name; returns a line about the files written.

  Raises:
    errors.Error: as `decompress` and `decompress_frames`.
  """
  opened = functools.lru_cache(maxsize=None)(lambda name: open_model(name, options.precision))
  arguments = {
    "models": lambda data: opened(options.model or model_of(data)),
    "pattern": options.input,
    "output": options.output,
    "overwrite": options.overwrite,
    "max_pixels": options.max_pixels,
    "allow_other_synthesis": options.allow_other_synthesis,
    "luma_only": options.luma_only,
  }
  target = options.output
  if is_raw(target):
    y4m = {"rate": options.rate, "siting": options.siting, "full_range": options.full_range}
    done = decompress_frames(**arguments, y4m=y4m, allow_gaps=options.allow_gaps)
  else:
    done = decompress(**arguments)
    target = done[0].target if len(done) == 1 else target
  return f"{_count(done, 'file')} decompressed to {target}"


def _count(things: list, name: str) -> str:
  first, *rest = name.split(" ", 1)
  return " ".join([f"{len(things)} {first}{'s' * (len(things) > 1)}", *rest])


def open_model(path_or_name: str, precision: str | None = None):
  """Loads a model's folder, a training workdir, a shipped name, or a SavedModel.

  Args:
    path_or_name: of the model.
    precision: "float32", the default, or "float64"; of a SavedModel it must be None.

  Returns:
    `coding.Model` or `saved_model.ExportedModel`; both compress and decompress.

  Raises:
    coding.ModelError: there is no such model, or a SavedModel is given a precision.
  """
  if saved_model.is_saved_model(path_or_name):
    if precision is not None:
      raise coding.ModelError(
        f"found --precision={precision} for {path_or_name}, an exported model, which keeps the one "
        "that it was exported with; leave it out"
      )
    return saved_model.ExportedModel(path_or_name)
  return model_files.load(path_or_name, precision or "float32")


def compress(
  model,
  pattern: str,
  output: str,
  alpha: str = "refuse",
  overwrite: bool = False,
  rate: Rate = rate_control.DEFAULT,
):
  """Compresses an image to a file, or a folder's or glob's images to a folder.

  Args:
    model: of `open_model`; one of feature maps compresses the features in .npz files.
    pattern: an image, a folder (with its subfolders) or a glob.
    output: a file's name for one image, a folder for several.
    alpha: how transparent images are treated (`image_files.read_image`).
    overwrite: whether files that exist are replaced.
    rate: what each file is to be.

  Returns:
    The jobs that were done.

  Raises:
    image_files.ImageError, coding.ModelError: the only image cannot be coded.
    atomic_files.FileError: an output exists, or is an input.
    FilesError: some of several images were not coded.
  """

  def code(job):
    if _codes_features(model):
      image = _features_for(model, job.source)
    else:
      image = image_files.read_image(job.source, alpha)
    atomic_files.write_bytes(job.target, rate_control.compress(model, image, rate))

  if _codes_features(model):
    sources = image_files.find_files(pattern, (feature_npz.SUFFIX,), ".npz files of features")
  else:
    sources = image_files.find_images(pattern)
  return _code_all(_jobs(sources, pattern, output, SUFFIX, _check_kvc, overwrite), code)


def _codes_features(model) -> bool:
  return isinstance(model, coding.Model) and not model.codec.input_format.has_images


def _features_for(model: coding.Model, path: str) -> ImageFeatures:
  """Returns the features in a file, or raises ModelError where they are of another detector."""
  metadata, features = feature_npz.read(path)
  expected = model.description.get("detector", metadata.fingerprint)
  if metadata.fingerprint != expected:
    raise coding.ModelError(
      f"{path} holds features of detector {metadata.fingerprint}, expected {expected}, on whose "
      "features the model was trained; use another model"
    )
  return features


def compress_frames(
  model,
  path: str,
  output: str,
  numbers: str = ":",
  width: int | None = None,
  height: int | None = None,
  bits: int | None = None,
  overwrite: bool = False,
  rate: Rate = rate_control.DEFAULT,
):
  """Compresses raw 4:2:0 frames to OUTPUT/NAME_00000.kvc and so on, by the frames' numbers.

  Args:
    model: of `open_model`, of a codec of 4:2:0.
    path: a .yuv or .y4m file.
    output: a folder; created where it does not exist.
    numbers: which frames, as in "0:10".
    width, height, bits: of the frames of a .yuv file (`frames.open_frames`).
    overwrite: whether files that exist are replaced.
    rate: what each file is to be.

  Returns:
    The jobs that were done.

  Raises:
    frames.FrameError: the file does not hold raw frames.
    coding.ModelError: the only frame cannot be coded.
    atomic_files.FileError: an output exists, or is the input.
    FilesError: some of several frames were not coded.
  """
  reader = frames_lib.open_frames(path, width, height, bits)
  stem = os.path.splitext(os.path.basename(path))[0]
  digits = max(5, len(str(reader.count - 1)))  # so that names are in the order of numbers
  jobs = [
    Job(path, os.path.join(output, f"{stem}_{number:0{digits}}{SUFFIX}"), True, number)
    for number in frames_lib.parse_range(numbers, reader.count)
  ]
  if output.endswith(SUFFIX) or (os.path.exists(output) and not os.path.isdir(output)):
    raise FilesError(f"{output} is a file's name, expected a folder for the frames of {path}")
  atomic_files.check_targets((job.target for job in jobs), [path], overwrite)
  with _prefixed(path):
    model.check_frames()

  def code(job):
    with _prefixed(f"frame {job.frame}"):
      atomic_files.write_bytes(job.target, rate_control.compress(model, reader[job.frame], rate))

  return _code_all(jobs, code)


def decompress_frames(
  models: Callable[[bytes], object],
  pattern: str,
  output: str,
  overwrite: bool = False,
  y4m: dict | None = None,
  allow_gaps: bool = False,
  **options,
) -> list[str]:
  """Decompresses .kvc files of raw frames to one .yuv or .y4m file, in the order of their names.

  Args:
    models, pattern, overwrite, **options: as in `decompress`.
    output: a .yuv or .y4m file.
    y4m: `rate`, `siting` and `full_range` of `frames.write_frames`, for the header of .y4m files.
    allow_gaps: whether frames may be missing between the first and the last, by their numbers.

  Returns:
    The files that were decompressed.

  Raises:
    atomic_files.FileError: the output exists, or is an input.
    FilesError: a file holds another image than a raw frame.
    frames.FrameError: frames differ in size or depth.
    bitstream.BitstreamError, coding.ModelError: a file cannot be decoded.
  """
  if options.get("luma_only"):
    raise FilesError(
      f"--luma_only gives a grey preview, found --output={output} for raw frames; give a folder or "
      "a name such as preview.png"
    )
  sources = image_files.find_files(pattern, (SUFFIX,), ".kvc files")
  atomic_files.check_targets([output], sources, overwrite)
  missing = _missing_frames(sources)
  if missing and not allow_gaps:
    raise FilesError(
      f"{missing[0]} is missing{f', and {len(missing) - 1} more frames' * (len(missing) > 1)}, "
      "expected all frames between the first and the last; give them, or --allow_gaps to join the "
      "others"
    )

  def decoded():
    for source in _with_progress(sources):
      with _prefixed(source):
        frame, _ = _decompress_one(models, source, options)
      if not isinstance(frame, frames_lib.Frame):
        raise FilesError(
          f"{source} holds an RGB or grey image, expected a raw frame for {output}; give an "
          "--output such as photo.png"
        )
      yield frame

  frames_lib.write_frames(output, decoded(), **(y4m or {}))
  return sources


def _missing_frames(sources: list[str]) -> list[str]:
  """Returns the names of NAME_00000.kvc and so on that are missing between those that are there.

  Example:
    >>> _missing_frames(["a_00008.kvc", "a_00010.kvc", "b.kvc"])
    ['a_00009.kvc']
  """
  numbers: dict[str, dict[int, str]] = {}
  for source in sources:
    if match := re.fullmatch(r"(.*_)(\d{5,})", os.path.splitext(source)[0]):
      numbers.setdefault(match[1], {})[int(match[2])] = match[2]
  return [
    f"{stem}{number:0{len(min(own.values()))}}{SUFFIX}"
    for stem, own in numbers.items()
    for number in range(min(own), max(own))
    if number not in own
  ]


def decompress(
  models: Callable[[bytes], object],
  pattern: str,
  output: str,
  overwrite: bool = False,
  **options,
):
  """Decompresses a .kvc file to an image, or a folder's or glob's to a folder of PNGs.

  Args:
    models: a function from a file's content to the model that decodes it.
    pattern: a file, a folder (with its subfolders) or a glob.
    output: an image's name for one file, a folder for several; features become .npz files.
    overwrite: whether files that exist are replaced.
    **options: of `coding.Model.decompress`.

  Returns:
    The jobs that were done.

  Raises:
    bitstream.BitstreamError, coding.ModelError: the only file cannot be decoded.
    atomic_files.FileError: an output exists, or is an input.
    FilesError: some of several files were not decoded.
  """

  def decode(job):
    image, model = _decompress_one(models, job.source, options)
    if isinstance(image, ImageFeatures):
      return _write_features(model, job.target, image)
    if isinstance(image, frames_lib.Frame):
      raise FilesError(
        f"{job.source} holds a raw 4:2:0 frame, expected an RGB or grey image for {job.target}; "
        "give an --output that ends in .y4m or .yuv"
      )
    image_files.write_image(job.target, image)
    return None

  sources = image_files.find_files(pattern, (SUFFIX,), ".kvc files")
  if _holds_features(sources[0]):
    suffix, check_name = feature_npz.SUFFIX, _check_npz
  else:
    suffix, check_name = ".png", image_files.check_lossless
  return _code_all(_jobs(sources, pattern, output, suffix, check_name, overwrite), decode)


def _holds_features(path: str) -> bool:
  """Returns whether a .kvc file is one of features; whether it is good shows when it is decoded."""
  with contextlib.suppress(OSError, bitstream.BitstreamError), open(path, "rb") as file:
    header, _ = bitstream.parse(file.read(), bitstream.MAX_SIDE**2)
    return header.input_format == bitstream.FEATURES
  return False


def _check_npz(path: str) -> None:
  """Raises FilesError where a file's name is not that of features."""
  if not path.endswith(feature_npz.SUFFIX):
    raise FilesError(
      f"the file holds features, expected the name of an {feature_npz.SUFFIX} file, found {path}"
    )


def _write_features(model, path: str, features: ImageFeatures) -> None:
  """Writes an .npz file of features, which `bin/detect.py --features` goes on from."""
  _check_npz(path)
  stem = os.path.splitext(os.path.basename(path))[0]
  missing = [level for level in pyramid.LEVELS if level not in features.levels]
  if missing:
    raise FilesError(
      f"the file lacks {', '.join(missing)}, expected all levels for {path}; rebuild them by rules "
      "(docs/feature_coding.md)"
    )
  channels = features.levels["p2"].shape[-1]
  detector = model.description.get("detector", "")
  sizes = features.image_size, features.original_size
  metadata = Metadata(stem, "", detector, "float32", channels, *sizes)
  feature_npz.write(path, StoredFeatures(metadata, features))


def model_of(data: bytes) -> str:
  """Returns the folder of the shipped model that wrote a file.

  Raises:
    coding.ModelError: no shipped model did.
  """
  header, _ = bitstream.parse(data, bitstream.MAX_SIDE**2)  # The decoder applies the user's limit.
  name = model_folders.find_by_fingerprint(header.fingerprint)
  if name is None:
    raise coding.ModelError(
      f"the file was made with model {header.fingerprint.hex()}, which is none of the shipped "
      f"({', '.join(model_folders.names()) or 'none'}); name the model with --model"
    )
  # Not the name: a folder of that name in the current folder would be taken in its place.
  return model_folders.shipped()[name]


def _decompress_one(models, source: str, options: dict):
  """Returns the image, frame or features in a file, and the model that decoded it."""
  with open(source, "rb") as file:
    data = file.read()
  model = models(data)
  return model.decompress(data, **options), model


def _check_kvc(path: str) -> None:
  """Raises FilesError where a file's name would say that it is something else."""
  if os.path.splitext(path)[1] not in ("", SUFFIX):
    raise FilesError(
      f"{path} is not the name of a {SUFFIX} file, expected one, or a folder that exists; give "
      f"--output={os.path.splitext(path)[0]}{SUFFIX}"
    )


def _jobs(
  sources: list[str],
  pattern: str,
  output: str,
  suffix: str,
  check_name: Callable[[str], None],
  overwrite: bool,
) -> list[Job]:
  """Pairs sources with targets that may be written.

  Args:
    sources: files that `pattern` leads to.
    output: the target of one file, or the folder of the targets.
    suffix: of targets in a folder.
    check_name: raises errors.Error where a target has a name that does not fit.
    overwrite: whether targets that exist are replaced; sources never are.

  Raises:
    FilesError: targets are equal.
    atomic_files.FileError: targets exist.
  """
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
    check_name(output)
    jobs = [Job(sources[0], output)]
  taken = {}
  for job in jobs:
    other = taken.setdefault(job.target, job.source)
    if other != job.source:
      raise FilesError(f"{other} and {job.source} would both become {job.target}; rename one")
  atomic_files.check_targets((job.target for job in jobs), sources, overwrite)
  return jobs


def _code_all(jobs: list[Job], code: Callable[[Job], None]) -> list[Job]:
  """Codes all files; the error of an only file is raised, one of several is printed and counted."""
  failed = 0
  for job in _with_progress(jobs):
    try:
      with _prefixed(job.source):
        _code_one(job, code)
    except errors.Error as error:
      if len(jobs) == 1 or isinstance(error, atomic_files.NoRoomError):
        raise
      tqdm.tqdm.write(f"failed: {error}", file=sys.stderr)
      failed += 1
  if failed:
    raise FilesError(f"{failed} of {len(jobs)} files were not coded, for the reasons above")
  return jobs


def _code_one(job: Job, code: Callable[[Job], None]) -> None:
  """Codes a file; raises an OSError as FilesError, so that the other files are coded."""
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
def _prefixed(name: str):
  """Puts the name of a file or a frame before the text of an error that does not have it."""
  try:
    yield
  except errors.Error as error:
    if name in str(error):
      raise
    raise type(error)(f"{name}: {error}") from error


def _with_progress(files: list) -> Iterable:
  """Shows a progress bar on a terminal where there are several files."""
  is_quiet = len(files) == 1 or not sys.stderr.isatty()
  return tqdm.tqdm(files, unit="file", disable=is_quiet)
