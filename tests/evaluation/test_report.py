"""The report: what the page says, that it holds all it needs, and what it does in a browser."""

from __future__ import annotations

import base64
import html.parser
import io
import json
import pathlib
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from khuvcm_tf.data import images
from khuvcm_tf.evaluation import report, report_pictures, report_results

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>'\"&"
SETTINGS = {"ours": ("low", "mid", "high"), "jpeg": ("q20", "q50", "q80"), EVIL: ("1", "2", "3")}
RATES = {"ours": (0.2, 0.3, 0.4), "jpeg": (0.3, 0.6, 1.2), EVIL: (0.3, 0.5, 0.9)}
IMAGES = {"one": (48, 64), "b/two": (40, 32)}


def _row(codec, index, image):
  height, width = IMAGES[image]
  bpp = RATES[codec][index] * (1.25 if image == "one" else 0.75)
  quality = 28 + 3 * index + 0.25 * len(image)
  estimated = bpp / (1.02 if image == "one" else 1.01) if codec == "ours" else None
  return {
    **{"codec": codec, "setting": SETTINGS[codec][index], "image": image},
    **{"height": height, "width": width, "bytes": round(bpp * height * width / 8), "bpp": bpp},
    **{"estimated_bpp": estimated, "psnr_rgb": quality, "psnr_ycbcr": quality + 2},
    **{"psnr_y": quality + 1, "ssim": 0.9, "ms_ssim": None, "psnr_hvs": 30.0},
    **{"psnr_hvs_m": "inf", "encode_s": 0.25 * (index + 1), "decode_s": 0.5},
  }


def _results():
  rows = [_row(codec, i, image) for codec in SETTINGS for i in range(3) for image in IMAGES]
  means = []
  for codec, settings in SETTINGS.items():
    for index, setting in enumerate(settings):
      own = [row for row in rows if (row["codec"], row["setting"]) == (codec, setting)]
      mean = {"codec": codec, "setting": setting, "pictures": 2, "ms_ssim": None}
      for key in ("bpp", "psnr_rgb", "psnr_ycbcr", "psnr_y", "ssim", "psnr_hvs"):
        mean[key] = sum(row[key] for row in own) / 2
      means.append({**mean, "psnr_hvs_m": "inf", "encode_s": 0.25 * (index + 1), "decode_s": 0.5})
  kinds = {"ours": "model", "jpeg": "anchor", EVIL: "anchor"}
  codecs = {
    name: {
      **{"kind": kind, "version": f"version of {name}", "conversion": "4:2:0"},
      **{"settings": {s: f"the setting {s}" for s in SETTINGS[name]}, "description": {"λ": EVIL}},
      "ceiling": {"mean": 45.6, "min": 40.4} if name == "jpeg" else None,
    }
    for name, kind in kinds.items()
  }
  difference = {"value": -12.345, "lowest": 28.0, "highest": 34.0, "overlap": 0.9}
  little = {"value": 3.21, "lowest": 31.0, "highest": 32.0, "overlap": 0.4}
  bd_rate = {"psnr_rgb": {"ours": difference, EVIL: little}}
  bd_rate["psnr_ycbcr"] = {"ours": {"error": f"no common range {EVIL}"}}
  return {
    "about": {
      **{"date": "2026-01-02T03:04:05+00:00", "commit": "0123456789abcdef+", "command": EVIL},
      **{"machine": {"cpu": "a processor", "threads": 2}, "pictures": list(IMAGES)},
    },
    **{"codecs": codecs, "rows": rows, "means": means},
    "bd_rate": {"anchor": "jpeg", "measure": bd_rate},
    "published": {
      EVIL + "!": {"source": EVIL, "note": EVIL, "bpp": [0.1, 0.5], "psnr_rgb": [28.0, 34.0]}
    },
    "left_out": [{"codec": "jxl", "reason": f"no encoder {EVIL}"}],
  }


def _original(name):
  return np.random.default_rng(0).integers(0, 256, (*IMAGES[name], 3), dtype=np.uint8)


