"""The pictures that a report shows side by side, embedded as text.

Pixels are shown as they are: of a picture whose side is longer than 1024, the middle.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

from khuvcm_tf.data import images
from khuvcm_tf.evaluation.report_results import REMEDY, ReportError

# The page stays below 15 MB, so that mail takes it and telephones open it.
PICTURE_BYTES = 13_500_000
_LONGEST_SIDE = 1024  # of what is shown of a picture, in pixels
_QUALITY, _DIFFERENCE_QUALITY = 90, 75  # of WebP, for display
_DIFFERENCE_GAIN = 4


def embed(results: dict, folder: str) -> dict:
  """Embeds the kept pictures, as many as the page has room for.

  Returns:
    {"targets": bpp to compare near, "pictures": those shown, "omitted": number of kept pictures
    there is no room for}. In each picture, "chosen" holds for each target, by codec, the key in
    "coded" of the setting whose rate on this picture is nearest.
  """
  kept = _kept(results, folder)
  targets, embedded = _targets(results, kept), {}
  for chosen in (targets, targets[len(targets) // 2 :][:1]):
    pictures, size = [], 0
    for name, rows in kept.items():
      picture, own = _picture(folder, name, rows, chosen, embedded)
      if size + own <= PICTURE_BYTES:
        pictures.append(picture)
        size += own
    if len(pictures) == len(kept):
      break
  return {"targets": chosen, "pictures": pictures, "omitted": len(kept) - len(pictures)}


def _kept(results: dict, folder: str) -> dict[str, list[dict]]:
  """Returns the rows whose decoded pictures are there, by the names of originals that are."""
  kept: dict[str, list[dict]] = {}
  for row in results["rows"]:
    original = _path(folder, "original", row["image"])
    decoded = _path(folder, row["codec"], row["setting"], row["image"])
    if os.path.isfile(original) and os.path.isfile(decoded):
      kept.setdefault(row["image"], []).append(row)
  return kept


def _path(folder: str, *parts: str) -> str:
  return os.path.join(folder, *parts) + ".png"


def _targets(results: dict, kept: dict[str, list[dict]]) -> list[float]:
  """Returns up to three rates in bpp: those of the first codec that has pictures, models first."""
  codecs = sorted(results["codecs"], key=lambda name: results["codecs"][name]["kind"] != "model")
  rates: dict[str, dict[str, list[float]]] = {codec: {} for codec in codecs}
  for row in (row for rows in kept.values() for row in rows):
    rates[row["codec"]].setdefault(row["setting"], []).append(row["bpp"])
  first = next((found for found in rates.values() if found), {})
  means = sorted({float(f"{sum(own) / len(own):.2g}") for own in first.values()})
  return means if len(means) <= 3 else [means[0], means[len(means) // 2], means[-1]]


def _picture(
  folder: str, name: str, rows: Sequence[dict], targets: Sequence[float], embedded: dict
) -> tuple[dict, int]:
  """Returns a picture as the page takes it, and the bytes it takes.

  Args:
    embedded: what was embedded before, by path, so that nothing is compressed twice.
  """
  path = _path(folder, "original", name)
  original = images.read_image(path)
  height, width, _ = original.shape
  top, left = (max(0, (side - _LONGEST_SIDE) // 2) for side in (height, width))
  window = slice(top, top + _LONGEST_SIDE), slice(left, left + _LONGEST_SIDE)
  chosen, coded = [], {}
  for target in targets:
    nearest: dict[str, dict] = {}
    for row in sorted(rows, key=lambda row: abs(math.log(row["bpp"] / target))):
      nearest.setdefault(row["codec"], row)
    chosen.append({row["codec"]: _key(nearest[row["codec"]]) for row in rows})
    for row in nearest.values():
      if _key(row) not in coded:
        coded[_key(row)] = _coded(folder, row, original, window, embedded)
  if path not in embedded:
    embedded[path] = _data_uri(original[window], _QUALITY)
  shown = original[window].shape
  picture = {"name": name, "width": width, "height": height, "original": embedded[path]}
  picture.update(shownWidth=shown[1], shownHeight=shown[0], chosen=chosen, coded=coded)
  return picture, len(json.dumps(picture))


def _key(row: dict) -> str:
  return json.dumps([row["codec"], row["setting"]])


def _coded(folder: str, row: dict, original: np.ndarray, window: tuple, embedded: dict) -> dict:
  """Returns a decoded picture, its difference from the original and its figures."""
  path = _path(folder, row["codec"], row["setting"], row["image"])
  if path not in embedded:
    decoded = images.read_image(path)
    if decoded.shape != original.shape:
      found, expected = ("x".join(map(str, a.shape[1::-1])) for a in (decoded, original))
      raise ReportError(
        f"{path}: is {found} with {decoded.shape[2]} channels; expected {expected} with "
        f"{original.shape[2]} as the original; {REMEDY}"
      )
    difference = _difference_map(original[window], decoded[window])
    embedded[path] = (
      _data_uri(decoded[window], _QUALITY),
      _data_uri(difference, _DIFFERENCE_QUALITY),
    )
  labels = {"psnr_rgb": "PSNR RGB", "ms_ssim": "MS-SSIM", "psnr_hvs_m": "PSNR-HVS-M"}
  figures = [
    f"{label} {row[name]:.{4 if name == 'ms_ssim' else 2}f}"
    for name, label in labels.items()
    if not math.isnan(row.get(name, math.nan))
  ]
  decoded, difference = embedded[path]
  about = {"codec": row["codec"], "setting": row["setting"], "bpp": row["bpp"], "figures": figures}
  return {**about, "decoded": decoded, "difference": difference}


def _difference_map(original: np.ndarray, decoded: np.ndarray) -> np.ndarray:
  """Four times what was added, around grey; clipped where it is more than 32."""
  difference = decoded.astype(np.int16) - original
  return np.clip(128 + _DIFFERENCE_GAIN * difference, 0, 255).astype(np.uint8)


def _data_uri(picture: np.ndarray, quality: int) -> str:
  file = io.BytesIO()
  shown = picture[..., 0] if picture.shape[2] == 1 else picture
  Image.fromarray(shown).save(file, "WEBP", quality=quality)
  return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
