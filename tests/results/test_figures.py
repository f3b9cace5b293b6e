"""Curves and their figures: order, window, colours, and files in the formats of their suffixes."""

from __future__ import annotations

import io
import math
import pathlib
import xml.etree.ElementTree

import numpy as np
import pytest
from PIL import Image

from khuvcm_tf.results import curves, figures
from khuvcm_tf.results.curves import Point
from khuvcm_tf.results.rows import Quantity

PAGE = pathlib.Path(figures.__file__).parent / "page"
AXIS = Quantity("kept", "elements kept", "%", 0)
METRICS = [Quantity("ap", "AP"), Quantity("psnr", "PSNR", "dB"), Quantity("none", "None")]
CURVES = [
  curves.curve("ours", "Ours", "strong", [Point("t", 10, {"ap": 20}), Point("u", 20, {"ap": 22})]),
  curves.curve("plain", "Others", "plain", [Point("", 40, {"psnr": 30, "ap": math.inf})]),
  curves.curve("VTM", "Published", "dashed", [Point("", 15, {"ap": 19.0})]),
]


def test_a_curve_rises_and_holds_finite_values_alone():
  points = [
    Point("b", 0.8, {"ap": 33.0, "aps": math.nan}),
    Point("a", 0.4, {"ap": math.inf}),
    Point("c", math.nan, {"ap": 1.0}),
  ]
  assert curves.curve("x", "Ours", "strong", points).points == [
    *(Point("a", 0.4, {}), Point("b", 0.8, {"ap": 33.0})),
  ]


@pytest.mark.parametrize(
  "strong, plain, expected", [(0.3, 3.0, 0.5), (0.5, 3.0, 1.0), (None, 1.9, 2.0), (None, 6.5, 7)]
)
def test_the_first_window_is_half_as_wide_again_as_the_strong_curves_reach(strong, plain, expected):
  drawn = [curves.curve("jpeg", "Anchors", "plain", [Point("", plain, {})])]
  if strong:
    drawn.append(curves.curve("ours", "Models", "strong", [Point("", strong, {})]))
  assert curves.first_window(drawn, (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)) == expected


def test_64_curves_look_different():
  looks = [curves.look(index) for index in range(64)]
  assert len(set(looks)) == 64
  assert [colour for colour, _ in looks[:8]] == list(range(8))


def test_the_page_has_the_same_colours():
  css = (PAGE / "style.css").read_text("utf-8")
  light = css[: css.index("prefers-color-scheme")]
  for index, colour in enumerate(curves.COLOURS):
    assert f"--c{index}: {colour};" in light


def _relative_luminance(colour):
  """WCAG 2.2 of #rrggbb."""
  parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
  linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
  return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("colour", curves.COLOURS)
def test_colours_stand_out_from_white_as_wcag_asks_of_graphics(colour):
  assert 1.05 / (_relative_luminance(colour) + 0.05) >= 3


def _write(folder):
  return figures.write(str(folder), AXIS, METRICS, CURVES, 30)


def test_a_png_and_an_svg_are_written_for_each_metric_that_a_curve_has(tmp_path):
  paths = _write(tmp_path / "plots")
  assert sorted(pathlib.Path(path).name for path in paths) == [
    *("ap.png", "ap.svg", "psnr.png", "psnr.svg")
  ]
  assert sorted(map(str, (tmp_path / "plots").iterdir())) == sorted(paths)
  for path in map(pathlib.Path, paths):
    if path.suffix == ".svg":
      root = xml.etree.ElementTree.parse(path).getroot()
      assert root.tag == "{http://www.w3.org/2000/svg}svg"
    else:
      with Image.open(io.BytesIO(path.read_bytes())) as image:
        image.load()
        assert image.format == "PNG" and image.width >= 1000
        if path.stem == "psnr":
          continue
        shown = {tuple(c) for c in np.unique(np.array(image)[..., :3].reshape(-1, 3), axis=0)}
        assert tuple(bytes.fromhex(curves.COLOURS[0][1:])) in shown


def test_the_same_curves_give_the_same_bytes(tmp_path):
  first, second = (_write(tmp_path / name) for name in "ab")
  for one, other in zip(first, second):
    assert pathlib.Path(one).read_bytes() == pathlib.Path(other).read_bytes()


def test_names_are_shown_as_they_are(tmp_path):
  """Neither mathematics nor a label that Matplotlib hides, nor markup."""
  pytest.importorskip("matplotlib")
  from matplotlib.figure import Figure

  names = ["$\\frac$", "_hidden", "<b>&"]
  figure = Figure()
  handles = [figure.add_subplot().plot([1])[0] for _ in names]
  figures._add_legend(figure, handles, names)
  shown = [text.get_text().strip() for text in figure.legends[0].get_texts()]
  assert shown == names
  figure.savefig(tmp_path / "names.svg")
  xml.etree.ElementTree.parse(tmp_path / "names.svg")
