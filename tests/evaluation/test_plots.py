"""Figures of curves: what is drawn, in which order, and files that are what they say."""

from __future__ import annotations

import io
import math
import pathlib
import xml.etree.ElementTree

import numpy as np
import pytest
from PIL import Image

from khuvcm_tf.evaluation import metrics, plots

EVALUATION = pathlib.Path(plots.__file__).parent


def _results(**changes):
  """Two codecs, the first named in the file an anchor, and a published curve."""
  rows = [
    {"codec": "ours", "setting": setting, "image": image, "bpp": bpp, "ms_ssim": similarity}
    for setting, bpp in (("low", 0.2), ("high", 0.4))
    for image, similarity in (("a", 0.9), ("b", 0.99))
  ]
  means = [
    {"codec": "jpeg", "setting": "q50", "bpp": 0.8, "psnr_rgb": 33.0, "ms_ssim": math.nan},
    {"codec": "jpeg", "setting": "q20", "bpp": 0.4, "psnr_rgb": math.inf},
    {"codec": "ours", "setting": "high", "bpp": 0.4, "psnr_rgb": 31.0, "ms_ssim": 0.945},
    {"codec": "ours", "setting": "low", "bpp": 0.2, "psnr_rgb": 29.0, "ms_ssim": 0.945},
  ]
  codecs = {"jpeg": {"kind": "anchor"}, "ours": {"kind": "model"}}
  published = {"VTM": {"bpp": [0.5, 0.1], "psnr_rgb": [34.0, 28.0], "ms_ssim": [0.99, 0.9]}}
  return {"rows": rows, "means": means, "codecs": codecs, "published": published, **changes}


def test_models_come_first_and_points_by_rising_rate():
  curves = plots.curves(_results())
  assert [(c.name, c.kind) for c in curves] == [
    ("ours", "model"),
    ("jpeg", "anchor"),
    ("VTM", "published"),
  ]
  assert [p.setting for p in curves[0].points] == ["low", "high"]
  assert [p.bpp for p in curves[2].points] == [0.1, 0.5]
  assert [p.values["psnr_rgb"] for p in curves[2].points] == [28.0, 34.0]


def test_ms_ssim_is_the_mean_of_the_pictures_decibels():
  ours, _, published = plots.curves(_results())
  # 0.9 is 10 dB and 0.99 is 20 dB; their mean 0.945 would be 12.6 dB.
  assert ours.points[0].values["ms_ssim"] == pytest.approx(15)
  assert metrics.similarity_db(0.945) == pytest.approx(12.6, abs=0.01)
  assert published.points[1].values["ms_ssim"] == pytest.approx(20)


def test_values_that_are_not_finite_are_left_out():
  _, jpeg, _ = plots.curves(_results())
  assert [p.values for p in jpeg.points] == [{}, {"psnr_rgb": 33.0}]


def test_a_codec_without_means_has_no_curve():
  codecs = {"jpeg": {"kind": "anchor"}, "ours": {"kind": "model"}, "webp": {"kind": "anchor"}}
  assert "webp" not in [curve.name for curve in plots.curves(_results(codecs=codecs))]


@pytest.mark.parametrize(
  "model, anchor, expected", [(0.3, 3.0, 0.5), (0.5, 3.0, 1.0), (None, 1.9, 2.0), (None, 6.5, 7)]
)
def test_the_window_is_half_as_wide_again_as_the_models_reach(model, anchor, expected):
  curves = [plots.Curve("jpeg", "anchor", [plots.Point("", anchor, {})])]
  if model:
    curves.append(plots.Curve("ours", "model", [plots.Point("", model, {})]))
  assert plots.window(curves) == expected


def test_64_curves_look_different():
  looks = [plots.look(index) for index in range(64)]
  assert len(set(looks)) == 64
  assert [colour for colour, _ in looks[:8]] == list(range(8))


def test_the_page_has_the_same_colours():
  css = (EVALUATION / "report_page.css").read_text("utf-8")
  light = css[: css.index("prefers-color-scheme")]
  for index, colour in enumerate(plots.COLOURS):
    assert f"--c{index}: {colour};" in light


def _relative_luminance(colour):
  """WCAG 2.2 of #rrggbb."""
  parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
  linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
  return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("colour", plots.COLOURS)
def test_colours_stand_out_from_white_as_wcag_asks_of_graphics(colour):
  assert 1.05 / (_relative_luminance(colour) + 0.05) >= 3


def test_a_png_and_an_svg_are_written_for_each_measure_there_is(tmp_path):
  paths = plots.write(plots.curves(_results()), str(tmp_path / "plots"))
  assert sorted(pathlib.Path(path).name for path in paths) == [
    *("ms_ssim.png", "ms_ssim.svg", "psnr_rgb.png", "psnr_rgb.svg")
  ]
  assert sorted(map(str, (tmp_path / "plots").iterdir())) == sorted(paths)
  for path in map(pathlib.Path, paths):
    if path.suffix == ".svg":
      root = xml.etree.ElementTree.parse(path).getroot()
      assert root.tag == "{http://www.w3.org/2000/svg}svg"
    else:
      with Image.open(io.BytesIO(path.read_bytes())) as picture:
        picture.load()
        assert picture.format == "PNG" and picture.width >= 1000
        shown = {tuple(c) for c in np.unique(np.array(picture)[..., :3].reshape(-1, 3), axis=0)}
        assert tuple(bytes.fromhex(plots.COLOURS[0][1:])) in shown


def test_the_same_curves_give_the_same_bytes(tmp_path):
  curves = plots.curves(_results())
  first, second = (plots.write(curves, str(tmp_path / name)) for name in "ab")
  for one, other in zip(first, second):
    assert pathlib.Path(one).read_bytes() == pathlib.Path(other).read_bytes()


def test_names_are_shown_as_they_are(tmp_path):
  """Neither mathematics nor a label that Matplotlib hides, nor markup."""
  pytest.importorskip("matplotlib")
  from matplotlib.figure import Figure

  names = ["$\\frac$", "_hidden", "<b>&"]
  figure = Figure()
  handles = [figure.add_subplot().plot([1])[0] for _ in names]
  plots._add_legend(figure, handles, names)
  shown = [text.get_text().strip() for text in figure.legends[0].get_texts()]
  assert shown == names
  figure.savefig(tmp_path / "names.svg")
  xml.etree.ElementTree.parse(tmp_path / "names.svg")