def _fill(folder, results, pictures=True):
  folder.mkdir(exist_ok=True)
  (folder / "results.json").write_text(json.dumps(results), "utf-8")
  for name in IMAGES if pictures else ():
    for part in ("original", *(f"ours/{s}" for s in SETTINGS["ours"]), "jpeg/q20"):
      path = folder / "pictures" / part / (name + ".png")
      path.parent.mkdir(parents=True, exist_ok=True)
      changed = 0 if part == "original" else 10
      images.write_image(str(path), np.clip(_original(name), 20, 200) + np.uint8(changed))
  return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = _fill(tmp_path_factory.mktemp("comparison") / "results", _results())
  assert report.write(folder) == str(pathlib.Path(folder) / "report.html")
  return pathlib.Path(folder)


@pytest.fixture(scope="module")
def page(folder):
  return (folder / "report.html").read_text("utf-8")


class _Parser(html.parser.HTMLParser):
  """Tags with their attributes, the text outside of scripts and styles, and what those hold."""

  def __init__(self, page):
    super().__init__()
    self.tags, self.text, self.blocks, self._open = [], "", {}, None
    self.feed(page)
    self.close()

  def handle_starttag(self, tag, attributes):
    self.tags.append((tag, dict(attributes)))
    if tag in ("script", "style"):
      self._open = dict(attributes).get("id") or f"{tag} {len(self.blocks)}"
      self.blocks[self._open] = ""

  def handle_endtag(self, tag):
    if tag in ("script", "style"):
      self._open = None

  def handle_data(self, data):
    if self._open is None:
      self.text += data
    else:
      self.blocks[self._open] += data


@pytest.fixture(scope="module")
def parsed(page):
  return _Parser(page)


def test_plots_lie_beside_the_page(folder):
  names = {path.name for path in (folder / "plots").iterdir()}
  assert {"psnr_rgb.png", "psnr_rgb.svg", "ssim.png", "psnr_hvs.svg"} <= names
  assert "ms_ssim.png" not in names  # null everywhere


def test_nothing_is_left_of_the_template_or_of_temporary_files(folder, page):
  assert not re.search(r"\{\{\w*\}\}", page)
  assert {path.name for path in folder.iterdir()} == {
    *("results.json", "pictures", "plots", "report.html")
  }


