"""Compresses images, raw frames and features on disk to .kvc files and back, one or a folder."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import sys
from collections.abc import Iterable
from typing import Callable

import tqdm

from khuvcm_tf import (
  atomic_files,
  bitstream,
  coding,
  model_files,
  model_folders,
  rate_control,
  saved_model,
)
from khuvcm_tf.batch_options import CompressOptions, DecompressOptions, is_raw
from khuvcm_tf.batch_outputs import (
  Coded,
  Content,
  FilesError,
  Job,
  code_all,
  prefixed,
)
from khuvcm_tf.data import feature_npz, image_files, inputs
from khuvcm_tf.data import frames as frames_lib
from khuvcm_tf.data.inputs import Input
from khuvcm_tf.data.stored_features import ImageFeatures, Metadata, StoredFeatures
from khuvcm_tf.executor import HERE, Executor
from khuvcm_tf.ops import pyramid
from khuvcm_tf.rate_control import Rate

SUFFIX = ".kvc"
_FEATURE = "kvc"  # of records, with a file's content


def run_compress(options: CompressOptions, executor: Executor = HERE) -> str:
  """Compresses what the options name; returns a line about the files written.

  Raises:
    errors.Error: as `compress` and `compress_frames`.
  """
  model = open_model(options.model, options.precision)
  rate = Rate(options.quality, options.target_bytes, options.target_bpp, options.target_psnr)
  rate_control.check(model, rate)
  how = {"rate": rate, "shards": options.shards, "executor": executor}
  if is_raw(options.input):
    coded = compress_frames(
      model,
      options.input,
      options.output,
      options.frames or ":",
      options.width,
      options.height,
      options.bit_depth,
      options.overwrite,
      **how,
    )
    read = f"{_count(coded, 'frame')} of {options.input}"
  else:
    coded = compress(model, options.input, options.output, options.alpha, options.overwrite, **how)
    name = "file of features" if _codes_features(model) else "image"
    read = f"{_count(coded, name)}: {sum(each.bytes_read for each in coded)} bytes"
  written = sum(each.bytes_written for each in coded)
  line = f"{read} -> {written} bytes in {_place(coded, options.output)}"
  qualities = [each.quality for each in coded if each.quality is not None]
  if qualities:
    low, high = min(qualities), max(qualities)
    line += f", quality {low:.1f}{f' to {high:.1f}' if high > low else ''}"
  return line


def run_decompress(options: DecompressOptions, executor: Executor = HERE) -> str:
  """Decompresses what the options name; returns a line about the files written.

  Raises:
    errors.Error: as `open_model`, `decompress` and `decompress_frames`.
  """
  arguments = {
    "models": _Models(options.model, options.precision),
    "pattern": options.input,
    "output": options.output,
    "overwrite": options.overwrite,
    "max_pixels": options.max_pixels,
    "allow_other_synthesis": options.allow_other_synthesis,
    "luma_only": options.luma_only,
  }
  target = options.output
  if is_raw(target):
    if executor.resumes:
      raise FilesError(
        f"{target} is one file of all frames, which no cluster writes; leave --cluster out"
      )
    y4m = {"rate": options.rate, "siting": options.siting, "full_range": options.full_range}
    done = decompress_frames(**arguments, y4m=y4m, allow_gaps=options.allow_gaps)
  else:
    done = decompress(**arguments, shards=options.shards, executor=executor)
    target = _place(done, target)
  return f"{_count(done, 'file')} decompressed to {target}"


def _place(coded: list[Coded], output: str) -> str:
  return coded[0].target if len(coded) == 1 else output


def _count(things: list, name: str) -> str:
  first, *rest = name.split(" ", 1)
  return " ".join([f"{len(things)} {first}{'s' * (len(things) != 1)}", *rest])


class _Models:
  """The model of each file, opened once: the one that is named, else the shipped one."""

  def __init__(self, name: str | None, precision: str | None):
    self._precision, self._name = precision, name
    self._opened = {name: open_model(name, precision)} if name else {}

  def __call__(self, data: bytes):
    name = self._name or model_of(data)
    if name not in self._opened:
      self._opened[name] = open_model(name, self._precision)
    return self._opened[name]


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
  shards: int | None = None,
  executor: Executor = HERE,
) -> list[Coded]:
  """Compresses an image to a file, or several to a folder.

  Args:
    model: of `open_model`; one of feature maps compresses the features in .npz files.
    pattern: images, as `data.inputs` names them.
    output: a file's name for one image, a folder for several.
    alpha: how transparent images are treated (`image_files.read_image`).
    overwrite: whether files that exist are replaced.
    rate: what each file is to be.
    shards, executor: as `batch_outputs.code_all` takes them.

  Returns:
    What was written.

  Raises:
    image_files.ImageError, coding.ModelError: the only image cannot be coded.
    atomic_files.FileError: an output exists, or is an input.
    FilesError: some of several images were not coded.
  """

  def code(job):
    is_image = not _codes_features(model)
    given = job.input.read_image(alpha) if is_image else _features_for(model, job.input.path)
    return _compressed(model, given, rate)

  if _codes_features(model):
    found = inputs.find_files(pattern, (feature_npz.SUFFIX,), ".npz files of features")
  else:
    found = inputs.find_images(pattern)
  jobs, folder = _jobs(found, pattern, output, SUFFIX, _check_kvc, shards)
  about = {**_about(model, rate), "alpha": alpha}
  return code_all(code, jobs, overwrite, executor, folder, shards, _FEATURE, about)


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


def _compressed(model, image, rate: Rate) -> Content:
  data = rate_control.compress(model, image, rate)
  return Content(data, None if model.default_quality is None else bitstream.quality_of(data))


def _about(model, rate: Rate) -> dict[str, object]:
  """Returns what .kvc files depend on beside their images."""
  return {"model": model.fingerprint.hex(), "rate": dataclasses.asdict(rate)}


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
  shards: int | None = None,
  executor: Executor = HERE,
) -> list[Coded]:
  """Compresses raw 4:2:0 frames to OUTPUT/NAME_00000.kvc and so on, by the frames' numbers.

  Args:
    model: of `open_model`, of a codec of 4:2:0.
    path: a .yuv or .y4m file.
    output: a folder; created where it does not exist.
    numbers: which frames, as in "0:10".
    width, height, bits: of the frames of a .yuv file (`frames.open_frames`).
    overwrite: whether files that exist are replaced.
    rate: what each file is to be.
    shards, executor: as `batch_outputs.code_all` takes them.

  Returns:
    What was written.

  Raises:
    frames.FrameError: the file does not hold raw frames.
    coding.ModelError: the only frame cannot be coded.
    atomic_files.FileError: an output exists, or is the input.
    FilesError: some of several frames were not coded.
  """
  reader = frames_lib.open_frames(path, width, height, bits)
  stem = os.path.splitext(os.path.basename(path))[0]
  digits = max(5, len(str(reader.count - 1)))  # so that names are in the order of numbers
  names = {number: f"{stem}_{number:0{digits}}" for number in range(reader.count)}
  jobs = [
    Job(Input(path, names[number]), os.path.join(output, names[number] + SUFFIX), True, number)
    for number in frames_lib.parse_range(numbers, reader.count)
  ]
  if output.endswith(SUFFIX) or (os.path.exists(output) and not os.path.isdir(output)):
    raise FilesError(f"{output} is a file's name, expected a folder for the frames of {path}")
  with prefixed(path):
    model.check_frames()

  def code(job):
    return _compressed(model, reader[job.frame], rate)

  return code_all(code, jobs, overwrite, executor, output, shards, _FEATURE, _about(model, rate))


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
  sources = inputs.find(pattern, (SUFFIX,), ".kvc files", (_FEATURE,))
  atomic_files.check_targets([output], [source.path for source in sources], overwrite)
  missing = _missing_frames([source.label for source in sources])
  if missing and not allow_gaps:
    raise FilesError(
      f"{missing[0]} is missing{f', and {len(missing) - 1} more frames' * (len(missing) > 1)}, "
      "expected all frames between the first and the last; give them, or --allow_gaps to join the "
      "others"
    )

  def decoded():
    for source in _with_progress(sources):
      with prefixed(source.label):
        frame, _ = _decompressed(models, source, options)
      if not isinstance(frame, frames_lib.Frame):
        raise FilesError(
          f"{source.label} holds an RGB or grey image, expected a raw frame for {output}; give an "
          "--output such as photo.png"
        )
      yield frame

  frames_lib.write_frames(output, decoded(), **(y4m or {}))
  return [source.label for source in sources]


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
  shards: int | None = None,
  executor: Executor = HERE,
  **options,
) -> list[Coded]:
  """Decompresses a .kvc file to an image, or several to a folder of PNGs.

  Args:
    models: a function from a file's content to the model that decodes it.
    pattern: .kvc files, or records of such, as `data.inputs` names them.
    output: an image's name for one file, a folder for several; features become .npz files.
    overwrite: whether files that exist are replaced.
    shards, executor: as `batch_outputs.code_all` takes them.
    **options: of `coding.Model.decompress`.

  Returns:
    What was written.

  Raises:
    bitstream.BitstreamError, coding.ModelError: the only file cannot be decoded.
    atomic_files.FileError: an output exists, or is an input.
    FilesError: some of several files were not decoded.
  """

  def decode(job):
    image, model = _decompressed(models, job.input, options)
    if isinstance(image, ImageFeatures):
      return _features_content(model, job.target, image)
    if isinstance(image, frames_lib.Frame):
      raise FilesError(
        f"{job.label} holds a raw 4:2:0 frame, expected an RGB or grey image for "
        f"{job.target}; give an --output that ends in .y4m or .yuv"
      )
    return Content(image_files.encode(job.target, image))

  found = inputs.find(pattern, (SUFFIX,), ".kvc files", (_FEATURE,))
  if _holds_features(found[0], output):
    suffix, check_name, feature = feature_npz.SUFFIX, _check_npz, "npz"
  else:
    suffix, check_name, feature = ".png", image_files.check_lossless, "image"
  jobs, folder = _jobs(found, pattern, output, suffix, check_name, shards)
  return code_all(decode, jobs, overwrite, executor, folder, shards, feature, options)


def _holds_features(source: Input, output: str) -> bool:
  """Returns whether a .kvc file is one of features.

  Of a damaged one the output's name says so: what it lacks is told when it is decoded.
  """
  with contextlib.suppress(OSError, bitstream.BitstreamError):
    header, _ = bitstream.parse(source.content(), bitstream.MAX_SIDE**2)
    return header.input_format == bitstream.FEATURES
  return output.endswith(feature_npz.SUFFIX)


def _check_npz(path: str) -> None:
  """Raises FilesError where a file's name is not that of features."""
  if not path.endswith(feature_npz.SUFFIX):
    raise FilesError(
      f"the file holds features, expected the name of an {feature_npz.SUFFIX} file, found {path}"
    )


