"""The page of a comparison whose rows are known, section by section."""

from __future__ import annotations

import html.parser
import json
import pathlib
import re

import numpy as np
import pytest

from khuvcm_tf.data import image_files
from khuvcm_tf.evaluation import images, metrics, rate_distortion, rate_distortion_report
from khuvcm_tf.results import rows

EVIL = "</script><img src=x onerror=alert(2)>'\"&"
RATES = {"jpeg": (0.3, 0.6, 1.2), "ours": (0.2, 0.3, 0.4), EVIL: (0.3, 0.5, 0.9)}
IMAGES = ("one", "two")
NAN = float("nan")


def _row(codec, index, image):
  bpp = RATES[codec][index] * (1.25 if image == "one" else 0.75)
  estimated = bpp / (1.02 if image == "one" else 1.01) if codec == "ours" else NAN
  row = {"codec": codec, "rate_point": f"p{index}", "image": image}
  row.update(dict.fromkeys(images.COLUMNS, 30.0 + index), height=48, width=64, bytes=100)
  row.update(bpp=bpp, estimated_bpp=estimated, psnr_hvs_m=float("inf"), psnr_hvs=NAN)
  row.update(ssim=0.9, ms_ssim=0.9 if image == "one" else 0.99)
  return {**row, "encode_s": 0.25 * (index + 1), "decode_s": 0.5}


def _comparison(**changes):
  found = [_row(codec, index, image) for codec in RATES for index in range(3) for image in IMAGES]
  means = [
    {
      **{"codec": codec, "rate_point": rate_point, "images": 2},
      **rows.mean(own, list(images.COLUMNS))[0],
    }
    for (codec, rate_point), own in rows.grouped(found, "codec", "rate_point").items()
  ]
  codecs = {
    name: {
      **{"kind": "model" if name == "ours" else "anchor", "version": f"version of {name}"},
      **{"conversion": "4:2:0", "rate_points": {f"p{i}": f"notes {i} of {name}" for i in range(3)}},
      "conversion_psnr": {"mean": 45.6, "min": 40.4} if name == "jpeg" else None,
      "description": {"lambda": EVIL} if name == "ours" else {},
    }
    for name in RATES
  }
  rate = {"value": -12.345, "lowest": 28.0, "highest": 34.0, "overlap": 0.9}
  rates = {name: {"ours": rate, EVIL: {"error": "too few"}} for name in metrics.METRICS}
  published = {"source": EVIL, "note": "N", "bpp": [0.5, 0.1], "psnr_rgb": [34.0, 28.0]}
  return rate_distortion.Comparison(
    **{
      "metadata": {
        **{"date": "2026-01-02T03:04:05+00:00", "commit": "0123456789abcdef+", "command": EVIL},
        **{"machine": {"cpu": "a processor"}, "images": list(IMAGES), "jobs": 3},
      },
      **{"codecs": codecs, "rows": found, "not_compared": [], "means": means},
      "bd_rate": {"anchor": "jpeg", "metrics": rates},
      "published": {"VTM": {**published, "ms_ssim": [0.99, 0.9]}},
      "left_out": [{"codec": "jxl", "reason": f"no encoder {EVIL}"}],
      **changes,
    }
  )