def test_the_page_loads_nothing(parsed, page):
  for tag, attributes in parsed.tags:
    assert tag not in ("iframe", "object", "embed", "base", "form")
    for name in ("src", "href", "srcset", "action", "data"):
      assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
    assert not [name for name in attributes if name.startswith("on") or name == "style"]
  code = "".join(text for name, text in parsed.blocks.items() if "data" not in name)
  assert re.findall(r"https?://[^\"'\s]*", code) == ["http://www.w3.org/2000/svg"]
  assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest|import\(", code)


def test_the_policy_lets_only_the_page_s_own_scripts_run(parsed):
  policy = next(a["content"] for _, a in parsed.tags if "http-equiv" in a)
  assert "default-src 'none'" in policy and "unsafe" not in policy
  code = [name for name in parsed.blocks if name.startswith("script ")]
  assert policy.count("'sha256-") == len(code) + 1 == 4


def test_what_comes_from_outside_stays_text(parsed, page):
  assert "<img src=x" not in page and "<script>alert" not in page
  assert [a for tag, a in parsed.tags if tag == "script" and "id" in a] == [
    {"type": "application/json", "id": "data"},
    {"type": "application/json", "id": "picture-data"},
  ]
  # As a codec of three tables, in the command, a reason, an error, and notes of a published curve.
  assert parsed.text.count(EVIL) >= 8
  data = json.loads(parsed.blocks["data"])
  assert EVIL in [curve["name"] for curve in data["curves"]]


def test_every_codec_and_figure_is_there(parsed):
  results = _results()
  for name, codec in results["codecs"].items():
    for text in (name, codec["version"], *codec["settings"].values()):
      assert text in parsed.text
  for mean in results["means"]:
    assert f"{mean['bpp']:.4f}" in parsed.text and f"{mean['psnr_rgb']:.2f}" in parsed.text
  for text in (
    "2026-01-02 03:04 UTC",
    "commit 0123456789ab, changed",
    "a processor",
    "b/two",
    "jxl",
    "45.6 dB",
  ):
    assert text in parsed.text


def test_bd_rates_have_sign_range_and_overlap_and_little_overlap_a_mark(parsed):
  assert "−12.3\u00a0%28.0–34.0, 90 %" in parsed.text
  assert "+3.2\u00a0%⚠ 31.0–32.0, 40 %" in parsed.text
  assert "⚠ 28.0" not in parsed.text
  assert f"no common range {EVIL}" in parsed.text


def test_one_reason_against_all_measures_is_said_once(tmp_path):
  results = _results()
  reason = {"error": "`curve` has 1 points; expected 3 or more"}
  results["bd_rate"]["measure"] = {name: {"ours": dict(reason)} for name in ("psnr_rgb", "psnr_y")}
  report.write(_fill(tmp_path / "single", results, pictures=False))
  parsed = _Parser((tmp_path / "single" / "report.html").read_text("utf-8"))
  assert parsed.text.count("expected 3 or more") == 1
  assert [a["colspan"] for tag, a in parsed.tags if tag == "td" and "colspan" in a] == ["2"]


def test_the_headline_names_models_with_the_range_they_are_compared_on(parsed):
  assert "against jpeg: ours −12.3\u00a0% (28.0–34.0 dB)." in parsed.text


def test_differences_from_estimates_are_means_over_pictures(parsed):
  # 2 % on one picture, 1 % on the other, at each of three settings.
  assert parsed.text.count("+1.50\u00a0%+2.00\u00a0%") == 3


def test_times_are_means_over_settings_with_their_spread(parsed):
  assert parsed.text.count("0.5000.250–0.750") == 3  # encode of 0.25, 0.5 and 0.75 s


def test_rows_of_the_page_are_those_of_the_results(parsed):
  table = json.loads(parsed.blocks["data"])["rows"]
  place = {column["key"]: i for i, column in enumerate(table["columns"])}
  for shown, row in zip(table["rows"], _results()["rows"]):
    for key, index in place.items():
      if isinstance(row[key], float):
        assert shown[index] == pytest.approx(row[key], abs=1e-4)
      else:
        assert shown[index] == row[key]
  assert len(table["rows"]) == 18


def test_pictures_are_those_of_the_rate_nearest_to_a_target(parsed):
  shown = json.loads(parsed.blocks["picture-data"])
  assert shown["targets"] == [0.2, 0.3, 0.4]
  one = shown["pictures"][0]
  assert (one["name"], one["width"], one["height"]) == ("one", 64, 48)
  # The rates of this picture are a quarter above the means: 0.25, 0.375, 0.5.
  chosen = [one["coded"][chosen["ours"]]["setting"] for chosen in one["chosen"]]
  assert chosen == ["low", "low", "mid"]
  assert {json.loads(key)[0] for key in one["coded"]} == {"ours", "jpeg"}  # as kept
  coded = one["coded"][one["chosen"][0]["ours"]]
  assert coded["bpp"] == 0.25 and "PSNR RGB 28.75" in coded["figures"]


def _decoded(uri):
  kind, data = uri.split(",")
  assert kind == "data:image/webp;base64"
  with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
    return np.array(picture)


def test_the_difference_is_four_times_what_was_added_around_grey(parsed):
  one = json.loads(parsed.blocks["picture-data"])["pictures"][0]
  coded = one["coded"][one["chosen"][0]["ours"]]
  assert _decoded(one["original"]).shape == (48, 64, 3)
  np.testing.assert_allclose(_decoded(coded["difference"]), 168, atol=2)  # 128 + 4 * 10


def test_the_difference_is_clipped():
  original = np.array([[[0], [100], [255], [100]]], np.uint8)
  decoded = np.array([[[255], [98], [0], [100]]], np.uint8)
  assert report_pictures._difference_map(original, decoded).ravel().tolist() == [255, 120, 0, 128]


def test_pictures_stay_below_the_limit_and_what_is_left_out_is_told(tmp_path, monkeypatch):
  folder = _fill(tmp_path / "full", _results())
  results = report_results.read(str(tmp_path / "full" / "results.json"))
  whole = report_pictures.embed(results, folder + "/pictures")
  sizes = [len(json.dumps(picture)) for picture in whole["pictures"]]
  monkeypatch.setattr(report_pictures, "PICTURE_BYTES", sum(sizes) - 1)
  fewer_rates = report_pictures.embed(results, folder + "/pictures")
  assert len(fewer_rates["pictures"]) == 2 and fewer_rates["targets"] == [0.3]
  assert sum(len(json.dumps(p)) for p in fewer_rates["pictures"]) < sum(sizes)
  monkeypatch.setattr(report_pictures, "PICTURE_BYTES", 1000)
  report.write(folder)
  parsed = _Parser((tmp_path / "full" / "report.html").read_text("utf-8"))
  assert "They would not fit into the page." in parsed.text


def test_of_a_large_picture_the_middle_is_shown(tmp_path, monkeypatch):
  monkeypatch.setattr(report_pictures, "_LONGEST_SIDE", 40)
  folder = _fill(tmp_path / "large", _results())
  slope = np.add.outer(2 * np.arange(48), np.arange(64))[..., np.newaxis].repeat(3, 2)
  images.write_image(folder + "/pictures/original/one.png", slope.astype(np.uint8))
  results = report_results.read(str(tmp_path / "large" / "results.json"))
  one = report_pictures.embed(results, folder + "/pictures")["pictures"][0]
  assert (one["width"], one["height"], one["shownWidth"], one["shownHeight"]) == (64, 48, 40, 40)
  np.testing.assert_allclose(_decoded(one["original"]), slope[4:44, 12:52], atol=4)


def test_sections_without_content_say_so(tmp_path):
  results = _results()
  results.update(bd_rate=None, published={}, left_out=[])
  for row in results["rows"]:
    row["estimated_bpp"] = None
  report.write(_fill(tmp_path / "little", results, pictures=False))
  parsed = _Parser((tmp_path / "little" / "report.html").read_text("utf-8"))
  for text in ("No pictures were kept.", "No anchor was compared", "No codec here estimates"):
    assert text in parsed.text
  assert "left out:" not in parsed.text and "Published curves" not in parsed.text


def test_means_over_fewer_pictures_than_others_are_warned_of(tmp_path, parsed):
  assert "Means over fewer" not in parsed.text
  results = _results()
  for mean in results["means"][3:6]:
    mean["pictures"] = 1
  report.write(_fill(tmp_path / "uneven", results, pictures=False))
  parsed = _Parser((tmp_path / "uneven" / "report.html").read_text("utf-8"))
  assert "Means over fewer than the 2 pictures" in parsed.text and "jpeg (1)" in parsed.text


def _change(path, value):
  def change(results):
    *parents, last = path
    for key in parents:
      results = results[key]
    if value is None:
      del results[last]
    else:
      results[last] = value

  return change


@pytest.mark.parametrize(
  "change, message",
  [
    (_change(["rows"], None), r"has no 'rows'; found about, .*; write it anew"),
    (_change(["codecs"], ["jpeg"]), r"codecs is of type list; expected an object"),
    (_change(["codecs", "jpeg", "kind"], "tape"), r"codec 'jpeg' is of kind 'tape'; expected"),
    (_change(["rows", 3, "image"], None), r"row 3 has no 'image'; found codec, setting"),
    (_change(["rows", 3, "codec"], "gone"), r"row 3 is of 'gone', which is not among"),
    (_change(["rows", 3, "psnr_rgb"], "much"), r"row 3: psnr_rgb is 'much'; expected a number"),
    (_change(["rows", 3, "psnr_rgb"], True), r"row 3: psnr_rgb is 'True'; expected a number"),
    (_change(["rows", 3, "bpp"], 0), r"row 3 has 0 bpp; expected a positive number"),
    (_change(["rows"], []), r"has no rows or no means; expected at least one"),
    (_change(["means", 1, "bpp"], None), r"mean 1 has no 'bpp'"),
    (_change(["bd_rate", "anchor"], None), r"bd_rate has no 'anchor'; found measure"),
    (_change(["bd_rate", "measure", "psnr_rgb", "ours"], {}), r"psnr_rgb of 'ours' has no 'value'"),
    (_change(["published"], {"VTM": {}}), r"published 'VTM' has no 'bpp'; found nothing"),
    (
      _change(["published"], {"VTM": {"bpp": [1], "ssim": []}}),
      r"published 'VTM' has 0 values of ssim at 1 rates; expected one each",
    ),
  ],
)
def test_results_that_lack_something_are_refused_in_one_line(tmp_path, change, message):
  results = _results()
  change(results)
  folder = _fill(tmp_path / "bad", results, pictures=False)
  with pytest.raises(report_results.ReportError, match=message) as caught:
    report.write(folder)
  assert str(caught.value).startswith(folder) and "\n" not in str(caught.value)
  assert not (tmp_path / "bad" / "report.html").exists()


@pytest.mark.parametrize(
  "content, message",
  [
    (None, "results.json: cannot be read: No such file or directory; expected the results"),
    (b"{", "results.json: is not JSON: .*; write it anew"),
    (b"\xff\xfe", "results.json: is not JSON: "),
    (b"[]", "results.json is of type list; expected an object"),
  ],
)
def test_a_file_that_is_no_results_is_refused_in_one_line(tmp_path, content, message):
  if content is not None:
    (tmp_path / "results.json").write_bytes(content)
  with pytest.raises(report_results.ReportError, match=message) as caught:
    report.write(str(tmp_path))
  assert "\n" not in str(caught.value)


def test_a_decoded_picture_of_another_size_is_refused(tmp_path):
  folder = _fill(tmp_path / "sizes", _results())
  path = pathlib.Path(folder, "pictures", "jpeg", "q20", "one.png")
  images.write_image(str(path), np.zeros((48, 63, 3), np.uint8))
  with pytest.raises(report_results.ReportError, match="one.png: is 63x48 .* expected 64x48"):
    report.write(folder)


@pytest.fixture(scope="module")
def browser():
  """Headless Chromium."""
  webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
  programs = shutil.which("chromium"), shutil.which("chromedriver")
  if None in programs:
    pytest.skip("chromium or chromedriver is not installed")
  options = webdriver.ChromeOptions()
  for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
    options.add_argument(argument)
  options.binary_location = programs[0]
  options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
  service = webdriver.ChromeService(executable_path=programs[1])
  driver = webdriver.Chrome(options=options, service=service)
  yield driver
  driver.quit()


@pytest.fixture(params=[1280, 360])
def opened(request, browser, folder):
  """The page at a desktop's and at a telephone's width; no test may leave words in the console."""
  browser.execute_cdp_cmd(
    "Emulation.setDeviceMetricsOverride",
    {"width": request.param, "height": 800, "deviceScaleFactor": 1, "mobile": request.param < 500},
  )
  browser.get((folder / "report.html").as_uri())
  yield browser
  assert browser.get_log("browser") == []


def _all(browser, selector):
  return browser.find_elements("css selector", selector)


def _one(browser, selector):
  return browser.find_element("css selector", selector)


def _click(browser, selector):
  """Clicks in the middle of the window, where nothing else covers it."""
  element = _one(browser, selector)
  browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
  element.click()


def _texts(browser, selector):
  return browser.execute_script(
    "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector
  )


def test_nothing_is_wider_than_the_window(opened):
  script = "const d = document.documentElement; return [d.scrollWidth, d.clientWidth]"
  scroll, client = opened.execute_script(script)
  assert scroll <= client
  for details in _all(opened, "details"):
    opened.execute_script("arguments[0].open = true", details)
  assert opened.execute_script(script)[0] <= client


def test_curves_are_drawn_in_the_frame(opened):
  assert len(_all(opened, "#chart .series")) == 4
  assert len(_all(opened, "#chart .published .point")) == 2
  frame = _one(opened, "#chart").rect
  markers = _all(opened, "#chart .marker")
  assert len(markers) == 3 + 2 + 3 + 2  # a point of jpeg has 1.2 bpp: beyond the window of 1
  for marker in markers:
    assert frame["x"] <= marker.rect["x"] <= frame["x"] + frame["width"]
    assert frame["y"] <= marker.rect["y"] <= frame["y"] + frame["height"]


def test_a_tab_changes_the_axis(opened):
  assert _texts(opened, "#measures button") == [
    *("PSNR RGB", "PSNR YCbCr", "PSNR Y", "SSIM", "PSNR-HVS")
  ]
  assert _texts(opened, "#chart text.y") == ["PSNR RGB (dB)"]
  _click(opened, "#tab-ssim")
  assert _texts(opened, "#chart text.y") == ["SSIM"]
  assert _texts(opened, "[aria-selected=true]") == ["SSIM"]
  _one(opened, "#tab-ssim").send_keys("\ue014")  # arrow to the right
  assert _texts(opened, "#chart text.y") == ["PSNR-HVS (dB)"]


def test_the_legend_hides_a_curve_and_its_kind(opened):
  _click(opened, '#legend [data-curve="0"]')
  assert not _all(opened, "#chart .model") and len(_all(opened, "#chart .series")) == 3
  assert _one(opened, '#legend [data-curve="0"]').get_attribute("aria-pressed") == "false"
  _click(opened, '#legend [data-curve="0"]')
  assert len(_all(opened, "#chart .model")) == 1
  _click(opened, "#legend .kind:nth-child(2) .all")
  assert not _all(opened, "#chart .anchor")


def test_a_point_says_what_it_is_by_pointer_and_by_keyboard(opened):
  assert not _one(opened, ".tip").is_displayed()
  opened.execute_script("document.querySelector('#chart').scrollIntoView({block: 'center'})")
  opened.execute_script(
    """const box = document.querySelector("#chart .model .marker").getBoundingClientRect();
    document.querySelector("#chart svg").dispatchEvent(new PointerEvent("pointermove", {
      clientX: box.x + box.width / 2 + 3, clientY: box.y + box.height / 2}));"""
  )
  shown = ["ours", "low", "0.200 bpp", "PSNR RGB 29.00 dB"]
  assert _one(opened, ".tip").text.split("\n") == shown
  first = _one(opened, '#chart .point[tabindex="0"]')
  opened.execute_script("arguments[0].focus()", first)
  first.send_keys("\ue014")  # arrow to the right, along the curve
  assert _one(opened, ".tip").text.split("\n")[:2] == ["ours", "mid"]
  opened.switch_to.active_element.send_keys("\ue015")  # arrow down, to the next curve
  assert _one(opened, ".tip").text.split("\n")[0] == "jpeg"
  tip, window = _one(opened, ".tip").rect, opened.execute_script("return innerWidth")
  assert tip["x"] >= 0 and tip["x"] + tip["width"] <= window


def _divider(browser):
  return int(_one(browser, "#divider").get_attribute("aria-valuenow"))


def test_the_divider_moves_by_pointer_keyboard_and_range(opened):
  from selenium.webdriver import ActionChains

  opened.execute_script("document.querySelector('#stage').scrollIntoView({block: 'center'})")
  assert _divider(opened) == 50
  quarter = _one(opened, "#stage").rect["width"] // 4
  ActionChains(opened).drag_and_drop_by_offset(_one(opened, "#divider"), quarter, 0).perform()
  assert _divider(opened) == pytest.approx(75, abs=4)
  assert "inset(0px 0px 0px 7" in _one(opened, "#right-half").get_attribute("style")
  before = _divider(opened)
  _one(opened, "#divider").send_keys("\ue012")  # arrow to the left
  assert _divider(opened) == before - 2
  _one(opened, "#divider").send_keys("\ue011")  # home
  assert _divider(opened) == 0
  _one(opened, "#position").send_keys("\ue010")  # end
  assert _divider(opened) == 100


def _source(browser, element):
  return _one(browser, element).get_attribute("src")


def test_choices_change_the_pictures_and_the_difference_takes_their_place(opened, parsed):
  from selenium.webdriver.support.ui import Select

  shown = json.loads(parsed.blocks["picture-data"])["pictures"]
  coded = shown[0]["coded"]
  assert _source(opened, "#left-image") == shown[0]["original"]
  assert _source(opened, "#right-image") == coded[shown[0]["chosen"][1]["ours"]]["decoded"]
  Select(_one(opened, "#right")).select_by_visible_text("jpeg")
  assert (
    "jpeg" in _one(opened, "#right-text").text and "0.375 bpp" in _texts(opened, "#right-text")[0]
  )
  Select(_one(opened, "#target")).select_by_index(2)
  Select(_one(opened, "#right")).select_by_visible_text("ours")
  assert _source(opened, "#right-image") == coded[shown[0]["chosen"][2]["ours"]]["decoded"]
  _click(opened, "[data-view=difference]")
  assert _source(opened, "#left-image") == coded[shown[0]["chosen"][2]["ours"]]["difference"]
  assert not _one(opened, "#divider").is_displayed()
  Select(_one(opened, "#picture")).select_by_visible_text("b/two")
  key = shown[1]["chosen"][2]["ours"]
  assert _source(opened, "#left-image") == shown[1]["coded"][key]["difference"]
  assert opened.execute_script("return document.querySelector('#left-image').naturalWidth") == 32


def test_zoom_shows_each_pixel_larger_within_the_frame(opened):
  for zoom in (1, 2, 4):
    _click(opened, f"[data-zoom='{zoom}']")
    assert _one(opened, "#stage").rect["width"] == 64 * zoom


def _column(browser, number):
  return _texts(browser, f"#row-table tbody td:nth-child({number})")


def test_the_table_sorts_by_pointer_and_keyboard_and_filters_by_codec(opened):
  from selenium.webdriver.support.ui import Select

  assert set(_column(opened, 1)) == {"ours"} and len(_column(opened, 1)) == 6
  header = "#row-table th:nth-child(4)"
  _click(opened, f"{header} button")
  assert _one(opened, header).get_attribute("aria-sort") == "ascending"
  ascending = [float(text) for text in _column(opened, 4)]
  assert ascending == sorted(ascending) and ascending != ascending[::-1]
  _one(opened, f"{header} button").send_keys("\ue007")  # enter
  assert _one(opened, header).get_attribute("aria-sort") == "descending"
  assert [float(text) for text in _column(opened, 4)] == ascending[::-1]
  assert len(_all(opened, "#row-table [aria-sort]")) == 1
  Select(_one(opened, "#row-codec")).select_by_value("")
  assert len(_column(opened, 1)) == 18 and EVIL in _column(opened, 1)
  Select(_one(opened, "#row-image")).select_by_value("b/two")
  assert len(_column(opened, 1)) == 9
  assert _one(opened, "#row-count").text == "9 of 18 coded pictures"


def test_what_is_missing_is_sorted_last_either_way(opened):
  opened.execute_script("document.querySelector('#row-codec').selectedIndex = 0")
  opened.execute_script("document.querySelector('#row-codec').dispatchEvent(new Event('change'))")
  header = "#row-table th:nth-child(5) button"  # estimates, which anchors have none of
  for _ in range(2):
    _click(opened, header)
    assert [text == "–" for text in _column(opened, 5)] == [False] * 6 + [True] * 12


def test_names_with_markup_make_no_elements(opened):
  """What would load or run is told in the console, which `opened` looks at."""
  assert not _all(opened, "img[src=x]")
  assert len(_all(opened, "script")) == 5
  assert EVIL in _texts(opened, "#legend button")
