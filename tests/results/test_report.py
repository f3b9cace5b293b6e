"""The report of a made-up evaluation, AP against elements kept: its page, also in a browser."""

from __future__ import annotations

import base64
import html.parser
import io
import json
import math
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from khuvcm_tf.results import report, viewer
from khuvcm_tf.results.curves import Point, curve
from khuvcm_tf.results.rows import Quantity

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>'\"&"
AXIS = Quantity("kept", "elements kept", "%", 0)
METRICS = [
  *(Quantity("ap", "AP", "", 1), Quantity("ap_small", "APs", "", 1)),
  *(Quantity("ap_huge", "AP of none", "", 1), Quantity("gain", "Gain", "dB", 2)),
]
COLUMNS = [
  *(Quantity(key, key.capitalize(), "", None) for key in ("method", "threshold", "image")),
  *(AXIS, *METRICS[:2]),
]
KEPT = {"ours": (10, 30, 60), "random": (20, 40, 100), EVIL: (15, 35, 70)}
IMAGES = {"one": (48, 64), "inf": (40, 32)}


def _curves():
  drawn = []
  for (name, kept), group in zip(KEPT.items(), ("Ours", "Baselines", "Baselines")):
    points = [
      Point(f"t{i}", x, {"ap": 20.0 + 8 * i, "ap_small": 9.0 + i, "ap_huge": math.nan}, 2)
      for i, x in enumerate(kept)
    ]
    drawn.append(curve(name, group, "strong" if name == "ours" else "plain", points))
  published = [Point("", 10, {"ap": 19.0, "gain": 3.5}), Point("", 50, {"ap": 33.0})]
  return [*drawn, curve(EVIL + "!", "Published", "dashed", published)]


def _rows():
  return [
    {
      **{"method": method, "threshold": f"t{index}", "image": image, "kept": kept + 0.25},
      **{"ap": math.inf if image == "inf" else 20.123456 + 8 * index},
      "ap_small": 9.0 if method == "ours" else math.nan,
    }
    for method, own in KEPT.items()
    for index, kept in enumerate(own)
    for image in IMAGES
  ]


def _original(name):
  return np.random.default_rng(0).integers(20, 200, (*IMAGES[name], 3), dtype=np.uint8)


def _versions(folder):
  """Originals, and versions of them that are 10 levels brighter."""
  originals, versions = {}, []
  for name in IMAGES:
    originals[name] = str(folder / f"{name}.png")
    Image.fromarray(_original(name)).save(originals[name])
    for method, kept in (("ours", KEPT["ours"]), ("random", KEPT["random"][:1])):
      for index, x in enumerate(kept):
        path = str(folder / f"{name}_{method}_{index}.png")
        Image.fromarray(_original(name) + np.uint8(10)).save(path)
        x *= 1.25 if name == "one" else 0.75
        versions.append(viewer.Version(method, name, f"t{index}", x, (f"kept {x:g} %",), path))
  return originals, versions


