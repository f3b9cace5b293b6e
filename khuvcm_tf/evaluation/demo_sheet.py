"""A sheet that sets crops of photos side by side, enlarged, with what they cost below them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CROP = 192  # pixels of the photo
_ZOOM = 2
_CELL = CROP * _ZOOM
_GAP, _MARGIN, _CAPTION, _TITLE = 20, 40, 76, 92
_PAPER, _INK, _FAINT, _MARK = (250, 250, 248), (30, 30, 34), (105, 105, 112), (255, 214, 10)


class Row(NamedTuple):
  """A photo and the versions of it whose crops are shown; images are uint8 [H, W, 3]."""

  photo: np.ndarray
  corner: tuple[int, int]  # left, top of the crop
  versions: list[tuple[np.ndarray, list[str]]]  # with two lines of caption
  caption: list[str]  # two lines


def draw(title: str, rows: Sequence[Row]) -> np.ndarray:
  """Draws the sheet.

  Args:
    title: its heading.
    rows: at least one, all with the same number of versions, photos of at least CROP a side.

  Returns:
    uint8 [H, W, 3]: a column for the whole photos and one for each version.
  """
  columns = 1 + len(rows[0].versions)
  width = 2 * _MARGIN + columns * _CELL + (columns - 1) * _GAP
  height = _MARGIN + _TITLE + len(rows) * (_CELL + _CAPTION + _GAP)
  sheet = Image.new("RGB", (width, height), _PAPER)
  pen = ImageDraw.Draw(sheet)
  pen.text((_MARGIN, _MARGIN - 10), title, _INK, ImageFont.load_default(34))
  pen.text(
    (_MARGIN, _MARGIN + 38),
    f"Crops of {CROP} x {CROP} pixels, enlarged {_ZOOM} times without smoothing. "
    "Bytes of the whole file; bits per pixel and PSNR of the whole photo.",
    _FAINT,
    ImageFont.load_default(20),
  )
  for index, row in enumerate(rows):
    top = _MARGIN + _TITLE + index * (_CELL + _CAPTION + _GAP)
    cells = [(_whole(row.photo, row.corner), row.caption)]
    cells += [(_crop(image, row.corner), caption) for image, caption in row.versions]
    for column, (cell, caption) in enumerate(cells):
      left = _MARGIN + column * (_CELL + _GAP)
      sheet.paste(cell, (left, top + _CELL - cell.height))
      pen.text((left, top + _CELL + 8), caption[0], _INK, ImageFont.load_default(24))
      pen.text((left, top + _CELL + 38), caption[1], _FAINT, ImageFont.load_default(21))
  return np.array(sheet)


def _whole(photo: np.ndarray, corner: tuple[int, int]) -> Image.Image:
  """The photo scaled into a cell, with a frame where the crop is."""
  scale = _CELL / max(photo.shape[:2])
  size = round(photo.shape[1] * scale), round(photo.shape[0] * scale)
  cell = Image.fromarray(photo).resize(size, Image.Resampling.LANCZOS)
  left, top = (round(side * scale) for side in corner)
  right, bottom = (round((side + CROP) * scale) for side in corner)
  ImageDraw.Draw(cell).rectangle((left, top, right, bottom), outline=_MARK, width=3)
  return cell


def _crop(image: np.ndarray, corner: tuple[int, int]) -> Image.Image:
  left, top = corner
  crop = Image.fromarray(image[top : top + CROP, left : left + CROP])
  return crop.resize((_CELL, _CELL), Image.Resampling.NEAREST)
