"""Comparisons: rows against files and plain sums, what is coded again and what is not."""

from __future__ import annotations

import collections
import copy
import csv
import json
import math
import pathlib
import re
import shutil
import zlib

import numpy as np
import pytest
import skimage.data
from PIL import Image

from khuvcm_tf import bitstream, errors, model_files
from khuvcm_tf.data import image_files
from khuvcm_tf.evaluation import anchors, coders, metrics, rate_distortion
from khuvcm_tf.evaluation.options import RateDistortionOptions
from khuvcm_tf.executor import HERE
from khuvcm_tf.results import bjontegaard

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden" / "mbt2018_mean" / "model"
COLUMNS = (
  *("codec", "rate_point", "image", "height", "width", "bytes", "bpp", "estimated_bpp"),
  *("psnr_rgb", "psnr_ycbcr", "psnr_y", "ssim", "ms_ssim", "psnr_hvs", "psnr_hvs_m"),
  *("encode_s", "decode_s"),
)
QUALITIES = (6, 20, 50, 84)  # few, so that few files are coded


class Stub(coders.Coder):
  """Instead of `coders.ModelCoder`: zlib of samples // step; the path .../sSTEP names the step.

  Attributes:
    calls: how often each (rate point, content of an image) was coded without failing.
    warmed: rate points, once for each warm-up.
    stop_at: the call of `compress` that is interrupted.
    code_version: part of the key.
  """

  kind, suffix, version, conversion, description = "model", ".stub", "1", "none", {"codec": "stub"}
  calls: collections.Counter
  warmed: list
  stop_at: int | None
  code_version: str

  def __init__(self, path, precision):
    self.path, self.name = path, pathlib.Path(path).name
    self.step = int(self.name[1:])
    self.key = f"{self.step} {self.code_version} {precision}"
    self.notes = f"step {self.step}"

  def warm_up(self, image):
    self.warmed.append(self.name)

  def compress(self, image):
    if image[0, 0, 0] == 66:
      raise errors.Error("cannot code 66")
    if Stub.stop_at is not None and self.calls.total() + 1 == Stub.stop_at:
      Stub.stop_at = None
      raise KeyboardInterrupt
    self.calls[self.name, image.tobytes()] += 1
    return zlib.compress((image // self.step).tobytes())

  def decompress(self, data, shape):
    indices = np.frombuffer(zlib.decompress(data), np.uint8).reshape(shape)
    return indices * self.step + self.step // 2

  def estimated_bits(self, image):
    return float(image.size)


@pytest.fixture
def stub(monkeypatch):
  for name, value in {
    **{"calls": collections.Counter(), "warmed": []},
    **{"stop_at": None, "code_version": "1"},
  }.items():
    monkeypatch.setattr(Stub, name, value, raising=False)
  monkeypatch.setattr(coders, "ModelCoder", Stub)
  return Stub


def _few(name):
  """Returns an anchor of fewer rate points."""
  anchor = copy.copy({"jpeg": anchors.jpeg, "webp": anchors.webp}[name])
  anchor.default_rate_points = QUALITIES
  return anchor


def _write_images(folder):
  photo = skimage.data.astronaut()
  (folder / "sub").mkdir(parents=True)
  image_files.write_image(str(folder / "a.png"), photo[60:108, 200:264])
  image_files.write_image(str(folder / "b.png"), photo[100:117, 200:233, :1])
  image_files.write_image(str(folder / "sub" / "c.png"), photo[150:182, 150:190])
  return folder


@pytest.fixture
def photos(tmp_path):
  """A folder of three images: RGB of 48x64, grey of 17x33, in a subfolder RGB of 32x40."""
  return _write_images(tmp_path / "photos")


@pytest.fixture
def compare(photos, tmp_path):
  """A function: options, and the output's name -> results, of the photos."""

  def run(output="out", models=("ours=s4:s16",), executor=HERE, **options):
    images, output = str(photos), str(tmp_path / output)
    options = RateDistortionOptions(images, output, models=models, **options)
    return rate_distortion.run(options, executor)

  return run


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
  """The golden model, JPEG and WebP on the three images: the output folder and the results."""
  folder = tmp_path_factory.mktemp("compared")
  images, output = _write_images(folder / "photos"), folder / "out"
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(rate_distortion.anchors, "create", _few)
    options = RateDistortionOptions(
      *(str(images), str(output)),
      **{"models": (f"ours={GOLDEN}",), "anchors": ("jpeg", "webp")},
      **{"bd_anchor": "webp", "shown": 1},
    )
    results = rate_distortion.run(options)
  return folder, results


def _untimed(results):
  return [
    {key: value for key, value in row.items() if key not in ("encode_s", "decode_s")}
    for row in results.rows
  ]


def _strict(path):
  def refuse(word):
    raise AssertionError(f"{word} is not JSON")

  return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def _one_line(found, pattern):
  assert "\n" not in str(found.value)
  assert re.search(pattern, str(found.value))


def test_there_is_a_row_of_all_columns_for_each_image_and_rate_point(compared):
  _, results = compared
  rate_points = {"ours": ["model"], "jpeg": [f"q{q}" for q in QUALITIES]}
  rate_points["webp"] = rate_points["jpeg"]
  assert [(row["codec"], row["rate_point"], row["image"]) for row in results.rows] == [
    (codec, rate_point, image)
    for codec, labels in rate_points.items()
    for rate_point in labels
    for image in ("a", "b", "sub_c")
  ]
  assert {tuple(row) for row in results.rows} == {COLUMNS}
  assert {row["image"]: (row["height"], row["width"]) for row in results.rows} == {
    **{"a": (48, 64), "b": (17, 33), "sub_c": (32, 40)}
  }
  assert results.left_out == []
  rate_distortion.check_complete(results)


def test_rows_hold_the_measures_of_the_files_on_disk(compared):
  folder, results = compared
  model = model_files.load(str(GOLDEN))
  suffixes = {"ours": "kvc", "jpeg": "jpg", "webp": "webp"}
  for row in results.rows:
    codec, name = row["codec"], row["image"]
    file = folder / "out" / "files" / codec / row["rate_point"] / f"{name}.{suffixes[codec]}"
    assert row["bytes"] == file.stat().st_size
    assert row["bpp"] == 8 * row["bytes"] / (row["height"] * row["width"])
    image = image_files.read_image(str(folder / "photos" / f"{name.replace('_', '/')}.png"))
    is_grey = image.shape[2] == 1
    image = np.broadcast_to(image, (*image.shape[:2], 3))
    if codec == "ours":
      decoded = model.decompress(file.read_bytes())
      assert 0 < row["estimated_bpp"] < row["bpp"]
    else:
      decoded = np.asarray(Image.open(file).convert("RGB"))
      assert math.isnan(row["estimated_bpp"])
    for metric, value in metrics.measure(image, decoded).items():
      value = math.nan if is_grey and metric == "psnr_ycbcr" else value
      assert row[metric] == pytest.approx(value, abs=1e-9, nan_ok=True), (row, metric)
    assert row["encode_s"] > 0 and row["decode_s"] > 0


def test_means_are_plain_means_over_images(compared):
  _, results = compared
  for mean in results.means:
    own = [
      row
      for row in results.rows
      if (row["codec"], row["rate_point"]) == (mean["codec"], mean["rate_point"])
    ]
    assert mean["images"] == len(own) == 3
    for column in COLUMNS[3:]:
      values = [row[column] for row in own if not math.isnan(row[column])]
      expected = sum(values) / len(values) if values else math.nan
      assert mean[column] == pytest.approx(expected, nan_ok=True), column
  assert len(results.means) == 1 + 2 * len(QUALITIES)


def test_bd_rates_are_those_of_the_means_in_decibels(compared):
  _, results = compared

  def curve(codec, metric):
    points = []
    for quality in QUALITIES:
      own = [r for r in results.rows if (r["codec"], r["rate_point"]) == (codec, f"q{quality}")]
      values = [row[metric] for row in own]
      if metric == "ssim":
        values = [-10 * math.log10(1 - value) for value in values]
      points.append((np.mean([row["bpp"] for row in own]), np.mean(values)))
    return points

  assert results.bd_rate["anchor"] == "webp"
  for metric in ("psnr_rgb", "psnr_y", "ssim", "psnr_hvs", "psnr_hvs_m"):
    found = results.bd_rate["metrics"][metric]
    assert set(found) == {"ours", "jpeg"}
    expected = bjontegaard.bd_rate(curve("webp", metric), curve("jpeg", metric))
    assert found["jpeg"] == pytest.approx(expected._asdict(), rel=1e-9), metric
    assert re.search("has 1 points", found["ours"]["error"])
  assert results.bd_rate["metrics"]["ms_ssim"] == {}, "images are too small for it"


def test_a_grey_image_leaves_the_others_their_bd_rate_of_ycbcr(compared):
  _, results = compared
  assert "value" in results.bd_rate["metrics"]["psnr_ycbcr"]["jpeg"]


def _row(codec, rate_point, bpp, quality, similarity):
  values = dict.fromkeys(metrics.METRICS, quality)
  values.update(ssim=similarity, ms_ssim=similarity)
  return {"codec": codec, "rate_point": rate_point, "bpp": bpp, **values}


def test_similarities_are_averaged_as_decibels_and_nan_left_out():
  rows = []
  for level in (1, 2, 3):
    for codec, rate in (("anchor", 0.2), ("ours", 0.1)):
      # The means in dB are 10 (level + 1/2), of the similarities they would not be.
      for shift in (0, 1):
        similarity = 1 - 10.0 ** -(level + shift)
        rows.append(_row(codec, str(level), rate * 2**level, 30.0 + level, similarity))
      rows.append(_row(codec, str(level), 1000.0 * level, math.nan, math.nan))
  found = rate_distortion.bd_rates(rows, "anchor")
  assert set(found) == set(metrics.METRICS)
  half = {"value": -50.0, "lowest": 15.0, "highest": 35.0, "overlap": 1.0}
  assert found["ssim"] == {"ours": pytest.approx(half)}
  assert found["psnr_rgb"]["ours"]["value"] == pytest.approx(-50.0)


def test_equal_images_make_a_bd_rate_an_error():
  rows = [_row(c, str(n), n / 8, 30.0 + n, 0.9) for c in ("anchor", "ours") for n in (1, 2, 3)]
  rows[-1]["psnr_rgb"] = math.inf
  assert "finite" in rate_distortion.bd_rates(rows, "anchor")["psnr_rgb"]["ours"]["error"]


def test_results_on_disk_are_strict_json_and_equal_rows_in_csv(stub, compare, tmp_path):
  results = compare(models=("exact=s1", "coarse=s32"))
  stored = _strict(tmp_path / "out" / "results.json")
  assert list(stored) == list(results._fields)
  exact, coarse = stored["means"]
  assert exact["psnr_rgb"] == "inf" and exact["ms_ssim"] is None
  assert {row["psnr_rgb"] for row in stored["rows"][:3]} == {"inf"}
  assert {row["ms_ssim"] for row in stored["rows"]} == {None}
  assert coarse["psnr_rgb"] == results.means[1]["psnr_rgb"] < 40
  for point in (tmp_path / "out" / "points").rglob("*.json"):
    _strict(point)
  with (tmp_path / "out" / "results.csv").open(newline="") as file:
    cells = list(csv.DictReader(file))
  assert cells == [
    {key: "" if value is None else str(value) for key, value in row.items()}
    for row in stored["rows"]
  ]


@pytest.mark.parametrize("stop_at", [1, 4, 6])
def test_a_broken_off_run_goes_on_and_codes_nothing_twice(stub, compare, stop_at):
  unbroken = compare("unbroken")
  assert len(stub.calls) == 6
  stub.calls.clear()
  stub.stop_at = stop_at
  with pytest.raises(KeyboardInterrupt):
    compare()
  assert stop_at - 1 <= stub.calls.total() < 6
  resumed = compare()
  assert len(stub.calls) == 6
  assert set(stub.calls.values()) == {1}
  assert _untimed(resumed) == _untimed(unbroken)
  assert resumed.means[0]["images"] == 3
  assert compare().rows == resumed.rows, "seconds included: they come from disk"
  assert set(stub.calls.values()) == {1}


def test_a_resumed_run_warms_up_before_it_times(stub, compare, tmp_path):
  compare(models=("s4",))
  (tmp_path / "out" / "points" / "s4" / "s4" / "b.json").unlink()
  stub.warmed.clear()
  compare(models=("s4",))
  assert stub.warmed == ["s4"]


def test_each_rate_point_warms_up_once_and_not_when_all_is_there(stub, compare):
  compare()
  assert stub.warmed == ["s4", "s16"]
  compare()
  assert stub.warmed == ["s4", "s16"]


@pytest.fixture
def coded_at(monkeypatch):
  """The qualities at which images are coded, once for each image."""
  found, compress = [], coders.ModelCoder.compress

  def noted(self, image):
    found.append(self.quality)
    return compress(self, image)

  monkeypatch.setattr(coders.ModelCoder, "compress", noted)
  return found


def test_qualities_are_the_rate_points_of_a_curve_of_one_model(
  several_rates, compare, coded_at, monkeypatch, tmp_path
):
  loaded, load = [], coders.model_files.load
  monkeypatch.setattr(
    coders.model_files, "load", lambda *arguments: loaded.append(1) or load(*arguments)
  )
  # As a flag splits --models=W@100,0,50,one=W@30.
  results = compare(models=(f"{several_rates}@100", "0", "50", f"one={several_rates}@30"))
  means = [(mean["codec"], mean["rate_point"], mean["images"]) for mean in results.means]
  assert means == [("tiny", f"q{q}", 3) for q in (0, 50, 100)] + [("one", "q30", 3)]
  fingerprint = results.codecs["tiny"]["rate_points"]["q50"].partition("quality 50, model ")[2]
  assert re.fullmatch("[0-9a-f]{16}", fingerprint)
  assert len(loaded) == 2, "once for each curve"
  warm_up = 1
  assert collections.Counter(coded_at) == {0: 3 + warm_up, 50: 3, 100: 3, 30: 3 + warm_up}
  for row in results.rows:
    file = tmp_path / "out" / "files" / row["codec"] / row["rate_point"] / f"{row['image']}.kvc"
    step = {"q0": 0, "q30": 77, "q50": 128, "q100": 255}[row["rate_point"]]
    assert bitstream.parse(file.read_bytes())[0].quality == step


def test_added_qualities_alone_are_coded(several_rates, compare, coded_at):
  before = compare(models=(f"{several_rates}@50",))
  coded_at.clear()
  after = compare(models=(f"{several_rates}@0,50,100",))
  warm_up = 1
  assert collections.Counter(coded_at) == {0: 3 + warm_up, 100: 3}
  assert [row for row in after.rows if row["rate_point"] == "q50"] == before.rows


def test_wrong_qualities_are_one_line_before_anything_is_coded(several_rates, compare, tmp_path):
  for models, pattern in (
    ((f"{several_rates}@10", "101"), r"'101' behind the @ of \S+tiny is no quality, expected "),
    ((several_rates, f"{GOLDEN}@30"), r"model: a model of one rate was given quality 30, expected"),
  ):
    with pytest.raises(coders.CoderError) as found:
      compare(models=models)
    _one_line(found, pattern)
  assert not (tmp_path / "out").exists()


def test_a_changed_image_is_coded_anew_and_no_other(stub, compare, photos):
  before = compare()
  stub.calls.clear()
  changed = image_files.read_image(str(photos / "a.png"))[::-1, :40]
  image_files.write_image(str(photos / "a.png"), changed)
  after = compare()
  assert dict(stub.calls) == {(name, changed.tobytes()): 1 for name in ("s4", "s16")}
  widths = {row["image"]: row["width"] for row in after.rows}
  assert widths == {"a": 40, "b": 33, "sub_c": 40}
  kept = [row for row in before.rows if row["image"] != "a"]
  assert [row for row in after.rows if row["image"] != "a"] == kept


def test_an_image_of_the_same_content_is_not_coded_anew(stub, compare, photos):
  compare()
  (photos / "a.png").write_bytes((photos / "a.png").read_bytes())
  compare()
  assert set(stub.calls.values()) == {1}


def test_a_coder_of_another_key_codes_all_anew(stub, compare, monkeypatch):
  compare()
  monkeypatch.setattr(stub, "code_version", "2")
  compare()
  assert set(stub.calls.values()) == {2}
  compare(precision="float64")
  assert set(stub.calls.values()) == {3}


def test_a_models_key_holds_its_fingerprint_and_precision():
  fingerprint = model_files.load(str(GOLDEN)).fingerprint.hex()
  keys = [coders.ModelCoder(str(GOLDEN), p).key for p in ("float32", "float64")]
  assert keys == [f"{fingerprint} float32", f"{fingerprint} float64"]


def test_an_anchors_key_holds_its_version_and_rate_point(monkeypatch):
  def key(version, rate_point):
    anchor = _few("jpeg")
    monkeypatch.setattr(anchor, "version", lambda: version, raising=False)
    return coders.AnchorCoder(anchor, rate_point).key

  assert len({key("1", 20), key("2", 20), key("1", 21)}) == 3
  assert key("1", 20) == key("1", 20)


def test_a_damaged_point_or_a_lost_file_is_made_anew(stub, compare, tmp_path):
  before = compare(models=("s4",))
  point = tmp_path / "out" / "points" / "s4" / "s4" / "b.json"
  whole = json.loads(point.read_bytes())
  point.write_bytes(point.read_bytes()[:99])
  (tmp_path / "out" / "files" / "s4" / "s4" / "a.stub").write_bytes(b"")
  after = compare(models=("s4",))
  assert stub.calls.total() == 5
  assert _untimed(after) == _untimed(before)
  assert _strict(point)["key"] == whole["key"]


def test_another_background_codes_a_transparent_image_anew(stub, compare, photos):
  shutil.rmtree(photos / "sub")
  Image.new("RGBA", (16, 16), (200, 9, 9, 100)).save(photos / "clear.png")
  white, black = (compare(models=("s4",), alpha=alpha) for alpha in ("white", "black"))
  fresh = compare("fresh", models=("s4",), alpha="black")
  assert _untimed(fresh) != _untimed(white)
  assert _untimed(black) == _untimed(fresh)


def test_images_whose_names_differ_by_a_slash_have_files_of_their_own(
  stub, compare, photos, tmp_path
):
  image_files.write_image(str(photos / "sub_c.png"), np.full((9, 9, 3), 7, np.uint8))
  results = compare(models=("s4",))
  assert len({row["image"] for row in results.rows}) == 4
  for row in results.rows:
    file = tmp_path / "out" / "files" / "s4" / "s4" / f"{row['image']}.stub"
    assert file.stat().st_size == row["bytes"]


def test_an_image_may_be_called_inf(stub, compare, photos):
  (photos / "a.png").unlink()
  (photos / "b.png").rename(photos / "inf.png")
  assert [row["image"] for row in compare(models=("s4",)).rows] == ["inf", "sub_c"]


def test_output_within_the_images_folder_is_no_image(stub, compare, photos):
  first, second = (compare("photos/report", models=("s4",)) for _ in range(2))
  assert second.metadata["images"] == first.metadata["images"]


def test_files_of_an_earlier_run_are_never_replaced_as_images(stub, compare, tmp_path):
  compare("out", models=("s4",), shown=3)
  kept = str(tmp_path / "out" / "images" / "s4")
  options = RateDistortionOptions(kept, str(tmp_path / "out"), models=("s4",))
  with pytest.raises(rate_distortion.ComparisonError) as found:
    rate_distortion.run(options)
  _one_line(found, r"images/s4: all 3 images are files of an earlier run in \S+out, which would be")


def test_decoded_images_of_the_first_ones_are_kept(stub, compare, photos, tmp_path):
  compare(models=("s16",), shown=1)
  folder = tmp_path / "out" / "images"
  assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*.png")) == [
    *("original/a.png", "s16/s16/a.png"),
  ]
  image = image_files.read_image(str(photos / "a.png"))
  np.testing.assert_array_equal(image_files.read_image(str(folder / "original" / "a.png")), image)
  decoded = image_files.read_image(str(folder / "s16" / "s16" / "a.png"))
  np.testing.assert_array_equal(decoded, image // 16 * 16 + 8)
  compare(models=("s16",), shown=2)
  assert sorted(stub.calls.values()) == [1, 1, 2], "the one whose decoded image was missing"
  assert (folder / "s16" / "s16" / "b.png").exists()


def test_a_kept_image_is_of_the_content_that_was_measured(stub, compare, photos, tmp_path):
  compare(models=("s16",), shown=1)
  changed = image_files.read_image(str(photos / "a.png"))[::-1]
  image_files.write_image(str(photos / "a.png"), changed)
  compare(models=("s16",), shown=0)
  compare(models=("s16",), shown=1)
  kept = image_files.read_image(str(tmp_path / "out" / "images" / "original" / "a.png"))
  np.testing.assert_array_equal(kept, changed)


@pytest.mark.parametrize("name", ["0.png", "b.png"])  # the first one, which warms up, and another
def test_a_broken_image_is_left_out_with_its_reason(stub, compare, photos, name, tmp_path):
  (photos / name).write_bytes((photos / "a.png").read_bytes()[:300])
  results = compare()
  others = [image for image in ("a", "b", "sub_c") if image != name[:-4]]
  assert [row["image"] for row in results.rows] == others * 2
  assert {mean["images"] for mean in results.means} == {len(others)}
  assert {each["image"] for each in results.left_out} == {name[:-4]}
  for each in results.left_out:
    assert re.search(rf"^ours at s\d+, \S+{name}: .*damaged", each["reason"])
  with pytest.raises(rate_distortion.ComparisonError) as found:
    rate_distortion.check_complete(results)
  _one_line(found, rf"left out, expected none: .*{name}.* and others; the results are those of the")
  assert _strict(tmp_path / "out" / "results.json")["left_out"] == results.left_out


def test_an_image_that_a_coder_refuses_is_left_out_and_tried_again(stub, compare, photos):
  image_files.write_image(str(photos / "z.png"), np.full((8, 8, 3), 66, np.uint8))
  for _ in range(2):
    results = compare(models=("s4",))
    assert [(each["image"], each["reason"]) for each in results.left_out] == [
      ("z", f"s4 at s4, {photos / 'z.png'}: cannot code 66")
    ]
  assert set(stub.calls.values()) == {1}


def test_codecs_are_compared_by_the_images_that_all_of_them_coded(
  stub, compare, photos, monkeypatch
):
  monkeypatch.setattr(rate_distortion.anchors, "create", _few)
  curves = {"models": ("ours=s64:s16:s4",), "anchors": ("jpeg",)}
  same = compare(**curves)
  noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
  noise[0, 0, 0] = 66  # which the stub refuses
  image_files.write_image(str(photos / "z.png"), noise)
  more = compare(**curves)
  assert [row["codec"] for row in more.rows if row["image"] == "z"] == ["jpeg"] * len(QUALITIES)
  assert more.not_compared == ["z"] and same.not_compared == []
  assert more.bd_rate == same.bd_rate
  assert more.codecs["jpeg"]["conversion_psnr"] == same.codecs["jpeg"]["conversion_psnr"]
  untimed = [
    [{k: v for k, v in mean.items() if not k.endswith("_s")} for mean in each.means]
    for each in (more, same)
  ]
  assert untimed[0] == untimed[1]
  assert rate_distortion.table(more).endswith(
    "\nmeans and BD-rates are over 3 of 4 images: not all codecs coded z"
  )


def test_codecs_without_an_image_in_common_are_one_line(stub, compare, photos, monkeypatch):
  monkeypatch.setattr(rate_distortion.anchors, "create", _few)
  for path in photos.rglob("*.png"):
    image_files.write_image(str(path), np.full((8, 8, 3), 66, np.uint8))
  image_files.write_image(str(photos / "tall.png"), np.full((70000, 1, 3), 5, np.uint8))
  with pytest.raises(rate_distortion.ComparisonError) as found:
    compare(models=("s4",), anchors=("jpeg",))
  _one_line(found, r"^none of 4 images was coded by all codecs at all rate points, expected at le")


def test_nothing_coded_is_one_line(stub, compare, photos):
  for path in photos.rglob("*.png"):
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
  with pytest.raises(rate_distortion.ComparisonError) as found:
    compare()
  _one_line(found, r"^nothing was coded, expected at least one file; ours at s4, ")


def test_a_missing_anchor_is_left_out_with_its_reason(stub, compare, monkeypatch):
  anchor = _few("jpeg")
  monkeypatch.setattr(anchor, "missing", lambda: "jpeg needs a, install b", raising=False)
  monkeypatch.setattr(rate_distortion.anchors, "create", lambda name: anchor)
  results = compare(anchors=("jpeg",))
  assert results.left_out == [{"codec": "jpeg", "reason": "jpeg needs a, install b"}]
  assert list(results.codecs) == ["ours"]
  assert len(results.rows) == 6
  with pytest.raises(rate_distortion.ComparisonError) as found:
    rate_distortion.check_complete(results)
  _one_line(found, "^1 left out, expected none: jpeg needs a, install b; the results")
  with pytest.raises(rate_distortion.ComparisonError, match="no codec to run; give --models"):
    compare(models=(), anchors=("jpeg",))


@pytest.mark.parametrize(
  "options, pattern",
  [
    ({"anchors": ("gif",)}, r"no anchor is called 'gif'; expected one of jpeg, jpeg-444, "),
    ({"published": ("x",)}, r"no published curve is called 'x'; expected some of hyperprior_"),
    ({"bd_anchor": "webp"}, r"--bd_anchor=webp is none of the codecs; expected one of ours, jpeg"),
    ({"models": ("a=s4", "a=s8")}, r"a codec is called 'a'; expected names .*, each once"),
    ({"models": ("jpeg=s4",)}, r"a codec is called 'jpeg'; expected names .*, each once"),
    ({"models": ("a b=s4",)}, r"a codec is called 'a b'; expected names of letters"),
    ({"models": ("../a=s4",)}, r"a codec is called '\.\./a'; expected names of letters"),
    ({"models": ("a=x/s4:y/s4",)}, r"a=x/s4:y/s4 names models of the same name; expected diff"),
    ({"models": (), "anchors": ()}, r"there is no codec to run; give --models, or --anchors"),
  ],
)
def test_wrong_names_are_one_line_before_anything_is_coded(
  stub, compare, tmp_path, options, pattern
):
  with pytest.raises(errors.Error) as found:
    compare(**{"anchors": ("jpeg",), "models": ("ours=s4",), **options})
  _one_line(found, pattern)
  assert not stub.calls
  assert not (tmp_path / "out").exists()


def test_files_stay_in_folders_of_their_own(stub, compare, tmp_path):
  try:
    compare(models=("..=s4",))
  except rate_distortion.ComparisonError:
    pass
  folders = {path.name for path in (tmp_path / "out").glob("*") if path.is_dir()}
  assert folders <= {"points", "files", "images"}


def test_jobs_side_by_side_give_the_same_rows(stub, compare, photos):
  (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
  alone, together = (compare(f"out{jobs}", jobs=jobs) for jobs in (1, 2))
  assert _untimed(alone) == _untimed(together)
  assert alone.left_out == together.left_out
  assert (alone.metadata["jobs"], together.metadata["jobs"]) == (1, 2)
  assert set(stub.calls.values()) == {2}


def test_in_whatever_order_images_are_done_rows_are_in_theirs(
  stub, compare, photos, tmp_path, backwards
):
  (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
  alone, other = compare("alone"), compare("other", executor=backwards)
  assert _untimed(alone) == _untimed(other) and alone.left_out == other.left_out
  assert (tmp_path / "other" / "failed.csv").read_text().count("ours at s16, broken") == 1
  with pytest.raises(rate_distortion.ComparisonError, match=r"^found --jobs=2 with --cluster, exp"):
    compare("other", executor=backwards, jobs=2)


def test_a_models_rate_points_stay_in_their_order(stub, compare):
  results = compare(models=("ours=x/s16:s2:/y/s8/", "s4"))
  assert list(results.codecs["ours"]["rate_points"].items()) == [
    *(("s16", "step 16"), ("s2", "step 2"), ("s8", "step 8")),
  ]
  means = [(mean["codec"], mean["rate_point"]) for mean in results.means]
  assert means == [("ours", "s16"), ("ours", "s2"), ("ours", "s8"), ("s4", "s4")]
  assert list(dict.fromkeys((r["codec"], r["rate_point"]) for r in results.rows)) == means


def test_bd_rates_compare_with_the_first_anchor_where_none_is_named(stub, compare, monkeypatch):
  monkeypatch.setattr(rate_distortion.anchors, "create", _few)
  results = compare(models=("ours=s64:s16:s4",), anchors=("jpeg",))
  assert results.bd_rate["anchor"] == "jpeg"
  assert compare(models=("ours=s64:s16:s4", "s8")).bd_rate["anchor"] == "ours"
  value = results.bd_rate["metrics"]["psnr_rgb"]["ours"]["value"]
  lines = rate_distortion.table(results).splitlines()
  assert lines[-1] == f"BD-rate (PSNR RGB) of ours against jpeg: {value:+.1f} %"
  assert lines[0].split()[:3] == ["codec", "rate_point", "bpp"]
  assert len(lines) == 1 + 3 + len(QUALITIES) + 1
  for line, mean in zip(lines[1:], results.means):
    assert line.split()[:4] == [
      *(mean["codec"], mean["rate_point"]),
      *(f"{mean['bpp']:.4f}", f"{mean['psnr_rgb']:.2f}"),
    ]


def test_an_anchor_has_its_version_and_what_its_conversion_costs(compared):
  folder, results = compared
  jpeg = results.codecs["jpeg"]
  conversion_psnrs = [
    anchors.jpeg.conversion_psnr(np.broadcast_to(p, (*p.shape[:2], 3)))
    for p in (image_files.read_image(str(f)) for f in (folder / "photos").rglob("*.png"))
  ]
  finite = [each for each in conversion_psnrs if math.isfinite(each)]
  assert jpeg["conversion_psnr"] == pytest.approx({"mean": np.mean(finite), "min": min(finite)})
  assert jpeg["version"] == anchors.jpeg.version()
  assert jpeg["rate_points"] == {f"q{q}": anchors.jpeg.options(q) for q in QUALITIES}
  assert results.codecs["ours"]["conversion_psnr"] is None
  assert results.codecs["ours"]["description"]["codec"] == "mbt2018_mean"


def test_published_curves_are_passed_on(stub, compare):
  name = "vtm_cai"
  results = compare(published=(name,))
  assert list(results.published) == [name]
  everything = compare(published=("all",))
  assert everything.published == rate_distortion.published_curves()


@pytest.mark.parametrize("name", rate_distortion.published_curves())
def test_a_published_curve_is_well_formed(name):
  path = pathlib.Path(rate_distortion.__file__).with_name("published_kodak.json")
  curve = _strict(path)[name]
  assert curve["source"].strip() and curve["note"].strip()
  rates, qualities = np.array(curve["bpp"]), np.array(curve["psnr_rgb"])
  assert rates.shape == qualities.shape and rates.ndim == 1 and len(rates) >= 3
  assert np.all(np.diff(rates) > 0) and np.all(np.diff(qualities) > 0)
  assert rates[0] > 0 and 20 < qualities[0] and qualities[-1] < 60
  assert bjontegaard.bd_rate([*zip(rates, qualities)], [*zip(0.9 * rates, qualities)]).value == (
    pytest.approx(-10)
  )
