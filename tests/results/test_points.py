"""Points: what is made once, and what makes it be made again."""

from __future__ import annotations

import json
import math

import pytest

from khuvcm_tf.results import points

VALUES = {"ap": 31.25, "aps": math.nan, "psnr": math.inf, "bytes": 12}


@pytest.fixture
def point(tmp_path):
  """A function that loads or makes the point; `calls` counts how often it was made."""

  def load_or_make(key="key", columns=VALUES, **options):
    def make():
      load_or_make.calls += 1
      return VALUES

    path = tmp_path / "method" / "threshold" / "image.json"
    load_or_make.path = path
    return points.load_or_make(path, key, columns, make, **options)

  load_or_make.calls = 0
  return load_or_make


def test_a_point_is_made_once_and_comes_back_exactly(point):
  first, second = point(), point()
  assert point.calls == 1 and first is VALUES
  assert {key: repr(value) for key, value in second.items()} == {
    key: repr(value) for key, value in VALUES.items()
  }


def test_another_key_makes_a_point_anew(point):
  point()
  point(key="other")
  point(key="other")
  assert point.calls == 2


def test_other_columns_make_a_point_anew(point):
  point()
  point(columns=[*VALUES, "apm"])
  assert point.calls == 2


def test_a_point_that_no_longer_fits_its_files_is_made_anew(point):
  point()
  seen = []
  point(is_current=lambda values: seen.append(values["bytes"]))
  assert point.calls == 2 and seen == [12]


@pytest.mark.parametrize(
  "damage",
  [
    lambda data: b"",
    lambda data: data[: len(data) // 2],
    lambda data: b"\xff" + data,
    lambda data: b"[]",
    lambda data: b"null",
    lambda data: data.replace(b"31.25", b"31.26"),
    lambda data: data.replace(b'"ap"', b'"xp"'),
    lambda data: data.replace(b'"values": {', b'"values": [{').replace(b"}}", b"}]}"),
  ],
  ids=["empty", "cut", "no text", "list", "null", "digit", "column", "list of values"],
)
def test_a_damaged_point_is_made_anew(point, damage):
  point()
  whole = point.path.read_bytes()
  point.path.write_bytes(damage(whole))
  assert point.path.read_bytes() != whole
  assert point() == VALUES and point.calls == 2
  assert point.path.read_bytes() == whole


def test_what_fails_is_not_stored(tmp_path):
  def fail():
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    points.load_or_make(tmp_path / "p.json", "key", VALUES, fail)
  assert not list(tmp_path.iterdir())


def test_points_are_strict_json(point):
  point()
  json.loads(point.path.read_text(), parse_constant=lambda word: pytest.fail(word))
