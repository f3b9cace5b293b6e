"""The demonstration: four photos through a model and back, beside JPEG and WebP of the same size.

A model of several rates codes them at its default quality, and draws a curve in the report.
Files are decompressed by another process: what is shown has come through the files alone.
The photos come with scikit-image: astronaut by NASA, coffee by R. Michna, chelsea by S. van der
Walt, rocket by SpaceX; all in the public domain or CC0.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from khuvcm_tf import atomic_files, errors, model_files
from khuvcm_tf.data import image_files, sample_photos
from khuvcm_tf.evaluation import (
  anchors,
  demo_sheet,
  metrics,
  rate_distortion,
  rate_distortion_report,
)
from khuvcm_tf.evaluation.options import DemoOptions, RateDistortionOptions
from khuvcm_tf.results import rows

# Left and top of the crop that is shown enlarged.
CROPS = {"astronaut": (135, 10), "coffee": (250, 110), "chelsea": (110, 70), "rocket": (215, 225)}

_QUALITIES = "10,30,50,70,90"  # of the report's curve, of a model of several rates


class DemoError(errors.Error):
  """A demonstration that failed."""


class Coded(NamedTuple):
  """A photo as a codec returns it."""

  codec: str
  num_bytes: int  # of the whole file
  decoded: np.ndarray  # uint8 [H, W, 3]


class Shown(NamedTuple):
  """A photo and its coded versions: ours first, then the anchors, JPEG first."""

  name: str
  photo: np.ndarray  # uint8 [H, W, 3]
  coded: list[Coded]


def run(options: DemoOptions, decompress_program: str) -> tuple[list[Shown], str]:
  """Gives the demonstration.

  Args:
    options: the model, and the folder for photos/, kvc/, decoded/, demo.png and report/.
    decompress_program: path of `bin/decompress.py`.

  Returns:
    What is in demo.png, and the path of the report.

  Raises:
    DemoError: the process that decompresses failed.
    sample_photos.SamplePhotosError: scikit-image is missing.
    coding.ModelError: the model cannot be loaded.
  """
  output = options.output
  photos = sample_photos.load()
  model = model_files.load(options.model)
  for folder in ("photos", "kvc", "decoded"):
    os.makedirs(os.path.join(output, folder), exist_ok=True)
  for name, photo in photos.items():
    image_files.write_image(os.path.join(output, "photos", name + ".png"), photo)
    atomic_files.write_bytes(os.path.join(output, "kvc", name + ".kvc"), model.compress(photo))
  decompress_elsewhere(options.model, output, decompress_program)
  shown = [_shown(name, photo, output) for name, photo in photos.items()]
  title = f"{os.path.basename(os.path.abspath(options.model))} and JPEG at the same size"
  sheet = demo_sheet.draw(title, [_row(item) for item in shown])
  image_files.write_image(os.path.join(output, "demo.png"), sheet)
  folders = (os.path.join(output, folder) for folder in ("photos", "report"))
  has_one_rate = model.default_quality is None
  curve = options.model if has_one_rate else f"{options.model}@{_QUALITIES}"
  compared = RateDistortionOptions(*folders, models=(curve,), anchors=("jpeg", "webp"))
  comparison = rate_distortion.run(compared)
  return shown, rate_distortion_report.write(comparison, compared.output)


def decompress_elsewhere(model: str, output: str, decompress_program: str) -> None:
  """Decompresses `output`/kvc to `output`/decoded in a process of its own.

  Raises:
    DemoError: it failed.
  """
  options = [f"--model={model}", f"--input={os.path.join(output, 'kvc')}"]
  options += [f"--output={os.path.join(output, 'decoded')}", "--overwrite"]
  command = [sys.executable, decompress_program, *options]
  process = subprocess.run(command, capture_output=True, text=True)
  if process.returncode:
    printed = process.stderr.strip().splitlines() or ["nothing"]
    raise DemoError(
      f"the process that decompresses ended with {process.returncode}, expected 0; it printed: "
      f"{printed[-1]}; start it yourself: {' '.join(command)}"
    )


def table(shown: Sequence[Shown]) -> str:
  """Returns bytes, bpp, PSNR and MS-SSIM of each photo by each codec, as text."""
  lines = [["photo", "codec", "bytes", "bpp", "PSNR dB", "MS-SSIM", ""]]
  for name, photo, coded in shown:
    lines.append(None)
    for codec, num_bytes, decoded in coded:
      lines.append([name if codec == coded[0].codec else "", codec, str(num_bytes)])
      lines[-1] += [f"{_bpp(photo, num_bytes):.3f}", f"{metrics.psnr(photo, decoded):.2f}"]
      lines[-1] += [f"{metrics.ms_ssim(photo, decoded):.4f}", "*" * _is_too_large(coded, num_bytes)]
  text = rows.table(lines, texts=2)
  if any(_is_too_large(coded, each.num_bytes) for _, _, coded in shown for each in coded):
    text += "\n* its lowest quality: it has no file as small as ours"
  return text


def _shown(name: str, photo: np.ndarray, output: str) -> Shown:
  kvc = os.path.join(output, "kvc", name + ".kvc")
  decoded = image_files.read_image(os.path.join(output, "decoded", name + ".png"))
  ours = Coded("Ours", os.path.getsize(kvc), decoded)
  coded = [ours]
  for codec, anchor in (("JPEG", anchors.jpeg), ("WebP", anchors.webp)):
    anchored = anchors.at_bytes(anchor, photo, ours.num_bytes)
    coded.append(Coded(codec, len(anchored.data), anchored.decoded))
  return Shown(name, photo, coded)


def _row(item: Shown) -> demo_sheet.Row:
  height, width, _ = item.photo.shape
  original = (item.photo, ["Original", _size_caption(item.photo, item.photo.size)])
  coded = [(c.decoded, _caption(item, c)) for c in item.coded[:2]]
  caption = [item.name.capitalize(), f"{width} x {height} pixels"]
  return demo_sheet.Row(item.photo, CROPS[item.name], [original, *coded], caption)


def _is_too_large(coded: Sequence[Coded], num_bytes: int) -> bool:
  return num_bytes > coded[0].num_bytes


def _caption(item: Shown, coded: Coded) -> list[str]:
  is_too_large = _is_too_large(item.coded, coded.num_bytes)
  return [
    f"{coded.codec}{', which cannot be smaller' * is_too_large}",
    f"{_size_caption(item.photo, coded.num_bytes)}   "
    f"{metrics.psnr(item.photo, coded.decoded):.2f} dB",
  ]


def _size_caption(photo: np.ndarray, num_bytes: int) -> str:
  return f"{num_bytes:,} bytes   {_bpp(photo, num_bytes):.2f} bpp"


def _bpp(photo: np.ndarray, num_bytes: int) -> float:
  return 8 * num_bytes / (photo.shape[0] * photo.shape[1])
