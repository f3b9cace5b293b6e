"""The demonstration: four photos through a model and back, beside JPEG and WebP of the same size.

Files are decompressed by another process, so that what is shown has come through the files alone.
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

from khuvcm_tf import errors, model_files
from khuvcm_tf.data import images, sample_photos
from khuvcm_tf.evaluation import anchors, demo_picture, metrics

# Left and top of the crop that is shown enlarged.
CROPS = {"astronaut": (135, 10), "coffee": (250, 110), "chelsea": (110, 70), "rocket": (215, 225)}


class DemoError(errors.Error):
  """A demonstration that cannot be given."""


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


def run(model: str, output: str, decompress_program: str) -> list[Shown]:
  """Gives the demonstration.

  Args:
    model: as `model_files.load` takes it.
    output: folder for photos/, kvc/, decoded/ and demo.png; made where it does not exist.
    decompress_program: path of `bin/decompress.py`.

  Returns:
    What is in demo.png.

  Raises:
    DemoError: scikit-image is missing, or the other process failed.
    coding.ModelError: the model cannot be loaded.
  """
  photos = sample_photos.load()
  loaded = model_files.load(model)
  for folder in ("photos", "kvc", "decoded"):
    os.makedirs(os.path.join(output, folder), exist_ok=True)
  for name, photo in photos.items():
    images.write_image(os.path.join(output, "photos", name + ".png"), photo)
    images.write_bytes(os.path.join(output, "kvc", name + ".kvc"), loaded.compress(photo))
  decompress_elsewhere(model, output, decompress_program)
  shown = [_shown(name, photo, output) for name, photo in photos.items()]
  title = f"{os.path.basename(os.path.abspath(model))} and JPEG at the same size"
  sheet = demo_picture.draw(title, [_row(item) for item in shown])
  images.write_image(os.path.join(output, "demo.png"), sheet)
  return shown


def decompress_elsewhere(model: str, output: str, decompress_program: str) -> None:
  """Decompresses `output`/kvc to `output`/decoded in a process of its own.

  Raises:
    DemoError: it failed.
  """
  command = [
    sys.executable,
    decompress_program,
    f"--model={model}",
    f"--input={os.path.join(output, 'kvc')}",
    f"--output={os.path.join(output, 'decoded')}",
    "--overwrite",
  ]
  process = subprocess.run(command, capture_output=True, text=True)
  if process.returncode:
    said = process.stderr.strip().splitlines() or ["nothing"]
    raise DemoError(
      f"the process that decompresses ended with {process.returncode}, expected 0; it said: "
      f"{said[-1]}; run it by hand: {' '.join(command)}"
    )


def table(shown: Sequence[Shown]) -> str:
  """Returns bytes, bpp, PSNR and MS-SSIM of each photo by each codec, as text."""
  lines = [f"{'photo':<10} {'codec':<6} {'bytes':>7} {'bpp':>7} {'PSNR dB':>8} {'MS-SSIM':>8}"]
  larger = False
  for name, photo, coded in shown:
    lines.append("-" * len(lines[0]))
    for codec, num_bytes, decoded in coded:
      too_large = num_bytes > coded[0].num_bytes
      larger |= too_large
      lines.append(
        f"{name if codec == coded[0].codec else '':<10} {codec:<6} {num_bytes:>7} "
        f"{_bpp(photo, num_bytes):>7.3f} {metrics.psnr(photo, decoded):>8.2f} "
        f"{metrics.ms_ssim(photo, decoded):>8.4f}{' *' * too_large}"
      )
  if larger:
    lines.append("* its lowest quality: it has no file as small as ours")
  return "\n".join(lines)


def _shown(name: str, photo: np.ndarray, output: str) -> Shown:
  kvc = os.path.join(output, "kvc", name + ".kvc")
  decoded = images.read_image(os.path.join(output, "decoded", name + ".png"))
  ours = Coded("Ours", os.path.getsize(kvc), decoded)
  coded = [ours]
  for codec, anchor in (("JPEG", anchors.jpeg), ("WebP", anchors.webp)):
    anchored = anchors.at_bytes(anchor, photo, ours.num_bytes)
    coded.append(Coded(codec, len(anchored.data), anchored.decoded))
  return Shown(name, photo, coded)


def _row(item: Shown) -> demo_picture.Row:
  height, width, _ = item.photo.shape
  original = (item.photo, ["Original", _size_caption(item.photo, item.photo.size)])
  coded = [(c.decoded, _caption(item, c)) for c in item.coded[:2]]
  caption = [item.name.capitalize(), f"{width} x {height} pixels"]
  return demo_picture.Row(item.photo, CROPS[item.name], [original, *coded], caption)


def _caption(item: Shown, coded: Coded) -> list[str]:
  too_large = coded.num_bytes > item.coded[0].num_bytes
  return [
    f"{coded.codec}{', which cannot be smaller' * too_large}",
    f"{_size_caption(item.photo, coded.num_bytes)}   "
    f"{metrics.psnr(item.photo, coded.decoded):.2f} dB",
  ]


def _size_caption(photo: np.ndarray, num_bytes: int) -> str:
  return f"{num_bytes:,} bytes   {_bpp(photo, num_bytes):.2f} bpp"


def _bpp(photo: np.ndarray, num_bytes: int) -> float:
  return 8 * num_bytes / (photo.shape[0] * photo.shape[1])