def _write(path, embedded):
  rates = {
    "AP": {
      "ours": {"value": -12.345, "lowest": 28.0, "highest": 34.0, "overlap": 0.9},
      EVIL: {"value": 3.21, "lowest": 31.0, "highest": 32.0, "overlap": 0.4},
    },
    "APs": {"ours": {"error": f"no common range {EVIL}"}},
  }
  curves = report.curves(AXIS, METRICS, _curves(), (25, 50, 95), hint=EVIL)
  again = report.curves(AXIS, METRICS[:1], _curves(), hint=report.Markup("<b>"))
  bodies = {
    "curves": curves,
    "again": again,
    "bd-rate": report.bd_rate_table("Method", "random", rates, KEPT),
    "images": report.images(embedded, AXIS),
    "rows": report.row_table(COLUMNS, _rows(), ("method", "image"), "detections"),
    "about": report.description_list({EVIL: {"a": [1, 0.5], "b": EVIL}}),
  }
  sections = [report.Section(name, EVIL, body, name) for name, body in bodies.items()]
  lead = report.paragraph(EVIL, "lead")
  report.write(str(path), f"Made up {EVIL}", ["2026-01-02", EVIL], sections, lead, EVIL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("report")
  _write(folder / "report.html", viewer.embed(*_versions(folder)))
  return folder


@pytest.fixture(scope="module")
def page(folder):
  return (folder / "report.html").read_text("utf-8")


class _Parser(html.parser.HTMLParser):
  """Tags with their attributes, the text outside of scripts and styles, and what those hold."""

  def __init__(self, page):
    super().__init__()
    self.tags, self.text, self.data, self.code, self._open = [], "", [], [], None
    self.feed(page)
    self.close()

  def handle_starttag(self, tag, attributes):
    self.tags.append((tag, dict(attributes)))
    if tag in ("script", "style"):
      self._open = self.data if "type" in dict(attributes) else self.code
      self._open.append("")

  def handle_endtag(self, tag):
    if tag in ("script", "style"):
      self._open = None

  def handle_data(self, data):
    if self._open is None:
      self.text += data
    else:
      self._open[-1] += data


@pytest.fixture(scope="module")
def parsed(page):
  return _Parser(page)


@pytest.fixture(scope="module")
def data(parsed):
  """The JSON of the sections, in their order."""
  return [json.loads(text) for text in parsed.data]


def test_nothing_is_left_of_the_templates(page):
  assert not re.search(r"\{\{\w*\}\}", page)


def test_the_page_loads_nothing(parsed):
  for tag, attributes in parsed.tags:
    assert tag not in ("iframe", "object", "embed", "base", "form")
    for name in ("src", "href", "srcset", "action", "data"):
      assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
    assert not [name for name in attributes if name.startswith("on") or name == "style"]
  code = "".join(parsed.code)
  assert re.findall(r"https?://[^\"'\s]*", code) == ["http://www.w3.org/2000/svg"]
  assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest|import\(", code)


def test_the_policy_allows_only_the_page_s_own_scripts(parsed):
  policy = next(a["content"] for _, a in parsed.tags if "http-equiv" in a)
  assert "default-src 'none'" in policy and "unsafe" not in policy
  assert policy.count("'sha256-") == len(parsed.code) == 4  # one of them is the style


def test_text_from_outside_stays_text(parsed, page, data):
  assert "<img src=x" not in page and "<script>alert" not in page
  assert len([tag for tag, _ in parsed.tags if tag == "script"]) == len(data) + 3
  # In title (twice), facts, lead, notes, headings, a hint, names and values.
  assert parsed.text.count(EVIL) >= 18
  assert EVIL in [each["name"] for each in data[0]["curves"]]
  assert "<b>" in page  # of `Markup`


def test_ids_are_unique_and_links_lead_to_sections(parsed):
  ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
  assert len(ids) == len(set(ids))
  links = [a["href"][1:] for tag, a in parsed.tags if tag == "a"]
  assert links == ["curves", "again", "bd-rate", "images", "rows", "about"]
  assert set(links) <= set(ids)


def test_all_numbers_of_curves_are_in_a_table_too(parsed, data):
  shown = data[0]
  assert list(shown["metrics"]) == ["ap", "ap_small", "gain"], "of the other there is no value"
  assert (shown["axis"]["unit"], shown["windows"], shown["first"]) == ("%", [25, 50, 95], 95)
  for each, expected in zip(shown["curves"], _curves()):
    assert (each["name"], each["group"], each["style"]) == expected[:3]
    assert [(p["label"], p["x"], p["values"]) for p in each["points"]] == [
      p[:3] for p in expected.points
    ]
  assert re.search(r"ours\s*t1\s*2\s*30\s*28\.0\s*10\.0\s*–", re.sub(r"\s+", " ", parsed.text))
  assert f"{EVIL}! (published)" in parsed.text


def test_curves_without_windows_are_shown_whole(data):
  assert data[1]["first"] == pytest.approx(102) and data[1]["windows"] == []


def test_bd_rates_have_sign_range_and_overlap_and_little_overlap_a_mark(parsed):
  assert "−12.3\u00a0%28.0–34.0, 90 %" in parsed.text
  assert "+3.2\u00a0%⚠ 31.0–32.0, 40 %" in parsed.text
  assert "⚠ 28.0" not in parsed.text
  assert f"no common range {EVIL}" in parsed.text


def test_one_reason_against_all_metrics_is_written_once():
  rates = {name: {"ours": {"error": "too few"}} for name in ("AP", "APs")}
  parsed = _Parser(report.bd_rate_table("Method", "random", rates, ["ours", "random"]))
  assert parsed.text.count("too few") == 1
  assert [a["colspan"] for tag, a in parsed.tags if tag == "td" and "colspan" in a] == ["2"]


def test_rows_of_the_page_are_rounded_as_shown(data):
  shown, rows = data[3], _rows()
  assert [c["key"] for c in shown["columns"]] == [c.key for c in COLUMNS]
  for line, row in zip(shown["rows"], rows):
    assert line[:3] == [row["method"], row["threshold"], row["image"]]
    assert line[3] == pytest.approx(row["kept"], abs=0.06)
    assert line[4] == ("inf" if row["image"] == "inf" else round(row["ap"], 2))
    assert line[5] == (9 if row["method"] == "ours" else None)
  assert len(shown["rows"]) == len(rows) == 18


def test_sections_without_images_say_why():
  nothing = {"images": [], "targets": [], "omitted": 0}
  assert "No images were kept." in report.images(nothing, AXIS)
  assert "They would not fit into the page." in report.images({**nothing, "omitted": 2}, AXIS)


@pytest.mark.parametrize(
  "value, text", [(-12.345, "−12.3\u00a0%"), (0.04, "0.0\u00a0%"), (3.0, "+3.0\u00a0%")]
)
def test_percentages_have_a_sign_unless_they_are_zero(value, text):
  assert report.percent(value) == text


def test_versions_are_those_of_the_cost_nearest_to_a_target(data):
  shown = data[2]
  assert shown["targets"] == [10, 30, 60]
  one = shown["images"][0]
  assert (one["name"], one["width"], one["height"]) == ("one", 64, 48)
  # The costs of this image are a quarter above the means: 12.5, 37.5, 75.
  chosen = [one["versions"][each["ours"]]["notes"] for each in one["chosen"]]
  assert chosen == [["kept 12.5 %"], ["kept 37.5 %"], ["kept 75 %"]]
  assert {version["name"] for version in one["versions"]} == {"ours", "random"}


def _decoded(uri):
  kind, data = uri.split(",")
  assert kind == "data:image/webp;base64"
  with Image.open(io.BytesIO(base64.b64decode(data))) as image:
    return np.array(image)


def test_the_difference_is_four_times_what_was_added_around_grey(data):
  one = data[2]["images"][0]
  assert _decoded(one["original"]).shape == (48, 64, 3)
  difference = _decoded(one["versions"][one["chosen"][0]["ours"]]["difference"])
  np.testing.assert_allclose(difference, 168, atol=2)  # 128 + 4 * 10


def test_the_difference_is_clipped():
  original = np.array([[[0], [100], [255], [100]]], np.uint8)
  decoded = np.array([[[255], [98], [0], [100]]], np.uint8)
  assert viewer._difference_map(original, decoded).ravel().tolist() == [255, 120, 0, 128]


def test_images_stay_below_the_limit_and_those_left_out_are_counted(tmp_path, monkeypatch):
  originals, versions = _versions(tmp_path)
  whole = viewer.embed(originals, versions)
  sizes = [len(json.dumps(image)) for image in whole["images"]]
  monkeypatch.setattr(viewer, "IMAGE_BYTES", sum(sizes) - 1)
  fewer_targets = viewer.embed(originals, versions)
  assert len(fewer_targets["images"]) == 2 and fewer_targets["targets"] == [30]
  assert sum(len(json.dumps(image)) for image in fewer_targets["images"]) < sum(sizes)
  monkeypatch.setattr(viewer, "IMAGE_BYTES", 1000)
  assert viewer.embed(originals, versions)["omitted"] == 2


def test_of_a_large_image_the_middle_is_shown(tmp_path, monkeypatch):
  monkeypatch.setattr(viewer, "_LONGEST_SIDE", 40)
  originals, versions = _versions(tmp_path)
  slope = np.add.outer(2 * np.arange(48), np.arange(64))[..., np.newaxis].repeat(3, 2)
  Image.fromarray(slope.astype(np.uint8)).save(originals["one"])
  one = viewer.embed(originals, versions)["images"][0]
  assert (one["width"], one["height"], one["shownWidth"], one["shownHeight"]) == (64, 48, 40, 40)
  np.testing.assert_allclose(_decoded(one["original"]), slope[4:44, 12:52], atol=4)


def test_versions_of_another_size_or_damaged_are_refused(tmp_path):
  originals, versions = _versions(tmp_path)
  path = tmp_path / "one_random_0.png"
  Image.new("RGB", (63, 48)).save(path)
  with pytest.raises(viewer.ViewerError, match="random_0.png: is 63x48 .* expected 64x48"):
    viewer.embed(originals, versions)
  path.write_bytes(path.read_bytes()[:60])
  with pytest.raises(viewer.ViewerError, match="random_0.png: cannot be read: .* run again"):
    viewer.embed(originals, versions)


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
  """The page at a desktop's and at a telephone's width; nothing may be written to the console."""
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


def _choose(browser, selector, text):
  from selenium.webdriver.support.ui import Select

  Select(_one(browser, selector)).select_by_visible_text(text)


def test_nothing_is_wider_than_the_window(opened):
  script = "const d = document.documentElement; return [d.scrollWidth, d.clientWidth]"
  scroll, client = opened.execute_script(script)
  assert scroll <= client
  for details in _all(opened, "details"):
    opened.execute_script("arguments[0].open = true", details)
  assert opened.execute_script(script)[0] <= client


def test_curves_are_drawn_in_the_frame(opened):
  assert len(_all(opened, "#curves .series")) == 4
  assert len(_all(opened, "#curves .dashed .point")) == 2
  frame = _one(opened, "#curves .chart").rect
  markers = _all(opened, "#curves .point .marker")
  assert len(markers) == 3 + 2 + 3 + 2  # a point of random is beyond the window
  for marker in markers:
    assert frame["x"] <= marker.rect["x"] <= frame["x"] + frame["width"]
    assert frame["y"] <= marker.rect["y"] <= frame["y"] + frame["height"]
  assert _texts(opened, "#curves text.x") == ["elements kept"]


def test_two_sections_of_curves_are_independent(opened):
  assert len(_all(opened, "#again .point")) == 3 + 3 + 3 + 2
  _click(opened, "#again .logarithmic")
  ticks = [float(text) for text in _texts(opened, "#again .chart text[text-anchor=middle]")]
  assert ticks == sorted(ticks) and ticks[0] > 0 and len(ticks) >= 3
  _click(opened, '#again .legend [data-curve="0"]')
  assert len(_all(opened, "#again .series")) == 3 and len(_all(opened, "#curves .series")) == 4


def test_a_tab_changes_the_metric(opened):
  assert _texts(opened, "#curves .tabs button") == ["AP", "APs", "Gain"]
  assert _texts(opened, "#curves text.y") == ["AP"]
  _click(opened, "#curves-chart-ap_small")
  assert _texts(opened, "#curves text.y") == ["APs"]
  assert _texts(opened, "#curves [aria-selected=true]") == ["APs"]
  _one(opened, "#curves-chart-ap_small").send_keys("\ue014")  # arrow to the right
  assert _texts(opened, "#curves text.y") == ["Gain (dB)"]


def test_the_legend_hides_a_curve_and_its_group(opened):
  assert _texts(opened, "#curves .legend .all") == ["Ours", "Baselines", "Published"]
  _click(opened, '#curves .legend [data-curve="0"]')
  assert not _all(opened, "#curves .chart .strong") and len(_all(opened, "#curves .series")) == 3
  button = _one(opened, '#curves .legend [data-curve="0"]')
  assert button.get_attribute("aria-pressed") == "false"
  button.click()
  assert len(_all(opened, "#curves .chart .strong")) == 1
  _click(opened, "#curves .legend .kind:nth-child(2) .all")
  assert not _all(opened, "#curves .chart .plain")


def test_a_point_describes_itself_by_pointer_and_by_keyboard(opened):
  assert not _one(opened, "#curves .tip").is_displayed()
  opened.execute_script("document.querySelector('.chart').scrollIntoView({block: 'center'})")
  opened.execute_script(
    """const box = document.querySelector(".chart .strong .marker").getBoundingClientRect();
    document.querySelector(".chart svg").dispatchEvent(new PointerEvent("pointermove", {
      clientX: box.x + box.width / 2 + 3, clientY: box.y + box.height / 2}));"""
  )
  assert _one(opened, ".tip").text.split("\n") == ["ours", "t0", "10 %", "AP 20.0"]
  first = _one(opened, '#curves .point[tabindex="0"]')
  opened.execute_script("arguments[0].focus()", first)
  first.send_keys("\ue014")  # arrow to the right, along the curve
  assert _one(opened, ".tip").text.split("\n")[:2] == ["ours", "t1"]
  opened.switch_to.active_element.send_keys("\ue015")  # arrow down, to the next curve
  assert _one(opened, ".tip").text.split("\n")[0] == "random"
  tip, window = _one(opened, ".tip").rect, opened.execute_script("return innerWidth")
  assert tip["x"] >= 0 and tip["x"] + tip["width"] <= window


def _divider(browser):
  return int(_one(browser, ".divider").get_attribute("aria-valuenow"))


def test_the_divider_moves_by_pointer_keyboard_and_range(opened):
  from selenium.webdriver import ActionChains

  opened.execute_script("document.querySelector('.stage').scrollIntoView({block: 'center'})")
  assert _divider(opened) == 50
  quarter = _one(opened, ".stage").rect["width"] // 4
  ActionChains(opened).drag_and_drop_by_offset(_one(opened, ".divider"), quarter, 0).perform()
  assert _divider(opened) == pytest.approx(75, abs=4)
  assert "inset(0px 0px 0px 7" in _one(opened, ".right-half").get_attribute("style")
  before = _divider(opened)
  _one(opened, ".divider").send_keys("\ue012")  # arrow to the left
  assert _divider(opened) == before - 2
  _one(opened, ".divider").send_keys("\ue011")  # home
  assert _divider(opened) == 0
  _one(opened, ".position").send_keys("\ue010")  # end
  assert _divider(opened) == 100


def _source(browser, element):
  return _one(browser, element).get_attribute("src")


def test_choices_change_the_images_and_the_difference_replaces_them(opened, data):
  one, other = data[2]["images"]

  def version(image, target, name):
    return image["versions"][image["chosen"][target][name]]

  assert _source(opened, ".left-image") == one["original"]
  assert _source(opened, ".right-image") == version(one, 1, "ours")["decoded"]
  _choose(opened, ".right", "random")
  assert _texts(opened, ".right-text") == ["randomkept 25 %"]
  _choose(opened, ".target", "about 60 %")
  _choose(opened, ".right", "ours")
  assert _source(opened, ".right-image") == version(one, 2, "ours")["decoded"]
  _click(opened, "[data-view=difference]")
  assert _source(opened, ".left-image") == version(one, 2, "ours")["difference"]
  assert not _one(opened, ".divider").is_displayed()
  _choose(opened, ".image", "inf")
  assert _source(opened, ".left-image") == version(other, 2, "ours")["difference"]
  assert opened.execute_script("return document.querySelector('.left-image').naturalWidth") == 32


def test_zoom_shows_each_pixel_larger_within_the_frame(opened):
  for zoom in (1, 2, 4):
    _click(opened, f"[data-zoom='{zoom}']")
    assert _one(opened, ".stage").rect["width"] == 64 * zoom


def _column(browser, number):
  return _texts(browser, f".row-table tbody td:nth-child({number})")


def test_the_table_sorts_by_pointer_and_keyboard_and_filters_by_columns(opened):
  assert set(_column(opened, 1)) == {"ours"} and len(_column(opened, 1)) == 6
  header = ".row-table th:nth-child(4)"
  _click(opened, f"{header} button")
  assert _one(opened, header).get_attribute("aria-sort") == "ascending"
  ascending = [float(text) for text in _column(opened, 4)]
  assert ascending == sorted(ascending) and ascending != ascending[::-1]
  _one(opened, f"{header} button").send_keys("\ue007")  # enter
  assert _one(opened, header).get_attribute("aria-sort") == "descending"
  assert [float(text) for text in _column(opened, 4)] == ascending[::-1]
  assert len(_all(opened, ".row-table [aria-sort]")) == 1
  _choose(opened, "[data-column=method]", "all")
  assert len(_column(opened, 1)) == 18 and EVIL in _column(opened, 1)
  _choose(opened, "[data-column=image]", "inf")
  assert set(_column(opened, 3)) == {"inf"} and set(_column(opened, 5)) == {"∞"}
  assert _one(opened, ".row-count").text == "9 of 18 detections"


def test_missing_values_are_sorted_last_either_way(opened):
  _choose(opened, "[data-column=method]", "all")
  for _ in range(2):
    _click(opened, ".row-table th:nth-child(6) button")
    assert [text == "–" for text in _column(opened, 6)] == [False] * 6 + [True] * 12


def test_names_with_markup_make_no_elements(opened):
  """What would be loaded or run is reported in the console, which `opened` looks at."""
  assert not _all(opened, "img[src=x]")
  assert len(_all(opened, "script")) == 7
  assert EVIL in _texts(opened, ".legend button")