def _features_content(model, path: str, features: ImageFeatures) -> Content:
  """Returns the content of an .npz file, which `bin/detect.py --features` goes on from."""
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
  return Content(feature_npz.encode(StoredFeatures(metadata, features)))


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


def _decompressed(models, source: Input, options: dict):
  """Returns the image, frame or features in a file, and the model that decoded it."""
  data = source.content()
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
  found: list[Input],
  pattern: str,
  output: str,
  suffix: str,
  check_name: Callable[[str], None],
  shards: int | None,
) -> tuple[list[Job], str | None]:
  """Pairs inputs with targets.

  Args:
    found: what `pattern` leads to.
    output: the target of one file, or the folder of the targets.
    suffix: of targets in a folder.
    check_name: raises errors.Error where a target has a name that does not fit.
    shards: number of files that the folder is to hold, None for one of each target.

  Returns:
    The jobs, and their targets' folder; None for a file that is named.
  """
  is_file = len(found) == 1 and os.path.isfile(pattern) and found[0].stop is None
  if is_file and not (shards or os.path.isdir(output) or output.endswith(os.sep)):
    check_name(output)
    return [Job(found[0], output)], None
  if os.path.exists(output) and not os.path.isdir(output):
    raise FilesError(f"{output} is a file, expected a folder for what {pattern} holds")
  names = (os.path.splitext(each.name)[0] + suffix for each in found)
  jobs = [Job(each, os.path.join(output, name), True) for each, name in zip(found, names)]
  return jobs, output


def _with_progress(files: list) -> Iterable:
  """Shows a progress bar on a terminal where there are several files."""
  is_quiet = len(files) == 1 or not sys.stderr.isatty()
  return tqdm.tqdm(files, unit="file", disable=is_quiet)
