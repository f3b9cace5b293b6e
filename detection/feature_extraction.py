"""Features of photos on disk to files (`data.feature_files`), one photo or a whole folder.

What is stored already is not extracted again, so that a run that was ended goes on when it is
started again.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Sequence

from detection import photos, predictor
from detection.options import ExtractOptions, config_changes
from detection.photos import Photo
from detection.predictor import Predictor
from khuvcm_tf import atomic_files
from khuvcm_tf.data import feature_files, feature_npz, feature_records
from khuvcm_tf.data.feature_files import NpzWriter
from khuvcm_tf.data.feature_records import FileWriter, RecordWriter
from khuvcm_tf.data.stored_features import FeatureError, Metadata, StoredFeatures
from khuvcm_tf.executor import HERE, Executor, Progress, attempt
from khuvcm_tf.options import check


def run_extract(options: ExtractOptions, executor: Executor = HERE) -> str:
  """Extracts what the options name; returns a line about what was written.

  Raises:
    errors.Error: the detector or the only photo cannot be used, the output holds other features or
      cannot be written, or some of several photos failed; the others are stored.
  """
  check(options)
  output, found = options.output, photos.find(options.input)
  _check_output(output, options, len(found))
  model = predictor.load(options.detector, **config_changes(options))
  extract, left_out = _Extraction(model, options.dtype, options.alpha), []
  with _writer(output, options, model) as writer:
    todo = [
      photo
      for photo in found
      if options.overwrite or not extract.is_done(writer.find(photo.name), photo, options.output)
    ]
    if isinstance(writer, RecordWriter):
      done = _to_records(extract, todo, writer, left_out, executor, output)
    else:
      names, store = [photo.label for photo in todo], functools.partial(_store, extract, writer)
      folder = None if output.endswith(feature_npz.SUFFIX) else output
      done = len(list(photos.attempt_all(todo, store, names, left_out, executor, folder)))
  photos.check_complete(left_out, len(found), options.output)
  before = len(found) - len(todo)
  count = f"{done} photo{'' if done == 1 else 's'}"
  return f"{count}: features in {options.output}" + (f"; {before} were there before" * (before > 0))


def _store(extract: _Extraction, writer: NpzWriter, photo: Photo) -> None:
  writer.add(extract(photo))


def _to_records(
  extract: _Extraction,
  todo: Sequence[Photo],
  writer: RecordWriter,
  left_out: list[dict[str, str]],
  executor: Executor,
  output: str,
) -> int:
  """Extracts to files of several photos, which are listed as they come; returns how many photos."""
  starts = range(0, len(todo), feature_records.IMAGES_PER_FILE)
  tasks = [
    (writer.path_of(number), todo[start : start + feature_records.IMAGES_PER_FILE])
    for number, start in enumerate(starts)
  ]
  is_quiet, done = len(todo) == 1 or not sys.stderr.isatty(), 0
  with Progress(len(todo), "photo", executor, output, is_quiet) as progress:
    for index, result, error in executor.map(functools.partial(_write_file, extract), tasks):
      failures = [(photo.label, error) for photo in tasks[index][1]]
      if error is None:
        file, failures = result
        if file.entries:
          writer.add_file(file)
        done += len(file.entries)
        progress.add(len(file.entries), file.size)
      for name, each in failures:
        photos.leave_out(each, name, len(todo) == 1, progress, left_out)
  return done


def _write_file(
  extract: _Extraction, task: tuple[str, Sequence[Photo]]
) -> tuple[feature_records.File, list[tuple[str, Exception]]]:
  """Writes the features of photos to a file; returns it, and the photos that failed and why."""
  (path, todo), failures = task, []
  with FileWriter(path) as file:
    for photo in todo:
      _, error = attempt(lambda photo: file.add(extract(photo)), photo)
      if isinstance(error, atomic_files.FileError):
        raise error
      if error is not None:
        failures.append((photo.label, error))
  if not file.written.entries:
    os.unlink(path)
  return file.written, failures


class _Extraction:
  """Extracts the features of a photo."""

  def __init__(self, model: Predictor, dtype: str, alpha: str):
    self._model, self._dtype, self._alpha = model, dtype, alpha

  def __call__(self, photo: Photo) -> StoredFeatures:
    features = self._model.extract_features(photo.read(self._alpha))
    metadata = self._metadata(photo, features.image_size, features.original_size)
    return StoredFeatures(metadata, features)

  def is_done(self, found: Metadata | None, photo: Photo, output: str) -> bool:
    """Returns whether `found`, what is known of a photo's stored features, is what is wanted.

    Raises:
      FeatureError: they are of another detector, size, type or photo.
    """
    if found is None:
      return False
    config = self._model.detector.config
    size = predictor.resized_shape(*found.original_size, config.short_side, config.max_side)
    expected = self._metadata(photo, size, found.original_size)
    for key, value in expected._asdict().items():
      if getattr(found, key) != value:
        raise FeatureError(
          f"{output} holds features of {photo.name} with {key} {getattr(found, key)}, expected "
          f"{value}; give another --output, or --overwrite to replace what it holds"
        )
    return True

  def _metadata(self, photo: Photo, image_size, original_size) -> Metadata:
    return Metadata(
      name=photo.name,
      digest=photo.digest(),
      fingerprint=self._model.fingerprint,
      dtype=self._dtype,
      channels=self._model.detector.config.fpn_channels,
      image_size=image_size,
      original_size=original_size,
    )


def _check_output(output: str, options: ExtractOptions, count: int) -> None:
  """Raises FeatureError where the output is no place for the features of `count` photos."""
  is_file = output.endswith(feature_npz.SUFFIX)
  if is_file and (count > 1 or options.format != "npz"):
    raise FeatureError(
      f"{output} is a file's name, expected a folder for the features of {count} photos as "
      f"{options.format}"
    )
  if not is_file and os.path.exists(output) and not os.path.isdir(output):
    raise FeatureError(f"{output} is a file, expected a folder or a new name that ends in .npz")
  is_tfrecord = os.path.exists(os.path.join(output, feature_records.INDEX))
  if options.format == "npz" and is_tfrecord:
    raise FeatureError(
      f"{output} holds TFRecords, expected a folder for .npz files; give --format=tfrecord or "
      "another --output"
    )
  if options.format == "tfrecord" and not is_tfrecord and feature_files.npz_files(output):
    raise FeatureError(
      f"{output} holds .npz files, expected a folder for TFRecords; give --format=npz or another "
      "--output"
    )


def _writer(output: str, options: ExtractOptions, model: Predictor) -> NpzWriter | RecordWriter:
  if options.format == "npz":
    return NpzWriter(output)
  if options.overwrite:
    feature_records.remove_all(output)
  channels = model.detector.config.fpn_channels
  return RecordWriter(output, model.fingerprint, options.dtype, channels)