class _Text(html.parser.HTMLParser):
  """The text outside of scripts and styles, cells divided by |, and the JSON of the sections."""

  def __init__(self, path):
    super().__init__()
    self.text, self.data, self._is_code = "", [], False
    self.feed(pathlib.Path(path).read_text("utf-8"))

  def handle_starttag(self, tag, attributes):
    self._is_code = tag in ("script", "style")
    if ("type", "application/json") in attributes:
      self.data.append("")

  def handle_endtag(self, tag):
    self._is_code = False
    self.text += "|" * (tag in ("td", "th"))

  def handle_data(self, data):
    if not self._is_code:
      self.text += data
    elif data.startswith("{"):
      self.data[-1] = json.loads(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("comparison")
  for part in ("original", "jpeg/p0", "ours/p0", "ours/p2"):
    (folder / "images" / part).mkdir(parents=True)
    pixels = np.full((48, 64, 3), 100, np.uint8)
    image_files.write_image(str(folder / "images" / part / "one.png"), pixels)
  path = rate_distortion_report.write(_comparison(), str(folder))
  assert path == str(folder / "report.html")
  return folder


@pytest.fixture(scope="module")
def page(folder):
  return _Text(folder / "report.html")


def _page(tmp_path, **changes):
  return _Text(rate_distortion_report.write(_comparison(**changes), str(tmp_path)))


def test_figures_are_written_beside_the_page(folder):
  names = {path.name for path in (folder / "plots").iterdir()}
  assert {"psnr_rgb.png", "psnr_rgb.svg", "ssim.png", "ms_ssim.svg"} <= names
  assert not {"psnr_hvs.png", "psnr_hvs_m.png"} & names, "nowhere finite"


def test_facts_and_metadata_are_there(page):
  for text in ("2026-01-02 03:04 UTC", "commit 0123456789ab, changed", "18 coded images"):
    assert text in page.text
  for text in ("anchor jpeg", "a processor", "one, two", "jobs3", "45.6 dB", f"no encoder {EVIL}"):
    assert text in page.text
  for name, codec in _comparison().codecs.items():
    for text in (f"version of {name}", *codec["rate_points"].values()):
      assert text in page.text


def test_models_come_first_and_published_curves_last(page):
  curves = page.data[0]["curves"]
  assert [(c["name"], c["group"], c["style"]) for c in curves] == [
    *(("ours", "Models", "strong"), ("jpeg", "Anchors", "plain"), (EVIL, "Anchors", "plain")),
    ("VTM", "Published", "dashed"),
  ]
  assert [p["x"] for p in curves[3]["points"]] == [0.1, 0.5]
  assert [p["values"]["psnr_rgb"] for p in curves[3]["points"]] == [28.0, 34.0]


def test_ms_ssim_is_drawn_as_the_mean_of_the_images_decibels(page):
  ours, *_, published = page.data[0]["curves"]
  # 0.9 is 10 dB and 0.99 is 20 dB; their mean 0.945 would be 12.6 dB.
  assert ours["points"][0]["values"]["ms_ssim"] == pytest.approx(15)
  assert ours["points"][0]["values"]["ssim"] == 0.9
  assert published["points"][1]["values"]["ms_ssim"] == pytest.approx(20)


def test_the_lead_names_models_with_the_range_they_are_compared_on(page):
  assert "against jpeg: ours −12.3\u00a0% (28.0–34.0 dB)." in page.text


def test_differences_from_estimates_are_means_over_images(page):
  # 2 % on one image, 1 % on the other, at each of three rate points.
  assert page.text.count("+1.50\u00a0%|+2.00\u00a0%|") == 3


def test_times_are_means_over_rate_points_with_their_spread(page):
  assert page.text.count("|3|0.5000.250–0.750|0.5000.500–0.500|") == 3


def test_kept_images_are_shown_with_their_figures(page):
  shown = page.data[1]
  assert shown["targets"] == [0.25, 0.5]  # of the model's two rate points that are kept
  (one,) = shown["images"]
  assert [each["name"] for each in one["versions"]] == ["ours", "jpeg", "ours"]
  assert one["versions"][0]["notes"] == [
    *("p0, 0.250 bpp", "PSNR RGB 30.00", "MS-SSIM 0.9000", "PSNR-HVS-M inf")
  ]


def test_rows_are_those_of_the_comparison(page):
  table = page.data[2]
  assert [c["key"] for c in table["columns"]][:5] == [
    *("codec", "rate_point", "image", "bpp", "estimated_bpp")
  ]
  assert {c["key"] for c in table["columns"]} == set(_row("ours", 0, "one"))
  assert len(table["rows"]) == 18


def test_sections_without_content_say_so(tmp_path):
  found = [{**row, "estimated_bpp": NAN} for row in _comparison().rows]
  page = _page(tmp_path, rows=found, published={}, left_out=[])
  for text in ("No images were kept.", "No codec here estimates"):
    assert text in page.text
  assert "left out:" not in page.text and "Published curves" not in page.text


def test_images_that_are_in_no_mean_are_named(tmp_path, page):
  assert "are over" not in page.text
  text = _page(tmp_path, not_compared=["one"]).text
  assert "means and BD-rates are over 1 of 2 images: not all codecs coded one." in text


def test_many_omissions_are_folded(tmp_path):
  left_out = [{"image": f"i{n}", "reason": "broken"} for n in range(11)]
  assert re.search(r"11 left out: .*All of themi0: broken", _page(tmp_path, left_out=left_out).text)
